// How much guidance one step carries, for two Gaussian classes on a line: what ismkit.lessons.Ideal computes with the
// rule BakedIn. Free of the page, so that tests can compare it with the library.

export const NULL = 2; // the label of both classes together

/** Exact velocity E[x1 - x0 | x_t = x, y] of data of two classes N(mean, std^2), for one class or both. */
export function velocity({ means, stds }, x, t, y) {
  const component = (k) => {
    const variance = (1 - t) ** 2 + (t * stds[k]) ** 2;
    const offset = x - t * means[k];
    const slope = (t * stds[k] ** 2 - (1 - t)) / variance;
    return { answer: means[k] + slope * offset, log: -(offset ** 2) / (2 * variance) - Math.log(variance) / 2 };
  };
  if (y !== NULL) return component(y).answer;
  const [a, b] = [component(0), component(1)];
  const share = 1 / (1 + Math.exp(b.log - a.log)); // of class 0
  return share * a.answer + (1 - share) * b.answer;
}

/**
 * Average velocity over a step of length 2^level / n, as its target says: two half steps, in which the label is guided
 * by `scale`, at every doubling (`every`) or at the finest only. A scale of 1 guides nothing.
 */
export function step(field, { n, scale, every }, x, t, level, y) {
  if (level === 0) return field(x, t, y);
  const half = 2 ** (level - 1) / n;
  const c = every || level === 1 ? scale : 1;
  const ask = (state, time) => {
    const answer = (label) => step(field, { n, scale, every }, state, time, level - 1, label);
    if (y === NULL) return answer(NULL);
    const own = answer(y);
    if (c === 1) return own; // the null label would not change it, and asking doubles the work
    const none = answer(NULL);
    return none + c * (own - none);
  };
  const first = ask(x, t);
  return (first + ask(x + half * first, t + half)) / 2;
}

/** The guidance that a step from the noise carries, 1 = none: least squares over the probes of one class. */
export function carried(field, rule, probes, level, y) {
  const plain = { ...rule, scale: 1 };
  let above = 0;
  let below = 0;
  for (const x of probes) {
    const own = step(field, plain, x, 0, level, y);
    const gap = own - step(field, plain, x, 0, level, NULL);
    above += (step(field, rule, x, 0, level, y) - own) * gap;
    below += gap * gap;
  }
  return below > 1e-24 ? 1 + above / below : NaN; // the classes are one: guidance does nothing
}

/** The law, exact where all labels share the linear part of an affine field: c^k after k doublings. */
export const law = (scale, level) => scale ** level;

/** Noise in equal parts of its distribution: the quantiles (i + 1/2) / m of N(0, 1). */
export function quantiles(m) {
  return Array.from({ length: m }, (_, i) => normalQuantile((i + 0.5) / m));
}

/** Inverse of the normal distribution function, by bisection of erf's series: slow and exact enough, called once. */
function normalQuantile(p) {
  let [low, high] = [-10, 10];
  for (let i = 0; i < 80; i += 1) {
    const middle = (low + high) / 2;
    if (below(middle) < p) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

function below(x) {
  let term = x;
  let sum = x;
  for (let k = 1; Math.abs(term) > 1e-17 * Math.abs(sum) && k < 500; k += 1) {
    term *= (x * x) / (2 * k + 1);
    sum += term;
  }
  return 0.5 + (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
}
