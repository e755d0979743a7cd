"""Name what is in the images of an .npy file, with the reference implementation of ONNX itself.

classify.py MODEL IMAGES.npy [--output NAME] [--save FILE]
"""

import argparse
import json
import sys
import time

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("images", help=".npy: uint8 (n, pixels), or float32 in 0…1, as the model takes")
parser.add_argument("--output", default="probabilities", help="or logits, class: the exact model's")
parser.add_argument("--save", metavar="FILE", help="write the output as raw numbers")
options = parser.parse_args()

model = onnx.load(options.model)
session = ReferenceEvaluator(model)
metadata = {entry.key: entry.value for entry in model.metadata_props}
names = next(iter(json.loads(metadata["class_names"]).values()))  # of its first language
image = model.graph.input[0].type.tensor_type
pixels, dtype = image.shape.dim[1].dim_value, onnx.helper.tensor_dtype_to_np_dtype(image.elem_type)
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
print(f"onnx.reference {onnx.__version__}: {len(images)} images in {seconds:.4f} s")
if options.save:
    answers.tofile(options.save)
