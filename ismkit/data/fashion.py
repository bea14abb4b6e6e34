"""Fashion-MNIST: the images, checked by their sums."""

from __future__ import annotations

import gzip
import io
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Literal, get_args
from urllib.request import urlopen

import torch
from torch import Tensor

from ismkit.data.sets import Labelled
from ismkit.utils.checks import check_name
from ismkit.utils.files import DataError, bytes_sum, data_folders, replacing

Split = Literal["train", "test"]

#: The names of the ten classes, in the order of their labels.
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

# Sums of what the files hold, which is the same wherever they come from. The gzip headers are not: Debian's copy, which
# is the repository's too, leaves out the file names that the authors' has.
FASHION_MNIST_FILES = {  # bytes, SHA-256, once unpacked
    "t10k-images-idx3-ubyte.gz": (
        7840016,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        10008,
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    "train-images-idx3-ubyte.gz": (
        47040016,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte.gz": (
        60008,
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
}
#: Where its authors publish it, at a commit that stays.
FASHION_MNIST_URL = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion"
)
GET_FASHION_MNIST = """fetch it (31 MB) by `python -c "import ismkit; ismkit.fashion_mnist('train', download=True)"`, \
install Debian's package dataset-fashion-mnist, or set ISMKIT_DATA to the data/ folder of a clone of the repository"""


def fashion_mnist(split: Split, root: Path | None = None, *, download: bool = False) -> Labelled:
    """Read Fashion-MNIST (Xiao et al., arXiv 1708.07747), with its checksums verified.

    Args:
        split: ``train``, 60 000 images, or ``test``, 10 000.
        root: the folder that holds ``fashion-mnist/``; by default it is looked for, see :func:`find_fashion_mnist`.
        download: fetch what is missing, verified, see :func:`find_fashion_mnist`.

    Returns:
        Images (n, 1, 28, 28) float32 in [-1, 1], -1 being black, of ten classes.

    Raises:
        ValueError: for another split.
        DataError: if a file is missing, truncated or altered, or cannot be fetched.

    Example:
        >>> from ismkit import fashion_mnist
        >>> data = fashion_mnist("test")
        >>> data.x.shape, (data.x.min().item(), data.x.max().item())
        (torch.Size([10000, 1, 28, 28]), (-1.0, 1.0))
        >>> data.y.bincount().tolist()
        [1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000]
        >>> [data.class_names[label] for label in data.y[:3]]
        ['Ankle boot', 'Pullover', 'Trouser']
    """
    check_name("split", split, get_args(Split))
    folder = find_fashion_mnist(root, download=download)
    prefix = {"train": "train", "test": "t10k"}[split]

    def read(name: str, header: int) -> Tensor:
        return torch.frombuffer(bytearray(read_fashion_mnist(folder / name)), dtype=torch.uint8, offset=header)

    images = read(f"{prefix}-images-idx3-ubyte.gz", header=16)
    labels = read(f"{prefix}-labels-idx1-ubyte.gz", header=8)
    x = images.reshape(-1, 1, 28, 28).float().div_(127.5).sub_(1)
    return Labelled(x, labels.long(), num_classes=10, class_names=CLOTHES)


def find_fashion_mnist(root: Path | None = None, *, download: bool = False) -> Path:
    """The folder that holds the files of Fashion-MNIST.

    Args:
        root: look for ``fashion-mnist/`` in this folder only; by default in
            :func:`~ismkit.utils.files.data_folders`, where the first that is there is taken.
        download: fetch the files that are missing or faulty in it, of both splits, after a line that says from where.
            Each is verified before it takes its place; if this fails or is stopped, repeat the call.

    Raises:
        DataError: if the folder is nowhere, or a file cannot be fetched.
    """
    places = data_folders("fashion-mnist") if root is None else [Path(root) / "fashion-mnist"]
    folder = next((place for place in places if place.is_dir()), None)
    if download:
        folder = folder or places[-1]
        for name in FASHION_MNIST_FILES:
            try:
                read_fashion_mnist(folder / name)
            except DataError:
                _fetch(f"{FASHION_MNIST_URL}/{name}", folder / name)
    if folder is None:
        raise DataError(f"Fashion-MNIST is not in {' or '.join(map(str, places))}: {GET_FASHION_MNIST}")
    return folder


def read_fashion_mnist(path: Path) -> bytes:
    """What one of the four files holds, unpacked and verified.

    Raises:
        DataError: if the file is missing, truncated or altered.
    """
    remedy = f"restore it with `git checkout -- {path}` in a clone, or by fashion_mnist(..., download=True)"
    if not path.is_file():
        raise DataError(f"{path} is missing: {remedy}")
    return _unpack(path.read_bytes(), path.name, str(path), remedy)


def _unpack(packed: bytes, name: str, source: str, remedy: str) -> bytes:
    size, expected = FASHION_MNIST_FILES[name]
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            content = file.read(size + 1)
    except EOFError:
        raise DataError(f"{source} is truncated, it ends after {len(packed)} bytes: {remedy}") from None
    except (OSError, zlib.error) as error:  # no gzip file, or one with another checksum of its own
        raise DataError(f"{source} is altered ({error}): {remedy}") from error
    if (actual := bytes_sum(content)) != expected:
        raise DataError(
            f"{source} is altered, the SHA-256 sum of its contents is {actual}, expected {expected}: {remedy}"
        )
    return content


def _fetch(url: str, path: Path) -> None:
    """Fetch one of the four files; what was at ``path`` stays unless the new one is the right one."""
    print(f"fetching {url} into {path.parent}", flush=True)
    again = "repeat the call"
    try:
        with urlopen(url, timeout=60) as answer:
            packed = answer.read(FASHION_MNIST_FILES[path.name][0])  # more than this it cannot be
    except (OSError, HTTPException) as error:
        raise DataError(f"{url} cannot be fetched: {error}; {again}, or {GET_FASHION_MNIST}") from error
    _unpack(packed, path.name, url, again)
    try:
        with replacing(path) as file:
            file.write(packed)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; set ISMKIT_DATA to a folder of your own") from error
