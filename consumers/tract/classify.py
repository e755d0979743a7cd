"""Name what is in the images of an .npy file, with tract.

classify.py MODEL IMAGES.npy [--probabilities FILE]
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
parser.add_argument("images", help=".npy of float32 (n, pixels) in 0…1")
parser.add_argument("--probabilities", metavar="FILE", help="write them as raw float32")
options = parser.parse_args()

runnable = tract.onnx().load(options.model).into_model().into_runnable()
# tract's Python package has no text of a model's metadata; the names are in a file beside it.
labels = json.loads(Path(options.model).with_name("labels.json").read_bytes())
names = next(iter(labels["class_names"].values()))  # of its first language
pixels = math.prod(labels["image_shape"])
images = np.load(options.images)
if (images.dtype, images.shape[1:], images.flags.c_contiguous) != (np.float32, (pixels,), True):
    order = "C" if images.flags.c_contiguous else "Fortran"
    sys.exit(
        f"classify: {options.images}: expected float32 (n, {pixels}) in C order, "
        f"got {images.dtype} {images.shape} in {order} order"
    )

start = time.perf_counter()
probabilities = runnable.run([images])[0].to_numpy()
seconds = time.perf_counter() - start

for number, row in enumerate(probabilities[:5]):
    print(f"image {number}: {names[row.argmax()]}, {row.max():.3f}")
print(f"tract {tract.version()}: {len(images)} images in {seconds:.4f} s")
if options.probabilities:
    probabilities.tofile(options.probabilities)
