// Released networks and their decoder, run by ONNX Runtime Web on one thread of the CPU.
//
// More threads need headers that plain static servers do not send (COOP and COEP).
import * as ort from "../onnxruntime-web/ort.wasm.bundle.min.js";

/** Expand what is compressed by gzip. Some servers let the browser do that: then it already is. */
async function expanded(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A tensor of one number for every row, or of a list with one for each. */
function perRow(type, value, rows) {
  const values = Array.isArray(value) ? value : Array(rows).fill(value);
  return new ort.Tensor(type, type === "int64" ? BigInt64Array.from(values, BigInt) : Float32Array.from(values), [rows]);
}

/**
 * Make models ready.
 *
 * `about` is what the book says of them (see book/live.py), `get(path)` gives a promise of the bytes of a file of the
 * book. The answer has `velocity`, one call of a network, of the first unless one is named; and `decode`, latents to
 * pictures.
 */
export async function open(about, get) {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await expanded(await get(about.runtime));
  const session = async (path) => ort.InferenceSession.create(await get(path), { executionProviders: ["wasm"] });
  const generators = {};
  for (const [name, path] of Object.entries(about.generators)) generators[name] = await session(path);
  const decoder = await session(about.decoder);
  const size = about.shape.reduce((product, side) => product * side, 1);
  const tensor = (x) => new ort.Tensor("float32", x, [x.length / size, ...about.shape]);

  async function velocity({ network = about.start.network, x, t, d, w, y }) {
    const rows = x.length / size;
    const feeds = { x: tensor(x), y: perRow("int64", y, rows) };
    for (const [name, value] of Object.entries({ t, d, w })) feeds[name] = perRow("float32", value, rows);
    return (await generators[network].run(feeds)).s.data;
  }

  const decode = async (z) => (await decoder.run({ z: tensor(z) })).image.data;
  return { velocity, decode };
}
