// What all explorable figures share: controls with labels, a line of numbers that is read out, and charts in SVG.

const SVG = "http://www.w3.org/2000/svg";

/** An element of HTML with attributes and children; text is a child. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A slider: `show` makes text of its value, `value` what the figure gets of its position. */
export function range(label, { min, max, step, start, show = String, value = (position) => position }) {
  return { label, kind: "range", min, max, step, start, show: (position) => show(value(position)), value };
}

/** A box to tick. */
export function check(label, start = false) {
  return { label, kind: "checkbox", start };
}

/** A choice of one of several values, given as [value, text]. */
export function choice(label, options) {
  return { label, kind: "select", options };
}

/**
 * Something to do: `act(values)` changes what the figure keeps, after which it is computed again. It cannot be pressed
 * where `able(values)` is false.
 */
export function button(label, act, able = () => true) {
  return { label, kind: "button", act, able };
}

/** A sentence is read out once it has stood so many milliseconds: not each position of a slider that is moved. */
const PAUSE = 300;

/** What is slow to make, made again only when `key` is another one. */
export function remembered(make) {
  let [key, kept] = [null, null];
  return (now, ...given) => {
    if (now !== key) [key, kept] = [now, make(...given)];
    return kept;
  };
}

const motion = matchMedia("(prefers-reduced-motion: reduce)");
export const still = () => motion.matches;
/** Call `act` when the reader changes the wish for less motion. */
export const onStill = (act) => motion.addEventListener("change", act);

let figures = 0;

/**
 * Put a figure into a block of the page.
 *
 * controls: by name; `compute(values)` gives a state, `draw(chart, state, values)` draws it into a chart, and
 * `tell(state, values)` says it: `number`, the line that is read out, and `alternative`, what the picture shows.
 * `height(width)` is that of the picture.
 */
export function mount(block, { controls, compute, draw, tell, height = (width) => Math.min(360, Math.max(300, 0.75 * width)) }) {
  const prefix = `explore-${(figures += 1)}`;
  const picture = shape("svg", { role: "img", id: `${prefix}-picture` });
  const number = element("p", { class: "number" });
  const status = element("p", { class: "explore-said", role: "status" });
  const form = element("form", { class: "controls" });
  form.addEventListener("submit", (event) => event.preventDefault());
  const made = {};
  const inputs = {};
  const buttons = new Map();
  let values = {};
  let state;
  let [frame, later] = [0, 0];

  const read = () => {
    values = Object.fromEntries(Object.entries(made).map(([name, control]) => [name, control.read()]));
  };
  const redraw = () => {
    const width = Math.max(240, block.clientWidth - 2);
    const chart = new Chart(picture, width, height(width));
    draw(chart, state, values);
  };
  const say = () => {
    const told = tell(state, values);
    number.textContent = told.number;
    picture.setAttribute("aria-label", told.alternative);
    clearTimeout(later);
    later = setTimeout(() => (status.textContent = told.number), PAUSE);
  };
  const update = () => {
    read();
    for (const [control, input] of buttons) input.disabled = !control.able(values);
    state = compute(values);
    say();
    redraw();
  };
  /** At most once a frame, however many events a dragged slider sends. */
  const soon = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      update();
    });
  };

  for (const [name, control] of Object.entries(controls)) {
    const { row, read: value, input, reset } = CONTROLS[control.kind](`${prefix}-${name}`, control, () => values, { update, soon });
    if (control.kind !== "button") form.append(row);
    else (form.querySelector(".buttons") ?? form.appendChild(element("div", { class: "buttons" }))).append(row);
    if (control.kind === "button") buttons.set(control, row);
    inputs[name] = input ?? row;
    if (value) made[name] = { read: value, reset };
  }
  block.replaceChildren(form, number, status, picture);
  block.classList.add("ready");
  update();
  clearTimeout(later); // nothing has changed yet
  let width = block.clientWidth;
  new ResizeObserver(() => {
    if (block.clientWidth !== width) redraw();
    width = block.clientWidth;
  }).observe(block);
  return {
    block,
    form,
    picture,
    update,
    redraw,
    set(name, position) {
      made[name].reset(position);
      update();
    },
    position: (name) => Number(inputs[name].value),
    input: (name) => inputs[name],
  };
}

