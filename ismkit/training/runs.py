"""Runs as frozen values: data, network, recipe, optimiser and steps; the presets, and the call that trains one."""

from __future__ import annotations

import dataclasses
import glob
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ismkit.data import colour, sets
from ismkit.data.batches import Batches, ClassGroups
from ismkit.data.doors import admit
from ismkit.data.sets import Labelled
from ismkit.method.ema import TwinEMA
from ismkit.method.path import draw_noise
from ismkit.method.recipes import RECIPES, Recipe, checked, training_step
from ismkit.method.rows import Intervals
from ismkit.method.wavelet import Distance, Normalised, WaveletDistance, l2
from ismkit.models import spaces
from ismkit.models.nets import PRESETS, DiT, ToyMLP
from ismkit.neighbours.leap import Leap
from ismkit.neighbours.recipes import NAMED
from ismkit.training import distributed
from ismkit.training.checkpoint import saved_settings, saved_steps
from ismkit.training.costs import row_cost, sample_shape
from ismkit.training.loop import (
    FEW,
    Hook,
    Optim,
    TrainState,
    check_options,
    check_parts,
    check_query,
    fit,
    in_one_line,
    try_network,
    with_micro_batches,
)
from ismkit.training.options import Engine, Saving
from ismkit.utils.checks import as_integer, check_count, check_kind, check_name, check_number, named, shown
from ismkit.utils.files import expanded, out_dir
from ismkit.utils.keys import UNKEYED, identity, identity_sum
from ismkit.utils.seeding import stream
from ismkit.utils.settings import change, check_types, import_named
from ismkit.utils.weights import without_numbers


def _fashion_latents(count: int | None = None) -> Labelled:
    return spaces.fashion_latents(out_dir() / "cache", count)


def _emoji_latents(per_class: int = 600) -> Labelled:
    return spaces.emoji_latents(out_dir() / "cache", per_class)


def imagenet_latents(name: str, folder: str | os.PathLike[str] | None = None) -> Any:
    """The latents of an ImageNet run, a data set of ``(x, y)`` on disk.

    Args:
        name: of the latents: ``imagenet256``, ``imagenet512``, or ``imagenet-smoke``, which are made if missing.
        folder: where they are; by default ``$ISMKIT_LATENTS``, or ``out/latents/NAME``.

    Returns:
        The data set, an :class:`ismkit.imagenet.latents.Latents`.

    Raises:
        DataError: if none are there; the message says how to make them.

    Example:
        >>> from ismkit import DataError
        >>> from ismkit.training import imagenet_latents
        >>> try:
        ...     imagenet_latents("imagenet256", "no-such-folder")
        ... except DataError as error:
        ...     print(str(error).partition(",")[0])
        no latents of imagenet256 at no-such-folder: make them with `ismkit latents IMAGES --out no-such-folder`

        Latents of photographs, which take some ten seconds to make:

        >>> data = imagenet_latents("imagenet-smoke")  # doctest: +SKIP
        >>> len(data), data.shape, data.num_classes  # doctest: +SKIP
        (96, (4, 32, 32), 4)
    """
    from ismkit.imagenet import data

    place = folder or os.environ.get("ISMKIT_LATENTS") or out_dir() / "latents" / name
    return data.open_latents(name, expanded(place))


def for_points(recipe: Recipe) -> Recipe:
    """The recipe for data without pixels: a wavelet distance becomes plain L2.

    Of the neighbours, a normalised distance becomes plain too, and times are uniform. Divided by a power of itself, a
    distance has its minimum off the mean, by as much as the spread of the velocity where this has few dimensions; and
    times with a normal logit are hardly ever 0, where one step starts (both in tests/neighbours). What a normalised
    distance also did, it weighed up small residuals: those of a small cut c are of its order, so plain squares are
    divided by c.
    """
    rows = recipe.rows
    if isinstance(rows, Intervals) and isinstance(recipe.distance, Normalised):
        recipe = dataclasses.replace(recipe, distance=recipe.distance.distance)
        if isinstance(recipe.target, Leap) and recipe.target.cut != 0:
            recipe = dataclasses.replace(recipe, target=dataclasses.replace(recipe.target, weight=-1.0))
    if isinstance(rows, Intervals) and rows.logit is not None:
        recipe = dataclasses.replace(recipe, rows=dataclasses.replace(rows, logit=None))
    return _with_distance(recipe, lambda wavelet: l2)


