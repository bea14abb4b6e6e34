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
    # 02 shortcut models
    # 03 compounding guidance
    # 04 intrinsic guidance
    # 05 frequency bias and the wavelet loss
    # 06 curved paths and scaling OT
    # 07 twin EMA
    # 12 ImageNet-256
    "C12.fid1": Claim("iSM reaches FID-50K 5.27 in one step on ImageNet-256 (SM: 10.60)", "paper"),
    "C12.fid4": Claim("iSM reaches FID-50K 2.05 in four steps on ImageNet-256 (SM: 7.80)", "paper"),
    "C12.ladder": Claim("Each of the four fixes lowers the one-step FID: 9.62, 8.49, 8.12, 7.97, 6.56", "paper"),
}
