"""The notebooks as programs: find one, execute it with parameters, put the solutions in for the exercises."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ismkit import __version__
from ismkit.lessons.ledger import Entry, joined, read, write
from ismkit.utils.files import CHECKOUT, destination, expanded, replacing
from ismkit.utils.settings import coerce

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOKS = CHECKOUT / "notebooks"
#: The folder next to the notebooks for the figures of slides, and how the first line of each names its picture.
SLIDES = "slides"
PICTURED = "<!-- drawing of the picture {} -->\n"
#: Variable of the environment of a kernel whose outputs are committed; :func:`ismkit.lessons.plot.show` reads it.
COMMITTED = "ISMKIT_REFRESH"
#: The key of a notebook's metadata that :func:`refresh` writes.
REFRESHED = "ismkit_refresh"
SOLUTION = re.compile(r"<details>\s*<summary>Solution.*?</summary>\s*```python\n(.*?)```\s*</details>", re.DOTALL)


class NotebookError(Exception):
    """A notebook that is missing, was given wrong parameters, or failed; the message names it and the cell."""


def number(path: Path) -> str:
    """The number that a notebook's name begins with, ``03`` or, for one that stands between two others, ``01b``."""
    return path.stem.partition("_")[0]


def find(name: str) -> Path:
    """Your own notebook by its path (``mine/03_own.ipynb``), or one of the kit by its number or a longer start.

    Raises:
        NotebookError: if no file is at the path, or unless exactly one of the kit's has such a name.
    """
    if (path := expanded(name)).suffix == ".ipynb":
        if not path.is_file():
            raise NotebookError(f"{path} is not there: give the path of a notebook, or the number of one of the kit")
        return path.resolve()
    known = sorted(NOTEBOOKS.glob("*.ipynb"))
    found = [path for path in known if number(path) == name] or [path for path in known if path.stem.startswith(name)]
    if len(found) != 1:
        names = ", ".join(path.stem for path in known) or f"(none in {NOTEBOOKS}: work in a clone of the repository)"
        raise NotebookError(f"{name!r} names {len(found)} notebooks, must name one of: {names}")
    return found[0]


def execute(source: Path, folder: Path, parameters: Mapping[str, Any], *, record: bool = False) -> Path:
    """Execute a notebook by papermill; returns the executed notebook's path.

    Args:
        source: the notebook.
        folder: where the executed notebook goes, its figures (``figures/NN_CELL_OUTPUT.png``), files and checkpoints
            (``$ISMKIT_OUT`` in the kernel): what an earlier call trained there is not trained again.
        parameters: values for names of its parameters cell; a text is read as the type that the parameter has there.
        record: whether a failed check of a claim leaves its row and the notebook continues; else it stops there.

    Raises:
        NotebookError: before it is started, for an unknown parameter, a value of another type, or one that the comment
            after the parameter does not list; for a cell that fails, with the last line of its traceback; for a file
            that is not a notebook of Python.
    """
    from unittest.mock import patch  # here: it imports much

    import papermill
    from papermill.exceptions import PapermillExecutionError

    target = folder / source.name
    _read(source)
    with _named(source):
        known = papermill.inspect_notebook(_literal(source))
    if unknown := sorted(set(parameters) - set(known)):
        names = ", ".join(sorted(known)) or "none"
        raise NotebookError(f"{source.name} has no parameter {', '.join(unknown)}, but: {names}")
    typed = {name: _typed(value, known[name]["default"], name) for name, value in parameters.items()}
    for name, value in typed.items():
        if isinstance(value, str) and value not in (choices := _choices(known[name]["help"])) and choices:
            raise NotebookError(f"parameter {name} of {source.name} must be one of {', '.join(choices)}, got {value!r}")
    if target.resolve() == source.resolve():
        raise NotebookError(f"the output folder {folder} would replace the notebook itself: name another one")
    written = _literal(destination(target))
    folder.mkdir(parents=True, exist_ok=True)
    # The kernel inherits these; its output, progress bars included, is passed on as it comes.
    checks = "record" if record else ""
    kernel = {"ISMKIT_OUT": str(folder.resolve()), "ISMKIT_PROGRESS": "text", "ISMKIT_CHECKS": checks}
    how = {"kernel_name": "python3", "progress_bar": False, "stdout_file": sys.stdout, "stderr_file": sys.stderr}
    # Without this each kernel warns that its connection, within this machine, is not encrypted.
    how["extra_arguments"] = ["--IPKernelApp.log_level=ERROR"]
    how["kernel_manager_class"] = _patient_kernels()
    try:
        with patch.dict(os.environ, kernel):
            papermill.execute_notebook(_literal(source), written, typed, cwd=source.parent, **how)
    except PapermillExecutionError as error:
        failure = f"cell [{error.exec_count}] of {source.name} failed: {error.ename}: {error.evalue}"
        raise NotebookError(f"{failure}; the notebook as far as it got: {target}") from None
    _save_figures(target, folder / "figures")
    return target


