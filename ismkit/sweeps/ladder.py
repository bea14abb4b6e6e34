"""The sweeps behind notebook 08: the paper's ladder, its sensitivities, and what was tried beyond it.

All but those with power train the network of the released models on clothes (``ladder-smoke`` a smaller one, for a
test); these train smaller ones, on clothes and on emoji. Within a sweep each variant has the same weights, data order
and noise per seed, and as many steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from ismkit.evaluation.judges import Setting, space_judge
from ismkit.method.coupling import Coupling
from ismkit.method.guidance import TwoPassCFG
from ismkit.method.recipes import RECIPES, BakedIn, Intrinsic, Recipe
from ismkit.method.wavelet import Distance, Normalised, WaveletDistance, geometric_weights, l2, unit_weights
from ismkit.models.nets import ToyMLP
from ismkit.sweeps.sweep import Sweep, at_best, settings
from ismkit.training.runs import MODULE_ATTRIBUTE, RUNS, Run, named_recipe
from ismkit.utils.checks import check_count, shown
from ismkit.utils.settings import change, import_named

if TYPE_CHECKING:
    import pandas as pd

NFE = (1, 2, 4, 8, 128)
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)
# K = 8: one plan over the 8192 rows of 32 batches takes the solver 12 s, those within the ten classes 0.4 s.
ANY_CLASS = replace(RECIPES["+sot"], name="+sot_any_class", coupling=Coupling(pool=8, class_aware=False))
#: In the order of the paper's table, the baselines first.
LADDER: tuple[Recipe, ...] = (
    *(RECIPES[name] for name in list(RECIPES)[: list(RECIPES).index("+sot")]),
    ANY_CLASS,
    *(RECIPES[name] for name in ("+sot", "ism", "ism_plus")),
)


def _with(run: Run, recipe: Recipe) -> Run:
    return replace(run, recipe=run.adapt(recipe))


_RELEASED = RUNS["fashion"]
_LONG = replace(_RELEASED, steps=1000)
_LAPTOP = replace(_RELEASED, steps=500, batch_size=128, optim=replace(_RELEASED.optim, lr=2e-3))
_SMOKE = RUNS["fashion-smoke"]
_SMALL = replace(_LONG, net=partial(ToyMLP, dim=256, width=192, depth=2))
_SMALL_EMOJI = replace(RUNS["emoji"], net=partial(ToyMLP, dim=512, width=256, depth=2), steps=1500)


def _ladder(run: Run) -> dict[str, Run]:
    return {recipe.name: _with(run, recipe) for recipe in LADDER}


def _sensitivity(run: Run) -> tuple[dict[str, Run], dict[str, dict[str, Any]]]:
    """The paper's tables: one setting changed, each on the rung where the paper changes it."""
    levels: dict[int, Distance] = {k: WaveletDistance(unit_weights(geometric_weights(k, 0.5))) for k in (0, 1)}
    levels[3] = RECIPES["+wavelet"].distance  # the five levels of the paper, of which three fit into 8 x 8
    tables: dict[str, tuple[str, str, dict[Any, Any]]] = {
        "w_max": ("ism_guidance", "rows.strengths.w_max", {w: w for w in (2.0, 3.5, 5.0)}),
        "t_interval": ("+interval", "target", {t: Intrinsic(t_interval=t) for t in (0.0, 0.1, 0.3, 0.5)}),
        "levels": ("+wavelet", "distance", levels),
        "K": ("+sot", "coupling.pool", {k: k for k in (0, 1, 8, 32)}),
        "target EMA": ("ism", "fast", {decay: decay for decay in (0.9999, 0.999, 0.95, 0.5)}),
    }
    runs, labels = {}, {}
    for parameter, (recipe, path, values) in tables.items():
        for value, setting in values.items():
            name = f"{parameter} {value:g}"
            runs[name] = _with(run, change(RECIPES[recipe], path, setting))
            labels[name] = {"parameter": parameter, "value": value}
    return runs, labels


