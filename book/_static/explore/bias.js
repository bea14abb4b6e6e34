import { mount, range, short } from "./figure.js";
import { expectedBias, line, slope, spectrum } from "./bias.math.js";

const power = (position) => Math.round(10 ** position);

const controls = {
  features: range("Features F of the judge", { min: 0, max: 11, step: 1, start: 11, value: (k) => 2 ** k }),
  falloff: range("Variances fall as i to the minus", { min: 0, max: 2, step: 0.1, start: 1, show: (a) => a.toFixed(1) }),
  n: range("Samples n", { min: 2, max: 5, step: 0.05, start: 4, value: power }),
  truth: range("Distance of infinitely many samples", { min: 0, max: 5, step: 0.1, start: 2, show: (d) => d.toFixed(1) }),
};

function compute({ features, falloff, n, truth }) {
  const variances = spectrum(features, falloff);
  const bias = expectedBias(variances, n);
  const sizes = [1, 2, 4].map((part) => n / part);
  const distances = sizes.map((size) => truth + expectedBias(variances, size));
  return { bias, rise: slope(variances), sizes, distances, end: line(sizes, distances).infinity };
}

function drawLine(chart, box, { rise, sizes, distances }, { truth, n }) {
  const far = 4.4 / n;
  const top = Math.max(truth + rise * far, 0.1) * 1.05;
  const x = { from: 0, to: far, label: "1 / n" };
  x.ticks = [[0, "0"], ...[1, 2, 4].map((part) => [part / n, `1/${short(n / part)}`])];
  const y = { from: 0, to: top, label: "expected distance" };
  y.ticks = [0, truth, truth + rise / n].map((value) => [value, short(value)]);
  y.ticks = y.ticks.filter(([value], k, all) => k === 0 || value - all[k - 1][0] > top / 14);
  const panel = chart.axes(box, x, y);
  chart.line(panel, [[0, truth], [far, truth]], { class: "three dashed" });
  chart.line(panel, [[0, truth], [far, truth + rise * far]], { class: "one" });
  chart.dots(panel, sizes.map((size, k) => [1 / size, distances[k]]), { class: "one" }, 5);
  chart.dots(panel, [[0, truth]], { class: "three" }, 6);
}

function drawLog(chart, box, { rise, bias }, { n }) {
  const x = { from: 100, to: 1e5, log: true, label: "n" };
  x.ticks = [100, 1000, 10000, 100000].map((size) => [size, size < 1e4 ? String(size) : `${size / 1000}k`]);
  const [low, high] = [-5, 5];
  const y = { from: 10 ** low, to: 10 ** high, log: true, label: "bias alone" };
  y.ticks = [-4, -2, 0, 2, 4].map((k) => [10 ** k, String(10 ** k)]);
  const panel = chart.axes(box, x, y);
  chart.line(panel, [[100, rise / 100], [1e5, rise / 1e5]], { class: "one" });
  chart.dots(panel, [[n, bias]], { class: "one" }, 5);
}

function draw(chart, state, values) {
  const narrow = chart.width < 560;
  const half = narrow ? chart.width : chart.width / 2;
  chart.legend(4, 14, [["expected distance of n samples", "one"], ["distance of infinitely many", "three dashed"]]);
  drawLine(chart, [48, 72, half - 80, 200], state, values);
  if (narrow) drawLog(chart, [60, 350, chart.width - 90, 180], state, values);
  else drawLog(chart, [half + 60, 72, half - 90, 200], state, values);
}

function tell({ bias, distances, end }, { n, truth, features }) {
  const number = `With ${n} samples the expected bias is ${short(bias, 4)}: a distance of ${truth.toFixed(1)} reads as ${short(distances[0], 4)}. The line through n, n/2 and n/4 ends at ${short(end)}.`;
  return { number, alternative: `Expected distance against 1/n, a line, and the bias against n, for ${features} features. ${number}` };
}

const height = (width) => (width < 560 ? 580 : 330);

export const start = (block) => mount(block, { controls, compute, draw, tell, height });
