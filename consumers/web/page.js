// The page: its three inputs (test pictures, photo, drawing), the answer, the language.

import { describe, load, loadAbout, readPhoto } from "./classify.js";
import { fetchBytes } from "./model.js";
import { makeSketch } from "./drawing.js";
import { Refused, toPicture } from "./preprocessing.js";
import { STRINGS, say } from "./strings.js";

const MOST_BARS = 20; // of so many classes, the most probable, the bars are shown

const find = (id) => document.getElementById(id);
const state = {
  language: "en",
  about: null, // of the network: page.json, once it is there
  isReady: false, // whether the network is loaded
  loaded: 0, // bytes of it
  picture: null, // what is asked about, before its answer
  answer: null, // { picture, probabilities, network, edge?, reading?, of?, label? }, or null
  error: null, // { code, values }, or null
  idle: "loading", // what is said while nothing is asked: then `ready`
  status: "loading", // what is said while there is no answer
};
let asked = 0; // numbers the questions, so that a late answer does not overwrite a newer one

/** Name a picture and show the answer; `more` holds its label, its edge and the like. */
async function name(picture, more = {}) {
  const question = ++asked;
  if (!state.isReady) show({ picture, status: "loading" });
  try {
    const { model } = await load(showProgress);
    Object.assign(state, { isReady: true, idle: "ready" });
    if (question !== asked) return;
    const start = performance.now();
    const probabilities = await model.predict(picture);
    const network = performance.now() - start;
    if (question === asked) show({ answer: { picture, probabilities, network, ...more } });
  } catch (error) {
    if (question === asked) fail(error);
  }
}

/** Say that a picture can't be used, or that a file of the page could not be loaded. */
function fail(error) {
  if (error instanceof Refused) return show({ error, status: "ready" });
  Object.assign(state, { loaded: 0, idle: "ready" }); // the next question tries again
  show({ error: { code: "noNetwork", values: { reason: error.message } }, status: "ready" });
}

/** Update the state and the page; what was shown of a question is cleared unless it is named. */
function show(change) {
  Object.assign(state, { picture: null, answer: null, error: null }, change);
  render();
}

function render() {
  const { language, about, error, status } = state;
  const answer = state.answer && described(state.answer);
  const put = (id, text) => {
    find(id).hidden = !text;
    find(id).textContent = text ?? "";
  };
  put("error", error && say(language, error.code, error.values));
  const warning = answer?.warning;
  find("warning").textContent = warning ? say(language, warning.code, warning.values) : "";
  find("result").textContent = answer ? result(answer) : error ? "" : say(language, status);
  find("details").textContent = answer ? details(answer) : status === "loading" ? progress() : "";
  if (!about) return;
  drawPicture(find("picture"), answer?.picture ?? state.picture);
  const bars = mostProbable(answer?.probabilities);
  [...find("bars").children].forEach((row, i) => {
    row.hidden = !bars.has(i);
    const probability = answer?.probabilities[i] ?? 0;
    row.classList.toggle("best", answer?.number === i);
    row.children[0].textContent = names()[i];
    row.children[1].firstChild.style.width = `${100 * probability}%`;
    row.children[2].textContent = answer ? percent(probability) : "–";
  });
}

/** The numbers of the classes whose bars are shown. */
function mostProbable(probabilities = []) {
  const numbers = [...names().keys()].sort((a, b) => probabilities[b] - probabilities[a] || 0);
  return new Set(numbers.slice(0, MOST_BARS));
}

const described = (answer) => ({
  ...answer,
  ...describe(state.about, answer.picture, answer.probabilities, answer.edge, state.language),
});

/** Class names in the page's language, or in the one that the model has. */
const names = () => state.about.classes[state.language] ?? Object.values(state.about.classes)[0];

const percent = (probability) =>
  probability.toLocaleString(state.language, { style: "percent", minimumFractionDigits: 1 });

const result = ({ name, probability, second }) =>
  second
    ? say(state.language, "undecided", { name, second: second.name })
    : say(state.language, "result", { name, percent: percent(probability) });

function progress() {
  if (!state.about) return "";
  const megabytes = (bytes) => Math.round(bytes / 1e5) / 10;
  const total = state.about.bytes["onnxruntime.wasm"] + state.about.bytes["model.onnx"];
  const values = { loaded: megabytes(state.loaded), total: megabytes(total) };
  return say(state.language, "progress", values);
}

