// Name what is in the images of an .npy file, with onnxruntime-node.
//
// node classify.mjs MODEL IMAGES.npy [--probabilities FILE]
//   IMAGES.npy: float32 (n, 784) in 0…1, or uint8 for the uint8 model
//   FILE: gets raw little-endian float32 (n, 10)

import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import * as ort from "onnxruntime-node";

// onnxruntime-node does not show a model's metadata, so the names stand here.
const NAMES = [
  "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
  "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
];
const PIXELS = 784;

// NumPy's format: 8 bytes, the header's length as uint16, the header, then the array.
function readNpy(file) {
  const start = 10 + file.readUInt16LE(8);
  const bytes = new Uint8Array(file.subarray(start)); // a copy, so that it starts where a float may
  return file.toString("latin1", 10, start).includes("'|u1'")
    ? new ort.Tensor("uint8", bytes, [bytes.length / PIXELS, PIXELS])
    : new ort.Tensor("float32", new Float32Array(bytes.buffer), [bytes.length / 4 / PIXELS, PIXELS]);
}

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { probabilities: { type: "string" } },
});
const [model, images] = positionals;
const session = await ort.InferenceSession.create(model);
const image = readNpy(await readFile(images));

const start = performance.now();
const { probabilities } = await session.run({ image });
const seconds = (performance.now() - start) / 1000;

const [count, classes] = probabilities.dims;
for (let number = 0; number < Math.min(5, count); number++) {
  const row = probabilities.data.subarray(number * classes, (number + 1) * classes);
  const best = row.indexOf(Math.max(...row));
  console.log(`image ${number}: ${NAMES[best]}, ${row[best].toFixed(3)}`);
}
const version = ort.env.versions.node;
console.log(`onnxruntime-node ${version}: ${count} images in ${seconds.toFixed(4)} s`);
if (options.probabilities) await writeFile(options.probabilities, probabilities.data);
