"""Name what is in the images of an .npy file, with OpenCV's dnn module.

classify.py MODEL IMAGES.npy [--probabilities FILE]
"""

import argparse
import time

import cv2
import numpy as np

# OpenCV does not read a model's metadata, so the names stand here.
NAMES = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("images", help=".npy of float32 (n, 784) in 0…1")
parser.add_argument("--probabilities", metavar="FILE", help="write them as raw float32 (n, 10)")
options = parser.parse_args()

network = cv2.dnn.readNetFromONNX(options.model)
images = np.load(options.images)

start = time.perf_counter()
network.setInput(images, "image")
probabilities = network.forward("probabilities")
seconds = time.perf_counter() - start

for number, row in enumerate(probabilities[:5]):
    print(f"image {number}: {NAMES[row.argmax()]}, {row.max():.3f}")
print(f"OpenCV {cv2.__version__}: {len(images)} images in {seconds:.4f} s")
if options.probabilities:
    probabilities.tofile(options.probabilities)