def refresh(source: Path, timeout: int = 1800) -> None:
    """Execute a notebook in place, from a clean kernel, so that its outputs come from its code.

    The figures of cells with a tag ``slide-NAME`` are also written as SVG, for the slides of the course, to
    ``slides/NN-NAME.svg`` next to the notebook: inside it they would make it too large.

    Its metadata then say of the run, under :data:`REFRESHED`: how many ``seconds`` it took, on which ``day`` it ended
    (UTC), and the versions of ``python``, ``torch`` and ``ismkit``.

    Args:
        source: the notebook; it is unchanged if a cell fails.
        timeout: seconds for one cell.

    Raises:
        NotebookError: for a cell that fails, with the last line of its traceback; for a file that is not a notebook.
        TimeoutError: for one that takes longer.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = _read(source)
    notebook.metadata.pop("widgets", None)  # of the run before: nbclient replaces it only where there are some again
    how: dict[str, Any] = {"timeout": timeout, "record_timing": False, "kernel_manager_class": _patient_kernels()}
    start = time.monotonic()
    client = NotebookClient(notebook, resources={"metadata": {"path": str(source.parent)}}, **how)
    try:
        client.execute(env=os.environ | {COMMITTED: "1"})
    except CellExecutionError as error:
        raise NotebookError(f"{source.name} failed: {error.ename}: {error.evalue}; it is as it was") from None
    for cell in notebook.cells:
        cell.update({"outputs": _joined(cell.outputs)} if cell.cell_type == "code" else {})
    drawings = _take_drawings(notebook, number(source))
    for old in (source.parent / SLIDES).glob(f"{number(source)}-*.svg"):
        old.unlink()
    for name, drawing in drawings.items():
        with replacing(source.parent / SLIDES / name) as file:
            file.write(drawing.encode())
    notebook.metadata[REFRESHED] = {
        "seconds": round(time.monotonic() - start),
        "day": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": version("torch").partition("+")[0],
        "ismkit": __version__,
    }
    with replacing(source) as file:
        file.write((nbformat.writes(notebook) + "\n").encode())


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs of a cell, consecutive prints joined: pauses would divide them, differently in each run."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _read(path: Path) -> NotebookNode:
    """The notebook in a file; NotebookError for any other file."""
    import nbformat

    with _named(path):
        text = path.read_text("utf-8")
        nbformat.validate(json.loads(text))  # to read it would only log what is not valid
        return nbformat.reads(text, as_version=4)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name a notebook in the error of a library that cannot read it: a damaged file is any JSON, and fails anywhere."""
    try:
        yield
    except OSError:
        raise  # it names the file
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise NotebookError(f"{path} cannot be read as a notebook: {reason}") from error


