"""Real images, 2D sets, and the endless, resumable, sharded stream of batches that training reads."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ismkit.grouping import ClassGroups
from ismkit.seeding import stream

Split = Literal["train", "test"]

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

# In code and not only in the folder's SHA256SUMS, so that altering both data and sums does not go unseen.
FASHION_MNIST_FILES = {  # bytes, SHA-256
    "t10k-images-idx3-ubyte.gz": (
        4422079,
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        5125,
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    ),
    "train-images-idx3-ubyte.gz": (
        26421856,
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    ),
    "train-labels-idx1-ubyte.gz": (
        29491,
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    ),
}


class DataError(Exception):
    """A data file or folder is missing, truncated or altered; the message names it and the remedy."""


def data_root() -> Path:
    """The ``data/`` folder: ``$ISMKIT_DATA`` if set, else the one beside the package in a checkout."""
    named = os.environ.get("ISMKIT_DATA")
    root = Path(named) if named else Path(__file__).resolve().parent.parent / "data"
    if not root.is_dir():
        origin = "named by ISMKIT_DATA" if named else "expected beside the package"
        raise DataError(
            f"no data folder at {root} ({origin}): set ISMKIT_DATA to the data/ folder of a clone of the repository"
        )
    return root


def verify_sha256(path: Path, expected: str, size: int | None = None, remedy: str | None = None) -> None:
    """Raise :class:`DataError` unless the file exists and has this SHA-256 sum (64 hex digits).

    With the right ``size`` in bytes, the message tells a truncated file from an altered one. It ends with the
    ``remedy``, by default that for a file of the repository.
    """
    repair = remedy or f"restore it with `git checkout -- {path}`, or clone the repository again"
    if not path.is_file():
        raise DataError(f"{path} is missing: {repair}")
    held = path.stat().st_size
    if size is not None and held < size:
        raise DataError(f"{path} is truncated, it holds {held} of {size} bytes: {repair}")
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise DataError(f"{path} is altered, its SHA-256 sum is {actual}, expected {expected}: {repair}")


@dataclass(frozen=True, eq=False)
class Labelled(Dataset[tuple[Tensor, Tensor]]):
    """Labelled points or images, whole in memory.

    ``x`` (n, ...) floating; ``y`` (n,) int64 in [0, num_classes); one name per class.
    """

    x: Tensor
    y: Tensor
    num_classes: int
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse sets that cannot be trained on."""
        if not self.x.is_floating_point():
            raise TypeError(f"x must be floating point, got {self.x.dtype}")
        if self.y.dtype != torch.int64:
            raise TypeError(f"y must be int64, got {self.y.dtype}")
        if self.x.ndim < 2 or self.y.shape != self.x.shape[:1] or len(self.y) == 0:
            raise ValueError(
                f"x must be (n, ...) and y (n,) with n >= 1, got {tuple(self.x.shape)} and {tuple(self.y.shape)}"
            )
        low, high = int(self.y.min()), int(self.y.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(f"y must lie in [0, {self.num_classes}), got labels from {low} to {high}")
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names must hold {self.num_classes} names, got {len(self.class_names)}")

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


def fashion_mnist(split: Split, root: Path | None = None) -> Labelled:
    """Fashion-MNIST (Xiao et al., arXiv 1708.07747): x (n, 1, 28, 28) float32 in [-1, 1]; n = 60000 or 10000.

    ``root`` is the folder that holds ``fashion-mnist/``, by default :func:`data_root`. Each file is checked
    against its SHA-256 sum before it is read: :class:`DataError` if it is missing, truncated or altered.
    """
    if split not in get_args(Split):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    folder = (data_root() if root is None else Path(root)) / "fashion-mnist"
    prefix = {"train": "train", "test": "t10k"}[split]

    def read(name: str, header: int) -> Tensor:
        size, expected = FASHION_MNIST_FILES[name]
        verify_sha256(folder / name, expected, size)
        with gzip.open(folder / name) as file:
            return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8, offset=header)

    images = read(f"{prefix}-images-idx3-ubyte.gz", header=16)
    labels = read(f"{prefix}-labels-idx1-ubyte.gz", header=8)
    x = images.reshape(-1, 1, 28, 28).float().div_(127.5).sub_(1)
    return Labelled(x, labels.long(), num_classes=10, class_names=CLOTHES)


# The mixture of `eight_gaussians`: equal weights, covariance EIGHT_GAUSSIANS_STD^2 I, means on a circle of
# radius sqrt(2), so that each coordinate of the means has variance 1.
EIGHT_GAUSSIANS_STD = 0.1
EIGHT_GAUSSIANS_MEANS = math.sqrt(2) * torch.tensor(
    [(math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)) for k in range(8)]
)


def eight_gaussians(n: int, seed: int) -> Labelled:
    """``n`` draws from the mixture above; the class is the component, at 45 degrees times its number."""
    generator = _generator("eight_gaussians", n, seed)
    y = torch.randint(8, (n,), generator=generator)
    x = EIGHT_GAUSSIANS_MEANS[y] + EIGHT_GAUSSIANS_STD * torch.randn(n, 2, generator=generator)
    return Labelled(x, y, 8, tuple(f"{45 * k} degrees" for k in range(8)))


def two_moons(n: int, seed: int) -> Labelled:
    """Two interleaved half circles (classes: upper, lower), centred and scaled so that E|x|^2 is about 2."""
    generator = _generator("two_moons", n, seed)
    y = torch.randint(2, (n,), generator=generator)
    angle = math.pi * torch.rand(n, generator=generator)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
    x = torch.where(y[:, None] == 0, upper, -upper) + 0.08 * torch.randn(n, 2, generator=generator)
    return Labelled(math.sqrt(2) * x, y, 2, ("upper", "lower"))


