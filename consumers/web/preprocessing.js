// From a photo's pixels to the network's picture: ../PHOTOS.md, whose steps the numbers name.
// Whole numbers throughout, so that ../python/predict.py gets the same picture.

const REDUCED = 8; // longest side after step 2, in sides of the network's picture
const NEAR = 487; // squared distance in RGB, ⌊(0.05 · 255 · √3)²⌋: 5 %, as the paper has it
const FAINT = 13; // of 255: 5 %

/** A photo that can't be used. `code` names a sentence in strings.js, `values` fill its gaps. */
export class Refused extends Error {
  constructor(code, values = {}) {
    super(code);
    this.code = code;
    this.values = values;
  }
}

const rounded = (a, b) => Math.floor((2 * a + b) / (2 * b)); // exact below 2^53

/**
 * Average blocks of k×k pixels so that the longest side is at most 8 sides (steps 1 and 2).
 *
 * @param {(top: number, rows: number) => Uint8ClampedArray} readRows gives rows as RGBA, opaque
 * @param {number} width of the photo
 * @param {number} height of the photo
 * @param {number} side the longest of the network's picture
 * @returns {{width: number, height: number, rgb: Uint8Array}}
 */
export function reduce(readRows, width, height, side) {
  const k = Math.ceil(Math.max(width, height) / (REDUCED * side));
  const reduced = { width: Math.ceil(width / k), height: Math.ceil(height / k) };
  reduced.rgb = new Uint8Array(3 * reduced.width * reduced.height);
  const sums = new Float64Array(3 * reduced.width);
  for (let y = 0; y < reduced.height; y++) {
    const rows = Math.min(k, height - y * k);
    const rgba = readRows(y * k, rows);
    sums.fill(0);
    for (let pixel = 0, row = 0; row < rows; row++) {
      for (let x = 0; x < width; x++, pixel += 4) {
        const at = 3 * Math.floor(x / k);
        sums[at] += rgba[pixel];
        sums[at + 1] += rgba[pixel + 1];
        sums[at + 2] += rgba[pixel + 2];
      }
    }
    for (let i = 0; i < sums.length; i++) {
      const columns = Math.min(k, width - k * Math.floor(i / 3));
      reduced.rgb[3 * reduced.width * y + i] = rounded(sums[i], rows * columns);
    }
  }
  return reduced;
}

/** Tell the background's colour [r, g, b] from the four corners (step 3). */
function findBackground({ width, height, rgb }) {
  const side = Math.max(1, Math.floor(Math.min(width, height) / 20));
  return [0, 1, 2].map((channel) => {
    const corners = [];
    for (const top of [0, height - side]) {
      for (const left of [0, width - side]) {
        let sum = 0;
        for (let y = top; y < top + side; y++) {
          for (let x = left; x < left + side; x++) sum += rgb[3 * (y * width + x) + channel];
        }
        corners.push(rounded(sum, side * side));
      }
    }
    corners.sort((a, b) => a - b);
    return Math.floor((corners[1] + corners[2]) / 2);
  });
}

const toGrey = (r, g, b) => (19595 * r + 38470 * g + 7471 * b + 32768) >> 16; // step 4

/** Find the rectangle of all pixels that differ from the background (step 5); count the edge's. */
function trim({ width, height, rgb }, [r, g, b]) {
  const box = { left: width, top: height, right: -1, bottom: -1 };
  let atEdge = 0;
  for (let i = 0, y = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i += 3) {
      if ((rgb[i] - r) ** 2 + (rgb[i + 1] - g) ** 2 + (rgb[i + 2] - b) ** 2 <= NEAR) continue;
      box.left = Math.min(box.left, x);
      box.right = Math.max(box.right, x);
      box.top = Math.min(box.top, y);
      box.bottom = y;
      if (x === 0 || y === 0 || x === width - 1 || y === height - 1) atEdge++;
    }
  }
  if (box.bottom < 0) throw new Refused("oneColour");
  const edgePixels = width * height - Math.max(0, width - 2) * Math.max(0, height - 2);
  return { ...box, edge: atEdge / edgePixels };
}

