// Name what is in the images of an .npy file, with onnxruntime-node.
//
// node classify.mjs MODEL IMAGES.npy [--output NAME] [--save FILE]
//   MODEL: with labels.json beside it, as onnxruntime-node does not show a model's metadata
//   IMAGES.npy: uint8 (n, pixels), or float32 in 0…1, as the model takes
//   NAME: probabilities; the exact model also has logits and class
//   FILE: gets the output as raw little-endian numbers

import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import * as ort from "onnxruntime-node";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { output: { type: "string", default: "probabilities" }, save: { type: "string" } },
});
const [model, images] = positionals;
const session = await ort.InferenceSession.create(model);
const [{ type, shape }] = session.inputMetadata; // such as float32, ["N", 784]
const labels = JSON.parse(await readFile(join(dirname(model), "labels.json"), "utf8"));
const [names] = Object.values(labels.class_names); // of its first language

// NumPy's format: 8 bytes, the header's length as uint16, the header, then the array.
const file = await readFile(images);
const first = 10 + file.readUInt16LE(8);
const header = file.toString("latin1", 10, first).trim();
const descr = { float32: "<f4", uint8: "|u1" }[type];
const expected = `{'descr': '${descr}', 'fortran_order': False, 'shape': (n, ${shape[1]}), }`;
if (header.replace(/\(\d+/, "(n") !== expected) {
  console.error(`classify: ${images}: expected ${expected}, got ${header || "no .npy file"}`);
  process.exit(1);
}
const bytes = new Uint8Array(file.subarray(first)); // a copy, so that it starts where a float may
const pixels = type === "uint8" ? bytes : new Float32Array(bytes.buffer);
const image = new ort.Tensor(type, pixels, [pixels.length / shape[1], shape[1]]);

const start = performance.now();
const answers = (await session.run({ image }))[options.output];
const seconds = (performance.now() - start) / 1000;

const [count, classes] = answers.dims;
for (let number = 0; classes && number < Math.min(5, count); number++) {
  const row = answers.data.subarray(number * classes, (number + 1) * classes);
  const best = row.indexOf(Math.max(...row));
  console.log(`image ${number}: ${names[best]}, ${row[best].toFixed(3)}`);
}
const version = ort.env.versions.node;
console.log(`onnxruntime-node ${version}: ${count} images in ${seconds.toFixed(4)} s`);
if (options.save) await writeFile(options.save, answers.data);