def _with_distance(recipe: Recipe, adapt: Callable[[WaveletDistance], Distance]) -> Recipe:
    """The recipe with its wavelet distance, which may be a normalised one, adapted; others stay as they are."""
    distance = recipe.distance
    if isinstance(distance, Normalised) and isinstance(distance.distance, WaveletDistance):
        fitting: Distance = dataclasses.replace(distance, distance=adapt(distance.distance))
    else:
        fitting = adapt(distance) if isinstance(distance, WaveletDistance) else distance
    return recipe if fitting == distance else dataclasses.replace(recipe, distance=fitting)


def for_side(recipe: Recipe, side: int) -> Recipe:
    """The recipe for fields of ``side`` x ``side``: a wavelet distance keeps at most the levels that fit.

    The levels that remain keep their weights; where some go, the low-pass band, which now holds them, gets the weight
    of the coarsest level left, so that ``geometric_weights`` stay geometric.
    """

    def fewer(distance: WaveletDistance) -> WaveletDistance:
        levels = min(distance.levels, (side - 1).bit_length())
        if levels == distance.levels:
            return distance
        return dataclasses.replace(distance, weights=(*distance.weights[:levels], distance.weights[levels - 1]))

    return _with_distance(recipe, fewer)


def for_imagenet(recipe: Recipe, side: int) -> Recipe:
    """The recipe for latents of ``side`` x ``side`` in 1000 classes: noise is coupled within classes, in wide pools.

    The paper's pool of 8192 rows holds 8 of a class, among which assignment saves 1.9 % of the cost; one of 32 768
    holds 33 and saves 2.9 %, and the noise still says nothing about the class (book: pools of many classes). That is
    K = 128 for one micro-batch of 256 rows in a step: K counts micro-batches, so with n in a step take n times as many.
    """
    coupling = recipe.coupling
    if coupling.pool:
        coupling = dataclasses.replace(coupling, pool=_POOL_OF_A_THOUSAND_CLASSES, class_aware=True)
    return for_side(dataclasses.replace(recipe, coupling=coupling), side)


# [D]; K = 32 [S], and how classes enter is not said. For one micro-batch in a step: 256 rows each are meant.
_POOL_OF_A_THOUSAND_CLASSES = 128


