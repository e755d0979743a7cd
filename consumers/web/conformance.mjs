// The page's own inference code over all images, in real headless Chromium.
//
//   node conformance.mjs MODEL IMAGES.npy OUT.bin
//
// IMAGES.npy holds float32 (n, 784). OUT.bin gets float32 (n, 10), little-endian, row by row.
// Prints one line of JSON: runtime, version, seconds (of the network alone). The browser is
// $CHROMIUM, or /usr/bin/chromium. Needs vendor/, which `make page` fills.

import { createReadStream, existsSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const FOLDER = fileURLToPath(new URL(".", import.meta.url));
const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};
const BATCH = 1000;
// Quiet flags: Chromium asks nothing of any other host. No sandbox: root has none, as in CI.
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

function fail(message) {
  console.error(`conformance: ${message}`);
  process.exit(1);
}

/** Serve the page's folder, but the model and the images from where they lie. */
async function serve(model, images) {
  const others = { "/web/vendor/fashion_mlp.onnx": model, "/images.npy": images };
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const path = others[pathname] ?? join(FOLDER, normalize(pathname.replace(/^\/web\//, "/")));
    createReadStream(path)
      .on("error", () => response.writeHead(404).end())
      .once("open", () => {
        const type = TYPES[extname(path)] ?? "application/octet-stream";
        response.writeHead(200, { "Content-Type": type });
      })
      .pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

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
  if (!existsSync(join(FOLDER, "vendor"))) fail("no consumers/web/vendor; `make page` fills it");
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  if (!existsSync(executablePath)) {
    fail(`no ${executablePath}; on Debian or Ubuntu: apt-get install chromium (or set CHROMIUM)`);
  }
  const { chromium } = await import("playwright-core");
  const server = await serve(model, images);
  const browser = await chromium.launch({ executablePath, args: FLAGS });
  try {
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${server.address().port}/web/index.html`);
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
