"""Every public name, called with what does not fit: a right result, or an error of the kit's own that says what.

Of an ordinary call one argument or two are mistaken: of another type, shape, value or device. ``CALLS`` holds the
ordinary calls, ``ELSEWHERE`` says of the other public names why they are not among them.
"""

import inspect
import io
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import ismkit
from ismkit import data, evaluation, lessons, method, models, neighbours, sweeps, training, utils
from ismkit.evaluation.judges import FeatureJudge, PointJudge, Setting
from ismkit.evaluation.metrics import Gaussian, Moments
from ismkit.lessons.closed_forms import ClassMixture, Mixture
from ismkit.method.guidance import TwoPassCFG
from ismkit.method.recipes import RECIPES
from ismkit.method.wavelet import l2
from ismkit.models.nets import ToyMLP
from ismkit.training.runs import RUNS
from tests.hostile import REFUSED, TRIES, outcome, says, spoilt


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X0, X1, Y = normal(4, 3), normal(4, 3, seed=1), torch.tensor([0, 1, 0, 1])
IMAGES, OTHERS = normal(2, 1, 4, 4), normal(2, 1, 4, 4, seed=1)
FEATURES = normal(8, 2)
T, D, W = torch.tensor([0.0, 0.25, 0.5, 0.75]), torch.full((4,), 0.25), torch.tensor([0.0, 0.5, 1.0, 2.0])
POINTS = data.Labelled(X0, Y, 2, ("a", "b"))
LABELLED_IMAGES = data.Labelled(torch.zeros(4, 1, 4, 4), torch.tensor([0, 1, 1, 1]), 2, ("a", "b"))
EYE = Gaussian(torch.zeros(2).double(), torch.eye(2).double())
GRID, ROWS = method.StepGrid(8), method.Rows(guidance=0.25, consistency=0.25, strengths=method.Strengths(1.0))
NET = ToyMLP(dim=3, width=8, depth=1, num_classes=2)
#: Apart from NET, which calls that train leave in training mode.
EXPORTED = ToyMLP(dim=3, width=8, depth=1, num_classes=2).eval()
TINY_AUTOENCODER = models.SmallAutoencoder((1, 8, 8), channels=2, widths=(8, 8), fill=0.0).eval()
CPU = torch.device("cpu")


FRAME = pd.DataFrame(
    [
        {"variant": v, "seed": k, "nfe": 1, "w": w, "n": 100, "noise": 0, "w2": k + w + 1.0}
        for v in "ab"
        for k in range(3)
        for w in (0.0, 1.0)
    ]
)
DRAWS = models.DiT(size=4, channels=1, patch=2, width=8, depth=1, heads=2, num_classes=2).eval()
with io.BytesIO() as file:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    PICTURE = file.getvalue()


class Decoded:
    """A decoder of latents of one channel, the grey values of images."""

    identity: ClassVar = {"sha256": "0", "name": "none", "revision": None, "scaling_factor": 1.0}
    factor = 1

    def decode(self, latents: Tensor) -> Tensor:
        return latents.tanh().repeat(1, 3, 1, 1)


