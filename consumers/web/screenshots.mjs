// Writes the README's pictures of the page: docs/page.png and docs/page-phone.png.
//
//   make page && node consumers/web/screenshots.mjs

import { fileURLToPath } from "node:url";
import { devices } from "playwright-core";
import { launch, serve } from "./chromium.mjs";

const DOCS = new URL("../../docs/", import.meta.url);
const SHIRT = // in 0…1 of the canvas
  "35,15 15,30 22,45 32,38 32,85 68,85 68,38 78,45 85,30 65,15 50,20 35,15"
    .split(" ")
    .map((point) => point.split(",").map((value) => value / 100));

async function picture(browser, address, name, options, act) {
  const page = await browser.newPage(options);
  await page.goto(`${address}index.html`);
  await page.waitForSelector("html[data-ready]");
  await act(page);
  await page.waitForTimeout(500); // the bars are animated
  await page.screenshot({ path: fileURLToPath(new URL(name, DOCS)) });
  await page.close();
}

async function drawShirt(page) {
  await page.click("#tab-drawing");
  const box = await page.locator("#sketch").boundingBox();
  const points = SHIRT.map(([x, y]) => [box.x + x * box.width, box.y + y * box.height]);
  await page.mouse.move(...points[0]);
  await page.mouse.down();
  for (const point of points) await page.mouse.move(...point);
  await page.mouse.up();
}

const browser = await launch();
const { server, address } = await serve();
const desktop = { viewport: { width: 1280, height: 760 }, locale: "en" };
await picture(browser, address, "page.png", desktop, (page) =>
  page.click("#strip button:first-child"),
);
const { defaultBrowserType, ...phone } = {
  ...devices["Pixel 7"],
  viewport: { width: 390, height: 1160 },
  deviceScaleFactor: 1.5,
  locale: "ru",
  colorScheme: "dark",
};
await picture(browser, address, "page-phone.png", phone, drawShirt);
await browser.close();
server.close();
