import { check, mount, range, short } from "./figure.js";
import { coefficientShares, geometricWeights, lossShares, meanWeight, unitWeights } from "./wavelet.math.js";

const controls = {
  levels: range("Levels", { min: 0, max: 5, step: 1, start: 3 }),
  ratio: range("Ratio of the weights from level to level", {
    min: -2,
    max: 2,
    step: 0.1,
    start: -1,
    value: (power) => 2 ** power,
    show: (ratio) => ratio.toFixed(2),
  }),
  unit: check("Scale the weights so that a white error costs what it costs in pixel L2", true),
};

function compute({ levels, ratio, unit }) {
  const plain = geometricWeights(levels, ratio);
  const weights = unit ? unitWeights(plain) : plain;
  return { weights, mean: meanWeight(weights), shares: coefficientShares(levels), loss: lossShares(plain) };
}

const nameOf = (k, levels) => (k === levels ? "low-pass" : `level ${k + 1}`);

/** The bands as the transform lays them out, in stronger colour the heavier; logarithmic, as weights are ratios. */
function drawMosaic(chart, side, weights) {
  const levels = weights.length - 1;
  const [low, high] = [Math.min(...weights), Math.max(...weights)];
  const shade = (weight) => (high > low * 1.0001 ? 0.1 + (0.8 * Math.log(weight / low)) / Math.log(high / low) : 0.5);
  const tile = (x, y, size, weight) => {
    chart.add("rect", { x, y, width: size, height: size, class: "one", "fill-opacity": shade(weight).toFixed(3) });
    chart.add("rect", { x, y, width: size, height: size, class: "line thin" });
  };
  let size = side;
  for (let level = 1; level <= levels; level += 1) {
    size /= 2;
    for (const [x, y] of [[size, 0], [0, size], [size, size]]) tile(1 + x, 26 + y, size, weights[level - 1]);
  }
  tile(1, 26, size, weights[levels]);
  chart.text(1, 14, "the bands; strong colour: large weight");
}

/** Of each band: its share of the coefficients, and of the distance for a white error. */
function drawBars(chart, left, top, { weights, shares, loss }) {
  const levels = weights.length - 1;
  const width = chart.width - left - 124; // room for names on the left and a number on the right
  const row = Math.min(52, (chart.height - top - 26) / weights.length);
  chart.text(left, top - 24, "share of all coefficients", { class: "quiet" });
  chart.text(left, top - 7, "share of the distance, for a white error", { class: "two" });
  weights.forEach((weight, k) => {
    const y = top + row * k;
    chart.text(left + 62, y + row / 2, nameOf(k, levels), { "text-anchor": "end" });
    const bar = { x: left + 70, height: row / 2 - 4 };
    chart.add("rect", { ...bar, y: y + 2, width: width * shares[k], class: "quiet" });
    chart.add("rect", { ...bar, y: y + row / 2 - 2, width: width * loss[k], class: "two" });
    chart.text(left + 76 + width * loss[k], y + 0.75 * row, `${short(100 * loss[k])} %`, { class: "two" });
  });
}

function draw(chart, state) {
  const narrow = chart.width < 560;
  const side = narrow ? Math.min(200, chart.width - 2) : Math.min(300, chart.width * 0.4);
  drawMosaic(chart, side, state.weights);
  if (narrow) drawBars(chart, 0, side + 76, state);
  else drawBars(chart, side + 40, 38, state);
}

function tell({ weights, mean, shares, loss }) {
  const levels = weights.length - 1;
  const list = weights.map((weight, k) => `${nameOf(k, levels)} ${short(weight)}`).join(", ");
  const number = `Weights of a coefficient: ${list}. Their sum over all coefficients, each with its share, is ${short(mean, 4)}.`;
  const each = loss.map((part, k) => {
    return `${nameOf(k, levels)} ${short(100 * shares[k])} % of the coefficients and ${short(100 * part)} % of the distance`;
  });
  return { number, alternative: `The bands of the transform, and of a white error: ${each.join("; ")}.` };
}

const height = (width) => (width < 560 ? 560 : 340);

export const start = (block) => mount(block, { controls, compute, draw, tell, height });