def checkerboard(n: int, seed: int) -> Labelled:
    """Uniform on the 8 dark unit squares of a 4 x 4 board over [-2, 2]^2; the class is the row's parity."""
    generator = _generator("checkerboard", n, seed)
    row = torch.randint(4, (n,), generator=generator)
    column = 2 * torch.randint(2, (n,), generator=generator) + row % 2
    x = torch.stack([column, row], dim=1) + torch.rand(n, 2, generator=generator) - 2
    return Labelled(x, row % 2, 2, ("even rows", "odd rows"))


def spirals(n: int, seed: int) -> Labelled:
    """Two arms of 1.5 turns, one the other turned by 180 degrees; E|x|^2 is about 2."""
    generator = _generator("spirals", n, seed)
    y = torch.randint(2, (n,), generator=generator)
    reach = torch.rand(n, generator=generator).sqrt()  # the root keeps the density even along the arm
    angle = 3 * math.pi * reach + math.pi * y
    arm = 2 * reach[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return Labelled(arm + 0.05 * torch.randn(n, 2, generator=generator), y, 2, ("first arm", "second arm"))


def _generator(name: str, n: int, seed: int) -> torch.Generator:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return stream(seed, name)


@runtime_checkable
class Drawn(Protocol):
    """A data set whose samples are drawn anew each time, such as :class:`ismkit.shards.LatentShards`."""

    def take(self, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples x (B, ...) and y (B,) of rows ``index`` (B,) int64, by draws from ``rng`` alone."""


class Batches:
    """Endless shuffled batches in an order that is a pure function of the seed, so that any step can resume.

    Every epoch is one permutation of the data, drawn from (seed, epoch). Step k takes the next
    ``shards * batch_size`` samples of the endless row of permutations and shard j its j-th part. So a stream
    from step k equals one from 0 after k batches, and the shards of a step make up the batch of a single
    stream with ``batch_size * shards``. A batch may span two epochs: no sample is skipped or repeated in one.

    ``data`` is a :class:`Labelled` set, indexed directly; a :class:`Drawn` one, whose draws are a function of (seed,
    shard, step); or any map-style dataset of (x, y), read by ``num_workers`` processes of a ``DataLoader``. Random
    transforms inside such a dataset are not replayed.
    """

    def __init__(
        self, data: Dataset[Any], batch_size: int, seed: int, *, num_workers: int = 0, groups: ClassGroups | None = None
    ) -> None:
        self.size = len(data)  # type: ignore[arg-type]
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}")
        if groups is not None and not isinstance(getattr(data, "y", None), Tensor):
            raise ValueError(f"groups need data with the classes of all rows as y (n,), {type(data).__name__} has none")
        self.data = data
        self.groups = groups
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self._check_fits(shards=1)

    @property
    def settings(self) -> dict[str, Any]:
        """What the order depends on, for the checkpoints of a run."""
        settings = {"size": self.size, "batch_size": self.batch_size, "seed": self.seed}
        return settings | ({"groups": self.groups} if self.groups else {})

    def stream(self, step: int = 0, shard: int = 0, shards: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches ``x`` (batch_size, ...), ``y`` (batch_size,) of one shard from ``step`` on, without end."""
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        if not 0 <= shard < shards:
            raise ValueError(f"shard must lie in [0, shards = {shards}), got {shard}")
        self._check_fits(shards)
        indices = self._indices(step, shard, shards)
        if isinstance(data := self.data, Drawn):
            return (
                data.take(chosen, stream(self.seed, "posterior", shard, k)) for k, chosen in enumerate(indices, step)
            )
        if isinstance(self.data, Labelled):
            return map(self.data.__getitem__, indices)
        return iter(
            DataLoader(
                self.data,
                batch_sampler=(chosen.tolist() for chosen in indices),
                num_workers=self.num_workers,
                generator=stream(self.seed, "workers"),  # else each iterator draws from the global generator
            )
        )

    def _indices(self, step: int, shard: int, shards: int) -> Iterator[Tensor]:
        # Without groups a pool is one batch, in the order of the epochs.
        K = self.groups.pool if self.groups else 1
        rows, held = K * self.batch_size, {}  # type: ignore[var-annotated]

        def order(epoch: int) -> Tensor:
            if epoch not in held:
                held.clear()
                held[epoch] = (
                    self.groups.order(self.data.y, rows, self.seed, epoch)  # type: ignore[attr-defined]
                    if self.groups
                    else torch.randperm(self.size, generator=stream(self.seed, "epoch", epoch))
                )
            return held[epoch]

        for k in count(step // K):
            place = k * shards + shard  # of this pool among those of all shards
            parts, position = [], place * rows
            while position < (place + 1) * rows:
                epoch, offset = divmod(position, self.size)
                parts.append(order(epoch)[offset : offset + (place + 1) * rows - position])
                position += len(parts[-1])
            chosen = torch.cat(parts)
            if self.groups:
                chosen = chosen[torch.randperm(rows, generator=stream(self.seed, "pool", place))]
            yield from chosen.split(self.batch_size)[max(0, step - k * K) :]

    def _check_fits(self, shards: int) -> None:
        if self.batch_size * shards > self.size:
            raise ValueError(
                f"batch_size {self.batch_size} x shards {shards} exceeds the {self.size} samples: a "
                "step would hold a sample twice"
            )
        if self.groups and (rows := self.groups.pool * self.batch_size * shards) > self.size:
            raise ValueError(
                f"groups.pool {self.groups.pool} x batch_size {self.batch_size} x shards {shards} = {rows} exceeds the "
                f"{self.size} samples: a pool would hold a sample twice"
            )
