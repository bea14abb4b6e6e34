// The bias of the Frechet distance of n samples: ismkit.evaluation.metrics in JavaScript, free of the page.

/** Variances i^-falloff of `features` directions: 0 is the identity. */
export function spectrum(features, falloff) {
  return Array.from({ length: features }, (_, i) => (i + 1) ** -falloff);
}

/**
 * What n times the expected bias is, to leading order: sum_i l_i, the error of the mean, and of the covariance
 * sum_ij l_i l_j (1 + [i = j]) / (2 (l_i + l_j)).
 */
export function slope(variances) {
  let mean = 0;
  let covariance = 0;
  variances.forEach((a, i) => {
    mean += a;
    covariance += a / 2; // i = j: a a (1 + 1) / (4 a)
    for (let j = 0; j < i; j += 1) covariance += (a * variances[j]) / (a + variances[j]); // ij and ji
  });
  return mean + covariance;
}

/** Expected Frechet distance between n samples of a Gaussian and that Gaussian, to leading order. */
export const expectedBias = (variances, n) => slope(variances) / n;

/** The line distance = infinity + slope / n through distances at several n, by least squares. */
export function line(sizes, distances) {
  const inverse = sizes.map((n) => 1 / n);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [x, y] = [mean(inverse), mean(distances)];
  const above = inverse.reduce((sum, value, k) => sum + (value - x) * (distances[k] - y), 0);
  const rise = above / inverse.reduce((sum, value) => sum + (value - x) ** 2, 0);
  return { slope: rise, infinity: y - rise * x };
}