@dataclass(frozen=True)
class Run:
    """All that a training run consists of.

    Attributes:
        name: as on the command line.
        about: one line for the list of runs.
        load: makes the training set, anything that :func:`ismkit.data.doors.admit` admits; that of an ImageNet run
            takes the folder of the latents, if not the default.
        net: makes the network, given ``num_classes``, and ``grid`` and ``time_scale`` of the recipe if it takes them.
        adapt: fits a recipe of ``RECIPES`` to this data.
        recipe: the method.
        steps: optimiser steps.
        batch_size: rows per optimiser step, over all processes and micro-batches.
        optim: optimiser and schedule.
        space: of which small latent space samples are, to be decoded, scored and drawn: a key of
            :data:`ismkit.models.spaces.SPACES`, or None for points, and for pictures of your own.

    Raises:
        ValueError: for fewer than one step or row.

    Example:
        A run on data of your choice:

        >>> import dataclasses, tempfile
        >>> from functools import partial
        >>> from ismkit import RECIPES, Run, Saving, ToyMLP, train_run, two_moons
        >>> from ismkit.training.runs import for_points
        >>> run = Run(
        ...     name="moons",
        ...     about="two moons in the plane, in seconds",
        ...     load=partial(two_moons, 512, 0),
        ...     net=partial(ToyMLP, width=16, depth=1),
        ...     adapt=for_points,
        ...     recipe=for_points(RECIPES["ism"]),
        ...     steps=3,
        ...     batch_size=64,
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     state = train_run(run, saving=Saving(folder), progress=False)
        >>> state.step
        3

        Each seed and each change of a setting has another folder:

        >>> longer = dataclasses.replace(run, steps=6)
        >>> len({run.folder(seed=0), run.folder(seed=1), longer.folder(seed=0)})
        3

        Its network is built for the classes of the data; this run has not been trained here with other settings:

        >>> run.build(num_classes=2).num_classes, run.other_folders()
        (2, {})
    """

    name: str = field(metadata=UNKEYED)
    about: str = field(metadata=UNKEYED)
    load: Callable[..., Labelled]
    net: Callable[..., nn.Module]
    adapt: Callable[[Recipe], Recipe] = field(metadata=UNKEYED)  # makes other runs of this one
    recipe: Recipe
    steps: int
    batch_size: int
    optim: Optim = field(default_factory=Optim)
    space: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("load", "net", "adapt"):
            if not callable(getattr(self, name)):
                raise ValueError(f"{name} must be a function, as in RUNS, got {shown(getattr(self, name))}")
        if self.space is not None:
            check_name("space", self.space, spaces.SPACES)
        for name in ("steps", "batch_size"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))

    def build(self, num_classes: int, seed: int = 0) -> nn.Module:
        """The network with initial weights drawn from ``seed`` (the global generator is left alone).

        One that takes a ``grid`` or a ``time_scale`` gets those of the recipe's rows, unless ``net`` names them.

        Raises:
            ValueError: for a ``net`` that takes no ``num_classes``, or that needs more.
        """
        signature = inspect.signature(self.net)
        open_arguments = signature.parameters.keys() - getattr(self.net, "keywords", {}).keys()
        of_rows: dict[str, Any] = {
            name: getattr(self.recipe.rows, name) for name in ("grid", "time_scale") if name in open_arguments
        }
        try:
            signature.bind(num_classes=num_classes, **of_rows)
        except TypeError as error:
            name = f"{named(self.net)}{signature}"
            raise ValueError(
                f"net must be built from {' and '.join(('num_classes', *of_rows))} alone, {name} cannot: {error}; give "
                "what else it needs by functools.partial, or as settings net.NAME"
            ) from error
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(as_integer(seed))  # torch.manual_seed would reset a GPU's, too
            return self.net(num_classes=num_classes, **of_rows)

    @property
    def takes_latents(self) -> bool:
        """Whether the data are latents of ImageNet or of your own images, in a folder that can be named."""
        return getattr(self.load, "func", self.load) is imagenet_latents

    def folder(self, seed: int = 0) -> Path:
        """Where this run's checkpoints go: ``out/runs/NAME-SEED-...``, another one for other settings.

        Raises:
            ValueError: for settings that cannot be told from others, such as a lambda; the message names them.
        """
        return out_dir() / "runs" / f"{self.name}-{as_integer(seed)}-{identity_sum(self)[:8]}"

    def other_folders(self, seed: int = 0) -> dict[Path, dict[str, tuple[Any, Any]]]:
        """The other folders in ``out/runs`` of this name and seed with checkpoints, those with fewest changes first.

        Each has its settings of recipe, optimiser and length that are others here: (there, here), None for no such
        setting. Those of network and data are not compared.
        """
        here = {**identity({"recipe": self.recipe, "optim": self.optim}), "steps": self.steps}
        found: dict[Path, dict[str, tuple[Any, Any]]] = {}
        for folder in sorted((out_dir() / "runs").glob(f"{glob.escape(self.name)}-{as_integer(seed)}-*")):
            if folder != self.folder(seed) and saved_steps(folder):
                there = saved_settings(folder)
                pairs = {name: (there.get(name), here.get(name)) for name in {**here, **there}}
                found[folder] = {
                    name: (a, b)
                    for name, (a, b) in pairs.items()
                    if a != b and name.partition(".")[0] in ("recipe", "optim", "steps")
                }
        return dict(sorted(found.items(), key=lambda item: len(item[1])))


