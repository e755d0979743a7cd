// The network: onnxruntime-web, WebAssembly, one thread (more would need special HTTP headers).

const PIXELS = 784;

/**
 * Load the network. Paths are relative to this module, so the page works under any address.
 *
 * @returns {Promise<{version: string, classify: (images: Float32Array) => Promise<Float32Array>}>}
 *   `classify` takes n images of 784 values in 0…1 and gives n × 10 probabilities.
 * @throws {Error} whose message names the file that could not be loaded
 */
export async function loadModel() {
  const vendor = new URL("vendor/", import.meta.url);
  const [ort, model] = await Promise.all([
    import("./vendor/onnxruntime.js"),
    fetchBytes(new URL("fashion_mlp.onnx", vendor)),
  ]);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { wasm: new URL("onnxruntime.wasm", vendor).href };
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  const [input] = session.inputNames;
  const [output] = session.outputNames;
  const classify = async (images) => {
    const shape = [images.length / PIXELS, PIXELS];
    const results = await session.run({ [input]: new ort.Tensor("float32", images, shape) });
    return results[output].data;
  };
  return { version: ort.env.versions.web, classify };
}

/** Turn a picture's bytes into the network's input: /255 as float32, as the training had it. */
export const toInput = (picture) => Float32Array.from(picture, (value) => value / 255);

/** Fetch a file beside the page. */
export async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}
