"""One store for results on disk: each file whole or absent, keyed, and verified when it is read.

What can be computed again piece by piece (checkpoints, latents, samples, features, trials) is kept so: a process that
is killed at any moment loses the piece that it was making, and the next one makes what is missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from ismkit.utils.checks import check_form, check_kind, shown
from ismkit.utils.files import DataError, irregular, replacing, replacing_path
from ismkit.utils.weights import CheckpointError, contents_sum, header, nbytes, opened, read_weights, write_tensors

JSON, TENSORS = ".json", ".safetensors"


class Entry(NamedTuple):
    """What a file of a :class:`Store` holds.

    Attributes:
        value: the JSON value that it was written with.
        tensors: its tensors by name, on the CPU.
        sum: SHA-256 of both.
    """

    value: Any
    tensors: dict[str, Tensor]
    sum: str


class Store:
    """Results in a folder, each in a file of its own: a JSON value, and with it tensors in a safetensors file.

    A file states what it belongs to, its own name and the sum of its contents, and is used only if all three are right:
    one that was cut off, altered, renamed or made by another computation is refused, and stays as it is.

    Args:
        folder: of the files; made when the first is written.
        identity: JSON of what the results depend on. Files of several identities may lie in one folder.
        error: what is raised for a file that cannot be written or used.
        remedy: the end of the message about a file that cannot be used.

    Example:
        The second store has another identity, and does not use what the first has kept:

        >>> import tempfile
        >>> import torch
        >>> from ismkit.utils import DataError, Store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(folder, {"model": "a", "seed": 0})
        ...     _ = store.write("0.safetensors", {"rows": 2}, {"x": torch.tensor([1.0, 2.0])})
        ...     print(store.names(), "0.safetensors" in store, "1.safetensors" in store)
        ...     print(store.read("0.safetensors").value, store.read("0.safetensors").tensors)
        ...     try:
        ...         Store(folder, {"model": "a", "seed": 1}).read("0.safetensors")
        ...     except DataError as error:
        ...         print(str(error).removeprefix(f"{folder}/"))
        ...     print(store.path("0.safetensors").exists(), store.value("0.safetensors"))
        ...     print(store.head("0.safetensors")["store"]["identity"])
        ...     store.clear_partial()  # what a killed process has left
        ...     store.delete("0.safetensors")
        ...     print(store.names())
        ['0.safetensors'] True False
        {'rows': 2} {'x': tensor([1., 2.])}
        0.safetensors is of something else (seed is 0 there, 1 now): delete it, and it is made again
        True {'rows': 2}
        {'model': 'a', 'seed': 0}
        []
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: Any,
        *,
        error: type[Exception] = DataError,
        remedy: str = "delete it, and it is made again",
    ) -> None:
        self.folder, self.error, self.remedy = Path(folder), error, remedy
        self.identity = json.loads(json.dumps(identity))  # as it comes back from a file

    def path(self, name: str) -> Path:
        """Say where the file ``name`` is, or would be; ValueError unless it ends in .json or .safetensors."""
        if not isinstance(name, str) or Path(name).suffix not in (JSON, TENSORS) or Path(name).name != name:
            raise ValueError(f"name must be that of a file, with the ending {JSON} or {TENSORS}, got {shown(name)}")
        return self.folder / name

    def __contains__(self, name: str) -> bool:
        return self.path(name).exists()

    def names(self) -> list[str]:
        """The files in the folder, whether of this identity or not, in the order of their names."""
        found = [path.name for path in self.folder.glob("*") if path.suffix in (JSON, TENSORS)]
        return sorted(name for name in found if not name.startswith("."))

    def write(self, name: str, value: Any, tensors: Mapping[str, Tensor] | None = None) -> str:
        """Write a file, or replace it.

        Args:
            name: of the file: with the ending ``.safetensors`` if there are tensors, else ``.json``.
            value: JSON without NaN.
            tensors: by name, from any device.

        Returns:
            The sum of the contents, as :meth:`read` gives it.

        Raises:
            ValueError: for a name with the wrong ending, or a value that JSON cannot hold.
            DataError: or the store's own error, if the disk takes no more; an earlier file of this name is as it was.
        """
        path = self.path(name)
        if tensors is not None:
            check_kind("tensors", tensors, Mapping)
        if (path.suffix == TENSORS) != (tensors is not None):
            raise ValueError(
                f"name must end in {JSON if tensors is None else TENSORS}, got {name!r}, tensors {shown(tensors)}"
            )
        try:
            text = json.dumps(value, allow_nan=False, indent=1)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the value of {name} must be JSON without NaN: {error}") from error
        value, size = json.loads(text), len(text) + nbytes(tensors or {})  # as it comes back
        digest = contents_sum(value, tensors or {})
        head = {"store": {"identity": self.identity, "name": name, "sum": digest}, "value": value}
        try:
            if tensors is None:
                with replacing(path) as file:
                    file.write(json.dumps(head, indent=1).encode())
            else:
                with replacing_path(path) as partial:
                    write_tensors(partial, tensors, head)
        except (OSError, SafetensorError) as error:
            raise self.error(f"{path} cannot be written ({size} bytes needed): {error}") from error
        return digest

    def read(self, name: str, form: Any = None) -> Entry:
        """Read a file and verify it; the store's error if it is missing or cannot be used.

        With a ``form`` that :func:`ismkit.utils.checks.check_form` knows, also if its value has another.
        """
        path = self.path(name)
        tensors: dict[str, Tensor] = {}
        if path.suffix == JSON:
            head = self.head(name)
        else:
            try:
                tensors, head = read_weights(path)
            except CheckpointError as error:
                raise self.error(f"{str(error).rstrip('.')}: {self.remedy}") from error
            self._check(path, head)
        if (digest := contents_sum(head["value"], tensors)) != head["store"]["sum"]:
            raise self.error(f"{path} is altered, its contents do not match the checksum that it states: {self.remedy}")
        try:
            if form is not None:
                check_form(str(path), head["value"], form)
        except ValueError as error:
            raise self.error(f"{error}: {self.remedy}") from error
        return Entry(head["value"], tensors, digest)

    def value(self, name: str) -> Any:
        """The JSON value of a file alone, without a look at the numbers of its tensors; else as :meth:`read`."""
        return self.read(name).value if self.path(name).suffix == JSON else self.head(name)["value"]

    def head(self, name: str) -> dict[str, Any]:
        """What a file states of itself; the store's error if it is cut off, or not what it should be."""
        path = self.path(name)
        try:
            if (kind := irregular(path)) is not None:
                raise OSError(f"it is {kind}")
            if path.suffix == JSON:
                head = json.loads(path.read_bytes())
            else:
                with opened(path) as file:  # reads the head alone, and sees where it is cut off
                    head = header(path, file)
        except FileNotFoundError as error:
            raise self.error(f"{path} is missing: {self.remedy}") from error
        except (OSError, ValueError, RecursionError, SafetensorError, CheckpointError) as error:
            raise self.error(f"{path} is truncated or altered ({error}): {self.remedy}") from error
        self._check(path, head)
        return head

    def delete(self, name: str) -> None:
        """Delete a file, where there is one."""
        self.path(name).unlink(missing_ok=True)

    def clear_partial(self) -> None:
        """Delete what killed processes have left half written; no other process may be writing here."""
        for leftover in self.folder.glob(".*.partial-*"):
            with suppress(OSError):
                leftover.unlink()

    def _check(self, path: Path, head: Any) -> None:
        """Raise the store's error unless this head belongs here."""
        stated = head.get("store") if isinstance(head, dict) else None
        if not isinstance(stated, dict) or "value" not in head or stated.keys() != {"identity", "name", "sum"}:
            raise self.error(f"{path} is no file of this kit, or of another version: {self.remedy}")
        if (there := stated["identity"]) != (now := self.identity):
            dicts = isinstance(there, dict) and isinstance(now, dict)
            other = [key for key in {**there, **now} if there.get(key) != now.get(key)] if dicts else []
            told = "; ".join(f"{key} is {there.get(key)} there, {now.get(key)} now" for key in other)
            raise self.error(f"{path} is of something else{f' ({told})' if told else ''}: {self.remedy}")
        if stated["name"] != path.name:
            raise self.error(f"{path} was written as {stated['name']}: {self.remedy}")