_GAUSSIANS = Run(
    name="gaussians",
    about="eight Gaussians in the plane, one class each: about two minutes on one CPU core",
    load=partial(sets.eight_gaussians, 20_000, 0),
    net=partial(ToyMLP, width=128, depth=3),
    adapt=for_points,
    recipe=for_points(RECIPES["ism"]),
    steps=2000,
    batch_size=256,
    optim=Optim(lr=2e-3, weight_decay=0.0, warmup=100, cooldown=0.5, clip=1.0),
)
_LAPTOP = Run(
    name="fashion-laptop",
    about="Fashion-MNIST in the small latent space: about four minutes on two CPU cores",
    load=_fashion_latents,
    net=partial(ToyMLP, dim=256, width=512, depth=4),
    adapt=partial(for_side, side=8),
    recipe=for_side(RECIPES["ism"], side=8),
    steps=1200,
    batch_size=256,
    optim=Optim(lr=1e-3, weight_decay=0.01, warmup=50, cooldown=0.5, clip=1.0),
    space="clothes",
)
_FASHION = dataclasses.replace(
    _LAPTOP,
    name="fashion",
    about="the released generators: a smaller network trained for longer, about 10 minutes of one CPU core",
    net=partial(ToyMLP, dim=256, width=352, depth=2),
    recipe=for_side(RECIPES["ism_plus"], side=8),
    steps=6000,
    optim=dataclasses.replace(_LAPTOP.optim, lr=2e-3),
)
_SMOKE = dataclasses.replace(
    _LAPTOP,
    name="fashion-smoke",
    about="the same code in seconds, to see that it runs: nothing is learnt",
    load=partial(_fashion_latents, 2000),
    net=partial(ToyMLP, dim=256, width=32, depth=1),
    steps=20,
    batch_size=32,
)


_EMOJI = dataclasses.replace(
    _LAPTOP,
    name="emoji",
    about="the released generator of emoji, in colour: about half an hour of one CPU core",
    load=_emoji_latents,
    net=partial(ToyMLP, dim=512, width=352, depth=3),
    recipe=for_side(RECIPES["ism_plus"], side=8),
    steps=24_000,
    optim=dataclasses.replace(_LAPTOP.optim, lr=2e-3, warmup=200),
    space="emoji",
)
_CIFAR10 = Run(
    name="cifar10",
    about="CIFAR-10 in pixels with a DiT-S/2, for a GPU; fetch it once by ismkit.cifar10('train', download=True)",
    load=partial(colour.cifar10, "train"),
    net=partial(DiT, size=32, channels=3, patch=2, **PRESETS["S"]),  # type: ignore[arg-type]
    adapt=partial(for_side, side=32),
    recipe=for_side(RECIPES["ism_plus"], side=32),
    steps=200_000,
    batch_size=256,
    optim=Optim(lr=1e-4, weight_decay=0.0, warmup=1000, cooldown=0.0, clip=1.0),
)


def _sit(size: str, side: int) -> Callable[..., nn.Module]:
    """SiT-S/2 to -XL/2 for latents of ``side`` x ``side`` x 4, without its number of classes."""
    shape: dict[str, Any] = {**PRESETS[size]}
    return partial(DiT, size=side, channels=4, patch=2, **shape)


# The paper's run [S], where it says what it did; what it does not say is as in the public SM code [SM] or ours [D].
_XL2 = Run(
    name="imagenet256-xl2",
    about="SiT-XL/2 on ImageNet-256, the paper's run: by a model 124 hours of an H100",
    load=partial(imagenet_latents, "imagenet256"),
    net=_sit("XL", 32),  # 32 x 32 x 4 latents of sd-vae-ft-mse [S]
    adapt=partial(for_imagenet, side=32),
    recipe=for_imagenet(RECIPES["ism"], side=32),  # 5 wavelet levels, averages 0.95 and 0.9999, w to 3.5 [S];
    steps=800_000,  # [S]                            label dropout 0.1 [SM]; fractions of rows 1/2, 1/4, 1/4 [D]
    batch_size=256,  # [SM]; over all processes and micro-batches
    optim=Optim(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1, warmup=0, cooldown=0.0),  # constant rate [SM]
)
_L2, _B2, _S2 = (
    dataclasses.replace(
        _XL2,
        name=f"imagenet256-{size.lower()}2",
        about=f"SiT-{size}/2 in place of XL/2, all else the same",
        net=_sit(size, 32),
    )
    for size in ("L", "B", "S")
)
_512 = dataclasses.replace(
    _XL2,
    name="imagenet512-xl2",
    about="SiT-XL/2 on 64 x 64 x 4 latents of 512 px (the paper trains FlowDCN there, for as many steps)",
    load=partial(imagenet_latents, "imagenet512"),
    net=_sit("XL", 64),  # [D]
    adapt=partial(for_imagenet, side=64),
    recipe=for_imagenet(RECIPES["ism"], side=64),
    steps=300_000,  # [S]
)
_IMAGENET_SMOKE = dataclasses.replace(
    _XL2,
    name="imagenet-smoke",
    about="the same code on latents of photographs with a DiT of two blocks, in seconds: nothing is learnt",
    load=partial(imagenet_latents, "imagenet-smoke"),
    adapt=partial(for_side, side=32),
    recipe=for_side(RECIPES["ism"], side=32),  # four classes: pools of any size hold enough of each
    net=partial(DiT, size=32, channels=4, patch=4, width=32, depth=2, heads=2),
    steps=30,
    batch_size=16,
    optim=dataclasses.replace(_XL2.optim, lr=2e-3),  # else nothing moves in 30 steps
)

