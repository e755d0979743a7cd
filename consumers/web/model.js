// The network: onnxruntime-web, WebAssembly, one thread (more would need special HTTP headers).

const OUTPUT = "probabilities"; // another one, where `classify` is told so

/**
 * Load the network. Paths are relative to this module, so the page works under any address.
 *
 * @param {(bytes: number) => void} loaded is told what has come, again and again
 * @param {Record<string, number>} bytes each file's length, as page.json has it
 * @returns {Promise<{version: string, pixels: number, type: "float32" | "uint8",
 *   classify: (images: Float32Array | Uint8Array, output?: string) => Promise<Float32Array>,
 *   predict: (picture: Uint8Array) => Promise<Float32Array>}>}
 *   `classify` takes n images of `pixels` values, as the model has them (float32 in 0…1, or bytes),
 *   and gives n × classes probabilities; `predict` takes the bytes of one.
 * @throws {Error} whose message names the file that could not be loaded
 */
export async function loadModel(loaded, bytes = {}) {
  const [ort, wasm, model] = await Promise.all([
    import("./vendor/onnxruntime.js").catch(named("vendor/onnxruntime.js")),
    fetchBytes("vendor/onnxruntime.wasm", bytes["onnxruntime.wasm"], loaded),
    fetchBytes("vendor/model.onnx", bytes["model.onnx"], loaded),
  ]);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  const [{ name, type, shape }] = session.inputMetadata;
  const pixels = shape[1];
  const classify = async (images, output = OUTPUT) => {
    const image = new ort.Tensor(type, images, [images.length / pixels, pixels]);
    const results = await session.run({ [name]: image }, [output]);
    return results[output].data;
  };
  // Divided as float32, as in training.
  const predict = (picture) =>
    classify(type === "uint8" ? picture : Float32Array.from(picture, (value) => value / 255));
  await predict(new Uint8Array(pixels)); // the first run also makes its plans
  return { version: ort.env.versions.web, pixels, type, classify, predict };
}

/**
 * Fetch a file beside this module, as it is now: the files of two networks do not fit together.
 *
 * @param {number} [length] bytes that it must have
 */
export async function fetchBytes(path, length, loaded = () => {}) {
  const url = new URL(path, import.meta.url);
  const bytes = await fetchAll(url, loaded).catch(named(url.pathname));
  if (length === undefined || bytes.length === length) return bytes;
  throw new Error(`${url.pathname}: expected ${length} bytes, got ${bytes.length}`);
}

/** Fetch a JSON file beside this module. */
export async function fetchJson(path) {
  return new Response(await fetchBytes(path)).json().catch(named(path));
}

async function fetchAll(url, loaded) {
  const response = await fetch(url, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  const parts = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    loaded(value.length);
  }
}

/** Let an error name the file; the browser's own do not. */
const named = (path) => ({ message }) => {
  throw new Error(`${path}: ${message}`);
};
