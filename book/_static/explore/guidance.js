import { NARROW, mount, range, short } from "./figure.js";
import { carried, law, quantiles, velocity } from "./guidance.math.js";

const PROBES = quantiles(24); // the noise that steps start from

const controls = {
  scale: range("Scale c that is baked in", { min: 1, max: 3, step: 0.05, start: 1.5, show: (c) => c.toFixed(2) }),
  n: range("Finest steps N", { min: 1, max: 7, step: 1, start: 7, value: (k) => 2 ** k }),
  apart: range("Distance of the class means", { min: 0, max: 6, step: 0.1, start: 2, show: (d) => d.toFixed(1) }),
  wide: range("Standard deviation of class A", { min: 0.2, max: 2, step: 0.05, start: 1, show: (s) => s.toFixed(2) }),
  narrow: range("Standard deviation of class B", { min: 0.2, max: 2, step: 0.05, start: 1, show: (s) => s.toFixed(2) }),
};

function compute({ scale, n, apart, wide, narrow }) {
  const mixture = { means: [-apart / 2, apart / 2], stds: [wide, narrow] };
  const field = (x, t, y) => velocity(mixture, x, t, y);
  const levels = Array.from({ length: Math.log2(n) + 1 }, (_, k) => k);
  const of = (every, y) => levels.map((k) => carried(field, { n, scale, every }, PROBES, k, y));
  return { levels, law: levels.map((k) => law(scale, k)), a: of(true, 0), b: of(true, 1), finest: of(false, 0) };
}

/** The ends of the scale, on which what is not above 0 has no place. */
function scaleOf({ law: exact, a, b, finest }) {
  const finite = [...exact, ...a, ...b, ...finest].filter((value) => value > 0);
  return { from: Math.max(Math.min(0.8, ...finite), 0.05), to: Math.max(2, ...finite) * 1.15 };
}

function draw(chart, state, { n }) {
  const { levels, law: exact, a, b, finest } = state;
  const y = { ...scaleOf(state), log: true, label: "guidance carried by one step" };
  y.ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    .filter((value, _, all) => value >= y.from && value <= y.to && (y.to / y.from < 60 || all.indexOf(value) % 3 === 0))
    .map((value) => [value, String(value)]);
  const x = { from: -0.15, to: levels.length - 0.85, label: "length of the step, in finest steps" };
  x.ticks = levels.map((k) => [k, String(2 ** k)]);
  const narrow = chart.width < NARROW;
  const top = narrow ? 118 : 84;
  const panel = chart.axes([44, top, chart.width - 60, chart.height - top - 46], x, y);
  const points = (values) => values.map((value, k) => [k, value >= y.from ? value : NaN]);
  chart.line(panel, points(exact), { class: "quiet dashed" });
  for (const [values, kind, radius] of [[finest, "three", 4], [b, "two", 6], [a, "one", 4]]) {
    chart.line(panel, points(values), { class: kind });
    chart.dots(panel, points(values), { class: kind }, radius); // B shows around A where the two are equal
    const below = values.map((value, k) => [k, value < y.from ? y.from : NaN]);
    chart.dots(panel, below, { class: `${kind} below` }, radius);
  }
  const [right, down] = narrow ? [4, 50] : [chart.width / 2, 14];
  chart.legend(4, 14, [["law c^k", "quiet dashed"], ["A, every level", "one"]]);
  chart.legend(right, down, [["A, first doubling only", "three"], ["B, every level", "two"]]);
}

function tell(state, { scale, n }) {
  const { law: exact, a, b, finest } = state;
  const last = (values) => values.at(-1);
  const asked = `The law: one step carries ${short(last(exact), 4)} where ${short(scale)} was asked for.`;
  if (Number.isNaN(last(a))) {
    return { number: `${asked} Here both classes are one: guidance does nothing.`, alternative: asked };
  }
  const side = (value) => (Math.abs(value / last(exact) - 1) < 0.005 ? "the law" : value > last(exact) ? "above it" : "below it");
  const each = [["A", a], ["B", b]].map(([name, values]) => `${short(last(values), 4)} for class ${name} (${side(last(values))})`);
  const { from } = scaleOf(state);
  const below = [...a, ...b, ...finest].some((value) => value < from) ? " Open marks are below the scale." : "";
  const number = `${asked} The exact fields carry ${each.join(" and ")}; guided at the first doubling only, ${short(last(finest), 4)} for A.${below}`;
  const alternative = `Guidance of one step against its length, 1 to ${n} finest steps. ${number}`;
  return { number, alternative };
}

export const start = (block) => mount(block, { controls, compute, draw, tell });
