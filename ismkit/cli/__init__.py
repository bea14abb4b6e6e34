"""The command line: ``ismkit COMMAND``, one file per command, read from the types of the command's function.

A command's file imports nothing heavy at its top, so that help is quick and ``doctor`` works where torch does not.
What a command does is a call of the library, which Python can make too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import gc
import inspect
import io
import os
import re
import sys
import types
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ismkit import __version__

#: Those that need torch, whatever they are asked.
COMPUTING = ("train", "latents", "sweep", "sample", "evaluate", "export")
#: All, in the order of the help.
COMMANDS = ("lab", "doctor", "notebook", "ledger", "course", *COMPUTING)


class UsageError(ValueError):
    """A mistake of the user; printed without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a mistake ends with one line on standard error and status 2."""
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"ismkit {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        print(f"ismkit: no command {name!r}: {hint}(more: ismkit --help)", file=sys.stderr)
        return 2
    try:
        command = import_module(f"ismkit.cli.{name}")
    except OSError as error:  # of a system on which the kit cannot run
        print(f"ismkit {name}: {error}", file=sys.stderr)
        return 2
    with printable():
        return answered(command, rest)


def answered(command: ModuleType, arguments: list[str]) -> int:
    """Call a command; a mistake ends with one line on standard error and status 2."""
    name = command.__name__.rpartition(".")[2]
    try:
        return run(command, arguments)
    except KeyboardInterrupt:
        print(f"ismkit {name}: interrupted", file=sys.stderr)
        return 130
    except ImportError as error:
        message = f"{error}; `ismkit doctor` says what to install"
    except Exception as error:  # the kit's own errors by module: to import their classes here would import torch
        if not (isinstance(error, ValueError | OSError) or type(error).__module__.startswith("ismkit.")):
            raise
        message = str(error)
    print(f"ismkit {name}: {without_breaks(message)}", file=sys.stderr)
    return 2


def without_breaks(message: str) -> str:
    """A message without line ends and what else cannot be printed, which file names and values may hold."""
    joined = " ".join(message.split("\n"))
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in joined)


@contextlib.contextmanager
def printable() -> Iterator[None]:
    """Print what the terminal cannot show, a sign or a byte of a file's name, as Python writes it: no print fails."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


def run(command: ModuleType, arguments: list[str]) -> int:
    """Call a command with its arguments."""
    name = command.__name__.rpartition(".")[2]
    asked = bool({"-h", "--help"} & {*arguments})
    if hasattr(command, "call"):  # it passes its options on
        if not asked:
            return int(command.call(arguments))
        print(f"usage: ismkit {name} [NOTEBOOK] [OPTIONS]\n\n{summary(command)}\n\n{details(command)}")
        return 0
    said = io.StringIO()
    try:
        with contextlib.nullcontext() if asked else contextlib.redirect_stderr(said), _wide(not asked):
            options = parse(command, arguments)
    except SystemExit as end:
        if not end.code:
            print(details(command))
            return 0
        message = plainly(one_line(said.getvalue()), command, arguments)
        raise UsageError(f"{message} (more: ismkit {name} --help)") from end
    options = _at_home(options)
    if name in COMPUTING:
        _import_torch()
    return int(command.command(**options) or 0)


def _import_torch() -> None:
    """Import torch while garbage collection is paused, which would visit all of torch's objects again and again.

    Later collections leave them out, too. Both save about a tenth of the CPU time until a training begins.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return
    from ismkit.utils.workers import collection_paused

    with collection_paused():
        with contextlib.suppress(ImportError):  # the command fails by the same error, and can say so
            import_module("torch")
        gc.freeze()


def parse(command: ModuleType, arguments: list[str]) -> dict[str, Any]:
    """What the arguments say, by the names and types of the command's function; SystemExit where they say nothing."""
    try:
        import tyro
    except ImportError:
        if command.__name__.endswith(".doctor"):  # which says that it is missing
            return {"deep": "--deep" in arguments}
        raise

    @functools.wraps(command.command)
    def parsed(*given: Any, **options: Any) -> dict[str, Any]:
        return inspect.signature(command.command).bind(*given, **options).arguments

    return tyro.cli(
        parsed,
        args=arguments,
        prog=f"ismkit {command.__name__.rpartition('.')[2]}",
        description=summary(command),
        config=(tyro.conf.OmitArgPrefixes,),
    )


