"""Name what is in the images of an .npy file, with OpenVINO.

classify.py MODEL IMAGES.npy [--output NAME] [--save FILE] [--default-precision]
"""

import argparse
import json
import sys
import time

import numpy as np
import openvino

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("images", help=".npy: uint8 (n, pixels), or float32 in 0…1, as the model takes")
parser.add_argument("--output", default="probabilities", help="or logits, class: the exact model's")
parser.add_argument("--save", metavar="FILE", help="write the output as raw numbers")
parser.add_argument("--default-precision", action="store_true", help="let OpenVINO choose")
options = parser.parse_args()

model = openvino.Core().read_model(options.model)
class_names = json.loads(model.get_rt_info(["framework", "class_names"]).astype(str))
names = next(iter(class_names.values()))  # of its first language
image = model.input("image")
pixels, dtype = image.partial_shape[1].get_length(), image.element_type.to_dtype()
# Without the hint OpenVINO computes in bf16 on a processor that can, without a warning.
hint = {} if options.default_precision else {"INFERENCE_PRECISION_HINT": "f32"}
compiled = openvino.compile_model(model, "CPU", hint)
images = np.load(options.images)
if (images.dtype, images.shape[1:], images.flags.c_contiguous) != (dtype, (pixels,), True):
    order = "C" if images.flags.c_contiguous else "Fortran"
    sys.exit(
        f"classify: {options.images}: expected {dtype} (n, {pixels}) in C order, "
        f"got {images.dtype} {images.shape} in {order} order"
    )

start = time.perf_counter()
answers = compiled(images)[options.output]
seconds = time.perf_counter() - start

for number, answer in enumerate(answers[:5] if answers.ndim > 1 else []):
    print(f"image {number}: {names[answer.argmax()]}, {answer.max():.3f}")
precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
version = openvino.__version__.split("-")[0]
print(f"OpenVINO {version} in {precision}: {len(images)} images in {seconds:.4f} s")
if options.save:
    answers.tofile(options.save)
