// The network: onnxruntime-web, WebAssembly, one thread (more would need special HTTP headers).

const MODEL = "vendor/model.onnx";
const OUTPUT = "probabilities"; // another one, where `classify` is told so

/**
 * Load the network. Paths are relative to this module, so the page works under any address.
 *
 * @param {(bytes: number) => void} loaded is told what has come, again and again
 * @returns {Promise<{version: string, pixels: number, type: "float32" | "uint8",
 *   classify: (images: Float32Array | Uint8Array, output?: string) => Promise<Float32Array>,
 *   predict: (picture: Uint8Array) => Promise<Float32Array>}>}
 *   `classify` takes n images of `pixels` values, as the model has them (float32 in 0…1, or bytes),
 *   and gives n × classes probabilities; `predict` takes the bytes of one.
 * @throws {Error} whose message names the file that could not be loaded
 */
export async function loadModel(loaded = () => {}) {
  const [ort, wasm, model] = await Promise.all([
    import("./vendor/onnxruntime.js"),
    fetchBytes("vendor/onnxruntime.wasm", loaded),
    fetchBytes(MODEL, loaded),
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

/** Fetch a file beside this module. */
export async function fetchBytes(path, loaded = () => {}) {
  const url = new URL(path, import.meta.url);
  const response = await fetch(url).catch(({ message }) => {
    throw new Error(`${url.pathname}: ${message}`); // of fetch itself, which names no file
  });
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status} ${response.statusText}`);
  const parts = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    loaded(value.length);
  }
}