#: The runs that ``ismkit train`` and the notebooks know by name.
RUNS: dict[str, Run] = {
    run.name: run
    for run in (
        _GAUSSIANS,
        _SMOKE,
        _LAPTOP,
        _FASHION,
        _EMOJI,
        _CIFAR10,
        _IMAGENET_SMOKE,
        _S2,
        _B2,
        _L2,
        _XL2,
        _512,
    )
}


MODULE_ATTRIBUTE = "module:attribute"  # how what is no preset is named, see :func:`ismkit.utils.settings.import_named`


def named_run(name: str) -> Run:
    """The run of ``RUNS`` with a name, or one of your own by ``module:attribute``.

    Args:
        name: such as ``fashion-laptop``; with a colon, what :func:`ismkit.utils.settings.import_named` imports.

    Returns:
        The run.

    Raises:
        ValueError: for another name, the message lists them; for what cannot be imported, or is no run.

    Example:
        >>> from ismkit import named_run
        >>> named_run("gaussians").steps
        2000
        >>> named_run("ismkit:Run")
        Traceback (most recent call last):
            ...
        ValueError: run ismkit:Run must be a Run, got the class Run
    """
    if isinstance(name, str) and ":" in name:
        return import_named(name, "run", Run)
    check_name("run", name, [*RUNS, MODULE_ATTRIBUTE])
    return RUNS[name]


def named_recipe(name: str) -> Recipe:
    """The recipe of ``NAMED`` with a name, or one of your own by ``module:attribute``; ValueError for another."""
    if isinstance(name, str) and ":" in name:
        return import_named(name, "recipe", Recipe)
    check_name("recipe", name, [*NAMED, MODULE_ATTRIBUTE])
    return NAMED[name]


def change_run(run: Run, path: str, value: Any) -> Run:
    """A run with one setting changed by its path, as :func:`ismkit.utils.settings.change` does.

    Args:
        run: a value of ``RUNS`` or your own.
        path: such as ``optim.lr`` or ``recipe.coupling.pool``; of the recipe as a whole ``recipe``.
        value: the new value, or a text that is read as the type of the setting, ``module:attribute`` where that has
            none; for ``recipe`` also a name of ``NAMED``. A recipe by its name is adapted to the data of the run.

    Returns:
        The changed run.

    Raises:
        ValueError: as ``change``; for a recipe that does not exist.

    Example:
        >>> from ismkit import RUNS, change_run
        >>> run = change_run(RUNS["gaussians"], "recipe", "ism_plus")
        >>> change_run(run, "optim.lr", "1e-3").optim.lr, run.recipe.name
        (0.001, 'ism_plus')
    """
    check_kind("run", run, Run)
    if isinstance(path, str) and path == "recipe" and isinstance(value, str):
        return dataclasses.replace(run, recipe=run.adapt(named_recipe(value)))
    if isinstance(path, str) and path.startswith("net.grid.") and not getattr(run.net, "keywords", {}).get("grid"):
        raise ValueError(f"{path} has no value: the network takes the grid of the recipe, recipe.rows.grid.n")
    return change(run, path, value)