const CONTROLS = {
  range(id, control, _, { soon }) {
    const { min, max, step, start } = control;
    const input = element("input", { type: "range", id, min, max, step, value: start });
    const output = element("output", { for: id, "aria-live": "off" }); // the slider says its value itself
    const show = () => {
      output.textContent = control.show(Number(input.value));
      input.setAttribute("aria-valuetext", output.textContent);
    };
    const reset = (position) => {
      input.value = position;
      show();
    };
    input.addEventListener("input", () => {
      show();
      soon();
    });
    show();
    const row = element("div", { class: "control" }, element("label", { for: id }, control.label), input, output);
    return { row, input, reset, read: () => control.value(Number(input.value)) };
  },
  checkbox(id, control, _, { update }) {
    const input = element("input", { type: "checkbox", id });
    input.checked = control.start;
    input.addEventListener("change", update);
    const row = element("div", { class: "control tick" }, input, element("label", { for: id }, control.label));
    return { row, input, read: () => input.checked };
  },
  select(id, control, _, { update }) {
    const options = control.options.map(([value, text]) => element("option", { value }, text));
    const input = element("select", { id }, ...options);
    input.addEventListener("change", update);
    const row = element("div", { class: "control" }, element("label", { for: id }, control.label), input);
    return { row, input, read: () => input.value };
  },
  button(id, control, values, { update }) {
    const input = element("button", { type: "button", id }, control.label);
    input.addEventListener("click", () => {
      control.act(values(), input);
      update();
    });
    return { row: input };
  },
};

/** Below this width names stand below each other. */
export const NARROW = 340;

/** A picture of a given size in CSS pixels, with axes. Text keeps its size on small screens. */
export class Chart {
  constructor(picture, width, height) {
    this.picture = picture;
    this.width = width;
    this.height = height;
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.setAttribute("width", width);
    picture.setAttribute("height", height);
    picture.replaceChildren();
  }

  add(name, attributes, ...children) {
    return this.picture.appendChild(shape(name, attributes, ...children));
  }

  /** What `draw` adds is cut off outside of a box. */
  clipped([x, y, width, height], draw) {
    const outer = this.picture;
    this.picture = this.add("svg", { x, y, width, height, viewBox: `${x} ${y} ${width} ${height}` });
    draw();
    this.picture = outer;
  }

  text(x, y, words, attributes = {}) {
    return this.add("text", { x, y, ...attributes }, words);
  }

  /**
   * A panel with axes: `x` and `y` are { from, to, log, ticks: [[value, text]], label }; gives what places values.
   * The box is [left, top, width, height]; labels stand outside of it.
   */
  axes(box, x, y) {
    const [left, top, width, height] = box;
    const at = (axis, value) => {
      const scale = axis.log ? Math.log : (number) => number;
      return (scale(value) - scale(axis.from)) / (scale(axis.to) - scale(axis.from));
    };
    const panel = { x: (value) => left + width * at(x, value), y: (value) => top + height * (1 - at(y, value)) };
    for (const [value, text] of x.ticks ?? []) {
      this.add("path", { class: "grid", d: `M${panel.x(value)} ${top}v${height}` });
      this.text(panel.x(value), top + height + 16, text, { "text-anchor": "middle" });
    }
    for (const [value, text] of y.ticks ?? []) {
      this.add("path", { class: "grid", d: `M${left} ${panel.y(value)}h${width}` });
      this.text(left - 9, panel.y(value) + 4, text, { "text-anchor": "end" });
    }
    this.add("path", { class: "axis", d: `M${left} ${top}v${height}h${width}` });
    if (x.label) this.text(left + width / 2, top + height + 34, x.label, { "text-anchor": "middle" });
    if (y.label) this.text(left - 6, top - 8, y.label, { "text-anchor": "start", class: "name" });
    return panel;
  }

  /** A line through points in values of a panel; those that are not finite interrupt it. */
  line(panel, points, attributes) {
    let pen = "M";
    let path = "";
    for (const [x, y] of points) {
      if (Number.isFinite(x) && Number.isFinite(y)) {
        path += `${pen}${panel.x(x).toFixed(2)} ${panel.y(y).toFixed(2)}`;
        pen = "L";
      } else pen = "M";
    }
    return this.add("path", { d: path, ...attributes, class: `line ${attributes.class ?? ""}` });
  }

  dots(panel, points, attributes, radius = 4) {
    for (const [x, y] of points) {
      if (Number.isFinite(x) && Number.isFinite(y)) {
        this.add("circle", { cx: panel.x(x), cy: panel.y(y), r: radius, ...attributes });
      }
    }
  }

  /** Names of lines with a sample of each, from `x`, `y` downwards: [[text, class]]. */
  legend(x, y, entries) {
    entries.forEach(([text, kind], k) => {
      const height = y + 18 * k;
      this.add("path", { class: `line ${kind}`, d: `M${x} ${height - 4}h22` });
      this.text(x + 28, height, text);
    });
  }
}

/** A number in a few digits, the way people write it: 17.09, 0.035, 2190. */
export function short(value, digits = 3) {
  if (!Number.isFinite(value)) return "undefined";
  if (Math.abs(value) >= 10 ** digits) return String(Math.round(value));
  if (value && Math.abs(value) < 1e-6) return value.toFixed(digits - 1 - Math.floor(Math.log10(Math.abs(value)))); // no e-7
  return String(Number(value.toPrecision(digits)));
}
