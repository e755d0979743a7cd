// The page's own inference code over all images, in real headless Chromium.
//
//   node conformance.mjs MODEL IMAGES.npy --output NAME --save FILE
//
// IMAGES.npy holds uint8 (n, pixels), or float32 in 0…1, as the model takes; FILE gets the output as
// raw little-endian numbers. The last line
// says version and seconds, of the network alone. The browser is $CHROMIUM, or /usr/bin/chromium.
// Needs vendor/, which `make page` fills.

import { existsSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { fail, launch, serve } from "./chromium.mjs";

const BATCH = 1000;

/** Runs in the page: model.js over the images, batch after batch. */
async function classifyAll({ batch, output }) {
  const { fetchBytes, loadModel } = await import("./model.js");
  const file = await fetchBytes(new URL("/images.npy", location.href));
  const { classify, pixels, type, version } = await loadModel();
  const first = 10 + file[8] + 256 * file[9];
  const header = new TextDecoder().decode(file.subarray(10, first)).trim();
  const descr = type === "uint8" ? "|u1" : "<f4";
  const expected = `{'descr': '${descr}', 'fortran_order': False, 'shape': (n, ${pixels}), }`;
  if (header.replace(/\(\d+/, "(n") !== expected) {
    throw new Error(`expected ${expected}, got ${header}`);
  }
  const bytes = file.slice(first);
  const images = type === "uint8" ? bytes : new Float32Array(bytes.buffer);
  await classify(images.subarray(0, pixels)); // the first run also makes its plans
  const parts = [];
  const start = performance.now();
  for (let i = 0; i < images.length; i += pixels * batch) {
    parts.push(await classify(images.subarray(i, i + pixels * batch), output));
  }
  const seconds = (performance.now() - start) / 1000;
  const answers = Array.from(new Uint8Array(await new Blob(parts).arrayBuffer()));
  return { answers, version, seconds, count: images.length / pixels };
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { output: { type: "string", default: "probabilities" }, save: { type: "string" } },
});
const [model, images] = positionals;
if (!images || !values.save) fail("expected MODEL IMAGES.npy --output NAME --save FILE");
for (const path of [model, images]) if (!existsSync(path)) fail(`${path}: no such file`);
const browser = await launch();
const { server, address } = await serve({
  "/web/vendor/model.onnx": model,
  "/images.npy": images,
});
try {
  const page = await browser.newPage();
  await page.goto(`${address}index.html`);
  const found = await page.evaluate(classifyAll, { batch: BATCH, output: values.output });
  const out = values.save;
  await writeFile(`${out}.part`, Buffer.from(found.answers));
  await rename(`${out}.part`, out);
  const version = `${found.version} in Chromium ${browser.version().split(".")[0]}`;
  const seconds = found.seconds.toFixed(4);
  console.log(`onnxruntime-web ${version}: ${found.count} images in ${seconds} s`);
} catch (error) {
  process.exitCode = 1;
  const [message] = error.message.split("\n");
  console.error(`conformance: ${images}: ${message.replace(/^page\.evaluate: (Error: )?/, "")}`);
} finally {
  await browser.close();
  server.close();
}
