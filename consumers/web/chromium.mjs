// The page in headless Chromium, for conformance.mjs and screenshots.mjs.

import { createReadStream, existsSync } from "node:fs";
import { createServer } from "node:http";
import { basename, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const FOLDER = fileURLToPath(new URL(".", import.meta.url));
const TYPES = {
  ".css": "text/css",
  ".html": "text/html",
  ".js": "text/javascript",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};
// Chromium contacts no other host. No sandbox: root, as in CI, can not have one.
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Print in one line what is wrong, and exit. */
export function fail(message) {
  console.error(`${basename(process.argv[1], ".mjs")}: ${message}`);
  process.exit(1);
}

/** Serve the page under /web/, and `others`: files by the path under which they are served. */
export async function serve(others = {}) {
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
  return { server, address: `http://127.0.0.1:${server.address().port}/web/` };
}

/** Start $CHROMIUM, or /usr/bin/chromium. */
export async function launch() {
  const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
  if (!existsSync(join(FOLDER, "vendor"))) fail("no consumers/web/vendor; `make page` fills it");
  if (!existsSync(executablePath)) {
    fail(`no ${executablePath}; on Debian or Ubuntu: apt-get install chromium (or set CHROMIUM)`);
  }
  const { chromium } = await import("playwright-core");
  return chromium.launch({ executablePath, args: FLAGS });
}