def equal_passes(run: Run, recipe: Recipe, share: float = 1.0) -> Run:
    """A run with another recipe, and as many steps as cost what the run's own do.

    The cost is that of :func:`~ismkit.training.costs.row_cost` for samples of the run's shape: so methods are compared
    at equal network passes, derivatives, terms and teachers included. What a step does besides, such as an assignment,
    is not counted: report seconds too. The shape is that of the run's ``space``, or of its network if this is a
    ``DiT``; of another run the data are loaded for it.

    Args:
        run: the run to be equalled.
        recipe: the other method, as it is to be trained: see ``run.adapt``.
        share: of the passes, where a teacher's training takes the rest.

    Returns:
        The run with the recipe and its number of steps.

    Raises:
        TypeError: if ``run`` or ``recipe`` is none.
        ValueError: if ``share`` is not above 0, or one of the recipes makes no step with the run's samples.

    Example:
        Flow matching makes four steps where iSM makes three:

        >>> from ismkit import RECIPES, RUNS
        >>> from ismkit.training import equal_passes
        >>> RUNS["gaussians"].steps, equal_passes(RUNS["gaussians"], RECIPES["flow"]).steps
        (2000, 2667)
    """
    check_kind("run", run, Run)
    check_number("share", share, "above 0", 1e-300)
    check_kind("recipe", recipe, Recipe)
    samples = shape_and_classes(run)
    own, other = (row_cost(method, run.batch_size, *samples) for method in (run.recipe, recipe))
    return dataclasses.replace(run, recipe=recipe, steps=max(1, round(share * own / other * run.steps)))


def shape_and_classes(run: Run) -> tuple[tuple[int, ...], int]:
    """The shape of a run's samples, and how many classes they have: without its data where the run says it."""
    if run.space is not None:
        return spaces.SPACES[run.space].shape, spaces.SPACES[run.space].num_classes
    if (config := transformer_config(run, 1)) is not None:  # its data may be on another machine
        return sample_shape(config), 1
    batches = Batches(loaded(run.load), 1, 0)
    x, _ = next(batches.stream())
    return tuple(x.shape[1:]), batches.num_classes or 1


def transformer_config(run: Run, num_classes: int) -> dict[str, Any] | None:
    """The shape of the run's network if that is a ``DiT``, without building it; None for other networks."""
    if getattr(run.net, "func", run.net) is not DiT:
        return None
    with without_numbers():
        net = run.net(num_classes=num_classes)
    return net.config if isinstance(net, DiT) else None


def train_run(
    run: Run,
    seed: int = 0,
    *,
    data: Any = None,
    engine: Engine | None = None,
    saving: Saving | None = None,
    hooks: Sequence[Hook] = (),
    progress: bool | None = None,
    accelerator: Accelerator | None = None,
    check: Callable[[nn.Module], object] = lambda net: None,
) -> TrainState:
    """Train a run in its folder, or resume it there: load its data, build its network, fit.

    Args:
        run: a value of ``RUNS`` or your own.
        seed: of weights, data order and noise.
        data: the training set, where it is loaded already; anything that :func:`ismkit.data.doors.admit` admits.
        engine: as in :func:`ismkit.training.loop.fit`; the rows of a step are split into its micro-batches.
        saving: as in :func:`ismkit.training.loop.fit`, but that ``folder`` is by default ``run.folder(seed)``; by
            default the run resumes what is there, and one that is finished is loaded, not trained again.
        hooks: as in :func:`ismkit.training.loop.fit`.
        progress: as in :func:`ismkit.training.loop.fit`.
        accelerator: Accelerate's, where there is one already.
        check: called with the network when it is built; what it raises ends the call before step 1.

    Returns:
        The final state; sample with ``state.ema.slow``. Its ``losses`` are those of this call alone.

    Raises:
        TypeError: for data of no kind that is admitted, and an argument of another type.
        ValueError: if the rows of a step cannot be split so, or the data cannot be trained on or does not say how many
            classes it has, or memory cannot hold the training (:func:`check_memory`), before the network is built; for
            a network that does not take the samples, before step 1; for settings that cannot be told from others, see
            :func:`ismkit.utils.keys.identity`, before data are loaded.

    Example:
        >>> import dataclasses, tempfile
        >>> from ismkit import RUNS, Saving, train_run
        >>> run = dataclasses.replace(RUNS["gaussians"], steps=2, batch_size=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     state = train_run(run, saving=Saving(folder), progress=False)
        >>> state.step
        2
    """
    check_kind("run", run, Run)
    _, engine, saving = check_options(None, engine, Saving(resume=True) if saving is None else saving, hooks)
    saving = dataclasses.replace(saving, folder=saving.folder or run.folder(seed))
    accelerator = accelerator or distributed.accelerator(engine.mode, engine.precision)
    engine = with_micro_batches(engine, saving, accelerator)
    net, batches = _parts(run, seed, data, engine.micro_batches or 1, _together(engine, accelerator))
    check(net)
    return fit(
        run.recipe,
        net,
        batches,
        steps=run.steps,
        optim=run.optim,
        seed=seed,
        engine=engine,
        saving=saving,
        hooks=hooks,
        progress=progress,
        accelerator=accelerator,
    )


