// The controls of a live model, and what they draw. start.js imports this when the reader asks for it.
//
// What an element shows is up to the page (see View in book/live.py): the fields of pictures and what each asks of the
// network, the controls, and what is measured.
import { MEASURES } from "./measure.js";
import { noise, normal } from "./noise.js";
import { paint } from "./picture.js";
import { sample } from "./sampler.js";

const PATIENCE = 100; // milliseconds that a newer wish waits for the fields of an older one
const SEEDS = 1_000_000; // that the control has; the last one's walk leads to the next number
const FRESH = 2_000_000; // seed of the noise between jumps: beyond those of the control, so that a walk keeps it
const SILENCE = 60_000; // milliseconds without a message after which a worker counts as dead: browsers say nothing of it
const BOOK = new URL("../../", import.meta.url).href; // what the files are named from, whatever page they are for

/** A worker whose messages are answered by promises. */
class Remote {
  constructor(received) {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.waiting = new Map();
    this.worker.addEventListener("message", ({ data }) => {
      this.listen();
      if (data.received) return received(data.received);
      if (!this.waiting.has(data.id)) return; // it came after it was given up
      const [resolve, reject] = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      return data.error === undefined ? resolve(data) : reject(new Error(data.error));
    });
    this.worker.addEventListener("error", (event) => this.fail(event.message ?? "the worker did not start"));
  }

  ask(kind, given) {
    const id = crypto.getRandomValues(new Uint32Array(1))[0];
    return new Promise((resolve, reject) => {
      this.waiting.set(id, [resolve, reject]);
      this.worker.postMessage({ id, kind, ...given });
      this.listen();
    });
  }

  /** Wait for the next message, from now on. */
  listen() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.fail("the model no longer answers; load the page again"), SILENCE);
  }

  fail(message) {
    for (const [, reject] of this.waiting.values()) reject(new Error(message));
    this.waiting.clear();
  }

  stop() {
    clearTimeout(this.silence);
    this.worker.terminate();
  }
}

/** Load the files of a model; the bar shows how far that is. */
async function load(root, about) {
  const bar = root.querySelector("progress");
  bar.max = about.bytes - about.script; // which is imported, and so not seen coming
  bar.hidden = false;
  const remote = new Remote((bytes) => (bar.value += bytes));
  try {
    await remote.ask("open", { about, root: BOOK });
  } catch (error) {
    remote.stop();
    throw error;
  } finally {
    bar.hidden = true;
    bar.value = 0;
  }
  return remote;
}

/** What the controls ask for; what there is no control for is as at first. */
function settings({ elements }, start) {
  const number = (name) => (elements[name] ? Number(elements[name].value) : start[name]);
  const seed = Math.max(0, Math.min(SEEDS - 1, Math.trunc(number("seed")))); // an empty field is seed 0
  return {
    ...start,
    label: elements.label ? number("label") : start.label,
    w: number("w"),
    nfe: number("nfe"),
    seed: Number.isFinite(seed) ? seed : 0,
    walk: number("walk"),
  };
}

const calls = (nfe) => `${nfe} call${nfe > 1 ? "s" : ""}`;

const place = ({ seed, walk }) =>
  walk ? `${Math.round(100 * walk)} % of the way from seed ${seed} to ${seed + 1}` : `seed ${seed}`;

/** Draw what the controls ask for whenever that changes: the newest wish next, those in between never. */
class Drawing {
  constructor(root, about, remote) {
    Object.assign(this, { root, about, remote, wanted: null, busy: false, frame: 0, results: [] });
    this.form = root.querySelector("form");
    this.canvases = [...root.querySelectorAll("canvas")];
    this.numbers = [...root.querySelectorAll(".live-number")];
    this.status = root.querySelector("[role=status]");
    this.size = about.shape.reduce((product, side) => product * side, 1);
  }

  /** The latents and pictures of some noise, null if `stopped()`; also what the tests compare with the kit. */
  async drawn(noise, asked, stopped) {
    const { network, renoise } = asked;
    const net = async (query) => (await this.velocity({ network, ...query })).result;
    const fresh = renoise ? (k) => normal(noise.length, FRESH + k) : null;
    const z = await sample(net, noise, { n: this.about.n, fresh, stopped, ...asked });
    return z && { z, images: (await this.remote.ask("decode", { z })).result };
  }

  /** One call of a network, and the seconds that it took. */
  velocity(query) {
    return this.remote.ask("velocity", { query: { ...query, x: Float32Array.from(query.x) } });
  }