function details({ label, network, number, of, reading, probability, second }) {
  const { language } = state;
  const digits = (value) => Number(value.toFixed(1));
  const parts = of > 1 ? [say(language, "firstOf", { of })] : [];
  if (second) {
    const values = { first: percent(probability), second: percent(second.probability) };
    parts.push(say(language, "isUndecided", values));
  }
  if (label !== undefined) {
    const key = label === number ? "labelRight" : "labelWrong";
    parts.push(say(language, key, { label: names()[label] }));
  }
  const values = { network: digits(network), picture: digits(reading ?? 0) };
  parts.push(say(language, reading === undefined ? "time" : "timeBoth", values));
  return parts.join(" ");
}

function drawPicture(canvas, picture) {
  [canvas.height, canvas.width] = state.about.shape; // which also clears it
  if (!picture) return;
  const image = new ImageData(canvas.width, canvas.height);
  picture.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function makeStrip(pictures) {
  const strip = find("strip");
  const pixels = state.about.shape[0] * state.about.shape[1];
  state.about.labels.forEach((label, i) => {
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
    if (event.altKey || event.ctrlKey || event.metaKey) return; // the browser's own
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

/** Name a photo, the first of so many. */
async function namePhoto(file, of) {
  select("photo");
  const question = ++asked;
  const start = performance.now();
  show({ status: "reading" });
  preview(null);
  try {
    const { picture, edge } = await readPhoto(file, await about);
    if (question !== asked) return;
    preview(file);
    await name(picture, { edge, of, reading: performance.now() - start });
  } catch (error) {
    if (question !== asked) return;
    fail(error);
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
    const [file] = data.files;
    if (file) return namePhoto(file, data.files.length);
    asked++;
    preview(null);
    show({ error: { code: "noFile" }, status: "ready" });
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
    const question = ++asked;
    if (sketch.isEmpty()) return show({ status: state.idle });
    const start = performance.now();
    try {
      const { shape, photos } = await about;
      if (question !== asked) return;
      const { picture, edge } = toPicture(sketch.reduced(Math.max(...shape)), shape, photos);
      await name(picture, { edge, reading: performance.now() - start });
    } catch (error) {
      if (question === asked) fail(error);
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
    find(tab.getAttribute("aria-controls")).inert = !chosen; // unseen, but it keeps its height
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
  document.querySelector(`input[name=language][value=${language}]`).checked = true;
  for (const element of document.querySelectorAll("[data-string]")) {
    element.textContent = say(language, element.dataset.string);
  }
  document.title = STRINGS[language].title;
  if (state.about) writeAbout(language, state.about);
  render();
}

/** Write what depends on the network: the data set's name, its classes, the model card. */
function writeAbout(language, { dataset, labels, shape, accuracy, tests, card }) {
  const [height, width] = shape;
  document.title += ` · ${dataset}`;
  const values = { dataset, height, width, classes: names().length };
  const sentences = [say(language, "about", values), say(language, "stays")];
  if (accuracy !== null) {
    const of = Math.min(100, tests);
    sentences.splice(1, 0, say(language, "accuracy", { right: Math.round(of * accuracy), of }));
  }
  find("about").textContent = sentences.join(" ");
  find("picture").setAttribute("aria-label", say(language, "seen", { height, width }));
  [...find("strip").children].forEach((button, i) => {
    const label = names()[labels[i]];
    button.setAttribute("aria-label", say(language, "testName", { number: i + 1, label }));
  });
  const rows = Object.entries(card).map(([key, value]) => {
    const [term, description] = ["dt", "dd"].map((tag) => document.createElement(tag));
    term.textContent = say(language, key);
    description.textContent = value;
    return [term, description];
  });
  find("card").replaceChildren(...rows.flat());
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

const about = loadAbout();

async function start() {
  makeLanguages();
  makeTabs();
  takePhotos(); // at once: what is dropped must not take the place of the page
  takeDrawings();
  find("result").removeAttribute("data-string");
  try {
    const network = load(showProgress);
    network.catch(() => {}); // waited for below
    state.about = await about;
    find("source").href = state.about.source;
    find("bars").innerHTML = "<li><span></span><div><i></i></div><span></span></li>".repeat(
      names().length,
    );
    makeStrip(await fetchBytes("vendor/pictures.bin", state.about.bytes["pictures.bin"]));
    setLanguage(state.language);
    await network;
  } catch (error) {
    fail(error);
    return;
  }
  Object.assign(state, { isReady: true, idle: "ready" });
  if (state.status === "loading" && !state.picture && !state.answer) show({ status: "ready" });
  document.documentElement.dataset.ready = "";
}

function showProgress(bytes) {
  state.loaded += bytes;
  if (state.status === "loading" && !state.answer) find("details").textContent = progress();
}

start();
