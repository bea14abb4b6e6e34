"""The neighbours by name: published methods as values of :class:`~ismkit.method.recipes.Recipe`.

Each is as its paper or its authors' code has it, in this kit's direction of time, where 0 is noise; what is not known,
or was decided here, is said beside it. None is guided: :func:`guided` adds guidance to any of them.
"""

from __future__ import annotations

from dataclasses import replace

from ismkit.method.coupling import Coupling
from ismkit.method.guidance import Strengths
from ismkit.method.recipes import RECIPES, Recipe
from ismkit.method.rows import Intervals
from ismkit.method.wavelet import Normalised, l2
from ismkit.neighbours.drifting import DRIFTING
from ismkit.neighbours.leap import ExponentialCut, Gap, HalvingCut, Leap, SigmoidCut
from ismkit.neighbours.moments import IMM
from ismkit.utils.checks import check_number, shown

_ALONE = Coupling(pool=0)  # noise is drawn for each sample: none of these papers couples it

# 2505.13447. The law of the times, of which rows with d = 0 have the noisier of two, and the power are those of the
# authors' code for ImageNet; their constant, 0.01 for a sum over the coordinates, is 1e-3 for the mean here. Of the
# shares of rows with d > 0 that they tried, 1/4 is the default.
_TIMES = Intervals(consistency=1 / 4, drop_consistency=True, logit=(0.4, 1.0))
_MEANFLOW = Recipe(
    "meanflow",
    replace(_TIMES, noisier=True),
    Leap("sample", 0.0),
    weights=(3 / 4, 0.0, 1 / 4),  # one mean over the batch
    coupling=_ALONE,
    distance=Normalised(l2, 1.0),
    fast=0.0,  # targets by the online weights
)
# 2512.02012. Half of the rows have d = 0, in place of its head for the velocity; the rest is MeanFlow's.
_IMF = replace(
    _MEANFLOW,
    name="imf",
    rows=replace(_TIMES, consistency=1 / 2, noisier=True),
    target=Leap("sample", 0.0, tangent="net"),
    weights=(1 / 2, 0.0, 1 / 2),
)
# 2510.20771, with the schedule of its B/2, which falls over the whole run. Half of the rows have d = 0.
_ALPHA_FLOW = replace(
    _IMF,
    name="alpha_flow",
    rows=replace(_TIMES, consistency=1 / 2),
    target=Leap("sample", SigmoidCut(), weight=1.0, clip=4.0),
)
# 2507.16884. It does not say how times are drawn, how many rows have d = 0, or which distance; uniform, half and
# squares are this kit's.
_SPLIT_MEANFLOW = replace(
    _IMF,
    name="split_meanflow",
    rows=replace(_TIMES, consistency=1 / 2, logit=None),
    target=Leap("own", "uniform"),
    distance=l2,
)
# 2512.15657. Its code has the gradient of c e^2 / (e^2 + 0.01 c^2), halved beside that of rows with d = 0, and times of
# three laws; MeanFlow's distance and law are this kit's.
_SOFLOW = replace(_MEANFLOW, name="soflow", rows=_TIMES, target=Leap("sample", ExponentialCut()))
# 2406.14548, on the straight path. Every row ends at the data. The root of the error over the share is what its
# pseudo-Huber loss over the difference of times is, with a constant that is small beside the residuals of small cuts.
# This kit's are the time, not the level of the noise (by which a row would weigh t (t + c d) times as much), uniform
# times, and a share that does not depend on the time.
_ECT = replace(
    _MEANFLOW,
    name="ect",
    rows=Intervals(consistency=1.0, drop_consistency=True, to_data=1.0),
    target=Leap("sample", HalvingCut(), weight=-1.0),
    weights=(0.0, 0.0, 1.0),
    distance=Normalised(l2, 0.5, 1e-6),
)
# 2410.18958: the mean of what may have led to x instead of the sample, from the data of the batch. Its smoother
# schedule, its sampling and its guidance are left out.
_SCT = replace(_ECT, name="sct", target=Leap("posterior", HalvingCut(), weight=-1.0))


def guided(recipe: Recipe, gap: Gap | None = None, share: float = 1 / 4, strengths: Strengths | None = None) -> Recipe:
    """Add guidance with the strength as an input to a recipe that cuts intervals.

    A share of the batch becomes guidance rows, taken from the others in proportion; at least as many stay velocity
    rows, from which the gap is learnt. The rows with ``d > 0`` draw a strength too.

    Args:
        recipe: one of :data:`NEIGHBOURS` with a :class:`~ismkit.neighbours.leap.Leap`.
        gap: the estimator; by default intrinsic guidance from ``t = 0.3`` on, for those rows whose target uses it.
        share: of the guidance rows in the batch, in (0, 1/2).
        strengths: that are drawn, by default those of iSM.

    Returns:
        The recipe, named ``NAME_guided``.

    Raises:
        TypeError: if the recipe is none, or the gap.
        ValueError: if the recipe has no ``Leap`` or has guidance already, or for a share outside (0, 1/2).

    Example:
        >>> from ismkit.neighbours import NEIGHBOURS, guided
        >>> recipe = guided(NEIGHBOURS["imf"])
        >>> recipe.name, recipe.rows.blocks(16)
        ('imf_guided', Blocks(velocity=slice(0, 6, None), guidance=slice(6, 10, None), consistency=slice(10, 16, None)))
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, such as one of NEIGHBOURS, got {shown(recipe)}")
    if gap is not None and not isinstance(gap, Gap):
        raise TypeError(f"gap must be a Gap or None, got {shown(gap)}")
    check_number("share", share, "in (0, 1/2)", 0, 0.5)
    if not isinstance(recipe.target, Leap) or recipe.target.guide is not None:
        raise ValueError(f"recipe must be one of NEIGHBOURS with a Leap and without guidance, got {recipe.name}")
    if not 0 < share < 0.5:
        raise ValueError(f"share must be a number in (0, 1/2), got {share}")
    velocity = max((1 - recipe.rows.consistency) * (1 - share), share)
    consistency = 1 - share - velocity
    strengths = Strengths() if strengths is None else strengths
    rows = replace(recipe.rows, guidance=share, consistency=consistency, strengths=strengths)
    weights = (velocity, share, consistency)
    if gap is None:
        gap = Gap(steps=recipe.target.first in ("sample", "posterior"))
    target = replace(recipe.target, guide=gap)
    return replace(recipe, name=f"{recipe.name}_guided", rows=rows, target=target, weights=weights)


# This kit's: MeanFlow with iSM's guidance, from t = 0.1 on, its coupling and a fast average. What it was chosen from,
# and how it did over fresh seeds, is in book/league.md.
_MEANFLOW_PLUS = replace(
    guided(_MEANFLOW, Gap(t_interval=0.1)),
    name="meanflow_plus",
    coupling=RECIPES["ism_plus"].coupling,
    fast=0.9,
)

#: Neighbouring methods that need nothing but data, by name. Those with a teacher are functions that make a recipe.
NEIGHBOURS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (_MEANFLOW, _MEANFLOW_PLUS, _IMF, _ALPHA_FLOW, _SPLIT_MEANFLOW, _SOFLOW, _ECT, _SCT, IMM, DRIFTING)
}

#: Every recipe that has a name: the paper's ladder, and its neighbours.
NAMED: dict[str, Recipe] = RECIPES | NEIGHBOURS
