"""Progress bars: a widget in Jupyter, text in a terminal, nothing under CI."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import tqdm.auto
import tqdm.std


def progress_bar(iterable: Iterable[Any] | None = None, *, show: bool | None = None, **options: Any) -> Any:
    """Make a progress bar of tqdm.

    Args:
        iterable: what to iterate over, or None to call ``update`` by hand.
        show: show it or not; by default unless the environment variable ``CI`` is set.
        options: tqdm's (``total``, ``desc``, ``unit`` ...).

    Returns:
        The bar. With ``ISMKIT_PROGRESS=text`` it is plain text even in a notebook, one line every few seconds: for a
        notebook that is run from a terminal and passes its output on (``ismkit notebook``).

    Example:
        A bar that is not shown is its iterable; one that is shown counts:

        >>> import io
        >>> from ismkit import progress_bar
        >>> sum(progress_bar(range(5), show=False))
        10
        >>> with progress_bar(total=8, desc="encoding", show=True, file=io.StringIO()) as bar:
        ...     for images in (4, 2):
        ...         _ = bar.update(images)
        >>> bar.n, bar.total
        (6, 8)
    """
    show = not os.environ.get("CI") if show is None else show
    if os.environ.get("ISMKIT_PROGRESS") == "text":
        return tqdm.std.tqdm(iterable, disable=not show, mininterval=5, ncols=100, **options)
    return tqdm.auto.tqdm(iterable, disable=not show, **options)
