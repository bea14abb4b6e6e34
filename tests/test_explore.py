"""What the figures to explore compute in the page, in JavaScript, is what the library computes."""

import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchdiffeq import odeint

from ismkit.evaluation import bias, curvature, expected_bias
from ismkit.evaluation.metrics import Gaussian, Moments, frechet
from ismkit.lessons import ClassMixture, Ideal, Mixture, guidance_applied, pairings
from ismkit.method import BakedIn, Coupling, Intrinsic, StepGrid, TwinEMA, geometric_weights, shares, unit_weights
from ismkit.method.sampling import trajectory
from tests.colours import contrast
from tests.conftest import ROOT

FOLDER = ROOT / "book" / "_static" / "explore"


def computed(module: str, expression: str, **given: Any) -> Any:
    """What Node makes of an expression; ``m`` is the module, ``given`` are the arguments."""
    node = shutil.which("node")
    if not node:
        if os.environ.get("ISMKIT_BROWSER") == "required":
            pytest.fail("no Node here (Debian: apt install nodejs)")
        pytest.skip("no Node here (Debian: apt install nodejs)")
    script = f"""
    import * as m from {json.dumps((FOLDER / f"{module}.math.js").as_uri())};
    import {{ readFileSync }} from "node:fs";
    const given = JSON.parse(readFileSync(0, "utf8"));
    console.log(JSON.stringify({expression}));
    """
    command = [node, "--input-type=module", "--eval", script]
    run = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def close(found: Any, wanted: Any, tolerance: float = 1e-9) -> None:
    """Assert that numbers agree, absolutely or relative to their size."""
    found, wanted = (torch.as_tensor(value, dtype=torch.float64) for value in (found, wanted))
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------- compounding guidance

CLASSES = {
    "equal": {"means": [-1.0, 1.0], "stds": [1.0, 1.0]},
    "apart": {"means": [-2.5, 2.5], "stds": [0.4, 0.7]},
    "wide and narrow": {"means": [0.0, 0.0], "stds": [1.05, 0.95]},
}


