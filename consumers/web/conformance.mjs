// The page's own inference code over all images, in real headless Chromium.
//
//   node conformance.mjs MODEL IMAGES.npy --probabilities FILE
//
// IMAGES.npy holds float32 (n, pixels); FILE gets float32 (n, classes), little-endian. The last line
// says version and seconds, of the network alone. The browser is $CHROMIUM, or /usr/bin/chromium.
// Needs vendor/, which `make page` fills.

import { existsSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { fail, launch, serve } from "./chromium.mjs";

const BATCH = 1000;

/** Runs in the page: model.js over the images, batch after batch. */
async function classifyAll({ batch }) {
  const { fetchBytes, loadModel } = await import("./model.js");
  const file = await fetchBytes(new URL("/images.npy", location.href));
  const { classify, pixels, version } = await loadModel();
  const first = 10 + file[8] + 256 * file[9];
  const header = new TextDecoder().decode(file.subarray(10, first)).trim();
  const expected = `{'descr': '<f4', 'fortran_order': False, 'shape': (n, ${pixels}), }`;
  if (header.replace(/\(\d+/, "(n") !== expected) {
    throw new Error(`expected ${expected}, got ${header}`);
  }
  const images = new Float32Array(file.slice(first).buffer);
  await classify(images.subarray(0, pixels)); // the first run also makes its plans
  const probabilities = [];
  const start = performance.now();
  for (let i = 0; i < images.length; i += pixels * batch) {
    probabilities.push(...(await classify(images.subarray(i, i + pixels * batch))));
  }
  const seconds = (performance.now() - start) / 1000;
  return { probabilities, version, seconds, count: images.length / pixels };
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { probabilities: { type: "string" } },
});
const [model, images] = positionals;
if (!images || !values.probabilities) fail("expected MODEL IMAGES.npy --probabilities FILE");
for (const path of [model, images]) if (!existsSync(path)) fail(`${path}: no such file`);
const browser = await launch();
const { server, address } = await serve({
  "/web/vendor/model.onnx": model,
  "/images.npy": images,
});
try {
  const page = await browser.newPage();
  await page.goto(`${address}index.html`);
  const found = await page.evaluate(classifyAll, { batch: BATCH });
  const out = values.probabilities;
  await writeFile(`${out}.part`, Buffer.from(Float32Array.from(found.probabilities).buffer));
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
