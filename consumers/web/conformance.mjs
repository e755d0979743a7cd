// The page's own inference code over all images, in real headless Chromium.
//
//   node conformance.mjs MODEL IMAGES.npy OUT.bin
//
// IMAGES.npy holds float32 (n, 784). OUT.bin gets float32 (n, 10), little-endian, row by row.
// Prints one line of JSON: runtime, version, seconds (of the network alone). The browser is
// $CHROMIUM, or /usr/bin/chromium. Needs vendor/, which `make page` fills.

import { existsSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { fail, launch, serve } from "./chromium.mjs";

const BATCH = 1000;

/** Runs in the page: model.js over the images, batch after batch. */
async function classifyAll({ batch }) {
  const { fetchBytes, loadModel } = await import("./model.js");
  const file = await fetchBytes(new URL("/images.npy", location.href));
  const header = new TextDecoder().decode(file.subarray(10, 10 + file[8] + 256 * file[9]));
  const shape = header.match(/'descr': '<f4', 'fortran_order': False, 'shape': \((\d+), 784\)/);
  if (!shape) throw new Error(`expected float32 (n, 784) in C order, got ${header.trim()}`);
  const images = new Float32Array(file.slice(10 + header.length).buffer);
  if (images.length !== shape[1] * 784) throw new Error("the images' file is not whole");
  const { classify, version } = await loadModel();
  await classify(images.subarray(0, 784)); // the first run also makes its plans
  const probabilities = [];
  const start = performance.now();
  for (let i = 0; i < images.length; i += 784 * batch) {
    probabilities.push(...(await classify(images.subarray(i, i + 784 * batch))));
  }
  return { probabilities, version, seconds: (performance.now() - start) / 1000 };
}

async function main([model, images, out]) {
  if (!out) fail("expected three arguments: MODEL IMAGES.npy OUT.bin");
  for (const path of [model, images]) if (!existsSync(path)) fail(`${path}: no such file`);
  const browser = await launch();
  const { server, address } = await serve({
    "/web/vendor/fashion_mlp.onnx": model,
    "/images.npy": images,
  });
  try {
    const page = await browser.newPage();
    await page.goto(`${address}index.html`);
    const result = await page.evaluate(classifyAll, { batch: BATCH });
    await writeFile(`${out}.part`, Buffer.from(Float32Array.from(result.probabilities).buffer));
    await rename(`${out}.part`, out);
    const runtime = `onnxruntime-web (WASM) in Chromium ${browser.version().split(".")[0]}`;
    const seconds = Number(result.seconds.toFixed(3));
    console.log(JSON.stringify({ runtime, version: result.version, seconds }));
  } catch (error) {
    process.exitCode = 1;
    const [message] = error.message.split("\n");
    console.error(`conformance: ${message.replace(/^page\.evaluate: (Error: )?/, "")}`);
  } finally {
    await browser.close();
    server.close();
  }
}

await main(process.argv.slice(2));
