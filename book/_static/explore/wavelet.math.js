// What each band of a wavelet distance weighs: ismkit.method.wavelet in JavaScript, free of the page.

/** Weights (ratio, ratio^2, ..., ratio^L) of the levels, fine to coarse, then ratio^L of the low-pass band. */
export function geometricWeights(levels, ratio) {
  return [...Array.from({ length: levels }, (_, k) => ratio ** (k + 1)), ratio ** levels];
}

/** The share of all coefficients that each level holds, then the low-pass band: 3 / 4^l and 1 / 4^L. */
export function coefficientShares(levels) {
  return [...Array.from({ length: levels }, (_, k) => 3 / 4 ** (k + 1)), 1 / 4 ** levels];
}

/** Mean weight of a coefficient: what a white error costs, relative to pixel L2. */
export function meanWeight(weights) {
  return coefficientShares(weights.length - 1).reduce((sum, share, k) => sum + share * weights[k], 0);
}

/** The same weights with mean 1: a white error costs what it costs in pixel L2. */
export function unitWeights(weights) {
  const mean = meanWeight(weights);
  return weights.map((weight) => weight / mean);
}

/** The share of the distance that each band has for a white error. */
export function lossShares(weights) {
  const shares = coefficientShares(weights.length - 1);
  return unitWeights(weights).map((weight, k) => weight * shares[k]);
}
