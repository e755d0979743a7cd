// The network: onnxruntime-web, WebAssembly, one thread (more would need special HTTP headers).

/**
 * Load the network. Paths are relative to this module, so the page works under any address.
 *
 * @returns {Promise<{version: string, pixels: number,
 *   classify: (images: Float32Array) => Promise<Float32Array>}>}
 *   `classify` takes n images of `pixels` values in 0…1 and gives n × classes probabilities.
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
  const pixels = session.inputMetadata[0].shape[1];
  const classify = async (images) => {
    const shape = [images.length / pixels, pixels];
    const results = await session.run({ [input]: new ort.Tensor("float32", images, shape) });
    return results[output].data;
  };
  return { version: ort.env.versions.web, pixels, classify };
}

/** Turn a picture's bytes into the network's input: /255 as float32, as the training had it. */
export const toInput = (picture) => Float32Array.from(picture, (value) => value / 255);

/** Fetch a file beside the page. */
export async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}
