// Exponential moving averages: how far they lag behind and how much noise they keep, as ismkit.method.ema has them.

/** Decay of update number `updates` (0, 1, ...) with the warm-up ramp of the kit. */
export const ramped = (decay, updates) => Math.min(decay, (1 + updates) / (10 + updates));

/** The number of updates after which the ramp leaves a decay alone: the first with (1 + n) / (10 + n) >= decay. */
export const rampEnd = (decay) => Math.max(0, Math.ceil((10 * decay - 1) / (1 - decay) - 1e-6));

/** How much of each past state an average holds after n updates: oldest first, entry 0 the initial one; sum 1. */
export function shares(decay, n, ramp = true) {
  const held = new Array(n + 1);
  let later = 1;
  for (let k = n - 1; k >= 0; k -= 1) {
    const kept = ramp ? ramped(decay, k) : decay;
    held[k + 1] = (1 - kept) * later;
    later *= kept;
  }
  held[0] = later;
  return held;
}

/** Mean age after n updates, which is the lag behind a linear drift: in closed form without a ramp, d (1 - d^n) / (1 - d). */
export function lag(decay, n, ramp = true) {
  if (!ramp) return (decay * (1 - decay ** n)) / (1 - decay);
  return shares(decay, n).reduce((sum, share, k) => sum + share * (n - k), 0);
}

/**
 * Variance of an average of n + 1 independent states of variance 1: the sum of the squared shares. Without a ramp
 * (1 - d) / (1 + d) * (1 - d^(2n)) + d^(2n), which ends at (1 - d) / (1 + d).
 */
export function variance(decay, n, ramp = true) {
  if (!ramp) return ((1 - decay) / (1 + decay)) * (1 - decay ** (2 * n)) + decay ** (2 * n);
  return shares(decay, n).reduce((sum, share) => sum + share * share, 0);
}

/** What an average is after each of the values; it starts at the first of them. */
export function follow(values, decay, ramp = true) {
  let average = values[0];
  return values.map((value, k) => {
    if (k > 0) {
      const kept = ramp ? ramped(decay, k - 1) : decay;
      average = kept * average + (1 - kept) * value;
    }
    return average;
  });
}
