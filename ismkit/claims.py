"""Every claim that the kit tests or will test, in the order of the notebooks. Where each came out: the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: paper: iSM (arXiv 2510.21250) or its baseline states it. code: read in the public code of SM. kit: ours.
Source = Literal["paper", "code", "kit"]


@dataclass(frozen=True)
class Claim:
    """One claim, in one sentence, and who makes it."""

    statement: str
    source: Source


#: Keys name the notebook that tests the claim: ``C03.law`` is notebook 03's.
CLAIMS: dict[str, Claim] = {
    # 00 start here
    "C00.one_call": Claim("A guided one-step sample takes one network call", "paper"),
    "C00.free_w": Claim("The guidance strength is free per sample: a mixed batch equals samples drawn alone", "paper"),
    "C00.one_step": Claim("One step comes close to 128: at most 1.5 times its Frechet distance (w = 1)", "kit"),
    "C00.agreement": Claim("One-step samples show the class asked for (classifier agreement at w = 1)", "kit"),
    # 01 flow matching
    "C01.score": Claim("The marginal velocity follows from the score: v = (x + (1 - t) score) / t", "kit"),
    "C01.continuity": Claim("The marginal velocity carries the density of x_t along (continuity equation)", "kit"),
    "C01.mixture": Claim("Solving the ODE of the marginal velocity from noise gives the data's distribution", "paper"),
    "C01.curved": Claim("Conditional paths are straight, marginal ones curve: their median curvature is 2 or more", "paper"),
    "C01.learnt": Claim("A small network learns the exact field where data passes: relative error at most 0.2", "kit"),
    "C01.unseen": Claim("Where no data passes the learnt field is wrong: at least twice the relative error", "kit"),
    "C01.floor": Claim("The least flow-matching loss is the conditional variance of the velocity, not 0", "kit"),
    "C01.one_step": Claim("One Euler step of the marginal velocity gives the mean of the data from any noise", "paper"),
    "C01.order": Claim("The endpoint error of Euler steps halves when their number doubles", "kit"),
    # 02 shortcut models
    # 03 compounding guidance
    "C03.law": Claim("CFG at every doubling of the step compounds to 1.5^7 = 17.09 in one step (constant field)", "paper"),
    "C03.affine": Claim("The law is exact for affine fields whose linear part all labels share", "kit"),
    "C03.finest": Claim("SM's released code guides the finest doubling only: 1.5 at every step size", "code"),
    "C03.general": Claim("One step carries 1.5^7 = 17.09 of guidance whatever the data", "paper"),
    "C03.limit": Claim("One step carries 17.09 of guidance in the limit of classes that overlap completely", "kit"),
    "C03.clip": Claim("The clip at 4 in SM's code hides part of the blow-up", "kit"),
    "C03.ideal": Claim("Guidance carried by trained networks follows the exact targets at every level", "kit"),
    "C03.drift": Claim("One-step samples leave the data where every doubling is guided (2D)", "paper"),
    "C03.stays": Claim("One-step samples stay near the data where only the finest doubling is guided (2D)", "kit"),
    "C03.images": Claim("One-step images oversaturate where every doubling is guided", "paper"),
    "C03.images_finest": Claim("One-step images keep their contrast where only the finest doubling is guided", "kit"),
    # 04 intrinsic guidance
    # 05 frequency bias and the wavelet loss
    "C05.slope": Claim("The power of photographs falls with frequency about as f^-2 to f^-2.5", "kit"),
    "C05.transform": Claim("The kit's transform equals PyWavelets' periodised wavedec2", "kit"),
    "C05.parseval": Claim("With equal weights on all coefficients the squared wavelet distance is pixel L2", "kit"),
    "C05.band_mean": Claim(
        "Mean square per band, summed over bands, weighs a coefficient of level l by 4^l: it favours low frequencies",
        "kit",
    ),
    "C05.white_share": Claim("With that sum and 5 levels the finest level has 18.75 % of a white error, in L2 75 %", "kit"),
    "C05.averaging": Claim("Written with averages instead of orthonormal sums, the mean per band is exactly L2", "kit"),
    "C05.same_minimiser": Claim("Weights on squared errors leave the minimiser, the conditional mean, where it is", "kit"),
    "C05.median": Claim("A root or L1 per band moves the minimiser of random targets from the mean to a median", "kit"),
    # 06 curved paths and scaling OT
    "C06.assign": Claim("The library's assignment has the exact optimal transport cost of POT", "kit"),
    "C06.no_crossing": Claim("An exact assignment leaves no two paths that cross", "kit"),
    "C06.half": Claim("Half of all pairs cross where noise and data are independent", "kit"),
    "C06.estimate": Claim("The neighbours' estimate of the target variance meets the closed form of a mixture", "kit"),
    "C06.variance": Claim("Each larger pool K in 0, 1, 8, 32 lowers the variance of the targets", "paper"),
    "C06.curvature": Claim("Each larger pool K in 0, 1, 8, 32 straightens the sampling paths", "paper"),
    "C06.one_step": Claim("Each larger pool K in 0, 1, 8, 32 lowers the error of a single step", "paper"),
    "C06.leak": Claim("Plain OT moves the mean noise of a half-ring class to sqrt(2 / pi)", "kit"),
    "C06.information": Claim("Under plain OT the noise tells a half-ring class: ln 2 nats", "kit"),
    "C06.no_mean": Claim("Plain OT can leak the class without moving its mean noise", "kit"),
    "C06.aware": Claim("Class-aware OT leaves each class the noise that was drawn for it", "kit"),
    "C06.conditional": Claim("Plain OT ruins conditional samples", "kit"),
    "C06.hides": Claim("The training loss hides it: plain OT has the lower loss and the worse samples", "kit"),
    "C06.aware_gain": Claim("Class-aware OT draws better one-step conditional samples than independent noise", "kit"),
    "C06.guidance": Claim("Guidance (w = 2) hides the damage that plain OT does", "kit"),
    "C06.bound": Claim("OT over n points saves at most sqrt(2 ln n / D) of the cost of independent pairs", "kit"),
    "C06.dimension": Claim("The share of the cost that OT saves collapses with the dimension", "kit"),
    "C06.harm": Claim("The leak of class into noise does not shrink with the dimension", "kit"),
    # 07 twin EMA
    # 12 ImageNet-256
    "C12.fid1": Claim("iSM reaches FID-50K 5.27 in one step on ImageNet-256 (SM: 10.60)", "paper"),
    "C12.fid4": Claim("iSM reaches FID-50K 2.05 in four steps on ImageNet-256 (SM: 7.80)", "paper"),
    "C12.ladder": Claim("Each of the four fixes lowers the one-step FID: 9.62, 8.49, 8.12, 7.97, 6.56", "paper"),
}
