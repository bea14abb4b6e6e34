// The worker in which the networks run, so that the page answers to its reader meanwhile.
//
// It gets { id, kind, ... } and answers { id, result } or { id, error }. While files arrive it sends { received }.
import { open } from "./model.js";

let model = null;

/**
 * The bytes of a file; how many have arrived is reported as they do.
 *
 * The server is asked whether the browser's copy is still right: a plain one says nothing of how long it is, and the page
 * may be of a newer release.
 */
async function get(url) {
  const answer = await fetch(url, { cache: "no-cache" });
  if (!answer.ok) throw new Error(`${url} was answered with status ${answer.status}`);
  const parts = [];
  const reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    postMessage({ received: part.value.length });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

const KINDS = {
  async open({ about, root }) {
    model = await open(about, (path) => get(new URL(path, root)));
  },
  velocity: ({ query }) => model.velocity(query),
  decode: ({ z }) => model.decode(z),
};

addEventListener("message", async ({ data: { id, kind, ...given } }) => {
  const began = performance.now();
  try {
    const result = await KINDS[kind](given);
    postMessage({ id, result, seconds: (performance.now() - began) / 1000 });
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  }
});