#: What was tried to beat ``ism``: each is one change of it, by path. Those of ``ism_plus`` come first.
TRIED: dict[str, tuple[str, Any]] = {
    "pixel L2": ("distance", l2),
    "t = u^1.5 at d = 0": ("rows.time_power", 1.5),
    "interval from 0.1": ("target.t_interval", 0.1),
    "t = u^0.7 at d = 0": ("rows.time_power", 0.7),
    "guidance rows 3/8, consistency 1/8": ("rows", replace(RECIPES["ism"].rows, guidance=3 / 8, consistency=1 / 8)),
    "consistency rows 1/8": ("rows.consistency", 1 / 8),
    "consistency rows 1/2": ("rows.consistency", 1 / 2),
    "large d drawn more often": ("rows.level_ratio", 1.5),
    "consistency loss x 2": ("weights", (1.0, 1.0, 2.0)),
    "L2 over its root": ("distance", Normalised(l2, 0.5, 0.01)),
    "root per band": ("distance", WaveletDistance((1.0,) * 4, norm="root")),
    "w up to 2": ("rows.strengths.w_max", 2.0),
    "gap by the slow average": ("target.gap", "slow"),
    "guidance on predicted v": ("target.predicted", True),
}
OURS = list(TRIED)[:3]  # the parts of ism_plus


def _tried(run: Run) -> tuple[dict[str, Run], dict[str, dict[str, Any]]]:
    """``ism`` with one change each; ``ism_plus`` with each of its parts taken back; learning-rate schedules."""
    ism, plus = _with(run, RECIPES["ism"]), _with(run, RECIPES["ism_plus"])
    runs = {"ism": ism, "ism_plus": plus}
    runs |= {name: _with(run, change(RECIPES["ism"], path, value)) for name, (path, value) in TRIED.items()}
    for name in OURS:
        path, before = TRIED[name][0], ism.recipe
        for part in path.split("."):
            before = getattr(before, part)
        runs[f"ism_plus without {name}"] = change(plus, f"recipe.{path}", before)
    runs |= {"constant rate": change(ism, "optim.cooldown", 0.0)}
    kinds = dict.fromkeys(runs, "ism, one change") | {"ism": "recipe", "ism_plus": "recipe"}
    kinds |= {name: "ism_plus, one part less" for name in runs if name.startswith("ism_plus without")}
    return runs, {name: {"kind": kind} for name, kind in kinds.items()}


