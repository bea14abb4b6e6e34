// The kit's sampler (ismkit.sample): equal steps from noise to data, one call of the network each.

/** The `d` under which a network is asked for a step: 0 up to the finest step of its grid of `n` (StepGrid.ask). */
export function ask(length, n) {
  return n !== null && length * n <= 1.001 ? 0 : length;
}

/**
 * Draw samples in `nfe` steps, `x <- x + d * s(x, t, d, w, y)` with `d = 1 / nfe`.
 *
 * `net({x, t, d, w, y})` gives a promise of `s`: `x` and `s` hold all rows one after the other, the others are one
 * number for all rows. `n` is the network's grid, null for one without. `x0` stays as it is.
 */
export async function sample(net, x0, { label, w, nfe, n }) {
  const length = 1 / nfe;
  const x = Float32Array.from(x0);
  for (let step = 0; step < nfe; step++) {
    const s = await net({ x, t: step * length, d: ask(length, n), w, y: label });
    for (let i = 0; i < x.length; i++) x[i] += length * s[i];
  }
  return x;
}
