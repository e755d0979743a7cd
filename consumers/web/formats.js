// What is read of a photo's file: ../PHOTOS.md. ../python/predict.py does the same.

import { Refused } from "./preprocessing.js";

/**
 * Tell format and size from a file's bytes, before anything is decoded, and take out of a PNG or
 * a JPEG what is not its pixels; EXIF's orientation stays.
 *
 * @param {Uint8Array} bytes
 * @returns {{type: string, width: number, height: number, parts: Uint8Array[]}} `parts` are the
 *   file to decode
 * @throws {Refused | RangeError} it is none of the formats | it ends within its header
 */
export function readFormat(bytes) {
  const view = new DataView(bytes.buffer);
  const text = (at, length) => String.fromCharCode(...bytes.subarray(at, at + length));
  const parts = [bytes];
  if (text(0, 8) === "\x89PNG\r\n\x1a\n") {
    const parts = stripPng(bytes, view, text);
    return { type: "image/png", width: view.getUint32(16), height: view.getUint32(20), parts };
  }
  if (text(0, 2) === "\xff\xd8") return { type: "image/jpeg", ...stripJpeg(bytes, view, text) };
  if (text(0, 6) === "GIF87a" || text(0, 6) === "GIF89a") {
    const [width, height] = [view.getUint16(6, true), view.getUint16(8, true)];
    return { type: "image/gif", width, height, parts };
  }
  if (text(0, 2) === "BM") return { type: "image/bmp", ...readBmp(view), parts };
  if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") {
    return { type: "image/webp", ...readWebp(view, text(12, 4)), parts };
  }
  throw new Refused("notPicture");
}

function readBmp(view) {
  if (view.getUint32(14, true) === 12) {
    return { width: view.getUint16(18, true), height: view.getUint16(20, true) }; // OS/2's
  }
  const height = Math.abs(view.getInt32(22, true)); // negative: stored from the top
  return { width: view.getInt32(18, true), height };
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

/** Keep the chunks that make a PNG's pixels, and its orientation. */
function stripPng(bytes, view, text) {
  const kept = { IHDR: [], eXIf: [], PLTE: [], tRNS: [], IDAT: [], IEND: [] };
  for (let at = 8; !kept.IEND.length; ) {
    const length = view.getUint32(at);
    const name = text(at + 4, 4);
    const good = view.getUint32(at + 8 + length) === crc32(bytes, at + 4, at + 8 + length);
    const chunk = bytes.subarray(at, at + length + 12);
    if (name === "eXIf") {
      if (good) kept.eXIf = [makeExifChunk(readOrientation(chunk.subarray(8, -4)))];
    } else if (name in kept) {
      if (!good) throw new Refused("broken");
      if (name === "IDAT" || !kept[name].length) kept[name].push(chunk);
    } else if (/^[A-Z]/.test(name)) {
      throw new Refused("broken"); // critical and unknown, such as Apple's CgBI
    }
    if ((at === 8) !== (name === "IHDR")) throw new Refused("broken");
    at += length + 12;
  }
  const [bits, colour] = kept.IHDR[0].subarray(16, 18);
  if (colour === 3 && !kept.PLTE.length) throw new Refused("broken");
  for (const { length } of kept.tRNS) {
    const palette = ((kept.PLTE[0]?.length ?? 0) - 12) / 3;
    const fits = { 0: length === 14, 2: length === 18 && bits === 8, 3: length <= palette + 12 };
    if (!fits[colour]) kept.tRNS = [];
  }
  return [bytes.subarray(0, 8), ...Object.values(kept).flat()];
}

/** Keep the segments that make a JPEG's pixels, and its orientation (ITU-T T.81, table B.1). */
function stripJpeg(bytes, view, text) {
  const parts = [bytes.subarray(0, 2)];
  let orientation = 0;
  let size;
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) throw new Refused("broken");
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) {
      at += 1; // a fill byte
      continue;
    }
    const segment = bytes.subarray(at, at + 2 + view.getUint16(at + 2));
    if (marker === 0xe1 && text(at + 4, 6) === "Exif\0\0") {
      orientation ||= readOrientation(segment.subarray(10));
    }
    // Of APP0 to APP15 and comments, two say how colours are stored.
    const isAbout = (marker >= 0xe0 && marker <= 0xef) || marker === 0xfe;
    if (!isAbout || ["JFIF\0", "Adobe"].includes(text(at + 4, 5))) parts.push(segment);
    // SOF0 to SOF15, without three tables that have numbers among them.
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      size ??= { width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
    }
    at += segment.length;
    if (marker === 0xda) {
      if (!size) throw new Refused("broken");
      parts.splice(1, 0, makeExifSegment(orientation || 1));
      return { ...size, parts: [...parts, bytes.subarray(at)] };
    }
  }
}

/** Find the orientation in EXIF data, 1…8; 1 where there is none. */
function readOrientation(exif) {
  const view = new DataView(exif.buffer, exif.byteOffset, exif.length);
  try {
    const order = { 0x49492a00: true, 0x4d4d002a: false }[view.getUint32(0)];
    if (order === undefined) return 1;
    const first = view.getUint32(4, order);
    const count = view.getUint16(first, order);
    for (let at = first + 2; at < first + 2 + 12 * count; at += 12) {
      const [tag, kind] = [view.getUint16(at, order), view.getUint16(at + 2, order)];
      const [number, value] = [view.getUint32(at + 4, order), view.getUint16(at + 8, order)];
      if (tag === 0x0112) return kind === 3 && number === 1 && value >= 1 && value <= 8 ? value : 1;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // it is cut off
  }
  return 1;
}

/** Make EXIF data that hold nothing but an orientation. */
const makeExif = (value) => [
  ...[0x4d, 0x4d, 0, 0x2a, 0, 0, 0, 8, 0, 1],
  ...[0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, value, 0, 0, 0, 0, 0, 0],
];

const makeExifSegment = (value) =>
  Uint8Array.of(0xff, 0xe1, 0, 34, 0x45, 0x78, 0x69, 0x66, 0, 0, ...makeExif(value));

function makeExifChunk(value) {
  const chunk = Uint8Array.of(0, 0, 0, 26, 0x65, 0x58, 0x49, 0x66, ...makeExif(value), 0, 0, 0, 0);
  new DataView(chunk.buffer).setUint32(34, crc32(chunk, 4, 34));
  return chunk;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes, start, end) {
  let crc = ~0;
  for (let at = start; at < end; at++) crc = CRC_TABLE[(crc ^ bytes[at]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
