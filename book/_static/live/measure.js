// What is measured on the fields of a view, as numbers and as text.

/** The standard deviation of all numbers (torch.std). */
export function deviation(x) {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  return Math.sqrt(x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (x.length - 1));
}

/** The guidance that was applied: the fit of `guided` by `c + w (c - u)` (ismkit.lessons.guidance_applied). */
export function strength(guided, conditional, unconditional) {
  let [product, square] = [0, 0];
  for (let i = 0; i < guided.length; i++) {
    const gap = conditional[i] - unconditional[i];
    product += (guided[i] - conditional[i]) * gap;
    square += gap * gap;
  }
  return product / square;
}

/** The root mean square difference of pictures in [-1, 1], as a share of the way from black to white. */
export function apart(images, others) {
  return Math.sqrt(images.reduce((sum, value, i) => sum + (value - others[i]) ** 2, 0) / images.length) / 2;
}

const percent = (share) => `${Math.round(100 * share)} %`;

/** By the name of a measure: what it finds in the results { z, images } of all fields, as text for each field. */
export const MEASURES = {
  "": (results) => results.map(() => ""),
  deviation: (results) => results.map(({ z }) => deviation(z).toFixed(2)),
  // Fields without class, without guidance and with it.
  strength: ([free, plain, guided]) => ["", "", `ŵ = ${strength(guided.z, plain.z, free.z).toFixed(2)}`],
  // Of each field that has `from`, the number of another one, from the pictures there.
  apart: (results, fields) =>
    results.map(({ images }, k) => ("from" in fields[k] ? percent(apart(images, results[fields[k].from].images)) : "")),
};