  /** At most once a frame, however many events a dragged slider sends. */
  changed() {
    this.showValues();
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.wanted = settings(this.form, this.about.start);
      if (!this.busy) this.work();
    });
  }

  async work() {
    this.busy = true;
    while (this.wanted) {
      try {
        await this.once();
      } catch (error) { // a newer wish is tried all the same
        clearTimeout(this.later);
        this.status.textContent = `The picture could not be drawn: ${error.message}`;
      }
    }
    this.busy = false;
  }

  /** Draw every field, those of few calls first. One that takes long is given up for a newer wish. */
  async once() {
    const { fields, pictures, picture, across } = this.about;
    const { wanted } = this;
    this.wanted = null;
    const began = performance.now();
    const stopped = () => this.wanted !== null && performance.now() - began > PATIENCE;
    const x0 = noise({ rows: pictures, size: this.size, seed: wanted.seed, walk: wanted.walk });
    const asked = fields.map((field) => ({ ...wanted, ...field }));
    const late = new Set([...fields.keys()].sort((a, b) => asked[a].nfe - asked[b].nfe));
    try {
      for (const k of late) {
        const result = stopped() ? null : await this.drawn(x0, asked[k], stopped);
        if (result === null) break;
        this.results[k] = result;
        paint(this.canvases[k], result.images, picture, across);
        this.canvases[k].setAttribute("aria-label", `${pictures} pictures: ${this.described(asked[k])}`);
        late.delete(k);
      }
    } finally { // also where one could not be drawn
      this.canvases.forEach((canvas, k) => canvas.classList.toggle("late", late.has(k)));
      for (const number of this.numbers) number.classList.toggle("late", late.size > 0); // they are of the last drawing
    }
    if (!late.size) this.tell(wanted, performance.now() - began);
  }

  label({ label }) {
    return Array.isArray(label) ? `${label.length} classes` : this.about.names[label];
  }

  described({ network, renoise, w, nfe, ...others }) {
    const named = Object.keys(this.about.generators).length > 1 ? `${network}, ` : "";
    const way = renoise ? ", jumps and fresh noise" : "";
    return `${named}${this.label(others)}, guidance ${w.toFixed(2)}, ${calls(nfe)} of the network${way}, ${place(others)}`;
  }

  /** Show what is measured. Say it once the reader pauses: a screen reader would read each position of a slider. */
  tell(wanted, milliseconds) {
    const { fields, rows, pictures, measure, legend } = this.about;
    const found = MEASURES[measure](this.results, fields);
    this.numbers.forEach((element, k) => (element.textContent = found[k]));
    const lines = new Map();
    found.forEach((text, k) => text && lines.set(rows[k], [...(lines.get(rows[k]) ?? []), text]));
    const named = (row) => (lines.size > 1 ? `${row}: ` : "");
    const numbers = [...lines].map(([row, texts]) => `${named(row)}${texts.join(", ")}`).join("; ");
    const shown = this.canvases.length > 1 ? `${this.label(wanted)}, ${place(wanted)}` : this.described(wanted);
    const drawn = `${fields.length * pictures} pictures in ${Math.round(milliseconds)} ms: ${shown}.`;
    clearTimeout(this.later);
    this.later = setTimeout(() => {
      this.status.textContent = numbers ? `${drawn} ${legend[0].toUpperCase()}${legend.slice(1)}: ${numbers}.` : drawn;
    }, 300);
  }

  showValues() {
    const { w, wShown, walk, walkShown } = this.form.elements;
    if (w) wShown.value = Number(w.value).toFixed(2);
    walkShown.value = `${Math.round(100 * walk.value)} %`;
    walk.setAttribute("aria-valuetext", walkShown.value); // else it is read as 0.35
  }
}

/** Put the canvases in the place of the pictures, and the controls in that of the button. */
function show(root, drawing) {
  for (const image of root.querySelectorAll("img")) image.hidden = true;
  for (const canvas of drawing.canvases) canvas.hidden = false;
  drawing.form.hidden = false;
  const button = root.querySelector("button.live-load");
  // Without it a keyboard would start at the top again. It is not at the first control, which would take the arrow keys
  // of a reader who scrolls on meanwhile.
  root.tabIndex = -1;
  if (document.activeElement === button) root.focus({ preventScroll: true });
  button.hidden = true;
  root.querySelector(".live-hint").hidden = true;
}

/** Load the model of an element and let its reader draw. */
export async function start(root) {
  const about = JSON.parse(root.querySelector("script.live-about").textContent);
  root.querySelector("[role=status]").textContent = "Loading the model.";
  const remote = await load(root, about);
  const drawing = new Drawing(root, about, remote);
  const { form } = drawing;
  drawing.showValues();
  drawing.wanted = settings(form, about.start);
  try {
    await drawing.once();
  } catch (error) { // the picture of the kit stays, and the button
    remote.stop();
    throw error;
  }
  // Only now: another press of the button must not find what listens for a drawing that failed.
  form.addEventListener("input", () => drawing.changed());
  form.addEventListener("submit", (event) => event.preventDefault()); // Enter in the field of the seed
  form.elements.next.addEventListener("click", () => {
    form.elements.seed.value = (settings(form, about.start).seed + 1) % SEEDS;
    form.elements.walk.value = 0; // where the walk to it ended
    drawing.changed();
  });
  show(root, drawing);
  root.live = drawing; // the tests' way in
}
