import { NARROW, button, check, mount, range, short } from "./figure.js";
import { classInformation, classLeak, classMeans, cost, couple, crossings } from "./coupling.math.js";
import { normal, uniform } from "./random.js";

const PAIRS = 128;

/** Noise, and the eight Gaussians on a ring in two classes, the upper and the lower half, as in notebook 06. */
function points(seed) {
  const [gauss, draw] = [normal(seed), uniform(1000 + seed)];
  const x0 = Array.from({ length: PAIRS }, () => [gauss(), gauss()]);
  const mode = Array.from({ length: PAIRS }, () => Math.floor(8 * draw()));
  const x1 = mode.map((k) => {
    const angle = (Math.PI * k) / 4;
    return [Math.cos, Math.sin].map((part) => Math.SQRT2 * part(angle) + 0.1 * gauss());
  });
  return { x0, x1, y: mode.map((k) => (k < 4 ? 0 : 1)) };
}

function compute({ x0, x1, y }, { pool, aware }) {
  const coupled = couple(x0, x1, y, { pool, aware });
  return {
    x0: coupled,
    x1,
    y,
    means: classMeans(coupled, y),
    leak: classLeak(coupled, y),
    information: classInformation(coupled, y),
    cost: cost(coupled, x1),
    independent: cost(x0, x1),
    crossed: crossings(coupled, x1),
  };
}

function draw(chart, { x0, x1, y, means }) {
  const reach = 2.9;
  const side = Math.min(chart.width, chart.height - 44);
  const left = (chart.width - side) / 2;
  const panel = { x: (v) => left + (side * (v + reach)) / (2 * reach), y: (v) => (side * (reach - v)) / (2 * reach) };
  const kind = (c) => ["one", "two"][c];
  x0.forEach((a, i) => chart.line(panel, [a, x1[i]], { class: `thin ${kind(y[i])}`, "stroke-opacity": 0.45 }));
  x0.forEach((a, i) => chart.dots(panel, [a], { class: kind(y[i]) }, 2.5));
  x1.forEach((b, i) => {
    const place = { x: panel.x(b[0]) - 3, y: panel.y(b[1]) - 3, width: 6, height: 6 };
    chart.add("rect", { ...place, class: kind(y[i]) });
  });
  means.forEach((mean, c) => {
    chart.line(panel, [[0, 0], mean], { class: "halo" });
    chart.line(panel, [[0, 0], mean], { class: `thick ${kind(c)}` });
    chart.dots(panel, [mean], { class: `ringed ${kind(c)}` }, 7);
  });
  const narrow = chart.width < NARROW;
  const y0 = chart.height - below(chart.width) + 18;
  const [x, y1] = narrow ? [4, y0 + 36] : [chart.width / 2 - 16, y0];
  chart.legend(4, y0, [["class 0, upper", "one"], ["class 1, lower", "two"]]);
  chart.text(x, y1, "circles: noise; squares: data");
  chart.text(x, y1 + 18, "thick: mean noise of a class");
}

function tell(state, { pool, aware }) {
  const nats = state.information.toFixed(2).replace("-0.00", "0.00"); // the estimate may be just below 0
  const leak = `The noise tells the class by a leak of ${state.leak.toFixed(3)} (${nats} nats).`;
  const saved = 100 * (1 - state.cost / state.independent);
  const price = `The pairs cost ${state.cost.toFixed(3)}, ${short(saved)} % less than independent ones; ${short(100 * state.crossed)} % of all pairs of paths cross.`;
  const how = pool === 1 ? "paired as drawn" : `assigned in pools of ${pool}${aware ? ", within each class" : ""}`;
  return { number: `${leak} ${price}`, alternative: `${PAIRS} pairs of noise and data in the plane, ${how}. ${leak}` };
}

const below = (width) => (width < NARROW ? 80 : 44); // for the names
const height = (width) => Math.min(520, width) + below(width);

export function start(block) {
  let seed = 1;
  const controls = {
    pool: range("Points in one assignment", { min: 0, max: 6, step: 1, start: 5, value: (k) => 2 ** k }),
    aware: check("Assign within each class only"),
    again: button("Other points", () => (seed += 1)),
  };
  return mount(block, { controls, compute: (values) => compute(points(seed), values), draw, tell, height });
}
