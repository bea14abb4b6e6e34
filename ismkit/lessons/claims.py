"""Every claim that the kit tests or will test, in the order of the notebooks, and how each came out.

What is said of a claim stands here, in one place; what was measured, in the ledger (:mod:`ismkit.lessons.ledger`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from ismkit.utils.checks import check_name

Source = Literal["paper", "sm", "code", "neighbour", "kit"]
Verdict = Literal["exact", "holds here", "toys only", "weaker here", "opposite here", "not resolved", "needs a GPU"]
Basis = Literal["computed", "drawn", "trained", "study", "released"]
Bound = Literal["given", "before", "after"]

#: Whose statement it is.
SOURCES: dict[Source, str] = {
    "paper": "the paper (iSM)",
    "sm": "SM's paper",
    "code": "SM's code",
    "neighbour": "another method's paper",
    "kit": "this kit",
}

#: What a passed check says of the claim.
VERDICTS: dict[Verdict, str] = {
    "exact": "It holds as an identity, to rounding: two-sided, within a thousandth, or as a count or a yes or no.",
    "holds here": "It was measured to hold on what it speaks of: images, or the points, files or formulas it names.",
    "toys only": "It speaks of more than it was measured on: points in the plane, or networks trained for seconds.",
    "weaker here": "Less of the effect was measured than the statement says, down to none.",
    "opposite here": "The opposite of the statement was measured, and the check asserts that.",
    "not resolved": "The difference lies within its uncertainty, after correction for the comparisons made beside it.",
    "needs a GPU": "It was not tested: the full run on ImageNet has not been done.",
}

#: What stands behind the measured value.
BASES: dict[Basis, str] = {
    "computed": "Computed or counted: seeds change the inputs at most.",
    "drawn": "Each seed draws points, noise or weights of its own, and trains nothing: as many draws as seeds.",
    "trained": "Each seed trains networks of its own: as many trainings as seeds.",
    "study": "Read from a committed study: as many trainings as the study has seeds, however often the file is read.",
    "released": "Taken from one model or set of pictures that the kit ships: one, whatever the seed.",
}

#: When the bound of the check was set.
BOUNDS: dict[Bound, str] = {
    "given": "The statement gives it: a closed form or a bare direction.",
    "before": "This kit set it before the data.",
    "after": "This kit set it with the data at hand: a regression guard, no prediction.",
}


@dataclass(frozen=True)
class Claim:
    """One claim, in one sentence, who makes it, how it came out and what stands behind that.

    Attributes:
        statement: the sentence.
        source: whose it is, of ``SOURCES``.
        verdict: what a passed check says of it, of ``VERDICTS``.
        basis: what stands behind the measured value, of ``BASES``.
        bound: when the bound of the check was set, of ``BOUNDS``. "after" unless the history shows otherwise.
        trainings: how many seeds the study has, for the basis "study"; else 0.
        comparisons: how many comparisons were made side by side, this one included: its interval is corrected for them,
            after Bonferroni. A verdict may rest on Holm's correction of all of them, which finds more.

    Raises:
        ValueError: for a word that is not listed, an exact claim that is not computed, or a study without trainings.

    Example:
        >>> from ismkit.lessons import CLAIMS
        >>> CLAIMS["C03.law"].statement
        'CFG at every doubling compounds to 1.5^7 = 17.09 in one step (constant field)'
        >>> CLAIMS["C03.law"].verdict, CLAIMS["C08.pool"].verdict, CLAIMS["C08.pool"].trainings
        ('exact', 'not resolved', 3)
        >>> sum(key.startswith("C03.") for key in CLAIMS)  # those that notebook 03 tests
        13
    """

    statement: str
    source: Source
    verdict: Verdict = "toys only"
    basis: Basis = "trained"
    bound: Bound = "after"
    trainings: int = 0
    comparisons: int = 1

    def __post_init__(self) -> None:
        for name, words in (("source", SOURCES), ("verdict", VERDICTS), ("basis", BASES), ("bound", BOUNDS)):
            check_name(name, getattr(self, name), words)
        if self.verdict == "exact" and self.basis != "computed":
            raise ValueError(f"an exact claim must have the basis computed, got {self.basis}: {self.statement}")
        if (self.basis == "study") != (self.trainings > 0):
            raise ValueError(f"trainings must be those of the study, for a study alone, got {self.trainings}")


#: The results that change how one works, and why; what was measured is in the ledger.
HEADLINES = {
    "C04.same": "Guidance as an input is no approximation of two-pass CFG: what lies between them is the error "
    "of the network.",
    "C05.band_mean": "A sum over bands looks neutral and is not: it favours low frequencies, the reverse of what a "
    "wavelet loss is for.",
    "C06.hides": "A lower loss is no better model: where the noise tells the class, the network can ignore its label, "
    "and has the lowest loss of all.",
}


def exact(statement: str, source: Source) -> Claim:
    """A claim that holds to rounding: its value is computed, and the claim itself gives the bound."""
    return Claim(statement, source, "exact", "computed", "given")


#: Of the ladders with power, on clothes and on emoji: eight trainings, corrected for all comparisons of a ladder.
_rung = partial(Claim, basis="study", trainings=8, comparisons=24)

#: Keys name the notebook that tests the claim: ``C03.law`` is notebook 03's.
CLAIMS: dict[str, Claim] = {
    # 00 start here
    "C00.one_call": exact("A guided one-step sample takes one network call", "paper"),
    "C00.free_w": exact("The guidance strength is free per sample: a mixed batch equals samples drawn alone", "paper"),
    "C00.one_step": Claim(
        "One step comes close to 128: at most 1.5 times its Frechet distance (w = 1)",
        "kit",
        verdict="holds here",
        basis="released",
    ),
    "C00.agreement": Claim(
        "One-step samples show the class asked for (classifier agreement at w = 1)",
        "kit",
        verdict="holds here",
        basis="released",
    ),
    # 01 flow matching
    "C01.score": exact("The marginal velocity follows from the score: v = (x + (1 - t) score) / t", "kit"),
    "C01.continuity": exact("The marginal velocity carries the density of x_t along (continuity equation)", "kit"),
    "C01.mixture": Claim(
        "Solving the ODE of the marginal velocity from noise gives the data's distribution", "neighbour", basis="drawn"
    ),
    "C01.curved": Claim(
        "Conditional paths are straight, marginal ones curve: their median curvature is 3 or more", "sm", basis="drawn"
    ),
    "C01.learnt": Claim("A small network learns the exact field where data passes: relative error at most 0.2", "kit"),
    "C01.unseen": Claim("Where no data passes the learnt field is wrong: at least twice the relative error", "kit"),
    "C01.floor": Claim(
        "The least flow-matching loss is the conditional variance of the velocity, not 0",
        "kit",
        verdict="holds here",
        basis="drawn",
    ),
    "C01.one_step": exact("One Euler step of the marginal velocity gives the mean of the data from any noise", "sm"),
    "C01.order": Claim(
        "The endpoint error of Euler steps halves when their number doubles", "kit", verdict="holds here", basis="drawn"
    ),
    # 02 shortcut models
    "C02.modes": Claim(
        "One step of the shipped shortcut model shows all eight modes: each has at least 80 % of its share near it",
        "kit",
        basis="released",
    ),
    "C02.telescope": exact("Exact self-consistency from the finest level up is 128 Euler steps", "kit"),
    "C02.linear": Claim(
        "The average velocity tends to the velocity as the step size falls, in proportion to d less the finest step",
        "sm",
        verdict="holds here",
        basis="drawn",
    ),
    "C02.limit": Claim("The learnt s(d) tends to s(0): at d = 1/64 the difference is at most 4 % of that at 1/2", "sm"),
    "C02.halves": Claim("Two learnt half steps make one step, up to 15 % of it at every level", "sm"),
    "C02.one_step": Claim("One shortcut step is nearer to the data than one Euler step, at least 4 times (W2)", "sm"),
    "C02.reference": Claim(
        "One shortcut step ends nearer to the ODE's end than one Euler step, at least 6 times", "kit"
    ),
    "C02.flat": Claim("One step comes close to 128: at most 4 times its W2", "sm"),
    "C02.crossover": Claim("At 32 steps the shortcut's lead over Euler on the same network is gone", "kit"),
    "C02.hole": Claim(
        "A step size without rows fails: its endpoint error grows 1.3 times or more (0.375 doublings)", "kit"
    ),
    "C02.inherited": Claim(
        "A larger step inherits the fault, 1.19 times the error or more (0.25 doublings), although it has all its rows",
        "kit",
    ),
    "C02.blind": Claim("The residual of the larger step does not show the inherited fault", "kit"),
    "C02.between": Claim(
        "Between the trained step sizes large ones fail: 3, 5, 6 and 7 steps are in the mean worse than the sizes "
        "beside them suggest (in doublings of the error)",
        "kit",
    ),
    "C02.bridged": Claim("Between the trained step sizes small ones are bridged: 24 steps do not lose to 16", "kit"),
    # 03 compounding guidance
    "C03.law": exact("CFG at every doubling compounds to 1.5^7 = 17.09 in one step (constant field)", "paper"),
    "C03.affine": exact("The law is exact for affine fields whose linear part all labels share", "kit"),
    "C03.finest": exact("SM's released code guides the finest doubling only: 1.5 at every step above d = 0", "code"),
    "C03.general": Claim(
        "One step carries 1.5^7 = 17.09 of guidance whatever the data", "paper", verdict="weaker here", basis="drawn"
    ),
    "C03.limit": Claim(
        "One step carries 17.09 of guidance in the limit of classes that overlap completely",
        "kit",
        verdict="holds here",
        basis="drawn",
    ),
    "C03.above": Claim(
        "Of two classes with one mean, one step carries more than 1.1 times the law for the wider",
        "kit",
        verdict="holds here",
        basis="drawn",
    ),
    "C03.clip": Claim("The clip at 4 in SM's code hides part of the blow-up", "kit", basis="drawn"),
    "C03.ideal": Claim(
        "Guided at every doubling, a trained network carries the exact w at each level within 35 % (off by 10 to 24 %)",
        "kit",
    ),
    "C03.lost": Claim(
        "Guided at the first doubling only, it loses w: one step has at most 85 % of the exact w (19 to 56 % was left)",
        "kit",
    ),
    "C03.drift": Claim("One-step samples leave the data where every doubling is guided (2D)", "paper"),
    "C03.stays": Claim("One-step samples stay near the data where only the finest doubling is guided (2D)", "kit"),
    "C03.images": Claim("One-step images oversaturate where every doubling is guided", "paper", verdict="holds here"),
    "C03.images_finest": Claim(
        "One-step images keep their contrast where only the finest doubling is guided", "kit", verdict="holds here"
    ),
    # 04 intrinsic guidance
    "C04.factor": exact("The guidance applied is w at every step size (affine fields)", "paper"),
    "C04.same": exact("With exact targets every number of steps draws the sample of two-pass CFG, in any field", "kit"),
    "C04.flat": Claim("A trained network applies the same guidance from 1 to 128 steps", "paper"),
    "C04.strength": Claim(
        "A trained network's factor 1 + w is within 30 % of two-pass CFG's at every w and NFE (off by 16 to 21 %)",
        "kit",
    ),
    "C04.unguided": Claim("w = 0 is unguided: class means are those of the unguided model", "paper"),
    "C04.one_pass": exact("Guidance takes one network call per step, and w is free per sample", "paper"),
    "C04.dropped": exact("w (v - s) on rows without label teaches (1 + w)^2 times the noise only", "kit"),
    "C04.diversity": Claim(
        "Guidance costs diversity: modes of a class are lost (exact fields, w = 3.5)", "paper", basis="drawn"
    ),
    "C04.interval": Claim(
        "Interval guidance keeps more of the modes (exact fields, t_interval 0.3)", "paper", basis="drawn"
    ),
    "C04.interval_trained": Claim(
        "Interval guidance raises the recall of a trained network (1, 4, 128 NFE)", "paper", bound="given"
    ),
    "C04.side_effect": Claim("One-step quality collapses at t_interval 0.5", "paper", verdict="weaker here"),
    # 05 frequency bias and the wavelet loss
    "C05.slope": Claim(
        "The power of photographs falls with frequency about as f^-2.5", "kit", verdict="holds here", basis="released"
    ),
    "C05.transform": exact("The kit's transform equals PyWavelets' periodised wavedec2", "kit"),
    "C05.parseval": exact("With equal weights on all coefficients the squared wavelet distance is pixel L2", "kit"),
    "C05.band_mean": exact(
        "Mean square per band, summed over bands, weighs a coefficient of level l by 4^l: it favours low frequencies",
        "kit",
    ),
    "C05.white_share": Claim(
        "With that sum the finest of 5 levels has 18.75 % of a white error, in L2 75 %",
        "kit",
        verdict="holds here",
        basis="drawn",
    ),
    "C05.averaging": exact("Written with averages instead of orthonormal sums, the mean per band is exactly L2", "kit"),
    "C05.same_minimiser": exact("Weights on squares leave the minimiser, the conditional mean, where it is", "kit"),
    "C05.median": exact("A root or L1 per band moves the minimiser of random targets from the mean to a median", "kit"),
    "C05.l2_bias": Claim("L2 favours low frequencies: the fine end of the spectrum is off", "paper"),
    "C05.band_mean_hurts": Claim("Mean square per band leaves noise in fine bands of one-step samples", "kit"),
    "C05.low_pays": Claim(
        "What favours fine bands costs coarse ones: the Frechet distance of pixels rises (in doublings)", "kit"
    ),
    "C05.bands_matter": Claim("Root per band trains fine bands better than the same root without bands", "kit"),
    "C05.gain1": Claim(
        "The wavelet loss in place of L2 improves samples at 1 NFE",
        "paper",
        verdict="opposite here",
        basis="study",
        trainings=5,
        comparisons=14,
    ),
    "C05.gain4": Claim(
        "The wavelet loss in place of L2 improves samples at 4 NFE",
        "paper",
        verdict="opposite here",
        basis="study",
        trainings=5,
        comparisons=14,
    ),
    "C05.catches_up": Claim(
        "Root per band needs longer training: four times the steps cut its handicap",
        "kit",
        verdict="holds here",
        basis="study",
        trainings=5,
        comparisons=4,
    ),
    "C05.default": Claim(
        "Fine-weighted squares, the default, beat root per band at this scale",
        "kit",
        verdict="not resolved",
        basis="study",
        trainings=5,
        comparisons=4,
    ),
    "C05.fine_helps": Claim(
        "Weights that favour fine bands lower the error of the finest level (clothes' latents)",
        "kit",
        verdict="holds here",
        basis="study",
        trainings=5,
        comparisons=2,
    ),
    "C05.coarse_pays": Claim(
        "They raise the error of the next level (clothes' latents)",
        "kit",
        verdict="holds here",
        basis="study",
        trainings=5,
        comparisons=2,
    ),
    "C05.white": Claim(
        "The kit's latents are nearly white: powers of levels of details differ by at most 2 times (photographs: 26)",
        "kit",
        verdict="holds here",
        basis="released",
    ),
    "C05.steps": Claim(
        "Fine weights in the rows with a step alone change samples at 1 or 4 NFE",
        "kit",
        verdict="not resolved",
        basis="study",
        trainings=5,
        comparisons=24,
    ),
    "C05.spectrum": Claim(
        "In latents whose power falls from level to level fine weights beat L2 at 1 and 4 NFE (predicted)",
        "kit",
        verdict="holds here",
        basis="study",
        bound="before",
        trainings=10,
        comparisons=2,
    ),
    # 06 curved paths and scaling OT
    "C06.assign": exact("The library's assignment has the exact optimal transport cost of POT", "kit"),
    "C06.no_crossing": exact("An exact assignment leaves no two paths that cross", "kit"),
    "C06.half": Claim(
        "Half of all pairs cross where noise and data are independent", "kit", verdict="holds here", basis="drawn"
    ),
    "C06.estimate": Claim(
        "The neighbours' estimate of the target variance meets the closed form of a mixture",
        "kit",
        verdict="holds here",
        basis="drawn",
    ),
    "C06.variance": Claim(
        "Each larger pool K in 0, 1, 8, 32 lowers the variance of the targets", "paper", basis="drawn"
    ),
    "C06.curvature": Claim("One batch of OT straightens the sampling paths, and a pool of 32 does so further", "paper"),
    "C06.one_step": Claim("A pool of 32 batches lowers the error of one step below that of one batch or none", "paper"),
    "C06.leak": Claim(
        "Plain OT moves the mean noise of a half-ring class to sqrt(2 / pi)", "kit", verdict="holds here", basis="drawn"
    ),
    "C06.information": Claim(
        "Under plain OT the noise tells a half-ring class: ln 2 nats", "kit", verdict="holds here", basis="drawn"
    ),
    "C06.no_mean": Claim(
        "Plain OT can leak the class without moving its mean noise", "kit", verdict="holds here", basis="drawn"
    ),
    "C06.aware": exact("Class-aware OT leaves each class the noise that was drawn for it", "kit"),
    "C06.conditional": Claim("Plain OT degrades conditional samples", "kit"),
    "C06.hides": Claim("The training loss hides the damage of plain OT: the lower loss has the worse samples", "kit"),
    "C06.aware_gain": Claim("Class-aware OT draws better one-step conditional samples than independent noise", "kit"),
    "C06.guidance": Claim("Guidance (w = 2) does not hide the damage that plain OT does", "kit"),
    "C06.bound": Claim(
        "OT over n points saves at most sqrt(2 ln n / D) of the cost of independent pairs",
        "kit",
        verdict="holds here",
        basis="drawn",
        bound="given",
    ),
    "C06.dimension": Claim(
        "The share of the cost that OT saves collapses with the dimension", "kit", verdict="holds here", basis="drawn"
    ),
    "C06.harm": Claim(
        "The leak of class into noise does not shrink with the dimension", "kit", verdict="holds here", basis="drawn"
    ),
    # 07 twin EMA
    "C07.lag": exact("An average of decay d lags d / (1 - d) steps behind a linear drift", "kit"),
    "C07.noise": exact("An average of decay d lets through (1 - d) / (1 + d) of the variance of white noise", "kit"),
    "C07.ramp": exact("While the warm-up ramp lasts, every average lags a tenth of the run", "kit"),
    "C07.start": exact("After n updates in the ramp the initial weights keep the share 1 / binomial(n + 9, 9)", "kit"),
    "C07.same": exact("In a short run target decays 0.999 and 0.9999 train the same network, weight by weight", "kit"),
    "C07.nearest": Claim("The larger the decay, the older the network that the target network is nearest to", "kit"),
    "C07.gap": Claim("The slower the target network, the further its targets are from those of the network", "paper"),
    "C07.target": Claim(
        "Targets of decay 0.95 give better one-step samples than targets of 0.9999", "paper", bound="given"
    ),
    "C07.fresher": Claim("Targets of decay 0.5 do so too, in a short run", "kit"),
    "C07.slow": Claim("The slow copy draws better one-step samples than the network that is trained", "paper"),
    "C07.residual": Claim("The slow copy is more consistent with itself than the network that is trained", "kit"),
    "C07.none": Claim(
        "Targets of decay 0.5 are as good as targets by the network itself", "kit", verdict="not resolved"
    ),
    "C07.no_ramp": Claim("Without a warm-up ramp a slow target network degrades a short run", "kit"),
    # 08 the ladder on real images: each recipe at its best w
    "C08.intrinsic": _rung(
        "Intrinsic guidance lowers the one-step distance of the shortcut model guided as in SM's code, by 30 % or more",
        "paper",
        verdict="holds here",
        bound="before",
    ),
    "C08.scaled": _rung(
        "It lowers it also where the shortcut model has the best of four scales of guidance",
        "paper",
        verdict="holds here",
        bound="given",
    ),
    "C08.interval": _rung(
        "A guidance interval lowers it further at one step",
        "paper",
        verdict="not resolved",
    ),
    "C08.interval4": _rung(
        "A guidance interval lowers it further at four steps",
        "paper",
        verdict="holds here",
        bound="given",
    ),
    "C08.wavelet": _rung(
        "The wavelet distance lowers it further",
        "paper",
        verdict="opposite here",
    ),
    "C08.sot": _rung(
        "Scaling OT, within the classes, lowers it further",
        "paper",
        verdict="holds here",
        bound="given",
    ),
    "C08.any_class": _rung(
        "Plain OT over all classes raises it, by 30 % or more",
        "kit",
        verdict="holds here",
        bound="before",
    ),
    "C08.ema": _rung(
        "Targets by a fast average lower it further",
        "paper",
        verdict="holds here",
        bound="before",
    ),
    "C08.plus": _rung(
        "ism_plus lowers the one-step distance of ism, for as many network passes",
        "kit",
        verdict="not resolved",
    ),
    "C08.plus128": _rung(
        "ism_plus loses to ism at 128 steps",
        "kit",
        verdict="holds here",
    ),
    "C08.emoji_guidance": _rung(
        "On emoji intrinsic guidance lowers the one-step distance, also against the best of four scales",
        "kit",
        verdict="holds here",
    ),
    "C08.emoji_interval": _rung(
        "On emoji a guidance interval lowers it further",
        "paper",
        verdict="opposite here",
    ),
    "C08.emoji_wavelet": _rung(
        "On emoji the wavelet distance lowers it further",
        "paper",
        verdict="opposite here",
    ),
    "C08.emoji_ema": _rung(
        "On emoji targets by a fast average lower it further",
        "paper",
        verdict="holds here",
    ),
    "C08.emoji_plus": _rung(
        "On emoji ism_plus lowers the one-step distance of ism, for as many network passes",
        "kit",
        verdict="holds here",
    ),
    "C08.w_max": Claim(
        "w_max 3.5 is better at one step than 2",
        "paper",
        verdict="not resolved",
        basis="study",
        trainings=3,
        comparisons=18,
    ),
    "C08.t_interval": Claim(
        "An interval from 0.5 degrades one-step samples",
        "paper",
        verdict="not resolved",
        basis="study",
        trainings=3,
        comparisons=18,
    ),
    "C08.levels": Claim(
        "More wavelet levels are better at four steps: 3 than none",
        "paper",
        verdict="not resolved",
        basis="study",
        trainings=3,
        comparisons=18,
    ),
    "C08.pool": Claim(
        "A pool of K = 32 batches is better at one step than no pool",
        "paper",
        verdict="not resolved",
        basis="study",
        bound="given",
        trainings=3,
        comparisons=18,
    ),
    "C08.decay": Claim(
        "A target decay of 0.95 is better at one step than 0.999",
        "paper",
        verdict="not resolved",
        basis="study",
        trainings=3,
        comparisons=18,
    ),
    "C08.here": Claim(
        "A short training, one seed, already tells ism from the shortcut model", "kit", verdict="holds here"
    ),
    "C08.released": Claim(
        "The released model's one-step distance is at most 1.5 times that of its 128 steps",
        "kit",
        verdict="holds here",
        basis="released",
    ),
    "C08.agreement": Claim(
        "At least 93 % of its one-step samples show the class asked for", "kit", verdict="holds here", basis="released"
    ),
    "C08.recorded": Claim(
        "The released models score what their cards record", "kit", verdict="holds here", basis="released"
    ),
    # 09 the neighbours
    "C09.own": exact("The exact average velocity is its own target from any cut, by its own step", "kit"),
    "C09.limit": exact("It is the target of the limit, along the velocity with the end held (MeanFlow)", "neighbour"),
    "C09.tangent": Claim("With the end not held the target is wrong", "kit", verdict="holds here", basis="drawn"),
    "C09.order": Claim(
        "With the velocity on the first part the target misses in proportion to the cut squared",
        "kit",
        verdict="holds here",
        basis="drawn",
    ),
    "C09.consistency": exact("Consistency training is a cut by the sample's velocity of steps to the data", "kit"),
    "C09.library": exact("The formula written by hand is the library's rule", "kit"),
    "C09.opposed": Claim(
        "MeanFlow's gradient has two parts that point against each other: cosine below -0.4 (alpha-Flow)", "neighbour"
    ),
    "C09.jacobian": exact("A sample's tangent multiplies the target's noise by the Jacobian of the flow map", "kit"),
    "C09.variance": Claim(
        "A sample's tangent gives the target 1.5 times the variance or more, for long steps late (iMF)", "neighbour"
    ),
    "C09.less": Claim("For some steps it gives the target less variance than the network's, by a tenth or more", "kit"),
    "C09.passes": exact("A derivative on a quarter of the rows adds a sixth of the passes of a training step", "kit"),
    "C09.gap": exact("The gaps of improved MeanFlow and of iSM lead to one guided velocity", "kit"),
    "C09.bootstrap": exact("From an unguided start iMF's gap takes k updates to an error of (w / (1 + w))^k", "kit"),
    "C09.metric": Claim(
        "Trained on the Frechet distance, a model halves it or more within its features",
        "neighbour",
        verdict="holds here",
    ),
    "C09.elsewhere": Claim("In other features that distance falls by less than a third", "kit", verdict="holds here"),
    "C09.reward": Claim(
        "A reward costs variety: the pixels' variance within a class falls by a tenth or more",
        "kit",
        verdict="holds here",
    ),
    "C09.negative": Claim(
        "A negative class makes it rarer in one step, between answers and between embeddings: by 30 % or more",
        "neighbour",
        verdict="holds here",
        basis="released",
    ),
    "C09.together": Claim(
        "Drifting and its Sinkhorn form are below `ism` at one call, by 15 % or more, at equal passes",
        "kit",
        basis="study",
        trainings=5,
        comparisons=16,
    ),
    "C09.ahead": Claim(
        "Of the others the lowest mean, dual-end consistency, is below `ism` at one call",
        "kit",
        basis="study",
        trainings=5,
        comparisons=16,
    ),
    "C09.near": Claim(
        "At one call they are within 1.5 times `ism`, but for flow, IMM and TCM",
        "kit",
        basis="study",
        trainings=5,
        comparisons=16,
    ),
    "C09.stable": Claim(
        "The data's mean in the target lowers the distance of ECT, by a tenth or more",
        "neighbour",
        basis="study",
        trainings=5,
        comparisons=2,
    ),
    "C09.truncated": Claim(
        "At equal passes a second model for noisy times alone lowers it too (TCM)",
        "neighbour",
        verdict="opposite here",
        basis="study",
        trainings=5,
        comparisons=2,
    ),
    "C09.again": Claim(
        "With fresh noise after each, 128 jumps to the data are worse than 4",
        "kit",
        basis="study",
        trainings=5,
        comparisons=4,
    ),
    "C09.predicted": Claim(
        "The target needs the sample's velocity: the predicted one in its place is worse",
        "kit",
        basis="study",
        trainings=5,
        comparisons=10,
    ),
    "C09.scale": Claim(
        "A time scale of 1000 in the embedding harms improved MeanFlow, whose targets have a derivative",
        "kit",
        basis="study",
        trainings=5,
        comparisons=10,
    ),
    "C09.coupling": Claim(
        "Coupled noise lowers the one-step distance of improved MeanFlow",
        "kit",
        basis="study",
        trainings=5,
        comparisons=10,
    ),
    "C09.average": Claim(
        "Targets by an average instead of the current weights harm improved MeanFlow",
        "kit",
        verdict="not resolved",
        basis="study",
        trainings=5,
        comparisons=10,
    ),
    "C09.smooth": Claim(
        "The tangent by the network lowers the one-step distance (iMF)",
        "neighbour",
        verdict="not resolved",
        basis="study",
        trainings=5,
        comparisons=10,
    ),
    # 10 ImageNet-256: latents
    "C10.moments": Claim(
        "The stored moments are those of diffusers called directly, up to half precision",
        "kit",
        verdict="holds here",
        basis="drawn",
    ),
    "C10.flip": Claim(
        "The second row of an image is the encoding of its mirror image", "kit", verdict="holds here", basis="drawn"
    ),
    "C10.mirror": Claim(
        "Mirroring a latent is not encoding the mirror image: 5 % of the spread or more", "kit", basis="drawn"
    ),
    "C10.draws": Claim(
        "Latents drawn in training have the posterior's variance",
        "kit",
        verdict="holds here",
        basis="drawn",
        bound="given",
    ),
    "C10.scale": Claim(
        "Stored latents, with mirror images and in half precision, keep the standard deviation of 1 that the scaling "
        "factor was set to give, within 15 %",
        "kit",
        basis="drawn",
    ),
    "C10.posterior": Claim(
        "The posterior of the tiny VAE, narrow from the start, stays narrow: its deviation is at most a fifth of the "
        "spread of means",
        "kit",
        basis="drawn",
    ),
    "C10.same": exact(
        "One process, the shares of three, and a job stopped by an exception and resumed write the same latents, byte "
        "for byte",
        "kit",
    ),
    "C10.refuse": exact("Latents of another VAE or scale, truncated or altered ones are refused", "kit"),
    "C10.bytes": exact("Latents of ImageNet at 256 pixels, twice, with their deviations, are 42 GB", "kit"),
    # 11 ImageNet-256: the run
    "C11.parameters": exact("SiT-XL/2 has 675 M parameters", "neighbour"),
    "C11.passes": exact("A step of iSM takes 4/3 of the network passes of a step of flow matching", "kit"),
    "C11.killed": exact("A run that is killed and started again ends with the weights of one that was not", "kit"),
    "C11.logs": exact("A run that was killed leaves the logs of one that was not: no gap, nothing twice", "kit"),
    "C11.signal": Claim(
        "A scheduler's signal loses no step: the run ends with a checkpoint",
        "kit",
        verdict="holds here",
        basis="computed",
    ),
    "C11.processes": exact("One process ends where two do, within rounding", "kit"),
    # 12 ImageNet-256
    "C12.closed": exact("The Frechet distance of Gaussians that share axes is a sum over the axes", "kit"),
    "C12.bias": Claim(
        "The distance of n perfect samples in F equal features is F (F + 5) / 4n",
        "kit",
        verdict="holds here",
        basis="drawn",
    ),
    "C12.line": Claim("A line through subsets against 1/n removes at least half of that bias", "kit", basis="drawn"),
    "C12.processes": exact(
        "Two processes, one of them killed and resumed, leave the samples of one process, byte for byte", "kit"
    ),
    "C12.rounding": Claim(
        "In random features, floor moves photographs further than JPEG 75, 3 times or more", "kit", basis="drawn"
    ),
    "C12.jpeg": Claim(
        "JPEG 75 moves the distance of photographs 3 times as far as JPEG 95, or more", "kit", basis="drawn"
    ),
    "C12.resize": Claim(
        "Resizing without antialiasing moves it 10 times as far as another filter, or more", "kit", basis="drawn"
    ),
    "C12.fid1": Claim(
        "iSM reaches FID-50K 5.27 in one step on ImageNet-256 (SM: 10.60)",
        "paper",
        verdict="needs a GPU",
        bound="before",
    ),
    "C12.fid4": Claim(
        "iSM reaches FID-50K 2.05 in four steps on ImageNet-256 (SM: 7.80)",
        "paper",
        verdict="needs a GPU",
        bound="before",
    ),
    "C12.ladder": Claim(
        "Each of the four fixes lowers the one-step FID: 9.62, 8.49, 8.12, 7.97, 6.56",
        "paper",
        verdict="needs a GPU",
        bound="before",
    ),
}
