import { NARROW, check, mount, range, short } from "./figure.js";
import { follow, lag, rampEnd, variance } from "./averages.math.js";
import { normal } from "./random.js";

const LONGEST = 4; // of the lags on the sliders: 10^4 steps, a decay of 0.9999
const lagSlider = (label, start) =>
  range(label, { min: 0, max: LONGEST, step: 0.05, start, value: decayOf, show: (decay) => decayText(decay) });

/** Sliders move the lag 10^position - 1, evenly on a logarithmic scale: the decay is lag / (1 + lag). */
function decayOf(position) {
  return 1 - 10 ** -position;
}

const stepsOf = (position) => Number((10 ** position).toPrecision(2));
const decayText = (decay) => (decay < 0.9 ? decay.toFixed(2) : String(Number(decay.toPrecision(decay < 0.99 ? 3 : 5))));

const controls = {
  fast: lagSlider("Decay of the fast average", 1.3),
  slow: lagSlider("Decay of the slow average", 4),
  n: range("Steps of the training so far", { min: 1, max: 3.5, step: 0.05, start: 2.9, value: stepsOf }),
  noise: range("Noise of the weights", { min: 0, max: 1, step: 0.05, start: 0.3, show: (s) => s.toFixed(2) }),
  ramp: check("Warm-up ramp", true),
};

/** A weight that turns ever more slowly, as training settles, with noise about it. */
function target(n, noise) {
  const gauss = normal(7);
  const clean = Array.from({ length: n + 1 }, (_, k) => 2 * Math.sin(6 * Math.sqrt(k / n)) * (1 - (0.5 * k) / n));
  return { clean, noisy: clean.map((value) => value + noise * gauss()) };
}

function compute({ fast, slow, n, noise, ramp }) {
  const weights = target(n, noise);
  const of = (decay) => ({
    lag: lag(decay, n, ramp),
    variance: variance(decay, n, ramp),
    path: follow(weights.noisy, decay, ramp),
  });
  const curve = Array.from({ length: 81 }, (_, k) => decayOf((LONGEST * k) / 80)).map((decay) => {
    return [lag(decay, n, ramp), Math.sqrt(variance(decay, n, ramp))];
  });
  return { ...weights, fast: of(fast), slow: of(slow), curve };
}

/** Each `stride`-th point, so that long runs stay quick to draw. */
const thinned = (values) => {
  const stride = Math.ceil(values.length / 800);
  return values.map((value, k) => [k, value]).filter(([k]) => k % stride === 0 || k === values.length - 1);
};

function drawPaths(chart, box, { clean, noisy, fast, slow }, n) {
  const all = [...noisy, ...fast.path, ...slow.path];
  const x = { from: 0, to: n, ticks: [0, 0.5, 1].map((part) => [n * part, String(n * part)]), label: "step" };
  const y = { from: Math.min(...all), to: Math.max(...all), label: "a weight and its averages" };
  const panel = chart.axes(box, x, y);
  chart.dots(panel, thinned(noisy), { class: "quiet", "fill-opacity": 0.45 }, 1.2);
  chart.line(panel, thinned(clean), { class: "thin dashed" });
  chart.line(panel, thinned(slow.path), { class: "two" });
  chart.line(panel, thinned(fast.path), { class: "one" });
}

function drawTrade(chart, box, { curve, fast, slow }) {
  const floor = 0.005;
  const x = { from: 0.1, to: 10 ** LONGEST, log: true, label: "lag in steps" };
  x.ticks = [0.1, 1, 10, 100, 1000, 10000].map((value) => [value, String(value)]);
  const y = { from: floor, to: 1.2, log: true, label: "share of the noise that is kept" };
  y.ticks = [0.01, 0.1, 1].map((value) => [value, String(value)]);
  const panel = chart.axes(box, x, y);
  const shown = ([behind, kept]) => [behind < 0.1 ? 0.1 : behind, kept < floor ? floor : kept];
  chart.line(panel, curve.map(shown), { class: "quiet" });
  for (const [average, kind, radius] of [[slow, "two", 7], [fast, "one", 5]]) {
    chart.dots(panel, [shown([average.lag, Math.sqrt(average.variance)])], { class: kind }, radius);
  }
}

function draw(chart, state, { n }) {
  const narrow = chart.width < 560;
  const half = narrow ? chart.width : chart.width * 0.56;
  chart.legend(4, 14, [["fast", "one"], ["slow", "two"]]);
  const [right, down] = chart.width < NARROW ? [4, 50] : [96, 14];
  chart.legend(right, down, [["the weight without noise", "thin dashed"]]);
  drawPaths(chart, [10, 66, half - 30, 210], state, n);
  if (narrow) drawTrade(chart, [44, 360, chart.width - 66, 180], state);
  else drawTrade(chart, [half + 50, 66, chart.width - half - 76, 210], state);
}

function tell({ fast, slow }, values) {
  const { n, ramp } = values;
  const each = [["fast", fast], ["slow", slow]].map(([name, average]) => {
    const kept = short(100 * Math.sqrt(average.variance));
    return `the ${name} average lags ${short(average.lag, 4)} steps and keeps ${kept} % of the noise's deviation`;
  });
  const end = rampEnd(values.slow);
  const capped = ramp && n < end ? ` The ramp decides the slow average until step ${end}, and its decay only then.` : "";
  const number = `After ${n} steps ${each.join("; ")}.${capped}`;
  const start = ramp ? "with the warm-up ramp" : "without a warm-up ramp";
  const alternative = `A noisy weight that turns, its averages ${start}, and the noise that an average keeps against its lag. ${number}`;
  return { number, alternative };
}

const height = (width) => (width < 560 ? 590 : 330);

export const start = (block) => mount(block, { controls, compute, draw, tell, height });
