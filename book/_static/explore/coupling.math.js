// Exact assignment of noise to data, and what it leaks of the class: ismkit.method.coupling and ismkit.lessons.pairings
// in JavaScript, free of the page.

const squared = (a, b) => a.reduce((sum, value, k) => sum + (value - b[k]) ** 2, 0);

/**
 * The permutation p that minimises sum_i cost[i][p[i]]: the Hungarian method, by shortest augmenting paths with
 * potentials (Jonker and Volgenant), O(n^3). Rows and columns count from 1; 0 is a column that holds the new row.
 */
export function hungarian(cost) {
  const n = cost.length;
  const u = new Float64Array(n + 1);
  const v = new Float64Array(n + 1);
  const owner = new Int32Array(n + 1); // the row of each column
  const before = new Int32Array(n + 1);
  for (let row = 1; row <= n; row += 1) {
    owner[0] = row;
    let column = 0;
    const slack = new Float64Array(n + 1).fill(Infinity);
    const used = new Uint8Array(n + 1);
    do {
      used[column] = 1;
      const i = owner[column];
      let least = Infinity;
      let next = 0;
      for (let j = 1; j <= n; j += 1) {
        if (used[j]) continue;
        const reduced = cost[i - 1][j - 1] - u[i] - v[j];
        if (reduced < slack[j]) {
          slack[j] = reduced;
          before[j] = column;
        }
        if (slack[j] < least) {
          least = slack[j];
          next = j;
        }
      }
      for (let j = 0; j <= n; j += 1) {
        if (used[j]) {
          u[owner[j]] += least;
          v[j] -= least;
        } else slack[j] -= least;
      }
      column = next;
    } while (owner[column] !== 0);
    while (column) {
      owner[column] = owner[before[column]];
      column = before[column];
    }
  }
  const p = new Array(n);
  for (let j = 1; j <= n; j += 1) p[owner[j] - 1] = j - 1;
  return p;
}

/** The permutation p that minimises sum_i |x0[p[i]] - x1[i]|^2. */
export const assign = (x0, x1) => hungarian(x1.map((b) => x0.map((a) => squared(a, b))));

/** Noise in another order, coupled to the data in pools of `pool` points, within each class if `aware`. */
export function couple(x0, x1, y, { pool, aware }) {
  const coupled = x0.slice();
  for (let start = 0; start < x1.length; start += pool) {
    const rows = x1.map((_, i) => i).slice(start, start + pool);
    const groups = aware ? [...new Set(y)].map((c) => rows.filter((i) => y[i] === c)) : [rows];
    for (const group of groups) {
      const order = assign(group.map((i) => x0[i]), group.map((i) => x1[i]));
      group.forEach((i, k) => {
        coupled[i] = x0[group[order[k]]];
      });
    }
  }
  return coupled;
}

/** Mean squared length of the pairs. */
export const cost = (x0, x1) => x1.reduce((sum, b, i) => sum + squared(x0[i], b), 0) / x1.length;

/** Mean noise of each class, in the order of the classes. */
export function classMeans(x0, y) {
  return [...new Set(y)].sort((a, b) => a - b).map((c) => {
    const own = x0.filter((_, i) => y[i] === c);
    return own[0].map((_, k) => own.reduce((sum, point) => sum + point[k], 0) / own.length);
  });
}

/** How far a coupling leaks the class into the noise: |E[x0 | class]|, averaged over the classes. */
export function classLeak(x0, y) {
  const means = classMeans(x0, y);
  return means.reduce((sum, mean) => sum + Math.hypot(...mean), 0) / means.length;
}

/** digamma of a whole number, but for Euler's constant, which cancels between two and two of them. */
function digamma(n) {
  let sum = 0;
  for (let k = 1; k < n; k += 1) sum += 1 / k;
  return sum;
}

/** Mutual information of noise and class in nats, by the k nearest neighbours (Ross 2014). */
export function classInformation(x0, y, k = 3) {
  let total = 0;
  for (let i = 0; i < x0.length; i += 1) {
    const others = x0.map((point, j) => ({ distance: squared(point, x0[i]), j })).filter(({ j }) => j !== i);
    const own = others.filter(({ j }) => y[j] === y[i]).map(({ distance }) => distance);
    const reach = own.sort((a, b) => a - b)[k - 1];
    const near = others.filter(({ distance }) => distance <= reach).length;
    total += digamma(own.length + 1) + digamma(near);
  }
  return digamma(x0.length) + digamma(k) - total / x0.length;
}

/** The share of all pairs of paths that are shorter with their noise swapped. */
export function crossings(x0, x1) {
  const dot = (a, b) => a.reduce((sum, value, k) => sum + value * b[k], 0);
  const products = x0.map((a) => x1.map((b) => dot(a, b)));
  const largest = Math.max(...products.flat().map(Math.abs));
  const n = x0.length;
  let crossed = 0;
  for (let i = 0; i < n; i += 1) {
    for (let j = 0; j < n; j += 1) {
      const gain = products[i][i] + products[j][j] - products[i][j] - products[j][i];
      if (gain < -1e-6 * largest) crossed += 1;
    }
  }
  return crossed / (n * (n - 1));
}