def check_run(run: Run, data: Any = None) -> Any:
    """Refuse a run that cannot be trained, without training it: for callers that start many, such as a sweep.

    It asks what :func:`train_run` asks before step 1, and tries a step on a few rows, whose weights are thrown away.

    Args:
        run: a value of ``RUNS`` or your own.
        data: the training set, where it is loaded already; anything that :func:`ismkit.data.doors.admit` admits.

    Returns:
        The training set as it is admitted, for the next run with the same.

    Raises:
        ValueError: as :func:`train_run` and :func:`ismkit.training.loop.fit`; for a network that does not take the
            samples or does not fit into memory (:func:`check_memory`), or a recipe that makes no step with it.

    Example:
        >>> from ismkit import RUNS, change_run
        >>> from ismkit.training.runs import check_run
        >>> data = check_run(RUNS["gaussians"])
        >>> len(data)
        20000
        >>> check_run(change_run(RUNS["gaussians"], "net.dim", 3), data)
        Traceback (most recent call last):
            ...
        ValueError: net must take samples (2,), as the data has: x must have 3 numbers per sample, got shape (256, 2)
    """
    net, batches = _parts(run, 0, data, 1, not torch.cuda.is_available())
    check_parts(run.recipe, net, batches)
    x1, y = next(batches.stream(classes=cast(int, net.num_classes)))
    with torch.random.fork_rng(devices=[]):  # the global generator is left alone, by layers that draw from it as well
        for rows in sorted({min(FEW, len(y)), len(y)}):
            try:
                _try_step(run.recipe, net, x1[:rows], y[:rows])
                break
            except ValueError:
                if rows == len(y):  # with fewer, a block of rows may be empty
                    raise
    return batches.data


def check_memory(run: Run, num_classes: int, together: bool = True) -> None:
    """Refuse a network that the memory of this machine cannot hold, without building it.

    Its parameters are counted on PyTorch's meta device, which has shapes and no numbers; a network that cannot be made
    there is not counted. Activations and data come on top of what is counted.

    Args:
        run: a value of ``RUNS`` or your own.
        num_classes: of its data.
        together: whether everything that a training keeps is in main memory: weights, gradients, two moments of the
            optimiser and two averages; else the weights alone, which are made there.

    Raises:
        ValueError: if that is more than the machine has, with both sizes and the number of parameters that would fit.

    Example:
        >>> from ismkit import RUNS, change_run
        >>> from ismkit.training.runs import check_memory
        >>> check_memory(RUNS["gaussians"], num_classes=8)
        >>> check_memory(change_run(RUNS["gaussians"], "net.width", 10_000_000), num_classes=8)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: net must fit into the ... GiB of this machine, got a ToyMLP of 2.4e+15 parameters: ...
    """
    import psutil

    try:
        with warnings.catch_warnings(), without_numbers():
            warnings.simplefilter("ignore")  # they come again when it is built
            net = run.build(num_classes)
    except Exception as error:  # it may be code of anyone
        if "verflow" not in str(error):
            return  # to be named by who builds it
        why = str(error).strip().splitlines()[0]
        raise ValueError(
            f"net must fit into the memory of this machine, got one of more numbers than PyTorch can count: {why}"
        ) from error
    if not isinstance(net, nn.Module):
        return
    weights = sum(p.nbytes for p in net.parameters())
    needed, has = training_bytes(net) if together else weights, psutil.virtual_memory().total
    if needed > has:
        count = sum(p.numel() for p in net.parameters())
        what = "weights, gradients, two moments of the optimiser and two averages" if together else "weights"
        raise ValueError(
            f"net must fit into the {has / 2**30:.1f} GiB of this machine, got a {type(net).__name__} of {count:.2g} "
            f"parameters: {what} take {needed / 2**30:.3g} GiB; at most about {count * has / needed:.2g} parameters fit"
        )


