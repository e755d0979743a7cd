// A worker: photos are decoded and reduced here, so that a large one does not freeze the page.
// ../PHOTOS.md says what is read.

import { Refused, reduce, toPicture } from "./preprocessing.js";

const MAX_BYTES = 100_000_000;
const MAX_PIXELS = 64_000_000;

/** Tell format and size from a file's first bytes, before anything is decoded. */
function readHeader(bytes) {
  const view = new DataView(bytes.buffer);
  const text = (at, length) => String.fromCharCode(...bytes.subarray(at, at + length));
  if (text(0, 8) === "\x89PNG\r\n\x1a\n") {
    return { type: "image/png", width: view.getUint32(16), height: view.getUint32(20) };
  }
  if (text(0, 6) === "GIF87a" || text(0, 6) === "GIF89a") {
    return { type: "image/gif", width: view.getUint16(6, true), height: view.getUint16(8, true) };
  }
  if (text(0, 2) === "BM") {
    const height = Math.abs(view.getInt32(22, true)); // negative: stored from the top
    return { type: "image/bmp", width: view.getInt32(18, true), height };
  }
  if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") {
    return { type: "image/webp", ...readWebp(view, text(12, 4)) };
  }
  if (text(0, 2) === "\xff\xd8") return { type: "image/jpeg", ...readJpeg(view) };
  throw new Refused("notPicture");
}

function readWebp(view, kind) {
  if (kind === "VP8X") {
    const size = (at) => 1 + view.getUint16(at, true) + (view.getUint8(at + 2) << 16);
    return { width: size(24), height: size(27) };
  }
  if (kind === "VP8L") {
    const bits = view.getUint32(21, true);
    return { width: 1 + (bits & 0x3fff), height: 1 + ((bits >> 14) & 0x3fff) };
  }
  return { width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
}

/** Walk a JPEG's segments to its frame header, SOF0 to SOF15 (ITU-T T.81, table B.1). */
function readJpeg(view) {
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) throw new Refused("broken");
    const marker = view.getUint8(at + 1);
    const others = [0xc4, 0xc8, 0xcc]; // among the frames' numbers, but tables
    if (marker === 0xff) {
      at += 1; // a fill byte
    } else if (marker >= 0xc0 && marker <= 0xcf && !others.includes(marker)) {
      return { width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
    } else {
      at += 2 + view.getUint16(at + 2);
    }
  }
}

/** Decode a photo and turn it into the network's picture. */
async function read(file) {
  if (file.size === 0) throw new Refused("empty");
  if (file.size > MAX_BYTES) throw new Refused("tooManyBytes", { size: file.size });
  const bytes = new Uint8Array(await file.arrayBuffer());
  let header;
  try {
    header = readHeader(bytes);
  } catch (error) {
    // A RangeError is DataView's: the file ends within its header.
    throw error instanceof RangeError ? new Refused("broken") : error;
  }
  const { type, width, height } = header;
  if (width <= 0 || height <= 0) throw new Refused("noPixels", { width, height });
  if (width * height > MAX_PIXELS) throw new Refused("tooLarge", { width, height });
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes], { type }), {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none", // libwebp would round it otherwise than PHOTOS.md
      imageOrientation: "from-image",
    });
  } catch {
    throw new Refused("broken");
  }
  try {
    return toPicture(reduceBitmap(bitmap));
  } finally {
    bitmap.close(); // 4 bytes a pixel, at once and not when the collector comes by
  }
}

/** Read a bitmap through a canvas of a few rows: browsers bound the area of a canvas. */
function reduceBitmap(bitmap) {
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
  );
}

onmessage = async ({ data: { id, file } }) => {
  try {
    postMessage({ id, picture: await read(file) });
  } catch (error) {
    const { code = "broken", values = {} } = error;
    if (!(error instanceof Refused)) console.error(error);
    postMessage({ id, refused: { code, values } });
  }
};
