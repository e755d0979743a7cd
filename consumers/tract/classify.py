"""Name what is in the images of an .npy file, with tract.

classify.py MODEL IMAGES.npy [--output NAME] [--save FILE]
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import tract

parser = argparse.ArgumentParser()
parser.add_argument("model", help="with labels.json beside it")
parser.add_argument("images", help=".npy: uint8 (n, pixels), or float32 in 0…1, as the model takes")
parser.add_argument("--output", default="probabilities", help="or logits, class: the exact model's")
parser.add_argument("--save", metavar="FILE", help="write the output as raw numbers")
options = parser.parse_args()

model = tract.onnx().load(options.model)
outputs = [model.output_name(number) for number in range(model.output_count())]
dtype = np.dtype("uint8" if str(model.input_fact(0)).endswith("u8") else "float32")
runnable = model.into_model().into_runnable()
# tract's Python package has no text of a model's metadata; the names are in a file beside it.
labels = json.loads(Path(options.model).with_name("labels.json").read_bytes())
names = next(iter(labels["class_names"].values()))  # of its first language
pixels = math.prod(labels["image_shape"])
images = np.load(options.images)
if (images.dtype, images.shape[1:], images.flags.c_contiguous) != (dtype, (pixels,), True):
    order = "C" if images.flags.c_contiguous else "Fortran"
    sys.exit(
        f"classify: {options.images}: expected {dtype} (n, {pixels}) in C order, "
        f"got {images.dtype} {images.shape} in {order} order"
    )

start = time.perf_counter()
answers = runnable.run([images])[outputs.index(options.output)].to_numpy()
seconds = time.perf_counter() - start

for number, answer in enumerate(answers[:5] if answers.ndim > 1 else []):
    print(f"image {number}: {names[answer.argmax()]}, {answer.max():.3f}")
print(f"tract {tract.version()}: {len(images)} images in {seconds:.4f} s")
if options.save:
    answers.tofile(options.save)
