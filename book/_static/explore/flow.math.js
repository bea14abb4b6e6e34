// The exact flow from noise N(0, I) to points of the plane, each a Gaussian of a small standard deviation: the velocity
// of ismkit.lessons.Mixture, and paths along it. Free of the page.

/** E[x1 - x0 | x_t = x] for data at `points` with deviation `std`: a softmax over the points, then one regression. */
export function velocity(points, std, [x, y], t) {
  const variance = (1 - t) ** 2 + (t * std) ** 2;
  const slope = (t * std * std - (1 - t)) / variance;
  const logs = new Float64Array(points.length);
  let most = -Infinity;
  for (let k = 0; k < points.length; k += 1) {
    const [a, b] = [x - t * points[k][0], y - t * points[k][1]];
    logs[k] = -(a * a + b * b) / (2 * variance);
    if (logs[k] > most) most = logs[k];
  }
  let [total, u, v] = [0, 0, 0];
  for (let k = 0; k < points.length; k += 1) {
    const share = Math.exp(logs[k] - most);
    total += share;
    u += share * points[k][0];
    v += share * points[k][1];
  }
  const mean = [u / total, v / total]; // of the data, given where the path is
  return [mean[0] + slope * (x - t * mean[0]), mean[1] + slope * (y - t * mean[1])];
}

/** States of a path at times 0, 1/steps, ..., 1, by Euler's method. */
export function euler(field, start, steps) {
  const states = [start];
  for (let k = 0; k < steps; k += 1) {
    const [x, y] = states[k];
    const [u, v] = field([x, y], k / steps);
    states.push([x + u / steps, y + v / steps]);
  }
  return states;
}

/** The same by the classical method of Runge and Kutta, of fourth order: at 32 steps exact for the eye. */
export function exact(field, start, steps = 32) {
  const d = 1 / steps;
  const moved = ([x, y], [u, v], length) => [x + length * u, y + length * v];
  const states = [start];
  for (let k = 0; k < steps; k += 1) {
    const t = k / steps;
    const x = states[k];
    const a = field(x, t);
    const b = field(moved(x, a, d / 2), t + d / 2);
    const c = field(moved(x, b, d / 2), t + d / 2);
    const e = field(moved(x, c, d), t + d);
    states.push(moved(x, [0, 1].map((i) => (a[i] + 2 * b[i] + 2 * c[i] + e[i]) / 6), d));
  }
  return states;
}

const squared = ([a, b], [c, d]) => (a - c) ** 2 + (b - d) ** 2;

/** Kinetic energy of a path of equal steps over that of the straight one, minus 1. */
export function curvature(states) {
  const steps = states.length - 1;
  let path = 0;
  for (let k = 0; k < steps; k += 1) path += squared(states[k + 1], states[k]);
  return (steps * path) / squared(states[steps], states[0]) - 1;
}

/** Root mean square distance between the ends of two sets of paths. */
export function endError(some, others) {
  const total = some.reduce((sum, states, k) => sum + squared(states.at(-1), others[k].at(-1)), 0);
  return Math.sqrt(total / some.length);
}

/** Where a path of equal steps is at a time: between two states it goes straight. */
export function stateAt(states, t) {
  const steps = states.length - 1;
  const k = Math.min(Math.floor(t * steps), steps - 1);
  const part = t * steps - k;
  return [0, 1].map((i) => (1 - part) * states[k][i] + part * states[k + 1][i]);
}

const turn = (n, radius, from, to, [x, y]) =>
  Array.from({ length: n }, (_, k) => {
    const angle = Math.PI * (from + ((to - from) * k) / n);
    return [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
  });

/** Shapes to start from. */
export const SHAPES = {
  ring: () => turn(40, 1.4, 0, 2, [0, 0]),
  moons: () => [...turn(24, 1, 0, 1.04, [-0.5, -0.2]), ...turn(24, 1, 1, 2.04, [0.5, 0.2])],
  spiral: () =>
    Array.from({ length: 60 }, (_, k) => {
      const [radius, angle] = [0.2 + (1.5 * k) / 59, (5 * Math.PI * k) / 59];
      return [radius * Math.cos(angle), radius * Math.sin(angle)];
    }),
  corners: () => [[-1.4, -1.4], [-1.4, 1.4], [1.4, -1.4], [1.4, 1.4]].flatMap((at) => turn(6, 0.12, 0, 2, at)),
  one: () => [[1, 0.5]],
};
