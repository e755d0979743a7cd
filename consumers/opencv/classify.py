"""Name what is in the images of an .npy file, with OpenCV's dnn module.

classify.py MODEL IMAGES.npy [--output NAME] [--save FILE]
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import cv2
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("model", help="with labels.json beside it")
parser.add_argument("images", help=".npy: uint8 (n, pixels), or float32 in 0…1, as the model takes")
parser.add_argument("--output", default="probabilities", help="or logits, class: the exact model's")
parser.add_argument("--save", metavar="FILE", help="write the output as raw numbers")
options = parser.parse_args()

network = cv2.dnn.readNetFromONNX(options.model)
# OpenCV does not read a model's metadata; the names are in a file beside it.
labels = json.loads(Path(options.model).with_name("labels.json").read_bytes())
names = next(iter(labels["class_names"].values()))  # of its first language
pixels = math.prod(labels["image_shape"])
images = np.load(options.images)
dtype = images.dtype if images.dtype == np.uint8 else np.dtype("float32")  # setInput checks it
if (images.dtype, images.shape[1:], images.flags.c_contiguous) != (dtype, (pixels,), True):
    order = "C" if images.flags.c_contiguous else "Fortran"
    sys.exit(
        f"classify: {options.images}: expected {dtype} (n, {pixels}) in C order, "
        f"got {images.dtype} {images.shape} in {order} order"
    )

start = time.perf_counter()
outputs = network.getUnconnectedOutLayersNames()
try:
    network.setInput(images, "image")
    answers = dict(zip(outputs, network.forward(outputs), strict=True))[options.output]
except cv2.error as error:  # such as bytes for the float32 model
    sys.exit(f"classify: {options.images}: {error.err}")
seconds = time.perf_counter() - start

for number, answer in enumerate(answers[:5] if answers.ndim > 1 else []):
    print(f"image {number}: {names[answer.argmax()]}, {answer.max():.3f}")
print(f"OpenCV {cv2.__version__}: {len(images)} images in {seconds:.4f} s")
if options.save:
    answers.tofile(options.save)
