// The controls of a live model, and what they draw. start.js imports this when the reader asks for it.
import { noise } from "./noise.js";
import { paint } from "./picture.js";

const PICTURES = 9; // at once, three by three: enough to see how they differ, few enough to follow a dragged slider

/** A worker whose messages are answered by promises. */
class Remote {
  constructor(received) {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.waiting = new Map();
    this.worker.addEventListener("message", ({ data }) => {
      if (data.received) return received(data.received);
      const [resolve, reject] = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      return data.error === undefined ? resolve(data) : reject(new Error(data.error));
    });
    this.worker.addEventListener("error", (event) => {
      for (const [, reject] of this.waiting.values()) reject(new Error(event.message ?? "the worker did not start"));
      this.waiting.clear();
    });
  }

  ask(kind, given) {
    const id = crypto.getRandomValues(new Uint32Array(1))[0];
    return new Promise((resolve, reject) => {
      this.waiting.set(id, [resolve, reject]);
      this.worker.postMessage({ id, kind, ...given });
    });
  }

  stop() {
    this.worker.terminate();
  }
}

/** Load the files of a model; the bar shows how far that is. */
async function load(root, about) {
  const bar = root.querySelector("progress");
  bar.max = about.bytes;
  bar.hidden = false;
  const remote = new Remote((bytes) => (bar.value += bytes));
  try {
    await remote.ask("open", { about, root: document.baseURI });
  } catch (error) {
    remote.stop();
    throw error;
  } finally {
    bar.hidden = true;
    bar.value = 0;
  }
  return remote;
}

/** What the controls ask for. */
function settings(form) {
  const { label, w, nfe, seed, walk } = form.elements;
  const number = Math.trunc(Number(seed.value)); // an empty field is seed 0
  return {
    label: Number(label.value),
    name: label.selectedOptions[0].textContent,
    w: Number(w.value),
    nfe: Number(nfe.value),
    seed: Number.isFinite(number) ? number : 0,
    walk: Number(walk.value),
  };
}

const calls = (nfe) => `${nfe} call${nfe > 1 ? "s" : ""}`;

function described({ name, w, nfe, seed, walk }) {
  const place = walk ? `${Math.round(100 * walk)} % of the way from seed ${seed} to ${seed + 1}` : `seed ${seed}`;
  return `${name}, guidance ${w.toFixed(2)}, ${calls(nfe)} of the network, ${place}`;
}

/** Draw what the controls ask for whenever that changes: the newest wish next, those in between never. */
class Drawing {
  constructor(root, about, remote) {
    Object.assign(this, { root, about, remote, wanted: null, busy: false, frame: 0 });
    this.form = root.querySelector("form");
    this.canvas = root.querySelector("canvas");
    this.status = root.querySelector("[role=status]");
    this.size = about.shape.reduce((product, side) => product * side, 1);
  }

  /** The pictures of some noise, (rows, channels, side, side) in [-1, 1]; also what the tests compare with the kit. */
  async pictures(noise, { label, w, nfe }) {
    return (await this.remote.ask("draw", { noise: Float32Array.from(noise), label, w, nfe })).result;
  }

  /** One call of the network, and the seconds that it took; for the tests. */
  velocity(query) {
    return this.remote.ask("velocity", { query: { ...query, x: Float32Array.from(query.x) } });
  }

  /** At most once a frame, however many events a dragged slider sends. */
  changed() {
    this.showValues();
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.wanted = settings(this.form);
      if (!this.busy) this.work();
    });
  }

  async work() {
    this.busy = true;
    try {
      while (this.wanted) await this.once();
    } catch (error) {
      this.status.textContent = `The picture could not be drawn: ${error.message}`;
    }
    this.busy = false;
  }

  async once() {
    const asked = this.wanted;
    this.wanted = null;
    const began = performance.now();
    const x0 = noise({ rows: PICTURES, size: this.size, seed: asked.seed, walk: asked.walk });
    const images = await this.pictures(x0, asked);
    paint(this.canvas, images, this.about.picture);
    this.tell(described(asked), performance.now() - began);
  }

  /** Say what is drawn, once the reader pauses: a screen reader would read out each position of a dragged slider. */
  tell(text, milliseconds) {
    this.canvas.setAttribute("aria-label", `${PICTURES} pictures: ${text}`);
    clearTimeout(this.later);
    this.later = setTimeout(() => {
      this.status.textContent = `${PICTURES} pictures in ${Math.round(milliseconds)} ms: ${text}.`;
    }, 300);
  }

  showValues() {
    const { w, walk } = this.form.elements;
    this.form.querySelector("output[name=wShown]").value = Number(w.value).toFixed(2);
    this.form.querySelector("output[name=walkShown]").value = `${Math.round(100 * walk.value)} %`;
  }
}

/** Put the canvas in the place of the picture, and the controls in that of the button. */
function show(root, drawing) {
  root.querySelector("img").hidden = true;
  drawing.canvas.hidden = false;
  drawing.form.hidden = false;
  const button = root.querySelector("button.live-load");
  const had = document.activeElement === button || document.activeElement === document.body;
  button.hidden = true;
  root.querySelector(".live-hint").hidden = true;
  if (had) drawing.form.elements.label.focus({ preventScroll: true }); // else a keyboard would start at the top again
}

/** Load the model of an element and let its reader draw. */
export async function start(root) {
  const about = JSON.parse(root.querySelector("script.live-about").textContent);
  root.querySelector("[role=status]").textContent = "Loading the model.";
  const drawing = new Drawing(root, about, await load(root, about));
  const { form } = drawing;
  form.addEventListener("input", () => drawing.changed());
  form.addEventListener("submit", (event) => event.preventDefault()); // Enter in the field of the seed
  form.elements.next.addEventListener("click", () => {
    form.elements.seed.value = settings(form).seed + 1;
    form.elements.walk.value = 0; // where the walk to it ended
    drawing.changed();
  });
  drawing.showValues();
  drawing.wanted = settings(form);
  await drawing.work();
  show(root, drawing);
  root.live = drawing; // the tests' way in
}