def still(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """A network that answers 1."""
    return torch.ones_like(x)


def still_features(x: Tensor) -> Tensor:
    """Two features of a sample."""
    return x.flatten(1)[:, :2]


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Pictures:
    """No pictures: nothing of a job is done before it is begun."""

    units, images, class_names, left_alone, identity = 0, 0, (), (), {}

    def read(self, unit: int) -> Any:
        return iter(())


def many() -> data.Labelled:
    return MANY


def study(**options: Any) -> Any:
    return sweeps.run_study(f"{tempfile.mkdtemp(dir='.')}/study.json", **options)


def nothing_done() -> Any:
    yield from ()


MANY = data.Labelled(normal(40, 2), torch.arange(40) % 2, 2, ("a", "b"))
SHORT = replace(RUNS["gaussians"], load=many, steps=1, batch_size=16, net=partial(ToyMLP, width=8, depth=1))
TRIAL = sweeps.Trial("own", replace(SHORT, load=partial(data.two_moons, 64, 0)), 0, (Setting(1, 0.0, 20),))
SMALL = evaluation.load_extractor("small")


def saved() -> Path:
    models.save_model(ToyMLP(width=8, depth=1, num_classes=2), "saved.safetensors", {})
    return Path("saved.safetensors")


def without_processes(**options: Any) -> Any:
    """The sweep up to the processes that do it."""
    with (
        mock.patch("ismkit.sweeps.processes.started", return_value=nullcontext([])),
        mock.patch("ismkit.sweeps.processes.run", return_value=nothing_done()),
        mock.patch("ismkit.sweeps.cluster.run", return_value=nothing_done()),
    ):
        return sweeps.run_trials(progress=False, **options)


def encoded(job: Any, **options: Any) -> Any:
    """A job of two pictures, alone or before it is divided among processes."""
    if job is None:
        pictures = data.photo_folder(tempfile.mkdtemp(dir="."), per_class=1, side=16)
        for kind in ("coffee", "rocket"):
            shutil.rmtree(pictures / kind)
        source, vae = ismkit.imagenet.open_source([pictures]), ismkit.imagenet.write_tiny_vae(pictures / ".vae")
        job = ismkit.imagenet.Encoding(source, str(vae), Path(tempfile.mkdtemp(dir=".")), side=16, threads=1)
    with mock.patch("ismkit.imagenet.encoding._encode_in_processes", lambda job, workers, rank, world, tick: job.run()):
        return ismkit.imagenet.encode(job, progress=False, **options) or {"rows": 4}


Right = Callable[[Any, dict[str, Any]], Any]


class Call(NamedTuple):
    """An ordinary call: what is called, its arguments, and what must hold of the result; what else names them."""

    what: Callable[..., Any]
    given: dict[str, Any]
    right: Right = lambda found, given: True
    names: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()  # arguments that are never mistaken


def like(name: str) -> Right:
    """The result is a tensor of the shape and the device of an argument."""
    return lambda found, given: found.shape == given[name].shape and found.device == given[name].device


def per_row(name: str) -> Right:
    return lambda found, given: found.shape == given[name].shape[:1]


def finite(found: Any, given: dict[str, Any]) -> bool:
    return math.isfinite(found)


def share(found: Any, given: dict[str, Any]) -> bool:
    return all(0 <= part <= 1 for part in (found if isinstance(found, tuple) else (found,)))


def kept(found: Any, given: dict[str, Any]) -> bool:
    """The settings of a value are those given."""
    return all(getattr(found, name) is value or getattr(found, name) == value for name, value in given.items())


def store(**options: Any) -> utils.Store:
    return utils.Store(Path(options.pop("folder", "there")), {"model": "a"}, **options)


def kept_and_read(name: str, value: Any, tensors: Any) -> Any:
    kept = store()
    kept.write(name, value, tensors)
    return kept.read(name)


def moved(net: torch.nn.Module) -> torch.nn.Module:
    return net


def step(recipe: Any, net: Any, ema: Any, x0: Any, x1: Any, y: Any, null: Any, rng: Any) -> Any:
    return method.training_step(recipe, net, ema, (x0, x1, y), null, rng)


def rows_of(batches: data.Batches, **options: Any) -> Any:
    return next(batches.stream(**options))


CALLS: dict[str, Call] = {
    # ------------------------------------------------------------ neighbours
    "SigmoidCut": Call(neighbours.SigmoidCut, {"start": 0.1, "end": 0.9, "steepness": 20.0, "snap": 0.01}, kept),
    "ExponentialCut": Call(neighbours.ExponentialCut, {"first": 0.1, "last": 0.01}, kept),
    "HalvingCut": Call(neighbours.HalvingCut, {"stages": 4}, kept),
    "Gap": Call(neighbours.Gap, {"t_interval": 0.3, "own": True}, kept),
    "FixedScale": Call(neighbours.FixedScale, {"omega": 0.2, "kappa": 0.9, "start": 0.25, "end": 1.0}, kept),
    "Leap": Call(
        neighbours.Leap,
        {
            "first": "own",
            "cut": 0.5,
            "tangent": "net",
            "weight": 1.0,
            "clip": 4.0,
            "guide": neighbours.Gap(),
            "differences": 0.01,
        },
        kept,
    ),
    "Trained": Call(neighbours.Trained, {"path": "flow.safetensors", "sha256": "0" * 64}, kept),
    "TruncatedRows": Call(
        neighbours.TruncatedRows,
        {"consistency": 1.0, "to_data": 1.0, "boundary": 0.5, "at_boundary": 0.25, "logit": None},
        kept,
    ),
    "TruncatedRows()": Call(
        neighbours.TruncatedRows(consistency=1.0),
        {"x0": X0, "x1": X1, "y": Y, "null": 2, "generator": None},
        lambda found, given: found[0].x.shape == found[1].shape == given["x0"].shape,
        names=("a batch",),
    ),
    "Staged": Call(neighbours.Staged, {"first": NET, "second": still, "boundary": 0.5}),
    "Truncated": Call(
        neighbours.Truncated,
        {"first_stage": NET, "leap": neighbours.Leap(), "boundary": 0.5, "weight": 0.1},
        kept,
    ),
    "Anchored": Call(neighbours.Anchored, {"teacher": NET, "clip": 1.0, "relax": 1.0}, kept),
    "DualEnds": Call(neighbours.DualEnds, {"teacher": NET}, kept),
    "anchored_distance": Call(
        neighbours.anchored_distance,
        {"prediction": X0, "target": X1, "query": method.Query(X0, T, D, W, Y)},
        per_row("prediction"),
    ),
    "truncated": Call(
        neighbours.truncated,
        {"first_stage": NET, "boundary": 0.5},
        lambda found, given: found.rows.boundary == given["boundary"],
    ),
    "facm": Call(neighbours.facm, {"teacher": NET}, lambda found, given: found.target.teacher is given["teacher"]),
    "dual_end": Call(neighbours.dual_end, {"teacher": NET}),
    "guided": Call(
        neighbours.guided,
        {
            "recipe": neighbours.NEIGHBOURS["imf"],
            "gap": neighbours.Gap(),
            "share": 0.25,
            "strengths": method.Strengths(1.0),
        },
        lambda found, given: found.rows.guidance == given["share"],
    ),
    "Groups": Call(
        neighbours.Groups,
        {
            "label_dropout": 0.1,
            "drop_consistency": True,
            "grid": GRID,
            "time_scale": 10.0,
            "logit": (0.4, 1.0),
            "size": 2,
        },
        kept,
    ),
    "Groups()": Call(
        neighbours.Groups(size=2),
        {"x0": X0, "x1": X1, "y": Y, "null": 2, "generator": None},
        lambda found, given: found[0].x.shape == found[1].shape == given["x0"].shape,
        names=("a batch",),
    ),
    "OneStep": Call(
        neighbours.OneStep,
        {"label_dropout": 0.1, "drop_consistency": True, "strengths": method.Strengths(), "grid": GRID},
        kept,
    ),
    "OneStep()": Call(
        neighbours.OneStep(),
        {"x0": X0, "x1": X1, "y": Y, "null": 2, "generator": None},
        lambda found, given: found[0].x.shape == found[1].shape == given["x0"].shape,
        names=("a batch",),
    ),
    "Inductive": Call(neighbours.Inductive, {"k": 8, "eta_max": 80.0, "eta_min": 0.1, "b": 4.0, "a": 2.0}, kept),
    "Discrepancy": Call(neighbours.Discrepancy, {"size": 2, "sigma_data": 0.5, "kernel": "square", "eps": 1e-6}, kept),
    "Discrepancy()": Call(
        neighbours.Discrepancy(size=2),
        {"prediction": X0, "target": X1, "query": method.Query(X0, T, D, W, Y)},
        per_row("prediction"),
    ),
    "Drift": Call(neighbours.Drift, {"radii": (0.1, 1.0), "normalised": False, "levels": 1}, kept),
    "SinkhornDrift": Call(neighbours.SinkhornDrift, {"epsilon": 0.1, "iterations": 5}, kept),
    "drift": Call(
        neighbours.drift,
        {"x": X0, "attracting": X1, "repelling": X1, "radius": 0.5, "fits": None},
        like("x"),
        keep=("fits",),
    ),
    "FrechetTerm": Call(
        neighbours.FrechetTerm,
        {"mean": torch.zeros(2), "cov": torch.eye(2), "features": torch.tanh, "weight": 0.5},
        keep=("features",),
    ),
    "ClassReward": Call(neighbours.ClassReward, {"classifier": torch.tanh, "label": 1, "decode": torch.tanh}, kept),
    "Brightness": Call(neighbours.Brightness, {"decode": torch.tanh}, kept),
    "Ink": Call(neighbours.Ink, {"level": 0.1, "softness": -0.1, "decode": torch.tanh}, kept),
    "RewardTerm": Call(neighbours.RewardTerm, {"reward": neighbours.Ink(), "weight": 0.5}, kept),
    "Imitation": Call(neighbours.Imitation, {"network": still}, kept),
    "reward_tuning": Call(
        neighbours.reward_tuning,
        {"reference": still, "reward": neighbours.Ink(), "beta": 0.5},
        lambda found, given: found.weights[2] == given["beta"],
        names=("network",),
    ),
    "Aligned": Call(
        neighbours.Aligned,
        {"net": DRAWS, "block": 1, "dim": 4, "hidden": 8},
        lambda found, given: found.net is given["net"],
    ),
    "RepaTerm": Call(neighbours.RepaTerm, {"encoder": torch.tanh, "weight": 0.5}, kept),
    "NegativeClass": Call(neighbours.NegativeClass, {"net": still, "label": 1, "null": 2, "beta": 0.5}),
    "shifted": Call(neighbours.shifted, {"net": NET, "label": 1, "beta": 0.5}),
    # ------------------------------------------------------------ method
    "Auction": Call(method.Auction, {"epsilon": 0.1, "stop": 0.01, "exact": 512, "device": "cpu"}, kept),
    "Auction()": Call(
        method.Auction(exact=0),
        {"x0": X0, "x1": X1},
        lambda found, given: sorted(found) == list(range(len(given["x0"]))),
    ),
    "BakedIn": Call(method.BakedIn, {"cfg_scale": 1.5, "every_level": True, "clip": 4.0}, kept),
    "Coupling": Call(method.Coupling, {"pool": 2, "class_aware": True, "classes": 2, "solver": method.assign}, kept),
    "Coupling.couple": Call(method.Coupling(1).couple, {"x0": X0, "x1": X1, "y": Y}, like("x0")),
    "Coupling.first_batch": Call(method.Coupling(2).first_batch, {"step": 3}, lambda found, _: found % 2 == 0),
    "Intrinsic": Call(method.Intrinsic, {"t_interval": 0.3, "clip": 4.0, "predicted": False}, kept),
    "Intervals": Call(
        method.Intervals,
        {
            "guidance": 0.25,
            "consistency": 0.25,
            "label_dropout": 0.1,
            "drop_consistency": False,
            "strengths": method.Strengths(),
            "grid": GRID,
            "time_scale": 10.0,
            "logit": (0.4, 1.0),
            "to_data": 0.25,
            "from_noise": 0.25,
        },
        kept,
    ),
    "Intervals()": Call(
        method.Intervals(consistency=0.5),
        {"x0": X0, "x1": X1, "y": Y, "null": 2, "generator": None},
        lambda found, given: found[0].x.shape == found[1].shape == given["x0"].shape,
        names=("a batch",),
    ),
    "Normalised": Call(method.Normalised, {"distance": l2, "power": 0.5, "c": 1e-3}, kept),
    "Normalised()": Call(method.Normalised(l2), {"prediction": X0, "target": X1}, per_row("prediction")),
    "Query.take": Call(method.Query(X0, T, D, W, Y).take, {"rows": slice(0, 2)}, lambda found, _: len(found.x) < 5),
    "Recipe": Call(
        method.Recipe,
        {
            "name": "own",
            "rows": ROWS,
            "target": method.Intrinsic(),
            "weights": (1.0, 1.0, 1.0),
            "coupling": method.Coupling(),
            "distance": l2,
            "fast": 0.9,
            "slow": 0.99,
        },
        kept,
    ),
    "Recipe.loss": Call(
        RECIPES["ism"].loss, {"distance": torch.ones(8)}, lambda found, _: found.ndim == 0, names=("a batch",)
    ),
    "Rows": Call(
        method.Rows,
        {
            "guidance": 0.25,
            "consistency": 0.25,
            "label_dropout": 0.1,
            "drop_consistency": False,
            "strengths": method.Strengths(),
            "grid": GRID,
            "level_ratio": 1.0,
            "time_power": 1.0,
        },
        kept,
        names=("w_max",),
    ),
    "Rows()": Call(
        ROWS,
        {"x0": X0, "x1": X1, "y": Y, "null": 2, "generator": None},
        lambda found, given: found[0].x.shape == found[1].shape == given["x0"].shape,
        names=("a batch",),
    ),
    "Rows.blocks": Call(ROWS.blocks, {"batch": 8}, lambda found, given: found[2].stop == given["batch"]),
    "StepGrid": Call(method.StepGrid, {"n": 128}, kept),
    "StepGrid.step_size": Call(GRID.step_size, {"level": torch.tensor([1, 2, 3])}, like("level")),
    "StepGrid.half": Call(GRID.half, {"d": D}, lambda found, given: found[0].shape == given["d"].shape),
    "StepGrid.random_times": Call(GRID.random_times, {"d": D, "generator": None, "power": 1.0}, like("d")),
    "StepGrid.check_nfe": Call(GRID.check_nfe, {"nfe": 4}, lambda found, given: found * given["nfe"] == 1),
    "Strengths": Call(method.Strengths, {"w_max": 1.0, "step": 0.25}, kept),
    "Strengths.draw": Call(
        method.Strengths().draw,
        {"n": 4, "generator": None, "device": CPU, "guided": True},
        lambda found, given: found.shape == (given["n"],),
        keep=("device",),
    ),
    "TwinEMA": Call(method.TwinEMA, {"net": NET, "fast": 0.5, "slow": 0.9}),
    "TwinEMA.update": Call(method.TwinEMA(NET).update, {"net": NET}),
    "TwoPassCFG": Call(TwoPassCFG, {"net": still, "null": 2}),
    "WaveletDistance": Call(
        method.WaveletDistance, {"weights": (1.0, 1.0), "norm": "huber", "wavelet": "haar", "huber_c": 0.03}, kept
    ),
    "WaveletDistance()": Call(
        method.WaveletDistance((1.0, 0.5)),
        {"prediction": IMAGES, "target": OTHERS},
        per_row("prediction"),
        names=("WaveletDistance",),
    ),
    "assign": Call(method.assign, {"x0": X0, "x1": X1}, lambda found, given: len(found.unique()) == len(given["x0"])),
    "average_of_half_steps": Call(
        method.average_of_half_steps,
        {"field": lambda x, t, d: x, "x": X0, "t": T, "d": D, "grid": GRID, "clip": 4.0},
        like("x"),
    ),
    "cfg": Call(method.cfg, {"conditional": X0, "unconditional": X1, "cfg_scale": 1.5}, like("conditional")),
    "cfg of rows": Call(
        method.cfg, {"conditional": X0, "unconditional": X1, "cfg_scale": normal(4, 1)}, like("conditional")
    ),
    "dwt": Call(
        method.dwt,
        {"x": IMAGES, "levels": 2, "wavelet": "db2"},
        lambda found, given: len(found) % 3 == 1,
        names=("shape",),
    ),
    "geometric_weights": Call(
        method.geometric_weights, {"levels": 2, "ratio": 0.5}, lambda found, given: len(found) == given["levels"] + 1
    ),
    "idwt": Call(
        lambda low, bands, wavelet: method.idwt([*bands, low], wavelet),
        {"low": normal(1, 2, 2), "bands": [normal(1, 2, 2)] * 3, "wavelet": "haar"},
        lambda found, _: found.ndim >= 2,
        names=("bands",),
        keep=("bands",),
    ),
    "idwt of anything": Call(method.idwt, {"bands": [normal(1, 2, 2)] * 4, "wavelet": "haar"}),
    "interpolate": Call(
        method.interpolate, {"x0": X0, "x1": X1, "t": T}, lambda found, given: found[0].shape == given["x0"].shape
    ),
    "intrinsic_velocity": Call(
        method.intrinsic_velocity,
        {"velocity": X0, "gap": X1, "w": W, "t": T, "t_interval": 0.3},
        like("velocity"),
    ),
    "l2": Call(l2, {"prediction": X0, "target": X1}, per_row("prediction")),
    "draw_noise": Call(
        method.draw_noise,
        {"source": None, "shape": (4, 3), "generator": rng()},
        lambda found, given: found.shape == given["shape"],
    ),
    "sample": Call(method.sample, {"net": still, "x0": X0, "y": Y, "w": W, "nfe": 2, "grid": GRID}, like("x0")),
    "sample by times": Call(method.sample, {"net": still, "x0": X0, "y": Y, "times": (0.0, 0.3, 1.0)}, like("x0")),
    "sample with new noise": Call(
        method.sample,
        {"net": still, "x0": X0, "y": Y, "nfe": 2, "renoise": True, "generator": rng(), "source": None},
        like("x0"),
        names=("shape",),
    ),
    "solve": Call(
        method.solve,
        {"net": still, "x0": X0, "y": Y, "w": W, "method": "bosh3", "rtol": 0.1, "atol": 0.1},
        lambda found, given: found.samples.shape == given["x0"].shape and found.calls > 0,
    ),
    "shares": Call(
        method.shares, {"decay": 0.9, "updates": 3}, lambda found, given: len(found) == given["updates"] + 1
    ),
    "training_step": Call(
        step,
        {
            "recipe": RECIPES["ism_plus"],
            "net": NET,
            "ema": method.TwinEMA(NET),
            "x0": X0,
            "x1": X1,
            "y": Y,
            "null": 2,
            "rng": None,
        },
        lambda found, _: found[0].ndim == 0,
        names=("generator", "a batch", "row"),
        keep=("recipe", "net", "ema"),  # objects, which `fit` makes; the step is as short as the book shows it
    ),
    "trajectory": Call(
        method.trajectory,
        {"net": still, "x0": X0, "y": Y, "w": 1.0, "nfe": 2, "grid": GRID},
        lambda found, given: found.shape == (given["nfe"] + 1, *given["x0"].shape),
    ),
    "unit_weights": Call(
        method.unit_weights, {"weights": (1.0, 0.5, 0.5)}, lambda found, given: len(found) == len(given["weights"])
    ),
    # ------------------------------------------------------------ data
    "Batches": Call(
        data.Batches,
        {"data": POINTS, "batch_size": 2, "seed": 0, "num_workers": 0, "groups": data.ClassGroups(1, 2)},
        lambda found, given: found.batch_size == given["batch_size"],
        names=("x", "row"),
    ),
    "Batches.stream": Call(
        partial(rows_of, data.Batches(POINTS, 1, 0)),
        {"step": 1, "micro_batch": 0, "micro_batches": 2, "classes": 2},
        lambda found, _: len(found[0]) == 1,
    ),
    "ClassGroups": Call(data.ClassGroups, {"pool": 2, "classes": 2}, kept),
    "FashionAutoencoder.encode": Call(
        models.FashionAutoencoder().encode,
        {"images": normal(1, 1, 28, 28)},
        lambda found, _: found.shape[1:] == (4, 8, 8),
    ),
    "FashionAutoencoder.decode": Call(
        models.FashionAutoencoder().decode, {"latents": normal(1, 4, 8, 8)}, lambda found, _: found.shape[1] == 1
    ),
    "Labelled": Call(
        data.Labelled, {"x": X0, "y": Y, "num_classes": 2, "class_names": ("a", "b")}, kept, names=("y", "class_names")
    ),
    "Labelled.of": Call(
        data.Labelled.of,
        {"x": X0, "y": Y, "names": ("a", "b")},
        lambda found, given: len(found) == len(given["x"]) and found.x.isfinite().all(),
        names=("y",),
    ),
    "admit": Call(data.admit, {"data": X0}, lambda found, given: len(found) > 0, names=("x", "row")),
    "checkerboard": Call(data.checkerboard, {"n": 3, "seed": 0}, lambda found, given: len(found) == given["n"]),
    "eight_gaussians": Call(data.eight_gaussians, {"n": 3, "seed": 0}, lambda found, given: len(found) == given["n"]),
    "spirals": Call(data.spirals, {"n": 3, "seed": 0}, lambda found, given: len(found) == given["n"]),
    "two_moons": Call(data.two_moons, {"n": 3, "seed": 0}, lambda found, given: len(found) == given["n"]),
    "decode_picture": Call(data.decode_picture, {"data": b"none"}, names=("it",)),
    "fashion_mnist": Call(data.fashion_mnist, {"split": "tests"}),
    "emoji": Call(data.emoji, {"part": "test", "kind": "group"}, lambda found, _: found.num_classes in (9, 99)),
    "emoji_names": Call(data.emoji_names, {"part": "test"}, lambda found, _: len(found.names) == len(found.parts)),
    "cifar10": Call(data.cifar10, {"split": "test"}, names=("CIFAR-10",)),
    "Shift": Call(data.Shift, {"most": 1, "fill": 1.0}, kept),
    "Mirror": Call(data.Mirror, {"labels": (0, 2)}, kept),
    "balanced": Call(
        data.balanced,
        {"data": LABELLED_IMAGES, "per_class": 2, "seed": 0, "changes": (data.Shift(1),)},
        lambda found, given: found.y.bincount().tolist() == [given["per_class"]] * 2,
    ),
    "SmallAutoencoder": Call(
        models.SmallAutoencoder,
        {"shape": (1, 8, 8), "channels": 2, "widths": (8, 8), "fill": 0.0},
        names=("each number of shape",),
    ),
    "in_batches": Call(
        models.in_batches,
        {"function": torch.clone, "x": X0, "batch": 3, "progress": False},
        lambda found, _: len(found),
        keep=("progress",),
    ),
    "photograph": Call(data.photograph, {"name": "moon"}),
    "photographs": Call(
        data.photographs,
        {"n": 2, "side": 4, "seed": 0, "shrink": 2},
        lambda found, given: found.shape == (1, given["side"], given["side"]),
    ),
    "read_sheet": Call(
        lambda **options: data.read_sheet(data.write_png(OTHERS, "sheet.png", columns=2, scale=1), **options),
        {"side": 4, "gap": 1},
        lambda found, given: found.shape[2] == given["side"],
        names=("sheet.png",),
    ),
    "tile": Call(data.tile, {"images": IMAGES, "columns": 2}, lambda found, _: np.isfinite(found).all()),
    "write_png": Call(
        data.write_png,
        {"images": IMAGES, "path": "a.png", "columns": 2, "scale": 1},
        lambda found, _: Path(found).is_file(),
    ),
    # ------------------------------------------------------------ models
    "DiT": Call(
        models.DiT,
        {
            "size": 4,
            "channels": 1,
            "patch": 2,
            "width": 8,
            "depth": 1,
            "heads": 2,
            "num_classes": 2,
            "grid": GRID,
            "time_scale": 10.0,
        },
    ),
    "ToyMLP": Call(
        models.ToyMLP, {"dim": 2, "width": 8, "depth": 1, "num_classes": 2, "grid": GRID, "time_scale": 10.0}
    ),
    "draw_clothes": Call(
        models.draw_clothes,
        {"y": torch.tensor([0, 1]), "net": still, "w": 1.0, "nfe": 1, "seed": 0, "batch": 2},
        lambda found, given: found.shape == (len(given["y"]), 1, 28, 28),
    ),
    "draw_emoji": Call(
        models.draw_emoji,
        {"y": torch.tensor([0, 1]), "net": still, "w": 1.0, "nfe": 1, "seed": 0, "batch": 2},
        lambda found, given: found.shape == (len(given["y"]), 3, 32, 32),
    ),
    "draw_pictures": Call(
        models.draw_pictures,
        {"space": "emoji", "y": torch.tensor([0, 1]), "net": still},
        lambda found, given: found.shape == (len(given["y"]), 3, 32, 32),
    ),
    "draw_model": Call(
        models.draw_model,
        {
            "model": "ism_plus",
            "classes": [0, "Bag"],
            "n": 2,
            "w": 1.0,
            "nfe": 1,
            "times": None,
            "seed": 0,
            "decoder": None,
        },
        lambda found, given: found.samples.shape[1:] == (1, 28, 28) and len(found.samples) == len(found.y),
    ),
    "export": Call(
        lambda **options: models.export(path="net.pt2", **options),
        {"net": EXPORTED, "shape": (3,), "format": "torch", "half": False, "card": {"licence": "mine"}},
        lambda found, _: found.difference == 0,
    ),
    "export_decoder": Call(
        lambda **options: models.export_decoder(path="decoder.pt2", **options),
        {"autoencoder": TINY_AUTOENCODER, "format": "torch", "half": False},
        lambda found, _: found.difference == 0,
    ),
    "released": Call(models.released, {"name": "ism"}),
    "save_model": Call(
        lambda **options: models.load_model("m.safetensors", models.save_model(path="m.safetensors", **options)),
        {"net": NET, "card": {"seed": 0}, "dtype": torch.float32},
        lambda found, given: found[1] == json.loads(json.dumps(given["card"])),
    ),
    "save_weights": Call(
        lambda module, metadata: utils.save_weights(module, "w.safetensors", metadata), {"module": NET, "metadata": {}}
    ),
    "center_crop": Call(
        ismkit.imagenet.center_crop, {"data": PICTURE, "side": 4}, lambda found, given: found.shape[2] == given["side"]
    ),
    "photo_folder": Call(
        lambda **options: data.photo_folder(tempfile.mkdtemp(dir="."), **options),
        {"per_class": 1, "side": 16, "seed": 0},
    ),
    # ------------------------------------------------------------ training
    "Engine": Call(
        training.Engine,
        {"mode": "ddp", "precision": "no", "compile": False, "recompute": False, "micro_batches": 2},
        kept,
    ),
    "Logging": Call(
        training.Logging, {"tracker": "none", "log_every": 10, "vae": "sd-vae-ft-mse", "samples_every": 20}, kept
    ),
    "Optim": Call(
        training.Optim,
        {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1, "warmup": 2, "cooldown": 0.5, "clip": 1.0},
        kept,
    ),
    "Run": Call(
        training.Run,
        {
            "name": "own",
            "about": "",
            "load": lambda: POINTS,
            "net": partial(ToyMLP, dim=3),
            "adapt": lambda recipe: recipe,
            "recipe": RECIPES["ism_plus"],
            "steps": 2,
            "batch_size": 8,
            "optim": training.Optim(),
            "space": None,
        },
        kept,
    ),
    "Saving": Call(
        training.Saving,
        {"folder": "out", "save_every": 2, "resume": True, "from_step": 2, "model_every": 4, "accept": ("optim.lr",)},
        lambda found, given: found.save_every == given["save_every"],
    ),
    "named_run": Call(training.named_run, {"name": "gaussians"}, names=("run",)),
    "passes": Call(training.passes, {"recipe": RECIPES["ism"], "batch": 8}, names=("a batch",)),
    "row_cost": Call(training.row_cost, {"recipe": RECIPES["ism"], "batch": 8}, finite, names=("a batch",)),
    "equal_passes": Call(
        training.equal_passes,
        {"run": RUNS["gaussians"], "recipe": RECIPES["flow"], "share": 0.5},
        lambda found, given: found.recipe is given["recipe"],
    ),
    "step_flops": Call(
        training.step_flops,
        {
            "config": {"size": 8, "patch": 2, "channels": 4, "width": 16, "depth": 1},
            "recipe": RECIPES["ism"],
            "batch": 8,
        },
        finite,
        names=("a batch",),
    ),
    "change_run": Call(
        training.change_run, {"run": RUNS["gaussians"], "path": "steps", "value": "3"}, names=("steps", "setting")
    ),
    "fit": Call(
        partial(training.fit, progress=False),
        {
            "recipe": RECIPES["flow"],
            "net": NET,
            "batches": data.Batches(POINTS, 4, 0),
            "steps": 1,
            "optim": training.Optim(),
            "seed": 0,
            "engine": training.Engine(),
            "hooks": (),
        },
        lambda found, given: found.step == given["steps"],
    ),
    "train_run": Call(
        partial(training.train_run, progress=False),
        {
            "run": SHORT,
            "seed": 0,
            "data": MANY,
            "engine": training.Engine(),
            "saving": training.Saving("trained", resume=True),
            "hooks": (),
        },
        lambda found, given: found.step == given["run"].steps,
        names=("x", "row", "y"),
    ),
    "launch": Call(
        training.launch,
        {
            "run": SHORT,
            "seed": 0,
            "engine": training.Engine(),
            "saving": training.Saving("launched", resume=True),
            "logging": training.Logging(tracker="none"),
            "trackers": None,
            "hooks": (),
        },
        lambda found, given: found.step == given["run"].steps,
    ),
    "Tracking": Call(
        training.Tracking,
        {
            "open": lambda step: [],
            "rows": 8,
            "grid": GRID,
            "every": 2,
            "flops": 1e9,
            "devices": 1,
            "samples": None,
            "samples_every": 4,
            "settings": {},
        },
        kept,
    ),
    # ------------------------------------------------------------ imagenet
    "Encoding": Call(
        ismkit.imagenet.Encoding,
        {
            "source": Pictures(),
            "vae": "sd-vae-ft-mse",
            "folder": Path("latents"),
            "revision": None,
            "side": 256,
            "batch_size": 32,
            "threads": 1,
            "skip_corrupt": False,
        },
        kept,
    ),
    "encode": Call(
        encoded, {"job": None, "workers": 1, "rank": 0, "world": 1}, lambda found, given: found["rows"] == 4
    ),
    # ------------------------------------------------------------ evaluation
    "FeatureJudge": Call(
        evaluation.FeatureJudge,
        {"data": POINTS, "features": still_features, "device": CPU, "batch": 2, "source": None},
        keep=("device",),
        names=("x", "row"),
    ),
    "FeatureJudge.score": Call(
        FeatureJudge(POINTS, still_features, CPU).score,
        {"net": still, "setting": Setting(1, 0.0, 4)},
        lambda found, _: found["frechet"] >= -1e-9,
    ),
    "Moments": Call(
        evaluation.Moments, {"features": FEATURES}, lambda found, given: found.n == 0 or found.mean.isfinite().all()
    ),
    "Moments.merge": Call(lambda other: Moments(FEATURES).merge(other), {"other": Moments(FEATURES)}),
    "PointJudge": Call(evaluation.PointJudge, {"data": POINTS, "device": CPU}, keep=("device",), names=("x", "row")),
    "PointJudge.score": Call(
        PointJudge(POINTS, CPU).score, {"net": still, "setting": Setting(1, 0.0, 4)}, lambda found, _: found["w2"] >= 0
    ),
    "Setting.check": Call(lambda **setting: Setting(**setting).check(), {"nfe": 2, "w": 1.0, "n": 100, "seed": 0}),
    "bias": Call(
        evaluation.bias,
        {"features": FEATURES, "reference": EYE, "parts": (2, 1), "repeats": 2, "seed": 0},
        lambda found, _: math.isfinite(found.infinity),
        names=("subset",),
    ),
    "class_agreement": Call(evaluation.class_agreement, {"logits": X0, "y": Y}, share),
    "curvature": Call(evaluation.curvature, {"trajectory": normal(3, 2, 2)}, lambda found, _: (found > -1e-9).all()),
    "expected_bias": Call(evaluation.expected_bias, {"cov": torch.eye(2), "n": 10}, finite),
    "frechet": Call(evaluation.frechet, {"a": Moments(FEATURES), "b": EYE}, finite),
    "frechet of statistics": Call(
        lambda mean, cov: evaluation.frechet(Gaussian(mean, cov), EYE),
        {"mean": EYE.mean, "cov": EYE.cov},
        finite,
        names=("a.mean", "a.cov", "a"),
    ),
    "load_extractor": Call(evaluation.load_extractor, {"name": "large"}, names=("extractor",)),
    "precision_recall": Call(
        evaluation.precision_recall, {"generated": FEATURES, "real": FEATURES + 1, "k": 1}, share, names=("k",)
    ),
    "radial_spectrum": Call(evaluation.radial_spectrum, {"x": IMAGES}, lambda found, _: (found[1] >= 0).all()),
    "spectrum_error": Call(evaluation.spectrum_error, {"a": IMAGES, "b": OTHERS}, finite),
    "wasserstein2": Call(evaluation.wasserstein2, {"a": FEATURES, "b": FEATURES + 1}, finite),
    "draw": Call(
        lambda **options: len(evaluation.draw(DRAWS, Decoded(), folder="set", model={}, progress=False, **options)),
        {"setting": Setting(1, 0.0, 4), "batch": 2, "per_file": 3},
        lambda found, given: found == given["setting"].n,
        names=("nfe", "w", "n", "seed"),
    ),
    "make_reference": Call(
        lambda images, about, keep: evaluation.make_reference(
            [images], evaluation.load_extractor("small"), "r.safetensors", about, keep=keep, progress=False
        ),
        {"images": torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "about": {}, "keep": 10},
        lambda found, given: found.about["images"] == len(given["images"]),
    ),
    "evaluate": Call(
        lambda **options: evaluation.evaluate(saved(), judge=PointJudge(MANY, CPU), device="cpu", **options).rows,
        {"nfe": [1, 2], "w": [0.0, 1.0], "n": 20, "seed": 0},
        lambda found, given: len(found) == len(given["nfe"]) * len(given["w"]),
    ),
    "ImageJudge.check": Call(
        lambda **options: evaluation.ImageJudge(
            Decoded(), evaluation.fidelity.choose(["is"], "small"), {"small": SMALL}, {}, Path("judged"), {}
        ).check(**options),
        {"net": DRAWS, "settings": [Setting(1, 0.0, 10)]},
        names=("nfe", "n", "setting", "w"),
    ),
    # ------------------------------------------------------------ sweeps
    "run_trials": Call(
        without_processes,
        {"trials": [TRIAL], "folder": "sweep", "judge": None, "workers": 1, "gpus": 0.0, "address": None},
        lambda found, given: len(found) == 0,
    ),
    "run_study": Call(
        study,
        {"variants": {"own": RUNS["gaussians"]}, "seeds": [0, 1], "work": lambda run, seed: {"loss": 0.5}},
        lambda found, given: len(found) == len(given["variants"]) * len(set(given["seeds"])),
        names=("variants", "seed", "value"),
    ),
    "Sweep": Call(
        sweeps.Sweep,
        {
            "name": "own",
            "about": "",
            "runs": {"own": RUNS["gaussians"]},
            "seeds": (0,),
            "settings": (Setting(1, 0.0, 9),),
        },
    ),
    "against": Call(
        partial(sweeps.against, w=1.0),
        {"frame": FRAME, "reference": "b", "metric": "w2"},
        names=("frame", "w2", "metric", "reference"),
    ),
    "compare_pairs": Call(
        partial(sweeps.compare_pairs, within="w"),
        {"frame": FRAME, "pairs": [("a", "b")], "metric": "w2"},
        names=("frame", "w2", "metric", "variants"),
    ),
    "at_best": Call(sweeps.at_best, {"frame": FRAME, "metric": "w2"}, names=("frame", "metric")),
    "change_in_percent": Call(
        partial(sweeps.change_in_percent, w=1.0),
        {"frame": FRAME, "variant": "a", "reference": "b", "metric": "w2"},
        names=("frame", "w2", "metric", "variants"),
    ),
    "paired": Call(
        partial(sweeps.paired, w=1.0),
        {"frame": FRAME, "variants": ("a", "b"), "metric": "w2"},
        names=("frame", "w2", "metric"),
    ),
    "summary": Call(sweeps.summary, {"frame": FRAME, "metric": "w2"}, names=("frame", "metric")),
    "Trial": Call(
        sweeps.Trial,
        {
            "variant": "own",
            "run": RUNS["gaussians"],
            "seed": 0,
            "settings": (Setting(1, 0.0, 100),),
            "judge": PointJudge(POINTS, CPU),
        },
    ),
    "mean_interval": Call(
        sweeps.mean_interval,
        {"values": torch.arange(3.0), "level": 0.95},
        lambda found, _: all(map(math.isfinite, found)),
    ),
    "named_sweep": Call(
        sweeps.named_sweep,
        {
            "name": "gaussians",
            "recipes": ("ism",),
            "values": {"optim.lr": (1e-3, 2e-3)},
            "seeds": 2,
            "nfe": (1, 4),
            "w": (0.0,),
            "n": 100,
        },
        lambda found, _: len(found.trials()) == len(found.runs) * len(found.seeds),
        names=("recipe", "recipes", "parameter", "setting", "lr"),
    ),
    # ------------------------------------------------------------ lessons
    "ClassMixture": Call(lessons.ClassMixture, {"means": ((0.0, 1.0), (1.0, 0.0)), "classes": (0, 1), "std": 0.1}),
    "ClassMixture.draw": Call(
        ClassMixture(((0.0,), (1.0,)), (0, 1), 0.1).draw,
        {"n": 3, "seed": 0},
        lambda found, given: len(found) == given["n"],
    ),
    "ClassMixture.velocity": Call(
        ClassMixture(((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), (0, 1), 0.1).velocity, {"x": X0, "t": T, "y": Y}, like("x")
    ),
    "Ideal": Call(lessons.Ideal, {"velocity": still, "rule": method.Intrinsic(), "null": 2, "grid": GRID}),
    "Mixture": Call(lessons.Mixture, {"means": X0, "std": 0.1}),
    "Mixture.velocity": Call(Mixture(X0, 0.1).velocity, {"x": X1, "t": T}, like("x")),
    "class_information": Call(lessons.class_information, {"x0": X0, "y": Y, "k": 1}, finite, names=("k",)),
    "class_leak": Call(lessons.class_leak, {"x0": X0, "y": Y}, finite),
    "crossings": Call(lessons.crossings, {"x0": X0, "x1": X1}, share),
    "guidance_applied": Call(
        lessons.guidance_applied, {"guided": X0 + X1, "conditional": X0, "unconditional": X1}, finite
    ),
    "pair_variance": Call(
        lambda probes, x0, x1: lessons.pair_variance(probes, [(x0, x1), (X1, X0)]),
        {"probes": normal(2, 3), "x0": X0, "x1": X1},
        finite,
        names=("a pool", "pools"),
    ),
    "ring": Call(lessons.ring, {"modes": 3, "radius": 1.0}, lambda found, given: len(found) == given["modes"]),
    "target_variance": Call(lessons.target_variance, {"x": X0, "v": X1, "other_x": X1, "other_v": X0}, finite),
    "turned": Call(
        lessons.turned, {"x": FEATURES, "turns": 3}, lambda found, given: len(found) % int(given["turns"]) == 0
    ),
    "Ledger": Call(lessons.Ledger, {"notebook": "03", "profile": "smoke", "seed": 0, "device": "cpu"}),
    "Ledger.check": Call(
        lessons.Ledger("03", "smoke", 0).check,
        {
            "claim": "C03.law",
            "measured": 1.0,
            "expected": 1.0,
            "tolerance": 1e-3,
            "relation": "==",
            "half_width": 0.1,
        },
        names=("C03.law",),
    ),
    "Ledger.check of an interval": Call(
        lessons.Ledger("03", "smoke", 0).check,
        {"claim": "C03.law", "measured": 1.0, "expected": 1.0, "tolerance": 1e-3, "interval": (0.9, 1.2)},
        names=("C03.law", "interval"),
    ),
    "exercise": Call(lessons.exercise, {"name": "own", "answer": abs, "cases": [((-1,), 1)]}),
    "score_guess": Call(
        lessons.score_guess, {"guess": 1.0, "measured": 2.0, "what": "it", "scale": 1.0, "how": "measured"}
    ),
    # ------------------------------------------------------------ utils
    "Store.write": Call(
        kept_and_read,
        {"name": "0.safetensors", "value": {"a": 1}, "tensors": {"x": X0}},
        names=("name", "0.safetensors"),
    ),
    "change": Call(
        utils.change, {"settings": RUNS["gaussians"], "path": "optim.lr", "value": 0.1}, names=("optim.lr", "lr")
    ),
    "change of many": Call(
        lambda path, value: utils.change(RUNS["gaussians"], path, value),
        {"path": "recipe.coupling.pool", "value": 4},
        names=("recipe.coupling.pool", "pool", "setting"),
    ),
    "coerce": Call(utils.coerce, {"value": "3", "kind": int, "name": "n"}, names=("n",), keep=("kind", "name")),
    "describe": Call(utils.describe, {"value": training.Optim()}, names=("settings",)),
    "identity": Call(utils.identity, {"value": training.Optim(), "name": "optim"}, keep=("name",), names=("optim",)),
    "import_named": Call(utils.import_named, {"name": "math:pi", "what": "number"}, names=("number",), keep=("what",)),
    "json_sum": Call(utils.json_sum, {"value": {"a": 1}}, lambda found, _: len(found) == 64),
    "stream": Call(
        lambda seed, place: utils.stream(seed, place),
        {"seed": 0, "place": 1},
        lambda found, _: found.initial_seed() >= 0,
    ),
}
TYPED = "a type or a protocol: nothing to call"
ERROR = "an error"
READ = "its argument is a file, which test_hostile_files damages, or tests/models for the released ones"
WRITE = "it writes what it is given where it is told: places that cannot be written are tried in tests/utils/test_files"
PLACE = "its arguments are folders and names: what is not there, or of another kind, is tried in the test of its module"
RECORD = "a record that the kit fills itself"
INNER = "a part of a rule, which is called in each step: what it gets was admitted by the training step"
HANDED_ON = "it hands its arguments on: to Accelerate or tqdm, or to what is called above and in tests of its module"
NOTHING = "it has no argument, or uses none"
STARTS = "it starts processes, which takes seconds: mistakes are tried in tests/utils/test_workers and test_launcher"
PROGRAM = "its file is a program of the reader's, which Python runs: mistakes are tried in tests/lessons/test_workbook"
ELSEWHERE = {
    **dict.fromkeys(("Network", "Source", "TargetRule", "Term", "Guide", "StochasticDataset", "Distance"), TYPED),
    **dict.fromkeys(("Blocked", "Judge", "Change"), TYPED),
    **dict.fromkeys(("CheckpointError", "DataError", "WorkerError", "PictureError", "DivergenceError"), ERROR),
    **dict.fromkeys(("Preempted", "SweepError", "ClaimError", "ExportError", "CourseError"), ERROR),
    **dict.fromkeys(("read_weights", "load_weights", "load_model", "load_sampler", "load_reference"), READ),
    **dict.fromkeys(("load_autoencoder", "read_picture", "Latents", "SampleSet", "read_table", "open_source"), READ),
    **dict.fromkeys(("load_generator", "load_emoji_autoencoder", "load_gaussians", "verify_sha256"), READ),
    **dict.fromkeys(("replacing", "replacing_path", "write_table", "write_tiny_vae", "make_course"), WRITE),
    **dict.fromkeys(("export_npz", "export_png"), WRITE),
    **dict.fromkeys(("file_sum", "picture_files", "table", "scalars", "ImageFolder", "open_latents"), PLACE),
    **dict.fromkeys(("imagenet_latents", "small_vae", "fashion_latents", "emoji_latents"), PLACE),
    "Workbook": PROGRAM,
    **dict.fromkeys(("Mapped", "PictureFiles", "ImageVAE", "Reference", "Scores", "StepReport", "TrainState"), RECORD),
    **dict.fromkeys(("Answer", "Context", "Solution", "Exported", "Drawn", "Swept", "Space", "EmojiNames"), RECORD),
    **dict.fromkeys(("FashionJudge", "EmojiJudge", "SpaceJudge", "Claim", "KillAt"), RECORD),
    **dict.fromkeys(("ask", "derivative", "posterior_velocity", "one_step_samples"), INNER),
    **dict.fromkeys(("in_checkout", "out_dir", "velocity_target", "data_folders", "weights_file"), NOTHING),
    **dict.fromkeys(("accelerator", "progress_bar", "paper_tables", "ImageOptions", "run_sweeps"), HANDED_ON),
    **dict.fromkeys(("run_group", "launch_processes"), STARTS),
    "make_latents": HANDED_ON,
}


def public() -> Iterable[str]:
    for room in ismkit.__all__:
        if inspect.ismodule(module := getattr(ismkit, room)):
            yield from (name for name in module.__all__ if callable(getattr(module, name)))


def test_every_public_name_is_called_or_has_a_reason_not_to_be() -> None:
    called = {name.partition(" ")[0].partition(".")[0].removesuffix("()") for name in CALLS}
    public_names = {name for name in public() if not inspect.ismodule(getattr(ismkit, name, None))}
    assert public_names - called - ELSEWHERE.keys() == set()
    assert (called | ELSEWHERE.keys()) - public_names == set()
    assert called & ELSEWHERE.keys() == set()


@pytest.mark.parametrize("name", CALLS)
def test_the_ordinary_calls_are_right(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = CALLS[name]
    monkeypatch.chdir(tmp_path)
    found = outcome(lambda: call.what(**call.given), *call.given, *call.names)
    assert found is REFUSED or call.right(found, call.given)


@pytest.mark.parametrize("name", CALLS)
@given(st.data())
@settings(max_examples=TRIES, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_does_not_fit_is_right_or_refused_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: st.DataObject
) -> None:
    call = CALLS[name]
    monkeypatch.chdir(tmp_path)
    mistaken = drawn.draw(spoilt(call.given, call.keep))
    given = call.given | mistaken
    said: list[str] = []

    def called() -> Any:
        try:
            return call.what(**given)
        except Exception as error:
            said.append(str(error))
            raise

    found = outcome(called, *mistaken, *call.names)
    if found is REFUSED:
        assert len(mistaken) > 1 or says(said[0], next(iter(mistaken.values()))), said[0]
    else:
        assert call.right(found, given)
