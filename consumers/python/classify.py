"""Name what is in the images of an .npy file, with onnxruntime.

classify.py MODEL IMAGES.npy [--output NAME] [--save FILE]
"""

import argparse
import json
import sys
import time

import numpy as np
import onnxruntime

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("images", help=".npy: uint8 (n, pixels), or float32 in 0…1, as the model takes")
parser.add_argument("--output", default="probabilities", help="or logits, class: the exact model's")
parser.add_argument("--save", metavar="FILE", help="write the output as raw numbers")
options = parser.parse_args()

session = onnxruntime.InferenceSession(options.model)
class_names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
names = next(iter(class_names.values()))  # of its first language
(image,) = session.get_inputs()
pixels = image.shape[1]
dtype = {"tensor(float)": np.dtype("float32"), "tensor(uint8)": np.dtype("uint8")}[image.type]
images = np.load(options.images)
if (images.dtype, images.shape[1:], images.flags.c_contiguous) != (dtype, (pixels,), True):
    order = "C" if images.flags.c_contiguous else "Fortran"
    sys.exit(
        f"classify: {options.images}: expected {dtype} (n, {pixels}) in C order, "
        f"got {images.dtype} {images.shape} in {order} order"
    )

start = time.perf_counter()
(answers,) = session.run([options.output], {"image": images})
seconds = time.perf_counter() - start

for number, answer in enumerate(answers[:5] if answers.ndim > 1 else []):
    print(f"image {number}: {names[answer.argmax()]}, {answer.max():.3f}")
print(f"onnxruntime {onnxruntime.__version__}: {len(images)} images in {seconds:.4f} s")
if options.save:
    answers.tofile(options.save)
