// Normal noise from a seed, and the way from one noise to another.
//
// The numbers are not those of PyTorch's generator for the same seed: what is compared with the kit gets its noise.

/** The generator mulberry32 (32 bits of state, public domain): each call gives a number in [0, 1). */
export function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `count` independent normal numbers, two from each pair of uniform ones (Box and Muller). */
export function normal(count, seed) {
  const next = uniform(seed);
  const drawn = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - next())); // 1 - u is in (0, 1], where the logarithm is finite
    const angle = 2 * Math.PI * next();
    drawn[i] = radius * Math.cos(angle);
    if (i + 1 < count) drawn[i + 1] = radius * Math.sin(angle);
  }
  return drawn;
}

/**
 * Spherical interpolation of each row: `share` of the way along the arc from `from` to `to`, both (rows, size).
 *
 * On the straight way between them the noise would be too weak: halfway its variance is 1/2, where the network was
 * trained with 1.
 */
export function between(from, to, share, size) {
  const mixed = new Float32Array(from.length);
  for (let row = 0; row < from.length; row += size) {
    let dot = 0;
    let fromSquare = 0;
    let toSquare = 0;
    for (let i = row; i < row + size; i++) {
      dot += from[i] * to[i];
      fromSquare += from[i] * from[i];
      toSquare += to[i] * to[i];
    }
    const angle = Math.acos(Math.max(-1, Math.min(1, dot / Math.sqrt(fromSquare * toSquare))));
    const sine = Math.sin(angle);
    const [a, b] = sine > 1e-6 ? [Math.sin((1 - share) * angle) / sine, Math.sin(share * angle) / sine] : [1 - share, share];
    for (let i = row; i < row + size; i++) mixed[i] = a * from[i] + b * to[i];
  }
  return mixed;
}

/** The noise of `rows` pictures: that of `seed`, walked a share of the way to that of the next seed. */
export function noise({ rows, size, seed, walk }) {
  const from = normal(rows * size, seed);
  return walk === 0 ? from : between(from, normal(rows * size, seed + 1), walk, size);
}
