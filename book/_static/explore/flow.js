import { NARROW, button, check, choice, mount, onStill, range, remembered, short, still } from "./figure.js";
import { SHAPES, curvature, endError, euler, exact, stateAt, velocity } from "./flow.math.js";
import { normal } from "./random.js";

const MOST = 240; // points; more would make the sliders slow
const REACH = 2.6; // of the picture from its centre
const SECONDS = 4;

const NAMES = [["ring", "a ring"], ["moons", "two moons"], ["spiral", "a spiral"], ["corners", "four corners"], ["one", "one point"]];

const gauss = normal(3);
const NOISE = Array.from({ length: 48 }, () => [gauss(), gauss()]);

const below = (width) => (width < NARROW ? 62 : 44); // for the names

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** Where the plane is in the picture: a square of this side, in the middle. */
function plane(width, side) {
  const left = (width - side) / 2;
  const scale = side / (2 * REACH);
  return {
    x: (x) => left + scale * (x + REACH),
    y: (y) => scale * (REACH - y),
    point: (x, y) => [(x - left) / scale - REACH, REACH - y / scale],
    left,
    side,
  };
}

function drawField(chart, panel, field, t) {
  for (let i = 0; i < 13; i += 1) {
    for (let j = 0; j < 13; j += 1) {
      const at = [i, j].map((k) => -REACH + ((k + 0.5) * 2 * REACH) / 13);
      const [u, v] = field(at, Math.min(t, 0.999));
      const length = 0.16 / Math.max(1, Math.hypot(u, v)); // fast ones keep their direction and end within their cell
      chart.line(panel, [at, [at[0] + length * u, at[1] + length * v]], { class: "quiet thin" });
      chart.dots(panel, [at], { class: "quiet" }, 1.5);
    }
  }
}

function drawSamples(chart, panel, { field, paths, ends }, { t, arrows, chords }) {
  if (arrows) drawField(chart, panel, field, t);
  if (chords) ends.forEach((end, k) => chart.line(panel, [NOISE[k], end], { class: "two thin dashed" }));
  for (const states of paths) {
    const passed = states.slice(0, Math.floor(t * (states.length - 1)) + 1);
    chart.line(panel, [...passed, stateAt(states, t)], { class: "one thin" });
  }
  chart.dots(panel, paths.map((states) => stateAt(states, t)), { class: "one" }, 3.5);
}

function draw(chart, state, values) {
  const panel = plane(chart.width, chart.height - below(chart.width));
  const frame = { x: panel.left + 1, y: 1, width: panel.side - 2, height: panel.side - 2 };
  chart.add("rect", { ...frame, class: "line thin frame" });
  chart.clipped(Object.values(frame), () => {
    if (state.points.length) drawSamples(chart, panel, state, values);
  });
  for (const [x, y] of state.points) {
    chart.add("rect", { x: panel.x(x) - 3, y: panel.y(y) - 3, width: 6, height: 6, class: "three" });
  }
  const y0 = chart.height - below(chart.width) + 18;
  const [x, y1] = chart.width < NARROW ? [4, y0 + 36] : [chart.width / 2 + 8, y0];
  chart.legend(4, y0, [["samples on their way", "one"], ["chords of one step", "two dashed"]]);
  chart.text(x, y1, "squares: your data", { class: "three" });
}

function tell({ points, curved, error }, { steps, t }) {
  if (!points.length) {
    return { number: "No data yet: draw some, or add a shape.", alternative: "An empty plane." };
  }
  const number = `${points.length} point${points.length > 1 ? "s" : ""}. In ${steps} step${steps > 1 ? "s" : ""} samples end ${error.toFixed(3)} (root mean square) from the ends of the exact paths, whose median curvature is ${short(curved)}.`;
  const alternative = `${NOISE.length} samples on their way from noise to ${points.length} points of data, at time ${t.toFixed(2)}. ${number}`;
  return { number, alternative };
}

