// The kit's sampler (ismkit.sample): steps from noise to data, one call of the network each.

/** The `d` under which a network is asked for a step: 0 up to the finest step of its grid of `n` (StepGrid.ask). */
export function ask(length, n) {
  return n !== null && length * n <= 1.001 ? 0 : length;
}

/** Times of equal steps from 0 to 1. */
export const equal = (nfe) => Array.from({ length: nfe + 1 }, (_, k) => k / nfe);

/** Times of which each is half as far from 1 as the one before: jumps to 1 from them have lengths of the grid. */
export const halving = (nfe) => Array.from({ length: nfe + 1 }, (_, k) => (k === nfe ? 1 : 1 - 2 ** -k));

/**
 * Draw samples in `nfe` steps, `x <- x + d * s(x, t, d, w, y)`, with `d = 1 / nfe`.
 *
 * `net({x, t, d, w, y})` gives a promise of `s`: `x` and `s` hold all rows one after the other; `t`, `d`, `w` and
 * `label` are one number for all rows, or `label` a list. `n` is the network's grid, null for one without. With
 * `fresh(k)`, each step jumps to the data, `d = 1 - t`, and the noise `fresh(k)` leads back to the time of the next.
 * `x0` stays as it is. Once `stopped()` is true, the answer is null.
 */
export async function sample(net, x0, { label, w, nfe, n, fresh = null, stopped = () => false }) {
  const times = fresh ? halving(nfe) : equal(nfe);
  const x = Float32Array.from(x0);
  for (let k = 0; k < nfe; k++) {
    if (stopped()) return null;
    const [t, end] = [times[k], times[k + 1]];
    const length = fresh ? 1 - t : end - t;
    const s = await net({ x, t, d: ask(length, n), w, y: label });
    for (let i = 0; i < x.length; i++) x[i] += length * s[i];
    if (!fresh || end === 1) continue;
    const noise = fresh(k);
    for (let i = 0; i < x.length; i++) x[i] = (1 - end) * noise[i] + end * x[i];
  }
  return x;
}