def _take_drawings(notebook: NotebookNode, of: str) -> dict[str, str]:
    """Take the drawings out of a notebook; returns those of slides by the names of their files."""
    taken = {}
    for cell in notebook.cells:
        for output in reversed(cell.get("outputs", [])):  # a slide shows the first
            if drawing := output.get("data", {}).pop("image/svg+xml", None):
                for tag in cell.metadata.get("tags", []):
                    if tag.startswith("slide-"):
                        mark = PICTURED.format(picture_sum(output.data["image/png"]))
                        taken[f"{of}-{tag.removeprefix('slide-')}.svg"] = mark + drawing
    for widgets in notebook.metadata.get("widgets", {}).values():  # what sliders show is among them
        for model in widgets.get("state", {}).values():
            for output in model["state"].get("outputs", []):
                output.get("data", {}).pop("image/svg+xml", None)
    return taken


def picture_sum(png: str) -> str:
    """A checksum of a picture in base64: a drawing states that of its picture."""
    return hashlib.sha256("".join(png.split()).encode()).hexdigest()[:16]


def _typed(value: Any, default: str, name: str) -> Any:
    """A parameter's value, read as the type of its default, which the notebook states as a literal."""
    held = ast.literal_eval(default)
    if not isinstance(value, str) or isinstance(held, str):
        return value
    try:
        if isinstance(held, bool | int | float):
            return coerce(value, type(held), name)
        read = ast.literal_eval(value)
        if held is not None and type(read) is not type(held):
            raise ValueError(value)
    except (ValueError, SyntaxError) as error:
        if held is None:
            return value
        kind = {bool: "true or false", int: "an integer", float: "a number"}.get(type(held), f"a {type(held).__name__}")
        raise NotebookError(f"parameter {name} must be {kind}, such as {default}, got {value!r}") from error
    return read


def _choices(comment: str) -> list[str]:
    """The values that the comment behind a parameter lists: ``smoke | laptop``, or ``smoke | laptop: as here``."""
    listed = comment.partition(":")[0]
    return [choice.strip() for choice in listed.split("|")] if "|" in listed else []


def _literal(path: Path) -> str:
    """A path as papermill takes it: braces are places for values there, and its files are in UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise NotebookError(f"{str(path)!a} has bytes that are no UTF-8, which notebooks cannot hold") from error
    return str(path).replace("{", "{{").replace("}", "}}")


def _patient_kernels() -> type:
    """A kernel manager whose clients look for a reply once a second, and do not rely on being woken.

    nbclient plays the front end of an ``Output`` widget, and sends while it waits on the same socket. Such a send can
    take the sign that a reply has come, and the wait never ends.
    """
    from queue import Empty

    from jupyter_client.asynchronous.client import AsyncKernelClient
    from jupyter_client.channels import AsyncZMQSocketChannel
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import Type

    class Channel(AsyncZMQSocketChannel):
        async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:  # type: ignore[override]
            end = time.monotonic() + (math.inf if timeout is None else timeout)
            while (left := end - time.monotonic()) > 1.0:
                with suppress(Empty):
                    return await super().get_msg(1.0)
            return await super().get_msg(max(left, 0.0))

    class Client(AsyncKernelClient):
        shell_channel_class = Type(Channel)

    class Manager(AsyncKernelManager):
        client_factory = Type(Client)

    return Manager


def _save_figures(notebook: Path, folder: Path) -> None:
    """Write the figures among a notebook's outputs, in place of those of an earlier run."""
    import nbformat
    from nbconvert.preprocessors import ExtractOutputPreprocessor

    for old in folder.glob(f"{number(notebook)}_*.png"):
        old.unlink()
    resources = {"unique_key": number(notebook), "output_files_dir": str(folder), "outputs": {}}
    _, resources = ExtractOutputPreprocessor(extract_output_types={"image/png"}).preprocess(
        nbformat.read(notebook, as_version=4), resources
    )
    for path, content in resources["outputs"].items():
        with replacing(path) as file:
            file.write(content)