/** Scale grey values by area to the largest size that fits into [height, width] (step 6). */
function fit(values, width, height, shape) {
  const fitted =
    height * shape[1] >= width * shape[0]
      ? { height: shape[0], width: Math.max(1, rounded(width * shape[0], height)) }
      : { height: Math.max(1, rounded(height * shape[1], width)), width: shape[1] };
  fitted.values = scale(values, width, height, fitted.height, fitted.width);
  return fitted;
}

function scale(values, width, height, newHeight, newWidth) {
  const across = overlaps(width, newWidth);
  return overlaps(height, newHeight).flatMap((rows) =>
    across.map((columns) => {
      let sum = 0;
      for (const [y, high] of rows) {
        for (const [x, wide] of columns) sum += values[y * width + x] * high * wide;
      }
      return rounded(sum, width * height);
    }),
  );
}

/** For each new pixel, the old ones under it: [index, how much is covered, in 1/new pixels]. */
function overlaps(old, size) {
  return Array.from({ length: size }, (_, i) => {
    const covered = [];
    for (let j = Math.floor((i * old) / size); j * size < (i + 1) * old; j++) {
      const share = Math.min((i + 1) * old, (j + 1) * size) - Math.max(i * old, j * size);
      covered.push([j, share]);
    }
    return covered;
  });
}

/**
 * Turn a reduced photo into what the network sees (steps 3 to 8).
 *
 * @param {number[]} shape [height, width] of the network's picture
 * @param {"trimmed" | "plain"} photos what the network was trained on
 * @returns {{picture: Uint8Array, edge: number}} grey values, row by row; the share of the photo's
 *   edge that differs from its background
 * @throws {Refused} there is nothing on the photo
 */
export function toPicture(reduced, shape, photos) {
  if (photos === "plain") return { picture: stretch(reduced, shape), edge: 0 };
  let rgb = reduced.rgb;
  let background = findBackground(reduced);
  if (toGrey(...background) < 128) {
    rgb = rgb.map((value) => 255 - value);
    background = background.map((value) => 255 - value);
  }
  const { left, top, right, bottom, edge } = trim({ ...reduced, rgb }, background);
  const [width, height] = [right + 1 - left, bottom + 1 - top];
  const grey = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = 3 * ((top + y) * reduced.width + left + x);
      grey[y * width + x] = toGrey(rgb[at], rgb[at + 1], rgb[at + 2]);
    }
  }
  const fitted = fit(grey, width, height, shape);
  const white = toGrey(...background);
  const values = fitted.values.map((v) => 255 - Math.min(255, rounded(255 * v, white)));
  if (Math.max(...values) < FAINT) throw new Refused("tooLight");
  const picture = new Uint8Array(shape[0] * shape[1]);
  const above = Math.floor((shape[0] - fitted.height) / 2);
  const before = Math.floor((shape[1] - fitted.width) / 2);
  for (let y = 0; y < fitted.height; y++) {
    const row = values.slice(y * fitted.width, (y + 1) * fitted.width);
    picture.set(row, (above + y) * shape[1] + before);
  }
  return { picture, edge };
}

/** Resize a reduced photo, and nothing else. */
function stretch({ width, height, rgb }, shape) {
  const grey = Uint8Array.from({ length: width * height }, (_, i) =>
    toGrey(rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]),
  );
  const picture = Uint8Array.from(scale(grey, width, height, ...shape));
  if (picture.every((value) => value === picture[0])) throw new Refused("oneColour");
  return picture;
}

/**
 * Read known pixels back: some browsers, to hide who they are, alter what a page reads.
 *
 * @throws {Refused} they came back otherwise
 */
export function checkCanvas() {
  const context = new OffscreenCanvas(16, 16).getContext("2d", { willReadFrequently: true });
  const drawn = context.createImageData(16, 16);
  drawn.data.forEach((_, i, data) => (data[i] = i % 4 === 3 ? 255 : (7 * i) % 256));
  context.putImageData(drawn, 0, 0);
  const read = context.getImageData(0, 0, 16, 16).data;
  if (drawn.data.some((value, i) => value !== read[i])) throw new Refused("alteredCanvas");
}