export function start(block) {
  let points = SHAPES.moons();
  let drawn = 0; // changes of the data
  let frame = null;
  let figure;

  const add = (more) => {
    points = [...points, ...more].slice(-MOST);
    drawn += 1;
  };
  // Exact paths depend on the data alone: moving the time must not integrate them again.
  const exactPaths = remembered((field) => NOISE.map((x) => exact(field, x)));
  const eulerPaths = remembered((field, steps) => NOISE.map((x) => euler(field, x, steps)));

  function compute({ steps, std }) {
    if (!points.length) return { points };
    const field = (x, t) => velocity(points, std, x, t);
    const truth = exactPaths(`${drawn} ${std}`, field);
    const paths = eulerPaths(`${drawn} ${std} ${steps}`, field, steps);
    const curved = median(truth.map(curvature));
    return { points, field, paths, ends: truth.map((states) => states.at(-1)), curved, error: endError(paths, truth) };
  }

  const name = () => (still() ? "Next" : "Play"); // of the button: moment by moment, for those who want no motion

  function stop(pressed) {
    cancelAnimationFrame(frame);
    frame = null;
    pressed.textContent = name();
  }

  function play(_, pressed) {
    if (frame !== null) return stop(pressed);
    const now = figure.position("t");
    const from = now >= 1 ? 0 : now;
    if (still()) return figure.set("t", now >= 1 ? 0 : Math.min(1, now + 0.1));
    let begun = null;
    const move = (time) => {
      begun ??= time;
      const t = Math.min(1, from + (time - begun) / 1000 / SECONDS);
      figure.set("t", t);
      if (t < 1) frame = requestAnimationFrame(move);
      else stop(pressed);
    };
    pressed.textContent = "Stop";
    frame = requestAnimationFrame(move);
  }

  const controls = {
    shape: choice("Shape", NAMES),
    add: button("Add shape", ({ shape }) => add(SHAPES[shape]())),
    clear: button("Clear", () => {
      points = [];
      drawn += 1;
    }),
    play: button(name(), play),
    t: range("Time t", { min: 0, max: 1, step: 0.01, start: 1, show: (t) => t.toFixed(2) }),
    steps: range("Steps", { min: 0, max: 7, step: 1, start: 5, value: (k) => 2 ** k }),
    std: range("Width of each point", { min: 0.05, max: 0.5, step: 0.05, start: 0.1, show: (s) => s.toFixed(2) }),
    arrows: check("Field at time t", true),
    chords: check("Chords of one step"),
  };
  const height = (width) => Math.min(520, width) + below(width);
  figure = mount(block, { controls, compute, draw, tell, height });
  const pressed = figure.input("play");
  figure.input("t").addEventListener("input", () => frame !== null && stop(pressed)); // the reader moves it now
  onStill(() => stop(pressed)); // and the button gets its other name
  drawable(figure, (point) => {
    add([point]);
    figure.update();
  });
  return figure;
}

/** A mouse or pen draws while it is pressed, a finger adds a point by a tap, so that it can still scroll the page. */
function drawable({ picture }, put) {
  let last = null;
  let by = ""; // a click does not say what it was made with in every browser: the press before it does
  const at = (event) => {
    const box = picture.getBoundingClientRect();
    const panel = plane(box.width, box.height - below(box.width));
    const point = panel.point(event.clientX - box.left, event.clientY - box.top);
    return point.every((value) => Math.abs(value) <= REACH) ? point : null;
  };
  const draw = (event) => {
    const point = at(event);
    if (!point || (last && Math.hypot(point[0] - last[0], point[1] - last[1]) < 0.12)) return;
    last = point;
    put(point);
  };
  picture.classList.add("drawable");
  // Known before it is pressed, since a pen hovers: on a touch screen it would scroll the page otherwise.
  picture.addEventListener("pointerover", ({ pointerType }) => picture.classList.toggle("pen", pointerType === "pen"));
  picture.addEventListener("pointerdown", (event) => {
    by = event.pointerType;
    if (by === "touch" || event.button !== 0) return;
    event.preventDefault();
    picture.setPointerCapture(event.pointerId);
    last = null;
    draw(event);
  });
  picture.addEventListener("pointermove", (event) => {
    if (picture.hasPointerCapture(event.pointerId)) draw(event);
  });
  picture.addEventListener("click", (event) => {
    if (by !== "touch") return;
    last = null;
    draw(event);
  });
}
