// Name what is on photos, in any page: import { classify } from "…/classify.js" (types: classify.d.ts).
// The folder must be served from the page's own address, as workers are.

import { fetchBytes, fetchJson, loadModel } from "./model.js";
import { Refused } from "./preprocessing.js";

export { Refused };

const BUSY = 0.25; // share of a photo's edge that is not background; measured: ../PHOTOS.md
const CLEAR = 2; // the first class must be this much more probable than the second

/** Do something once, however often it is asked for; after a failure, the next call tries again. */
function once(make) {
  let made = null;
  return (...given) => {
    made ??= make(...given).catch((error) => {
      made = null;
      throw error;
    });
    return made;
  };
}

/** Load what is known of the network: class names, shape, how its training images look. */
export const loadAbout = once(async () => {
  const about = await fetchJson("vendor/page.json");
  const averages = await fetchBytes("vendor/averages.bin", about.bytes["averages.bin"]);
  return { ...about, averages };
});

/** Load the network and what is known of it. */
export const load = once(async (loaded) => {
  const about = await loadAbout();
  return { about, model: await loadModel(loaded, about.bytes) };
});

/** Name what is on a photo. */
export async function classify(file, language) {
  const { about, model } = await load();
  const { picture, edge } = await readPhoto(file, about);
  return describe(about, picture, await model.predict(picture), edge, language);
}

/** Say what probabilities mean; without `edge`, the picture is one of the data set's own. */
export function describe(about, picture, probabilities, edge, language) {
  const names = about.classes[language] ?? Object.values(about.classes)[0];
  const classes = names.map((name, number) => ({ name, number, probability: probabilities[number] }));
  const [first, second] = [...classes].sort((a, b) => b.probability - a.probability);
  return {
    name: first.name,
    probability: first.probability,
    second: first.probability < CLEAR * second.probability ? second : null,
    warning: edge === undefined ? null : findWarning(about, picture, edge),
    number: first.number,
    classes,
    picture,
  };
}

function findWarning(about, picture, edge) {
  if (edge > BUSY) return { code: "busy", values: { share: Math.round(100 * edge) } };
  return likeness(about, picture) < about.least ? { code: "unlike", values: {} } : null;
}

/** The cosine between a picture and the average of the class that it is most like. */
export function likeness({ averages }, picture) {
  const length = (values) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  let most = 0;
  for (let start = 0; start < averages.length; start += picture.length) {
    const average = averages.subarray(start, start + picture.length);
    const product = average.reduce((sum, value, i) => sum + value * picture[i], 0);
    most = Math.max(most, product / (length(average) * length(picture)));
  }
  return most;
}

const waiting = new Map(); // by number of question
let asked = 0;
let worker = null;

function startWorker() {
  worker = new Worker(new URL("decode.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data: { id, ...result } }) => {
    waiting.get(id)?.(result);
    waiting.delete(id);
  };
  // It ran out of memory, say; an event without a message: decode.js could not be loaded.
  worker.onerror = ({ message }) => {
    const refused = { code: message ? "broken" : "noDecoder", values: {} };
    for (const answer of waiting.values()) answer({ refused });
    waiting.clear();
    worker = null; // the next photo gets another one
  };
}

/** Decode a photo and turn it into the network's picture, in a worker. */
export async function readPhoto(file, { shape, photos }) {
  if (!worker) startWorker();
  const id = ++asked;
  const result = await new Promise((resolve) => {
    waiting.set(id, resolve);
    worker.postMessage({ id, file, shape, photos });
  });
  if (result.refused) throw new Refused(result.refused.code, result.refused.values);
  return result;
}
