// The canvas to draw on: pointer (mouse, pen, finger) or keys.

import { checkCanvas, reduce } from "./preprocessing.js";

const INK = "#333";
const PEN = 32; // of 560: one and a half of the network's pixels
const STEP = 14; // a key press moves the pen by half a pixel of the network's
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * Let a canvas be drawn on.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {() => boolean} isFilled whether a new stroke is filled
 * @param {() => void} changed called after every change
 */
export function makeSketch(canvas, isFilled, changed) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const strokes = [];
  const pen = { x: canvas.width / 2, y: canvas.height / 3, down: false, shown: false };
  let current = null; // the stroke under a pointer

  function draw(pointer) {
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round" });
    for (const { points, filled } of strokes) {
      context.beginPath();
      points.forEach(([x, y]) => context.lineTo(x, y));
      if (points.length === 1) context.lineTo(points[0][0] + 0.5, points[0][1]); // a dot
      context.strokeStyle = context.fillStyle = INK;
      context.stroke();
      if (filled) context.fill();
    }
    if (!pointer || !pen.shown) return;
    context.beginPath();
    context.arc(pen.x, pen.y, PEN / 2, 0, 2 * Math.PI);
    Object.assign(context, { lineWidth: 6, strokeStyle: pen.down ? "#dc2626" : "#2563eb" });
    context.stroke();
  }

  function update() {
    draw(true);
    changed();
  }

  const start = (point) => {
    strokes.push({ points: [point], filled: isFilled() });
    return strokes.at(-1);
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || current) return; // one finger draws
    canvas.setPointerCapture(event.pointerId);
    pen.shown = pen.down = false;
    current = { id: event.pointerId, stroke: start(place(event)) };
    update();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (current?.id !== event.pointerId) return;
    current.stroke.points.push(place(event));
    update();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => {
      if (current?.id === event.pointerId) current = null;
    });
  }
  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return; // the browser's own
    if (MOVES[event.key]) {
      const [right, down] = MOVES[event.key];
      pen.x = Math.min(canvas.width, Math.max(0, pen.x + STEP * right));
      pen.y = Math.min(canvas.height, Math.max(0, pen.y + STEP * down));
      if (pen.down) strokes.at(-1).points.push([pen.x, pen.y]);
    } else if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) start([pen.x, pen.y]);
    } else {
      return;
    }
    event.preventDefault();
    pen.shown = true;
    update();
  });
  canvas.addEventListener("blur", () => {
    pen.shown = pen.down = false;
    draw(true);
  });
  draw(false);

  return {
    isEmpty: () => strokes.length === 0,
    undo() {
      strokes.pop();
      pen.down = false;
      update();
    },
    clear() {
      strokes.length = 0;
      pen.down = false;
      update();
    },
    /** The drawing as toPicture takes it, without the keyboard's pen. */
    reduced(side) {
      checkCanvas();
      draw(false);
      const { width, height } = canvas;
      const rows = (top, count) => context.getImageData(0, top, width, count).data;
      const reduced = reduce(rows, width, height, side);
      draw(true);
      return reduced;
    },
  };
}
