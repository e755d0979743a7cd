// A worker: photos are decoded and reduced here, so that a large one does not freeze the page.
// ../PHOTOS.md says what is read.

import { readFormat } from "./formats.js";
import { Refused, checkCanvas, reduce, toPicture } from "./preprocessing.js";

const MAX_BYTES = 100_000_000;
const MAX_PIXELS = 64_000_000;

/** Decode a photo and turn it into the network's picture. */
async function read(file, shape, photos) {
  if (file.size > MAX_BYTES) throw new Refused("tooManyBytes", { size: file.size });
  const bytes = await file.arrayBuffer().then(
    (buffer) => new Uint8Array(buffer),
    () => { throw new Refused("unreadable"); },
  );
  if (bytes.length === 0) throw new Refused("empty");
  let format;
  try {
    format = readFormat(bytes);
  } catch (error) {
    // A RangeError is DataView's: the file ends within its header.
    throw error instanceof RangeError ? new Refused("broken") : error;
  }
  const { type, width, height, parts } = format;
  if (width <= 0 || height <= 0) throw new Refused("noPixels", { width, height });
  if (width * height > MAX_PIXELS) throw new Refused("tooLarge", { width, height });
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob(parts, { type }), {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none", // libwebp would round it otherwise than PHOTOS.md
      imageOrientation: "from-image",
    });
  } catch {
    throw new Refused("broken");
  }
  try {
    // A GIF's frame may be larger than its header says.
    const { width, height } = bitmap;
    if (width * height > MAX_PIXELS) throw new Refused("tooLarge", { width, height });
    return toPicture(reduceBitmap(bitmap, Math.max(...shape)), shape, photos);
  } finally {
    bitmap.close(); // frees 4 bytes a pixel now, not at the next garbage collection
  }
}

/** Read a bitmap through a canvas of a few rows: browsers bound the area of a canvas. */
function reduceBitmap(bitmap, side) {
  checkCanvas();
  const { width, height } = bitmap;
  let canvas, context;
  return reduce(
    (top, rows) => {
      if (canvas?.height !== rows) {
        canvas = new OffscreenCanvas(width, rows);
        context = canvas.getContext("2d", { willReadFrequently: true });
      }
      context.fillStyle = "#fff"; // step 1
      context.fillRect(0, 0, width, rows);
      context.drawImage(bitmap, 0, -top);
      return context.getImageData(0, 0, width, rows).data;
    },
    width,
    height,
    side,
  );
}

onmessage = async ({ data: { id, file, shape, photos } }) => {
  try {
    postMessage({ id, ...(await read(file, shape, photos)) });
  } catch (error) {
    if (!(error instanceof Refused)) console.error(error);
    const { code, values } = error instanceof Refused ? error : new Refused("broken");
    postMessage({ id, refused: { code, values } });
  }
};
