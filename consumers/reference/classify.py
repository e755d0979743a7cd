"""Name what is in the images of an .npy file, with the reference implementation of ONNX itself.

classify.py MODEL IMAGES.npy [--probabilities FILE]
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
parser.add_argument("images", help=".npy of float32 (n, pixels) in 0…1")
parser.add_argument("--probabilities", metavar="FILE", help="write them as raw float32")
options = parser.parse_args()

model = onnx.load(options.model)
session = ReferenceEvaluator(model)
metadata = {entry.key: entry.value for entry in model.metadata_props}
names = next(iter(json.loads(metadata["class_names"]).values()))  # of its first language
pixels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
images = np.load(options.images)
if (images.dtype, images.shape[1:], images.flags.c_contiguous) != (np.float32, (pixels,), True):
    order = "C" if images.flags.c_contiguous else "Fortran"
    sys.exit(
        f"classify: {options.images}: expected float32 (n, {pixels}) in C order, "
        f"got {images.dtype} {images.shape} in {order} order"
    )

start = time.perf_counter()
(probabilities,) = session.run(["probabilities"], {"image": images})
seconds = time.perf_counter() - start

for number, row in enumerate(probabilities[:5]):
    print(f"image {number}: {names[row.argmax()]}, {row.max():.3f}")
print(f"onnx.reference {onnx.__version__}: {len(images)} images in {seconds:.4f} s")
if options.probabilities:
    probabilities.tofile(options.probabilities)
