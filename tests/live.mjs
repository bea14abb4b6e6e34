// Runs the code of the live models in Node, for tests/test_live.py: questions in JSON come in, answers go out.
//
// Its arguments are a folder of web pages whose JavaScript Node takes for modules, and where in it the code is.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, scripts] = process.argv.slice(2);
const part = (name) => import(pathToFileURL(join(folder, scripts, name)));
const { noise, normal } = await part("noise.js");
const { ask, equal, halving, sample } = await part("sampler.js");
const { apart, deviation, strength } = await part("measure.js");
const { open } = await part("model.js");

const asked = JSON.parse(readFileSync(0, "utf8"));
const model = await open(asked.about, async (path) => readFileSync(join(folder, path)));
const answers = {
  velocities: [],
  pictures: [],
  noises: asked.noises.map((given) => [...noise(given)]),
  normal: [...normal(asked.normal, 3)],
  asks: asked.asks.map(([length, n]) => ask(length, n)),
  times: asked.calls.map((nfe) => [equal(nfe), halving(nfe)]),
  measured: [deviation(asked.measured[0]), strength(...asked.measured), apart(asked.measured[0], asked.measured[1])],
};
for (const query of asked.queries) answers.velocities.push([...(await model.velocity({ ...query, x: Float32Array.from(query.x) }))]);
for (const { x0, ...given } of asked.cases) {
  const z = await sample(model.velocity, x0, { n: asked.about.n, ...given });
  answers.pictures.push([...(await model.decode(z))]);
}
process.stdout.write(JSON.stringify(answers));
