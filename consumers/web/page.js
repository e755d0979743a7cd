// The page: its three inputs (test pictures, photo, drawing), the answer, the language.

import { fetchBytes, loadModel, toInput } from "./model.js";
import { makeSketch } from "./drawing.js";
import { Refused, toPicture } from "./preprocessing.js";
import { STRINGS, say } from "./strings.js";

const find = (id) => document.getElementById(id);
const state = {
  language: "en",
  classes: null, // names by language
  labels: [], // of the test pictures
  shape: [28, 28], // of the network's pictures: height, width
  classify: null, // the network, once it is loaded
  answer: null, // { picture, probabilities, network, reading?, label? }, or null
  error: null, // { code, values }, or null
  status: "loading", // what is said while there is no answer
};
let asked = 0; // numbers the questions, so that a late answer does not overwrite a newer one

/** Name a picture and show the answer; `about` may hold its label and the time of its reading. */
async function name(picture, about = {}) {
  const question = ++asked;
  const start = performance.now();
  const probabilities = await state.classify(toInput(picture));
  const network = performance.now() - start;
  if (question === asked) show({ answer: { picture, probabilities, network, ...about } });
}

/** Update the state and the page; answer and error are cleared unless the change names them. */
function show(change) {
  Object.assign(state, { answer: null, error: null }, change);
  render();
}

function render() {
  const { language, classes, answer, error, status } = state;
  find("error").hidden = !error;
  find("error").textContent = error ? say(language, error.code, error.values) : "";
  find("result").textContent = answer
    ? say(language, "result", best(answer))
    : error
      ? ""
      : say(language, status);
  find("details").textContent = answer ? details(answer) : "";
  drawPicture(find("picture"), answer?.picture);
  [...find("bars").children].forEach((row, i) => {
    const probability = answer?.probabilities[i] ?? 0;
    row.classList.toggle("best", Boolean(answer) && i === best(answer).index);
    row.children[0].textContent = classes[language][i];
    row.children[1].firstChild.style.width = `${100 * probability}%`;
    row.children[2].textContent = answer ? percent(probability) : "–";
  });
}

function best({ probabilities }) {
  const index = probabilities.indexOf(Math.max(...probabilities));
  return {
    index,
    name: state.classes[state.language][index],
    percent: percent(probabilities[index]),
  };
}

const percent = (probability) =>
  probability.toLocaleString(state.language, { style: "percent", minimumFractionDigits: 1 });

function details(answer) {
  const { label, network, reading } = answer;
  const digits = (value) => Number(value.toFixed(1));
  const parts = [];
  if (label !== undefined) {
    const right = label === best(answer).index;
    const values = { label: state.classes[state.language][label] };
    parts.push(say(state.language, right ? "labelRight" : "labelWrong", values));
  }
  const values = { network: digits(network), picture: digits(reading ?? 0) };
  parts.push(say(state.language, reading === undefined ? "time" : "timeBoth", values));
  return parts.join(" ");
}

function drawPicture(canvas, picture) {
  [canvas.height, canvas.width] = state.shape; // which also clears it
  const image = new ImageData(canvas.width, canvas.height);
  for (let i = 0; i < canvas.width * canvas.height; i++) {
    const value = picture?.[i] ?? 0;
    image.data.set([value, value, value, 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function makeStrip(pictures) {
  const strip = find("strip");
  const pixels = state.shape[0] * state.shape[1];
  state.labels.forEach((label, i) => {
    const picture = pictures.subarray(i * pixels, (i + 1) * pixels);
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = i ? -1 : 0;
    const canvas = document.createElement("canvas");
    drawPicture(canvas, picture);
    button.append(canvas);
    button.addEventListener("click", () => {
      press(strip, button);
      name(picture, { label });
    });
    strip.append(button);
  });
  rove(strip);
}

function press(strip, pressed) {
  for (const button of strip.children) button.setAttribute("aria-pressed", button === pressed);
  moveTo(strip, pressed);
}

/** One stop for the Tab key in a group of buttons; arrows, Home and End move inside it. */
function rove(group, moved = () => {}) {
  group.addEventListener("keydown", (event) => {
    const buttons = [...group.children];
    const at = buttons.indexOf(event.target);
    const perRow = buttons.filter((button) => button.offsetTop === buttons[0].offsetTop).length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -perRow, ArrowDown: perRow };
    const ends = { Home: 0, End: buttons.length - 1 };
    const next = buttons[ends[event.key] ?? at + steps[event.key]];
    if (!next) return;
    event.preventDefault();
    moveTo(group, next);
    next.focus();
    moved(next);
  });
}

function moveTo(group, button) {
  for (const other of group.children) other.tabIndex = other === button ? 0 : -1;
}

const worker = new Worker(new URL("decode.js", import.meta.url), { type: "module" });
const waiting = new Map(); // by number of question
worker.onmessage = ({ data: { id, ...result } }) => {
  waiting.get(id)?.(result);
  waiting.delete(id);
};

// It ran out of memory, say, or decode.js is missing.
worker.onerror = () => {
  for (const answer of waiting.values()) answer({ refused: { code: "broken", values: {} } });
  waiting.clear();
};

/** Name a photo. */
async function readPhoto(file) {
  select("photo");
  const question = ++asked;
  const start = performance.now();
  show({ status: "reading" });
  preview(null);
  worker.postMessage({ id: question, file, shape: state.shape });
  const result = await new Promise((resolve) => waiting.set(question, resolve));
  if (question !== asked) return;
  if (result.refused) {
    show({ error: result.refused, status: "ready" });
  } else {
    preview(file);
    await name(result.picture, { reading: performance.now() - start });
  }
  // On a phone the answer may lie below what is in view.
  find("result").closest("section").scrollIntoView({ block: "nearest" });
}

function preview(file) {
  const image = find("preview");
  URL.revokeObjectURL(image.src);
  image.hidden = !file || file.size > 20_000_000; // the browser decodes it a second time
  if (image.hidden) image.removeAttribute("src");
  else image.src = URL.createObjectURL(file);
}

function takePhotos() {
  const take = (data) => {
    if (!state.classify) return;
    const [file] = data.files;
    if (file) readPhoto(file);
    else show({ error: { code: "noFile" }, status: "ready" });
  };
  find("file").addEventListener("change", ({ target }) => {
    if (target.files.length) take(target);
    target.value = ""; // so that the same photo can be chosen again
  });
  addEventListener("paste", (event) => take(event.clipboardData));
  for (const moved of ["dragenter", "dragover"]) {
    addEventListener(moved, (event) => {
      event.preventDefault();
      document.body.classList.add("dragging");
    });
  }
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) document.body.classList.remove("dragging");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    take(event.dataTransfer);
  });
}

