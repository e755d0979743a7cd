"""Name what is in the images of an .npy file, with onnxruntime.

classify.py MODEL IMAGES.npy [--probabilities FILE]
"""

import argparse
import json
import sys
import time

import numpy as np
import onnxruntime

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("images", help=".npy of float32 (n, pixels) in 0…1; uint8 for the uint8 model")
parser.add_argument("--probabilities", metavar="FILE", help="write them as raw float32")
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
(probabilities,) = session.run(["probabilities"], {"image": images})
seconds = time.perf_counter() - start

for number, row in enumerate(probabilities[:5]):
    print(f"image {number}: {names[row.argmax()]}, {row.max():.3f}")
print(f"onnxruntime {onnxruntime.__version__}: {len(images)} images in {seconds:.4f} s")
if options.probabilities:
    probabilities.tofile(options.probabilities)
