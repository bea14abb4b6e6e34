// A released network and its decoder, run by ONNX Runtime Web on one thread of the CPU.
//
// More threads need headers that plain static servers do not send (COOP and COEP).
import * as ort from "../onnxruntime-web/ort.wasm.bundle.min.js";
import { sample } from "./sampler.js";

/** Expand what is compressed by gzip. Some servers let the browser do that: then it already is. */
async function expanded(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A tensor of one number for every row. */
function repeated(type, value, rows) {
  const data = type === "int64" ? new BigInt64Array(rows).fill(BigInt(value)) : new Float32Array(rows).fill(value);
  return new ort.Tensor(type, data, [rows]);
}

/**
 * Make a model ready.
 *
 * `about` is what the book says of it (see book/live.py), `get(path)` gives a promise of the bytes of a file of the
 * book. The answer has `velocity`, one call of the network; `decode`, latents to pictures; and `draw`, noise to pictures.
 */
export async function open(about, get) {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await expanded(await get(about.runtime));
  const session = async (path) => ort.InferenceSession.create(await get(path), { executionProviders: ["wasm"] });
  const generator = await session(about.generator);
  const decoder = await session(about.decoder);
  const size = about.shape.reduce((product, side) => product * side, 1);
  const tensor = (x) => new ort.Tensor("float32", x, [x.length / size, ...about.shape]);

  async function velocity({ x, t, d, w, y }) {
    const rows = x.length / size;
    const feeds = { x: tensor(x), y: repeated("int64", y, rows) };
    for (const [name, value] of Object.entries({ t, d, w })) feeds[name] = repeated("float32", value, rows);
    return (await generator.run(feeds)).s.data;
  }

  const decode = async (z) => (await decoder.run({ z: tensor(z) })).image.data;
  const draw = async (x0, { label, w, nfe }) => decode(await sample(velocity, x0, { label, w, nfe, n: about.n }));
  return { velocity, decode, draw };
}