function takeDrawings() {
  const nameDrawing = async () => {
    if (sketch.isEmpty()) {
      asked++;
      return show({ status: "ready" });
    }
    const start = performance.now();
    try {
      const picture = toPicture(sketch.reduced(Math.max(...state.shape)), state.shape);
      await name(picture, { reading: performance.now() - start });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      show({ error, status: "ready" });
    }
  };
  let planned = 0; // once a frame is enough while a pointer moves
  const changed = () => {
    cancelAnimationFrame(planned);
    planned = requestAnimationFrame(nameDrawing);
  };
  const sketch = makeSketch(find("sketch"), () => find("filled").checked, changed);
  find("undo").addEventListener("click", sketch.undo);
  find("clear").addEventListener("click", sketch.clear);
}

function select(panel) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.getAttribute("aria-controls") === panel;
    tab.setAttribute("aria-selected", chosen);
    find(tab.getAttribute("aria-controls")).hidden = !chosen;
    if (chosen) moveTo(tab.parentElement, tab);
  }
}

function makeTabs() {
  const tabs = document.querySelector("[role=tablist]");
  rove(tabs, (tab) => tab.click());
  for (const tab of tabs.children) {
    tab.addEventListener("click", () => select(tab.getAttribute("aria-controls")));
  }
}

function setLanguage(language) {
  state.language = language;
  document.documentElement.lang = language;
  document.title = `${STRINGS[language].title} · Fashion-MNIST`;
  document.querySelector(`input[name=language][value=${language}]`).checked = true;
  for (const element of document.querySelectorAll("[data-string]")) {
    element.textContent = say(language, element.dataset.string);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    const [height, width] = state.shape;
    element.setAttribute("aria-label", say(language, element.dataset.label, { height, width }));
  }
  [...find("strip").children].forEach((button, i) => {
    const label = state.classes[language][state.labels[i]];
    button.setAttribute("aria-label", say(language, "testName", { number: i + 1, label }));
  });
  if (state.classes) render();
}

function makeLanguages() {
  for (const input of document.querySelectorAll("input[name=language]")) {
    input.addEventListener("change", () => {
      setLanguage(input.value);
      remember(input.value);
    });
  }
  setLanguage(recall() ?? (navigator.language.startsWith("ru") ? "ru" : "en"));
}

// A browser may forbid storage; the switch works all the same.
function remember(language) {
  try {
    localStorage.setItem("language", language);
  } catch {}
}

function recall() {
  try {
    const language = localStorage.getItem("language");
    return language in STRINGS ? language : null;
  } catch {
    return null;
  }
}

async function start() {
  makeLanguages();
  makeTabs();
  takePhotos(); // at once: what is dropped must not take the place of the page
  try {
    const [model, pictures, about] = await Promise.all([
      loadModel(),
      fetchBytes(new URL("vendor/pictures.bin", import.meta.url)),
      fetchBytes(new URL("vendor/page.json", import.meta.url)),
    ]);
    Object.assign(state, JSON.parse(new TextDecoder().decode(about)));
    const [names] = Object.values(state.classes); // a model may have one language alone
    state.classes = { en: names, ru: names, ...state.classes };
    await model.classify(new Float32Array(model.pixels)); // the first run also makes its plans
    state.classify = model.classify;
    makeStrip(pictures);
  } catch (error) {
    find("result").textContent = "";
    find("error").hidden = false;
    find("error").textContent = say(state.language, "noNetwork", { reason: error.message });
    return;
  }
  find("bars").innerHTML = "<li><span></span><div><i></i></div><span></span></li>".repeat(
    state.classes.en.length,
  );
  find("result").removeAttribute("data-string");
  state.status = "ready";
  takeDrawings();
  setLanguage(state.language);
  document.documentElement.dataset.ready = "";
}

start();
