// The Frechet distance between samples and a Gaussian of independent coordinates: ismkit.evaluation.metrics.frechet in
// JavaScript, free of the page, for a few features.

/** Eigenvalues of a symmetric matrix, in any order, by Jacobi's rotations: each sweep leaves far less off the diagonal. */
export function eigenvalues(matrix) {
  const a = matrix.map((row) => Float64Array.from(row));
  const n = a.length;
  for (let sweep = 0; sweep < 30; sweep += 1) {
    let off = 0;
    for (let p = 0; p < n; p += 1) for (let q = 0; q < p; q += 1) off += a[p][q] ** 2;
    if (off < 1e-28) break;
    for (let p = 0; p < n; p += 1) for (let q = 0; q < p; q += 1) rotate(a, q, p);
  }
  return a.map((row, k) => row[k]);
}

/** Turn the plane of two coordinates so that their entry off the diagonal is 0. */
function rotate(a, p, q) {
  if (a[p][q] === 0) return;
  const theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
  const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
  const c = 1 / Math.hypot(t, 1);
  const s = t * c;
  for (let k = 0; k < a.length; k += 1) {
    const [x, y] = [a[k][p], a[k][q]];
    a[k][p] = c * x - s * y;
    a[k][q] = s * x + c * y;
  }
  for (let k = 0; k < a.length; k += 1) {
    const [x, y] = [a[p][k], a[q][k]];
    a[p][k] = c * x - s * y;
    a[q][k] = s * x + c * y;
  }
}

/** Mean and covariance (over n - 1) of the first n samples, which lie one after another. */
export function moments(samples, features, n) {
  const mean = new Array(features).fill(0);
  for (let i = 0; i < n; i += 1) for (let k = 0; k < features; k += 1) mean[k] += samples[i * features + k] / n;
  const covariance = mean.map(() => new Array(features).fill(0));
  for (let i = 0; i < n; i += 1) {
    for (let k = 0; k < features; k += 1) {
      const offset = (samples[i * features + k] - mean[k]) / (n - 1);
      for (let j = 0; j <= k; j += 1) covariance[k][j] += offset * (samples[i * features + j] - mean[j]);
    }
  }
  for (let k = 0; k < features; k += 1) for (let j = 0; j < k; j += 1) covariance[j][k] = covariance[k][j];
  return { mean, covariance };
}

/** Squared Frechet distance to N(0, diag(variances)): |m|^2 + tr C + tr V - 2 tr (V^1/2 C V^1/2)^1/2. */
export function frechet({ mean, covariance }, variances) {
  const product = covariance.map((row, i) => row.map((value, j) => value * Math.sqrt(variances[i] * variances[j])));
  const roots = eigenvalues(product).map((value) => Math.sqrt(Math.max(value, 0)));
  return mean.reduce((sum, m, k) => sum + m * m + covariance[k][k] + variances[k] - 2 * roots[k], 0);
}