def training_bytes(net: nn.Module) -> int:
    """Bytes that a training keeps of a network: weights, gradients, two moments of the optimiser, two averages.

    Example:
        >>> from torch import nn
        >>> from ismkit.training.runs import training_bytes
        >>> training_bytes(nn.Linear(10, 10, bias=False))  # 100 numbers of 4 bytes, six times
        2400
    """
    weights = [p.nbytes for p in net.parameters() if p.requires_grad]
    return 3 * sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers())) + 3 * sum(weights)


def _together(engine: Engine, accelerator: Accelerator) -> bool:
    """Whether each process keeps all of a training in main memory."""
    return accelerator.device.type == "cpu" and engine.mode != "fsdp"


def _parts(run: Run, seed: int, data: Any, micro_batches: int, together: bool) -> tuple[nn.Module, Batches]:
    """The network and the batches of a run; ValueError for what cannot be, before the data are loaded if it can.

    ``together`` is that of :func:`check_memory`.
    """
    size, rest = divmod(run.batch_size, micro_batches)
    if rest:
        raise ValueError(
            f"batch_size must be a multiple of the {micro_batches} micro-batches of a step, got {run.batch_size}"
        )
    run.recipe.rows.blocks(size)
    identity({"recipe": run.recipe, "optim": run.optim})  # what cannot be keyed is refused before the data are loaded
    coupling = run.recipe.coupling
    groups = ClassGroups(coupling.pool, coupling.classes) if coupling.classes else None
    batches = Batches(loaded(run.load) if data is None else data, size, seed, groups=groups)
    if batches.num_classes is None:
        kind = type(batches.data).__name__ if data is None else type(data).__name__
        raise ValueError(f"data must say how many classes it has: give the {kind} the attribute num_classes")
    given = getattr(run.net, "keywords", {}).get("num_classes", batches.num_classes)
    if given != batches.num_classes:  # it would be built for the classes of the data all the same
        raise ValueError(f"net.num_classes must be that of the data, {batches.num_classes}, or left out, got {given}")
    check_memory(run, batches.num_classes, together)
    net = run.build(batches.num_classes, seed)
    if not isinstance(net, nn.Module):
        raise ValueError(f"net must make a torch.nn.Module, got {shown(net)}")
    return net, batches


def loaded(load: Callable[[], Any]) -> Any:
    """What loads the data of a run, called.

    Args:
        load: of a run.

    Returns:
        The training set, of a kind that is admitted.

    Raises:
        ValueError: if what is loaded is of no such kind, or ``load`` needs arguments.

    Example:
        >>> from ismkit import RUNS
        >>> from ismkit.training.runs import loaded
        >>> len(loaded(RUNS["gaussians"].load))
        20000
        >>> loaded(dict)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: load must make a data set without arguments: data must be a Labelled set, ... got dict
    """
    try:
        return admit(load())
    except TypeError as error:
        raise ValueError(f"load must make a data set without arguments: {error}") from error


def _try_step(recipe: Recipe, net: nn.Module, x1: Tensor, y: Tensor) -> None:
    """Make one step without an update; ValueError where one of its parts fails."""
    null, rng = cast(int, net.num_classes), stream(0, "tried")
    net.step_lengths = recipe.rows.step_lengths  # type: ignore[assignment]  # as `fit` does
    x0 = in_one_line("recipe.source fails", draw_noise, recipe.source, tuple(x1.shape), rng)
    x0 = in_one_line("recipe.coupling fails", recipe.coupling.couple, x0, x1, y)
    query = check_query(in_one_line("recipe.rows fails", recipe.rows, x0, x1, y, null, rng), x1, null)
    try_network(net, query, null)
    ema = TwinEMA(net, recipe.fast, recipe.slow)
    first = f"the recipe {recipe.name} fails in its first step"
    in_one_line(first, training_step, checked(recipe), net, ema, (x0, x1, y), null, rng)