#: The scales of guidance that the shortcut model's ladder with power is tuned over.
SCALES = (1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class TwoCalls:
    """A judge of one of the small latent spaces, of networks that are guided at sampling by a second call.

    At the finest step a shortcut model is not guided: what is baked in begins with the first doubling. This is what it
    draws there when classifier-free guidance is applied to it as to any flow.

    Attributes:
        space: a key of :data:`ismkit.models.spaces.SPACES`.

    Example:
        >>> from ismkit import Setting, load_generator
        >>> from ismkit.sweeps.ladder import TwoCalls
        >>> sorted(TwoCalls("clothes").score(load_generator("shortcut_finest_level"), Setting(2, 1.0, 100)))[:3]
        ['agreement', 'curvature', 'frechet']
    """

    space: str

    def score(self, net: Any, setting: Setting) -> dict[str, float]:
        """Score samples of the guided network at a setting, as the judge of the space does."""
        judge = space_judge(self.space, str(next(net.parameters()).device))
        return judge.score(TwoPassCFG(net, net.num_classes).eval(), setting)


def _power(run: Run) -> tuple[dict[str, Run], dict[str, dict[str, Any]]]:
    """The ladder, with the shortcut model at several scales; its rung has the scale of its code, 1.5."""
    finest = RECIPES["shortcut_finest_level"]
    scaled = {c: f"{finest.name}, scale {c:g}" if c != BakedIn().cfg_scale else finest.name for c in SCALES}
    runs = _ladder(run) | {name: _with(run, change(finest, "target.cfg_scale", c)) for c, name in scaled.items()}
    return runs, {name: {"cfg_scale": c} for c, name in scaled.items()}


def _powers(space: str, run: Run) -> Iterator[Sweep]:
    """The ladder with power on one space, and the shortcut models of it guided by a second call at 128 steps."""
    runs, labels = _power(run)
    asked = (*settings((1, 4), (0.0, 0.5, 1.0, 2.0), 1000), *settings((128,), (0.0, 1.0, 2.0), 1000))
    protocol = tuple(setting._replace(seed=noise) for noise in (0, 1) for setting in asked)
    about = f"{space}: eight seeds, strengths chosen on one noise and reported on another"
    yield Sweep(f"power-{space}", about, runs, tuple(range(8)), protocol, labels)
    scaled = {name: runs[name] for name in labels}
    guided = tuple(setting for setting in protocol if setting.nfe == 128 and setting.w)
    about = f"the shortcut models of power-{space}, guided by a second call at 128 steps"
    yield Sweep(f"power-{space}-two-calls", about, scaled, tuple(range(8)), guided, labels, TwoCalls(space))


#: The shortcut model at the scale, of ``SCALES``, that suits it best at each NFE.
BEST_SCALE = "shortcut_finest_level, best scale"
#: The rungs that are compared: a recipe, the one below it, and what is added.
RUNGS: tuple[tuple[str, str, str], ...] = (
    ("ism_guidance", "shortcut_finest_level", "intrinsic guidance"),
    ("ism_guidance", BEST_SCALE, "the same, scale tuned"),
    ("+interval", "ism_guidance", "interval 0.3"),
    ("+wavelet", "+interval", "wavelet distance"),
    ("+sot", "+wavelet", "sOT in classes"),
    ("+sot_any_class", "+wavelet", "sOT, any class"),
    ("ism", "+sot", "target EMA 0.95"),
    ("ism_plus", "ism", "ism_plus"),
)


def reported(frame: pd.DataFrame) -> pd.DataFrame:
    """Pick what a ladder with power reports: strengths and scales chosen on one noise, scores from another.

    Args:
        frame: the table of the sweep ``power-clothes`` or ``power-emoji``.

    Returns:
        A row for each variant, seed and NFE, at the strength that is best on noise 0, scored on noise 1. ``BEST_SCALE``
        is a variant more, whose w is the scale of guidance that it was trained with: it is asked at w = 0, as trained.

    Raises:
        ValueError: for columns that are not there.

    Example:
        >>> from ismkit.sweeps import FOLDER, read_table
        >>> from ismkit.sweeps.ladder import BEST_SCALE, reported
        >>> rows = reported(read_table(FOLDER / "power-clothes.parquet"))
        >>> rows[rows.variant == BEST_SCALE].groupby("nfe").w.first().to_dict()
        {1: 3.0, 4: 3.0, 128: 3.0}
    """
    import pandas as pd  # here: workers of a sweep can do without

    if "cfg_scale" not in frame:
        raise ValueError(f"frame must be the table of a ladder with power, with cfg_scale, got {list(frame.columns)}")
    scaled = frame[frame.cfg_scale.notna() & (frame.w == 0)]
    tuned = scaled.assign(variant=BEST_SCALE, w=scaled.cfg_scale)
    return at_best(pd.concat([frame, tuned], ignore_index=True), "frechet", noise=(0, 1))


_SENSITIVE, _LABELS = _sensitivity(_LAPTOP)
_VARIANTS, _KINDS = _tried(_LAPTOP)
#: The sweeps that ``ismkit sweep`` and notebook 08 know by name.
SWEEPS: dict[str, Sweep] = {
    sweep.name: sweep
    for sweep in (
        Sweep(
            "ladder",
            "the network of the released models, 1000 steps: 30 trials of 3 minutes of a CPU core",
            _ladder(_LONG),
            (0, 1, 2),
            (
                *settings(NFE[:4], STRENGTHS, 1000),
                *settings((1, 4), (3.0,), 1000),
                *settings((128,), (0.0, 1.0, 2.0), 1000),
                *settings((1,), (1.0,), 10_000),
            ),
        ),
        Sweep(
            "ladder-gpu",
            "six times as many steps, 10 000 samples throughout: for a GPU",
            _ladder(replace(_LONG, steps=6000)),
            (0, 1, 2),
            settings(NFE, STRENGTHS, 10_000),
        ),
        Sweep(
            "ladder-laptop",
            "a short training: 50 trials of half a minute of a CPU core",
            _ladder(_LAPTOP),
            (0, 1, 2, 3, 4),
            settings((1, 4), (1.0, 2.0), 1000),
        ),
        Sweep("ladder-smoke", "nothing is learnt", _ladder(_SMOKE), (0,), settings((1, 2), (1.0,), 100)),
        Sweep(
            "sensitivity",
            "the paper's tables of single settings, at the scale of ladder-laptop",
            _SENSITIVE,
            (0, 1, 2),
            settings((1, 4), (1.0, 2.0), 1000),
            _LABELS,
        ),
        Sweep(
            "tried",
            "what was tried to beat ism, at the scale of ladder-laptop",
            _VARIANTS,
            (0, 1, 2),
            settings((1, 4), (1.0, 2.0), 1000),
            _KINDS,
        ),
        *_powers("clothes", _SMALL),
        *_powers("emoji", _SMALL_EMOJI),
    )
}


def of_run(run: Run, recipes: Iterable[str]) -> Sweep:
    """A sweep of one run over recipes by name, to be scored at 1 and 4 NFE, w = 0 and 1, over three seeds."""
    runs = {name: _with(run, named_recipe(name)) for name in recipes}
    return Sweep(run.name, run.about, runs, (0, 1, 2), settings((1, 4), (0.0, 1.0), 1000))


def named_sweep(
    name: str,
    recipes: Sequence[str] = (),
    *,
    values: Mapping[str, Sequence[Any]] | None = None,
    seeds: int | None = None,
    nfe: Sequence[int] = (),
    w: Sequence[float] = (),
    n: int | None = None,
) -> Sweep:
    """A prepared sweep by its name, or that of a run over recipes; as it is, or with another protocol.

    Args:
        name: of ``SWEEPS`` or of ``RUNS``; ``module:attribute`` for a sweep or a run of your own.
        recipes: names of ``NAMED`` or ``module:attribute``, for a run (default: ism; of your own run, its recipe).
        values: to try of settings by their path, in all combinations, as for :meth:`ismkit.sweeps.sweep.Sweep.vary`.
        seeds: their number: 0 .. seeds - 1; by default those of the sweep, of a run 3.
        nfe: network evaluations per sample.
        w: guidance strengths.
        n: samples per setting, as many as the judge can score. Where one of these three is given, the others are by
            default 1 and 4 NFE, w = 0 and 1, and 1000 samples; without them the sweep has settings of its own.

    Returns:
        The sweep.

    Raises:
        ValueError: for a name that is neither, recipes with a prepared sweep, values that are refused, or no seed.

    Example:
        >>> from ismkit import named_sweep
        >>> named_sweep("gaussians", ["flow", "ism"]).runs.keys()
        dict_keys(['flow', 'ism'])
        >>> sweep = named_sweep("gaussians", values={"optim.lr": [1e-3, 2e-3]}, seeds=2, nfe=[1])
        >>> list(sweep.runs), sweep.seeds, len(sweep.settings)
        (['ism, lr=0.001', 'ism, lr=0.002'], (0, 1), 2)
    """
    for argument, count in (("seeds", seeds), ("n", n)):
        if count is not None and check_count(argument, count) > 1_000_000:
            raise ValueError(f"{argument} must be at most 1000000, got {count}")
    for argument, given in (("nfe", nfe), ("w", w)):
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ValueError(f"{argument} must be a list of numbers, got {shown(given)}")
    for evaluations, strength in product(nfe or (1,), w or (0.0,)):
        Setting(evaluations, strength, n or 1000).check()
    if values is not None and not isinstance(values, Mapping):
        raise ValueError(f"values must be lists by the path of a setting, got {shown(values)}")
    found = _found(name, recipes)
    if values:
        found = found.vary(values)
    if nfe or w or n:
        found = replace(found, settings=settings(nfe or (1, 4), w or (0.0, 1.0), n or 1000))
    return replace(found, seeds=tuple(range(seeds))) if seeds else found


def _found(name: str, recipes: Sequence[str]) -> Sweep:
    """What :func:`named_sweep` names."""
    if isinstance(recipes, str) or not isinstance(recipes, Sequence):
        raise ValueError(f"recipes must be a list of names, got {shown(recipes)}")
    known: dict[str, Sweep | Run] = {**SWEEPS, **RUNS}
    if isinstance(name, str) and ":" in name:
        own: Any = import_named(name, "name", Sweep, Run)
        known = {name: own}
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"name must be a prepared sweep ({', '.join(SWEEPS)}), a run ({', '.join(RUNS)}) or {MODULE_ATTRIBUTE}, "
            f"got {shown(name)}"
        )
    found = known[name]
    if isinstance(found, Run):
        if name in RUNS or recipes:
            return of_run(found, recipes or ["ism"])
        return replace(of_run(found, []), runs={found.recipe.name: found})
    if recipes:
        raise ValueError(f"{name} has its own recipes; --recipe goes with a run: {', '.join(RUNS)}")
    return found
