"""Options of a training in three groups: engine, saving, logging.

Only ``precision`` and ``micro_batches`` change what is learnt. The others say where and how fast it is computed, what
is saved, and what is shown. The command line reads them by their names (``ismkit train --help``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ismkit.utils.checks import check_count, shown
from ismkit.utils.files import expanded
from ismkit.utils.settings import check_types, import_named


@dataclass(frozen=True)
class Engine:
    """How a training is computed: processes, precision, compilation, memory.

    Attributes:
        mode: several processes hold a whole network each (ddp), or a shard of it each (fsdp: FSDP2).
        precision: of the passes: float32 (no), or bf16 under autocast, with float32 weights, averages and moments.
        compile: compile the network and the averages that make targets, block by block: minutes at the start.
        recompute: keep only the blocks' inputs and compute the rest again in the backward pass: less memory, a third
            more time of the online network, equal gradients.
        micro_batches: per optimiser step, over all processes; more of them than processes accumulate gradients. By
            default one for each process; a resumed run keeps the number it was started with. The coupling's pools
            count them: of more and smaller ones take more into a pool.

    Raises:
        ValueError: for another mode or precision, or fewer than one micro-batch.

    Example:
        >>> from ismkit import Engine
        >>> Engine(precision="bf16", micro_batches=8)
        Engine(mode='ddp', precision='bf16', compile=False, recompute=False, micro_batches=8)
    """

    mode: Literal["ddp", "fsdp"] = "ddp"
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    recompute: bool = False
    micro_batches: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.micro_batches is not None:
            object.__setattr__(self, "micro_batches", check_count("micro_batches", self.micro_batches))


@dataclass(frozen=True)
class Saving:
    """What a training leaves on the disk, and where it starts from.

    Attributes:
        folder: of the checkpoints; without one ``fit`` writes none, and a run takes its own, out/runs/NAME-SEED-KEY.
        save_every: optimiser steps between checkpoints, of which the newest two stay; by default one at the end.
        resume: start from the newest checkpoint in the folder (from the beginning, if there is none); without it a
            folder that has checkpoints is refused.
        from_step: resume from the checkpoint of this step instead; later ones are deleted, models of
            later steps stay until they are written again.
        model_every: optimiser steps between models that stay: a checkpoint is saved, and ``launch`` and ``ismkit
            train`` write the slow average beside it, ``model-STEP.safetensors``; 0 for one at the end alone. By default
            50 000 for longer runs of ImageNet, 0 for others.

        accept: settings that may be others than the checkpoint's, by the names that the refusal gives, such as
            ``optim.lr``: from there on the new ones count. Their changes are kept in checkpoints and cards.

    Raises:
        ValueError: for a ``save_every`` below 1, a ``model_every`` below 0, or ``from_step`` or ``accept``
            without ``resume``.

    Example:
        >>> from ismkit import Saving
        >>> Saving("out/mine", save_every=200, resume=True).folder
        PosixPath('out/mine')
    """

    folder: Path | None = None
    save_every: int | None = None
    resume: bool = False
    from_step: int | None = None
    model_every: int | None = None
    accept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.resume) is not bool:
            raise ValueError(f"resume must be True or False, got {shown(self.resume)}; from_step names a checkpoint")
        check_types(self)
        if self.folder is not None:
            object.__setattr__(self, "folder", expanded(self.folder))
        for name, least in (("save_every", 1), ("model_every", 0), ("from_step", 1)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_count(name, value, least))
        for name in ("from_step", "accept"):
            if getattr(self, name) and not self.resume:
                raise ValueError(f"{name} goes with resume=True")


@dataclass(frozen=True)
class Logging:
    """What a training shows while it runs.

    Attributes:
        tracker: tensorboard writes the folder ``logs`` beside the checkpoints; any other tracker of Accelerate by its
            name, such as wandb, if its package is installed; module:attribute of your own
            accelerate.tracking.GeneralTracker, a class or an object; none, the default, writes nothing.
        log_every: optimiser steps per line of the logs, a divisor of ``save_every`` and ``model_every``; by default
            the largest up to 100.
        vae: name or folder of the VAE that made the latents: sheets of decoded samples go to the logs.
        samples_every: optimiser steps between them, a multiple of ``log_every``; by default as ``save_every``.

    Raises:
        ValueError: for a tracker that is not known or not installed, or intervals below 1.

    Example:
        >>> from ismkit import Logging
        >>> Logging(tracker="tensorboard", log_every=20)
        Logging(tracker='tensorboard', log_every=20, vae=None, samples_every=None)
    """

    tracker: str | None = None
    log_every: int | None = None
    vae: str | None = None
    samples_every: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.tracker not in ("none", None):
            named_tracker(self.tracker)
        for name in ("log_every", "samples_every"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_count(name, value))


def named_tracker(name: str) -> Any:
    """A tracker of Accelerate by its name, as a class, or what ``module:attribute`` names.

    Args:
        name: such as ``wandb``, or ``my_logs:Printer``.

    Returns:
        A class of ``accelerate.tracking.GeneralTracker``, or an object of one.

    Raises:
        ValueError: for another name or another kind of thing, or if its package is not installed.
    """
    from accelerate import tracking  # here, because it imports torch

    if ":" in name:
        found: Any = import_named(name, "tracker")
        if not (isinstance(found, tracking.GeneralTracker) or _is_tracker(found)):
            raise ValueError(f"tracker {name} must be an accelerate.tracking.GeneralTracker, got {shown(found)}")
        return found
    known = {getattr(kind, "value", kind): tracker for kind, tracker in tracking.LOGGER_TYPE_TO_CLASS.items()}
    here = [kind.value for kind in tracking.get_available_trackers()]
    if name not in known:
        raise ValueError(
            f"tracker must be none, {', '.join(known)} or module:attribute, got {shown(name)}; installed here: "
            f"{', '.join(here) or 'none of them'}"
        )
    if name not in here:
        raise ValueError(
            f"tracker {name} is not installed: `pip install {name.replace('_', '-')}` adds it; installed here: "
            f"{', '.join(here) or 'none'}"
        )
    return known[name]


def _is_tracker(value: Any) -> bool:
    from accelerate.tracking import GeneralTracker

    return isinstance(value, type) and issubclass(value, GeneralTracker)
