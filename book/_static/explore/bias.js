import { button, mount, range, remembered, short } from "./figure.js";
import { expectedBias, line, slope, spectrum } from "./bias.math.js";
import { frechet, moments } from "./frechet.math.js";
import { normal } from "./random.js";

const DRAWN = 16; // features at most for which samples are drawn: a slider should not wait
const PARTS = [1, 2, 4];
// Samples for each feature: with 8 in a quarter of them the end of the line is off by some hundredths of the bias, with
// 4 by a tenth, with 2 by a sixth, with one by a half (variances of 1, 400 sets for each of 2 to 16 features).
const ENOUGH = 8;

const power = (position) => Number((10 ** position).toPrecision(2));

const sliders = {
  features: range("Features F of the judge", { min: 0, max: 11, step: 1, start: 4, value: (k) => 2 ** k }),
  falloff: range("Variances fall as i to the minus", { min: 0, max: 2, step: 0.1, start: 0, show: (a) => a.toFixed(1) }),
  n: range("Samples n", { min: 2, max: 5, step: 0.05, start: 3, value: power }),
  truth: range("Distance of infinitely many samples", { min: 0, max: 2, step: 0.05, start: 0.1, show: (d) => d.toFixed(2) }),
};

/** The moments of the first n, n/2 and n/4 of a set of samples. */
function drawSet(variances, sizes, seed) {
  const features = variances.length;
  const gauss = normal(seed);
  const deviations = variances.map(Math.sqrt);
  const samples = Float64Array.from({ length: sizes[0] * features }, (_, i) => gauss() * deviations[i % features]);
  return sizes.map((size) => moments(samples, features, size));
}

/** The same with the mean of the first feature off by the root of `truth`. */
const shifted = ({ mean: [first, ...others], covariance }, truth) => ({ mean: [first + Math.sqrt(truth), ...others], covariance });

function compute(drawnMoments, seed, { features, falloff, n, truth }) {
  const variances = spectrum(features, falloff);
  const bias = expectedBias(variances, n);
  const sizes = PARTS.map((part) => Math.floor(n / part));
  const distances = sizes.map((size) => truth + expectedBias(variances, size));
  const state = { bias, rise: slope(variances), sizes, distances };
  if (features <= DRAWN) {
    const found = drawnMoments(`${features} ${falloff} ${n} ${seed}`, variances, sizes, seed);
    state.drawn = found.map((set) => frechet(shifted(set, truth), variances));
    state.drawnLine = line(sizes, state.drawn);
  }
  return state;
}

function drawLine(chart, box, { rise, sizes, distances, drawn, drawnLine }, { truth, n }) {
  const far = 4.4 / n;
  const most = Math.max(truth + rise * far, ...(drawn ?? []), 0.001) * 1.05;
  const x = { from: 0, to: far, label: "1 / n" };
  const thousands = (size) => (size < 1e4 ? short(size) : `${short(size / 1000)}k`);
  x.ticks = [[0, "0"], ...[1, 2, 4].map((part) => [part / n, `1/${thousands(n / part)}`])];
  const y = { from: 0, to: most, label: "expected distance" };
  y.ticks = [0, truth, truth + rise / n].map((value) => [value, short(value)]);
  y.ticks = y.ticks.filter(([value], k, all) => k === 0 || value - all[k - 1][0] > most / 14);
  const panel = chart.axes(box, x, y);
  chart.line(panel, [[0, truth], [far, truth]], { class: "three dashed" });
  chart.line(panel, [[0, truth], [far, truth + rise * far]], { class: "one" });
  chart.dots(panel, sizes.map((size, k) => [1 / size, distances[k]]), { class: "one" }, 5);
  chart.dots(panel, [[0, truth]], { class: "three" }, 6);
  if (!drawn) return;
  const [left, top, width, height] = box;
  chart.clipped([left - 8, top, width + 8, height + 5], () => {
    const { infinity, slope: rising } = drawnLine; // which may end below the axis
    chart.line(panel, [[0, infinity], [far, infinity + rising * far]], { class: "two thin dashed" });
    chart.dots(panel, [...sizes.map((size, k) => [1 / size, drawn[k]]), [0, infinity]], { class: "two" }, 4);
  });
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
  if (state.drawn) chart.legend(4, 50, [["one set of samples, and its line", "two thin dashed"]]);
  drawLine(chart, [48, 90, half - 80, 200], state, values);
  if (narrow) drawLog(chart, [60, 368, chart.width - 90, 180], state, values);
  else drawLog(chart, [half + 60, 90, half - 90, 200], state, values);
}

function tell({ bias, sizes, distances, drawn, drawnLine }, { n, truth, features }) {
  const expected = `With ${n} samples the expected bias is ${short(bias, 4)}: a distance of ${truth.toFixed(2)} reads as ${short(distances[0], 4)}.`;
  const set = drawn ? ` The set drawn reads ${short(drawn[0], 4)}, and its line ends at ${short(drawnLine.infinity, 4)}.` : "";
  const quarter = sizes.at(-1);
  const few = quarter < ENOUGH * features ? ` A quarter of these samples, ${quarter}, are not ${ENOUGH} times the ${features} features: too few for the law of 1/n.` : "";
  const number = expected + set + few;
  return { number, alternative: `Distance against 1/n, a line, and the bias against n, for ${features} features. ${number}` };
}

const height = (width) => (width < 560 ? 598 : 348);

export function start(block) {
  let seed = 1;
  const controls = { ...sliders, again: button("Draw another set", () => (seed += 1), ({ features }) => features <= DRAWN) };
  const drawnMoments = remembered(drawSet); // a move of the distance alone needs no other samples
  return mount(block, { controls, compute: (values) => compute(drawnMoments, seed, values), draw, tell, height });
}