def plainly(message: str, command: ModuleType, arguments: Sequence[str]) -> str:
    """A message of the parser about a value as one that names the option, what it must be, and the value."""
    found = re.match(r"(?:Error parsing |invalid choice .* for argument \'?)([^\s:\']+)", message)
    options = found[1].split("/") if found else []
    kind = kinds(command).get(options[-1].lstrip("-").replace("-", "_")) if options else None
    if kind is None:
        return re.sub(r"^Error parsing [a-z]+: ", "", message)  # a group of options says itself what is wrong with it
    from ismkit.utils.settings import wanted

    parts = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        kind = Union[tuple(part for part in parts if part is not type(None))]  # noqa: UP007
    many = get_origin(kind) is tuple
    values = list(_values(options, arguments))
    got = " ".join(values) if len(values) != 1 else values[0]
    return f"{'each of ' * many}{options[-1]} must be {wanted(parts[0] if many else kind)}, got {got!r}"


def kinds(command: ModuleType) -> dict[str, Any]:
    """The type of each option, those of its groups among them."""
    found: dict[str, Any] = {}
    hints = get_type_hints(command.command)
    hints.pop("return", None)
    for name, kind in hints.items():
        found |= get_type_hints(kind) if dataclasses.is_dataclass(kind) else {name: kind}
    return found


def _values(options: Sequence[str], arguments: Sequence[str]) -> Iterator[str]:
    """What follows an option, where it is given last."""
    given = [argument.partition("=") for argument in arguments]
    at = max((i for i, (name, _, _) in enumerate(given) if name.replace("_", "-") in options), default=len(given))
    if at < len(given) and given[at][1]:
        yield given[at][2]
        return
    for value in arguments[at + 1 :]:
        if re.match(r"--?[a-zA-Z]", value):
            return
        yield value


def _at_home(value: Any) -> Any:
    """The options with the home folder for a leading ``~``, which shells leave in ``--out=~/results``."""
    if isinstance(value, dict):
        return {name: _at_home(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_at_home(each) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **_at_home(named))
    if isinstance(value, str | Path) and str(value).startswith("~"):
        from ismkit.utils.files import expanded  # here: on Windows this fails, and the message takes one line

        return type(value)(expanded(value))
    return value


@contextlib.contextmanager
def _wide(active: bool) -> Iterator[None]:
    """A terminal in which no message is wrapped."""
    before = os.environ.get("COLUMNS")
    if active:
        os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        if active and before is None:
            del os.environ["COLUMNS"]
        elif active and before is not None:
            os.environ["COLUMNS"] = before


def one_line(message: str) -> str:
    """What a message of the parser says: the lines after its title, up to the next rule, out of their frame."""
    framed = "╭" in message
    lines = [re.sub(r"^[\s│|]+|[\s│|]+$", "", line) for line in message.splitlines()]
    parts: list[list[str]] = [[]]
    for line in lines:
        if re.fullmatch(r"[─-]+", line) or line == "Got errors:":
            parts.append([])
        elif line and not re.match(r"[╭╰]", line):
            parts[-1].append(line)
    said = parts[0] if framed else parts[1] if len(parts) > 1 else parts[0]
    return " ".join(said) or message.strip()


def overview() -> str:
    """The commands with a line each."""
    lines = [f"  {name:<10}{summary(import_module(f'ismkit.cli.{name}'))}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: ismkit COMMAND ... | ismkit --version",
            "",
            "Improved shortcut models (iSM): train, sample and look, from a 2D toy to images.",
            "",
            *lines,
            "",
            "examples:",
            *(f"  {line}" for line in ("ismkit doctor", "ismkit notebook 00", "ismkit train gaussians")),
            "  ismkit train --help",
        ]
    )


def summary(command: ModuleType) -> str:
    """The first line of a command's docstring."""
    return (command.__doc__ or "").partition("\n")[0]


def details(command: ModuleType) -> str:
    """Below the help: examples, and names that only the library knows."""
    lines = ["examples:", *(f"  {line}" for line in command.EXAMPLES)]
    try:
        known: dict[str, dict[str, str]] = getattr(command, "names", dict)()
    except ImportError:  # help works where torch does not
        known = {}
    for title, names in known.items():
        lines += ["", f"{title}:", *(f"  {name:<24}{about}".rstrip() for name, about in names.items())]
    return "\n".join(lines)