def measure(
    source: Path, seeds: Iterable[int], folder: Path, profile: str = "laptop", *, record: bool = False
) -> list[Entry]:
    """Run a notebook once for each seed, and join the rows of its ledger.

    Args:
        source: the notebook; its name begins with its number.
        seeds: values of its parameter ``seed``.
        folder: each run gets its own folder in it, named by notebook, seed and a checksum of the notebook's code. A run
            that is complete there is not repeated; one that was interrupted resumes from what it has trained.
        profile: which of the notebook's profiles.
        record: whether a failed check also leaves its row, and the notebook continues; else it stops there.

    Returns:
        One row per claim, with what each seed measured.

    Raises:
        NotebookError: if a run fails, or leaves no rows, or the file is not a notebook.
    """
    cells = _read(source).cells
    code = "\0".join(cell.source for cell in cells if cell.cell_type == "code")
    version, name = hashlib.sha256(code.encode()).hexdigest()[:8], number(source)
    runs = []
    for seed in seeds:
        place = folder / f"{name}-{profile}-{seed}-{version}"
        complete = place / "rows.json"
        if not complete.is_file():
            execute(source, place, {"profile": profile, "seed": seed}, record=record)
            rows = place / "ledger" / f"{name}.json"
            if not rows.is_file():
                raise NotebookError(f"{source.name} checked no claim at profile {profile}")
            # Papermill puts a cell of its own in front of those that check: counted as in the notebook itself.
            write([replace(row, cell=(row.cell or 0) - 1) for row in read(rows)], complete)
        runs.append(read(complete))
    return joined(runs)


def solutions(notebook: NotebookNode) -> list[tuple[NotebookNode, str]]:
    """Each cell tagged ``exercise`` with its solution, the code folded away in the markdown cell that follows it.

    Raises:
        NotebookError: if an exercise has no solution after it, or a solution no exercise before it.
    """
    pairs = []
    cells = notebook.cells
    for i, cell in enumerate(cells):
        follows = cells[i + 1].source if i + 1 < len(cells) else ""
        if "exercise" in cell.metadata.get("tags", []):
            if not (match := SOLUTION.search(follows)):
                raise NotebookError(f"cell {i} is an exercise, but cell {i + 1} holds no folded solution")
            pairs.append((cell, match[1]))
        elif SOLUTION.search(follows):
            raise NotebookError(f"cell {i + 1} holds a solution, but cell {i} is no exercise")
    return pairs


def solve(stub: str, solution: str) -> str:
    """The source of an exercise with each function or class of the solution in place of the stub's.

    Raises:
        NotebookError: unless every function and class of the solution is in the stub, with the same arguments, bases
            and docstring; methods too.
    """
    stubs, answers = _definitions(stub), _definitions(solution)
    if not answers:
        raise NotebookError("the solution defines no function or class")
    lines: list[str] = stub.splitlines()
    for name in sorted(answers, key=lambda name: stubs[name].lineno if name in stubs else 0, reverse=True):
        if name not in stubs:
            raise NotebookError(f"the solution defines {name}, the exercise does not")
        if _face(stubs[name]) != _face(answers[name]):
            raise NotebookError(f"{name} has other arguments or another docstring in the solution than in the exercise")
        first, last = stubs[name].lineno - 1, stubs[name].end_lineno
        answer = answers[name]
        lines[first:last] = solution.splitlines()[answer.lineno - 1 : answer.end_lineno]
    return "\n".join(lines)


def _definitions(source: str) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _face(definition: ast.FunctionDef | ast.ClassDef) -> tuple[Any, ...]:
    if isinstance(definition, ast.ClassDef):
        methods = {node.name: _face(node) for node in definition.body if isinstance(node, ast.FunctionDef)}
        return [ast.unparse(base) for base in definition.bases], ast.get_docstring(definition), methods
    returns = ast.unparse(definition.returns) if definition.returns else None
    return ast.unparse(definition.args), returns, ast.get_docstring(definition)