def exact_velocity(classes: dict[str, list[float]], x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The velocity of each class by the library, and of both together, by their densities."""
    parts = [Mixture(x.new_tensor([[mean]]), std) for mean, std in zip(*classes.values(), strict=True)]
    answers = torch.stack([part.velocity(x, t) for part in parts])
    both = torch.stack([part.log_density(x, t) for part in parts]).softmax(0)
    own = torch.stack([(y == k).to(x) for k in range(2)])
    return (torch.where(y == 2, both, own)[..., None] * answers).sum(0)


def carried(classes: dict[str, list[float]], probes: list[float], label: int, rule: BakedIn, grid: StepGrid) -> float:
    """The guidance that one step of the ideal network carries, as notebook 03 measures it."""

    def velocity(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return exact_velocity(classes, x, t, y)

    x = torch.tensor(probes, dtype=torch.float64)[:, None]
    y, zero = torch.full((len(x),), label), torch.zeros_like(x[:, 0])
    guided, plain = (Ideal(velocity, made, 2, grid) for made in (rule, Intrinsic()))
    asked = ((guided, y), (plain, y), (plain, torch.full_like(y, 2)))
    return 1 + guidance_applied(*(net(x, zero, zero + 1, zero, who) for net, who in asked))


@pytest.mark.parametrize("name", CLASSES)
def test_velocity_of_two_classes_is_the_librarys(name: str) -> None:
    x = torch.linspace(-4, 4, 30, dtype=torch.float64)
    t, y = torch.linspace(0, 1, 30, dtype=torch.float64), torch.arange(30) % 3
    found = computed(
        "guidance",
        "given.x.map((x, i) => m.velocity(given.classes, x, given.t[i], given.y[i]))",
        classes=CLASSES[name],
        x=x.tolist(),
        t=t.tolist(),
        y=y.tolist(),
    )
    close(found, exact_velocity(CLASSES[name], x[:, None], t, y)[:, 0])
    if name == "equal":
        mixture = ClassMixture(means=((-1.0,), (1.0,)), classes=(0, 1), std=1.0)
        close(found, mixture.velocity(x[:, None], t, y)[:, 0])


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize("name", CLASSES)
def test_guidance_of_one_step_is_that_of_the_ideal_network(name: str, every: bool) -> None:
    probes = [-1.7, -0.4, 0.3, 1.1]
    for n, scale in ((2, 3.0), (16, 1.5)):
        found = computed(
            "guidance",
            "[0, 1].map((y) => m.carried((...at) => m.velocity(given.classes, ...at), given.rule, given.probes, "
            "Math.log2(given.rule.n), y))",
            classes=CLASSES[name],
            probes=probes,
            rule={"n": n, "scale": scale, "every": every},
        )
        rule = BakedIn(scale, every, clip=None)
        close(found, [carried(CLASSES[name], probes, label, rule, StepGrid(n)) for label in (0, 1)])


def test_law_bounds_the_guidance_of_one_step_on_neither_side() -> None:
    expression = """[[0, 1], [2, 2]].map(([distance, k]) => {
      const classes = { means: [-distance, distance], stds: k === 1 ? [1.05, 0.95] : [1, 1] };
      const field = (...at) => m.velocity(classes, ...at);
      return m.carried(field, { n: 128, scale: 1.5, every: true }, m.quantiles(24), 7, 0) / m.law(1.5, 7);
    })"""
    above, below = computed("guidance", expression)
    assert above > 1.15
    assert below < 0.3


def test_quantiles_are_those_of_the_normal_distribution() -> None:
    wanted = torch.special.ndtri((torch.arange(25, dtype=torch.float64) + 0.5) / 25)
    close(computed("guidance", "m.quantiles(25)"), wanted)


# ---------------------------------------------------------------- the weight of each band


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0, 2.7, 4.0])
def test_weights_of_the_bands_are_the_librarys(ratio: float) -> None:
    for levels in range(6):
        found = computed(
            "wavelet",
            "((w) => [w, m.unitWeights(w), m.meanWeight(w), m.lossShares(w)])"
            "(m.geometricWeights(given.levels, given.ratio))",
            levels=levels,
            ratio=ratio,
        )
        weights = geometric_weights(levels, ratio)
        unit = unit_weights(weights)
        close(found[0], weights)
        close(found[1], unit)
        close(found[2], weights[0] / unit[0])
        close(sum(found[3]), 1.0)
        close(found[3][-1], unit[-1] / 4**levels)


# ---------------------------------------------------------------- coupling


def pool(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, data in three classes, and the classes."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x0, x1 = torch.randn(2, n, 2, generator=rng, dtype=torch.float64)
    return x0, x1 + 2 * y[:, None], y


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_assignment_costs_what_that_of_scipy_costs(n: int) -> None:
    for seed in range(5):
        costs = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = torch.tensor(computed("coupling", "m.hungarian(given.costs)", costs=costs.tolist()))
        assert sorted(found.tolist()) == list(range(n))
        rows, columns = linear_sum_assignment(costs.numpy())
        close(costs[torch.arange(n), found].sum(), costs[rows, columns].sum())


@pytest.mark.parametrize("aware", [False, True])
def test_coupling_and_its_leak_are_the_librarys(aware: bool) -> None:
    x0, x1, y = pool(96, 3)
    found = computed(
        "coupling",
        "((x0) => [x0, m.cost(x0, given.x1), m.classLeak(x0, given.y), m.classInformation(x0, given.y), "
        "m.crossings(x0, given.x1)])(m.couple(given.x0, given.x1, given.y, { pool: 32, aware: given.aware }))",
        x0=x0.tolist(),
        x1=x1.tolist(),
        y=y.tolist(),
        aware=aware,
    )
    coupling = Coupling(1, class_aware=aware)
    parts = zip(x0.split(32), x1.split(32), y.split(32), strict=True)
    wanted = torch.cat([coupling.couple(*part) for part in parts])
    close(found[0], wanted)
    close(found[1], (wanted - x1).square().sum(1).mean())
    close(found[2], pairings.class_leak(wanted, y))
    close(found[3], pairings.class_information(wanted, y))
    assert found[4] == pairings.crossings(wanted, x1)


# ---------------------------------------------------------------- twin averages


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95, 0.9999])
def test_lag_and_noise_of_an_average_are_those_of_its_shares(decay: float) -> None:
    for n in (1, 20, 400):
        found = computed(
            "averages",
            "[m.shares(given.decay, given.n), m.lag(given.decay, given.n), m.variance(given.decay, given.n)]",
            decay=decay,
            n=n,
        )
        held = shares(decay, n)
        close(found[0], held)
        close(found[1], (held * torch.arange(n, -1, -1)).sum())
        close(found[2], held.square().sum())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95, 0.9999])
def test_closed_forms_without_a_ramp_are_the_sums_over_the_shares(decay: float) -> None:
    for n in (1, 20, 400):
        found = computed(
            "averages",
            "[m.lag(given.decay, given.n, false), m.variance(given.decay, given.n, false), "
            "m.shares(given.decay, given.n, false)]",
            decay=decay,
            n=n,
        )
        age = torch.arange(n, -1, -1, dtype=torch.float64)
        held = torch.where(age < n, (1 - decay) * decay**age, decay**age)
        close(found[0], (held * age).sum())
        close(found[1], held.square().sum())
        close(found[2], held)


def test_an_average_that_follows_is_the_librarys() -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    net.weight.data.fill_(values[0])
    ema = TwinEMA(net, fast=0.6, slow=0.99)
    wanted = [values[0]]
    for value in values[1:]:
        net.weight.data.fill_(value)
        ema.update(net)
        wanted.append(ema.slow.weight.item())  # type: ignore[union-attr, operator]
    close(computed("averages", "m.follow(given.values, 0.99)", values=values.tolist()), wanted)


# ---------------------------------------------------------------- the bias of FID


@pytest.mark.parametrize("falloff", [0.0, 0.7, 2.0])
def test_bias_is_the_librarys(falloff: float) -> None:
    for features in (1, 2, 64):
        found = computed(
            "bias",
            "[m.spectrum(given.features, given.falloff), "
            "m.expectedBias(m.spectrum(given.features, given.falloff), 700)]",
            features=features,
            falloff=falloff,
        )
        variances = torch.arange(1, features + 1, dtype=torch.float64) ** -falloff
        close(found[0], variances)
        close(found[1], expected_bias(variances.diag(), 700))


def test_line_of_the_distances_is_the_librarys() -> None:
    features = torch.randn(1600, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = bias(features, Gaussian(torch.zeros(3).double(), torch.eye(3).double()))
    found = computed("bias", "m.line(given.n, given.distance)", n=wanted.n, distance=wanted.distance)
    close([found["slope"], found["infinity"]], [wanted.slope, wanted.infinity])


@pytest.mark.parametrize("features", [1, 2, 16])
def test_frechet_distance_of_samples_is_the_librarys(features: int) -> None:
    x = torch.randn(80, features, generator=torch.Generator().manual_seed(features), dtype=torch.float64)
    x = x @ torch.randn(features, features, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.3
    variances = torch.arange(1, features + 1, dtype=torch.float64) ** -0.7
    found = computed(
        "frechet",
        "((moments) => [moments, m.frechet(moments, given.variances), m.eigenvalues(moments.covariance)])"
        "(m.moments(given.samples, given.variances.length, 70))",
        samples=x.flatten().tolist(),
        variances=variances.tolist(),
    )
    wanted = Moments(x[:70])
    close(found[0]["mean"], wanted.mean)
    close(found[0]["covariance"], wanted.cov)
    close(found[1], frechet(wanted, Gaussian(torch.zeros_like(variances), variances.diag())))
    close(sorted(found[2]), torch.linalg.eigvalsh(wanted.cov))


# ---------------------------------------------------------------- the flow in the plane

POINTS = [[1.0, 0.5], [-1.2, 0.1], [0.3, -1.4], [0.35, -1.3]]


def test_velocity_to_points_is_the_librarys() -> None:
    rng = torch.Generator().manual_seed(0)
    x, t = 2 * torch.randn(50, 2, generator=rng, dtype=torch.float64), torch.linspace(0, 1, 50, dtype=torch.float64)
    for std in (0.05, 0.5):
        expression = "given.x.map((x, i) => m.velocity(given.points, given.std, x, given.t[i]))"
        found = computed("flow", expression, x=x.tolist(), t=t.tolist(), points=POINTS, std=std)
        close(found, Mixture(torch.tensor(POINTS, dtype=torch.float64), std).velocity(x, t))


def test_paths_in_the_plane_are_the_samplers() -> None:
    x0 = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mixture = Mixture(torch.tensor(POINTS, dtype=torch.float64), 0.2)

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return mixture.velocity(x, t)

    expression = """((field) => given.x0.map((x) => [m.euler(field, x, 16), m.exact(field, x, given.steps)]))(
      (x, t) => m.velocity(given.points, 0.2, x, t))"""
    found = computed("flow", expression, x0=x0.tolist(), points=POINTS, steps=256)
    paths = trajectory(net, x0, torch.zeros(5).long(), nfe=16)
    close([path for path, _ in found], paths.transpose(0, 1))
    fine = odeint(lambda t, x: mixture.velocity(x, t.expand(5)), x0, x0.new_tensor([0, 1]), rtol=1e-10, atol=1e-10)
    close([path[-1] for _, path in found], fine[-1], 1e-6)
    bent = computed("flow", "given.paths.map(m.curvature)", paths=paths.transpose(0, 1).tolist())
    close(bent, curvature(paths))


def test_one_step_lands_on_the_mean_of_the_data() -> None:
    expression = "m.euler((x, t) => m.velocity(given.points, 0.1, x, t), [0.4, -2], 1).at(-1)"
    close(computed("flow", expression, points=POINTS), torch.tensor(POINTS, dtype=torch.float64).mean(0))


def test_a_moment_between_two_states_is_on_the_line() -> None:
    path = [[0.0, 0.0], [2.0, 1.0], [2.0, 3.0]]
    found = computed("flow", "[0, 0.25, 0.5, 0.75, 1].map((t) => m.stateAt(given.path, t))", path=path)
    close(found, [[0, 0], [1, 0.5], [2, 1], [2, 2], [2, 3]])
    ends = "m.endError([given.path, given.path], [[[0, 0], [2, 0]], given.path])"
    close(computed("flow", ends, path=path), 4.5**0.5)


def test_numbers_are_shown_without_an_exponent() -> None:
    values = [1.3624e-7, -2.5e-9, 0, 1.2345e-5, 12.345, 98765.4]
    module = json.dumps((FOLDER / "figure.js").as_uri())
    browser = (
        "globalThis.matchMedia = () => ({ addEventListener() {} })"  # all that the module asks for when it is read
    )
    expression = (
        f"({browser}) && await import({module}).then(({{ short }}) => given.values.map((value) => short(value)))"
    )
    shown = computed("frechet", expression, values=values)
    assert shown == ["0.000000136", "-0.00000000250", "0", "0.0000123", "12.3", "98765"]


def test_every_text_has_its_modules_and_notebook() -> None:
    texts = sorted((ROOT / "book" / "explore").glob("*.md"))
    assert len(texts) == 6
    for path in texts:
        number, name = path.stem.split("_")
        assert len([*(ROOT / "notebooks").glob(f"{number}_*.ipynb")]) == 1
        assert (FOLDER / f"{name}.js").is_file()
        assert (FOLDER / f"{name}.math.js").is_file()
        assert path.read_text().count("<!-- figure -->") == 1


@pytest.mark.parametrize(("theme", "ground"), [("light", "#ffffff"), ("dark", "#121212")])
def test_colours_can_be_read_on_light_and_dark_pages(theme: str, ground: str) -> None:
    light, dark = re.findall(r"^(?:html.*)?\.explorable \{(.*?)^\}", (FOLDER / "explore.css").read_text(), re.M | re.S)
    colours = dict(re.findall(r"--(\w+): (#\w{6});", light if theme == "light" else dark))
    assert colours.keys() == {"one", "two", "three", "quiet"}
    for name, colour in colours.items():
        assert contrast(colour, ground) >= 4.5, name
