"""Settings as values: described by plain JSON, changed by their path, and read from text by the type they have.

Descriptions are for people and model cards; keys are made of :func:`ismkit.utils.keys.identity`, which tells more.
What has no text of its own, such as a function, is named by where it is: ``module:attribute``.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import importlib
import inspect
import math
import operator
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from functools import cache, partial
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ismkit.utils.checks import shown
from ismkit.utils.files import bytes_sum

T = TypeVar("T")

IN_PYTHON = "module:attribute, or set in Python"  # what a setting must be whose type has no text, such as a function


def describe(value: Any) -> Any:
    """Write settings as plain JSON values for readers: dataclasses become dicts with their class, functions names.

    Names of functions and classes outside the kit have their module. Equal descriptions do not mean equal settings: two
    functions may have one name. Keys are made of :func:`ismkit.utils.keys.identity`.

    Args:
        value: numbers, also NumPy's, texts, None, paths, bytes, members of an ``Enum``, tensors, arrays, dataclasses,
            functions, ``functools.partial`` calls, objects with an attribute ``identity``, and lists, tuples, sets and
            dicts of them.

    Returns:
        The same as dicts, lists, numbers and texts. Infinity and NaN, which JSON does not have, become texts; tensors
        and arrays are their dtype, shape and checksum.

    Raises:
        TypeError: for what has no such form (networks, generators).

    Example:
        >>> from ismkit import Auction, describe, l2
        >>> describe({"solver": Auction(), "distance": l2})
        {'solver': {'class': 'Auction', 'epsilon': 0.1, 'stop': 0.01, 'exact': 512, 'device': 'cpu'}, 'distance': 'l2'}
        >>> describe({"clip": float("inf"), "kinds": {"b", "a"}})
        {'clip': 'inf', 'kinds': ['a', 'b']}
    """
    value = plain(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": _called(type(value)), **fields}
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(describe, value), key=repr)
    if isinstance(value, partial):
        return {"call": describe(value.func), **describe(value.keywords), "args": describe(value.args)}
    if isinstance(value, enum.Enum):
        return f"{_called(type(value))}.{value.name}"
    if isinstance(value, PurePath | complex) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    if isinstance(value, int | float | str | bool | None):
        return value
    if (text := bytes_text(value)) is not None:
        return text
    if hasattr(value, "__qualname__"):
        return _called(value)
    if (own := getattr(value, "identity", None)) is not None and not callable(own):
        return {"class": _called(type(value)), "identity": describe(own)}
    raise TypeError(f"settings hold numbers, texts, dataclasses and functions, not {type(value).__name__}")


def bytes_text(value: Any) -> str | None:
    """What is told by its bytes, as text: a tensor or an array by dtype, shape and checksum; None for other values.

    Example:
        >>> import torch
        >>> from ismkit.utils.settings import bytes_text
        >>> bytes_text(torch.zeros(2))
        'torch.float32 (2,) af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc'
    """
    if isinstance(value, bytes | bytearray):
        return f"bytes {bytes_sum(value)}"
    if (torch := sys.modules.get("torch")) and isinstance(value, torch.dtype | torch.device):
        return str(value)
    if torch and isinstance(value, torch.Tensor):
        kind, shape = str(value.dtype), tuple(value.shape)
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    elif (numpy := sys.modules.get("numpy")) and isinstance(value, numpy.ndarray) and not value.dtype.hasobject:
        kind, shape = f"numpy.{value.dtype}", value.shape
        value = numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8)
    else:
        return None
    return f"{kind} {shape} {bytes_sum(value.data)}"


def plain(value: Any) -> Any:
    """NumPy's numbers as Python's, which have other texts; anything else as it is.

    Example:
        >>> import numpy as np
        >>> from ismkit.utils.settings import plain
        >>> plain(np.int64(3)), plain(np.float64(0.5)), plain(3)
        (3, 0.5, 3)
    """
    numpy = sys.modules.get("numpy")  # a value of it cannot be there before it is imported
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def in_kit(value: Any) -> bool:
    """Whether a function or class is one of this kit's.

    Example:
        >>> from ismkit import l2
        >>> from ismkit.utils.settings import in_kit
        >>> in_kit(l2), in_kit(max)
        (True, False)
    """
    return (getattr(value, "__module__", None) or "").partition(".")[0] == __name__.partition(".")[0]


def _called(value: Any) -> str:
    """The name of a function or class; outside the kit with its module."""
    module = getattr(value, "__module__", None)
    return value.__qualname__ if in_kit(value) or not module else f"{module}.{value.__qualname__}"


def change(settings: T, path: str, value: Any) -> T:
    """A copy of nested dataclasses (and ``partial`` calls) with one value changed, such as ``recipe.rows.consistency``.

    Args:
        settings: a frozen dataclass, such as a ``Run``, a ``Recipe`` or an ``Optim``.
        path: names of fields, or of arguments of a ``partial`` call, joined by points.
        value: of the type that the setting has; a text is read as that type, see :func:`coerce`.

    Returns:
        The copy.

    Raises:
        ValueError: if there is no such setting, the value is of another type, or the part that holds it refuses it.

    Example:
        >>> from ismkit import RUNS, change
        >>> change(RUNS["gaussians"], "recipe.coupling.class_aware", "false").recipe.coupling.class_aware
        False
    """
    if not isinstance(path, str):
        raise ValueError(f"path must be the names of settings joined by points, got {shown(path)}")
    if not dataclasses.is_dataclass(settings) and not isinstance(settings, partial):
        raise ValueError(f"settings must be a dataclass, such as a Run, got {shown(settings)}")
    return _change(settings, path, value, path)


def get(settings: Any, path: str) -> Any:
    """The setting at a path, see :func:`change`.

    Example:
        >>> from ismkit import RUNS
        >>> from ismkit.utils.settings import get
        >>> get(RUNS["gaussians"], "net.width")
        128
    """
    for name in path.split("."):
        settings = settings.keywords[name] if isinstance(settings, partial) else getattr(settings, name)
    return settings


def _change(settings: Any, path: str, value: Any, whole: str) -> Any:
    name, _, rest = path.partition(".")
    if isinstance(settings, type):  # such as an own network that has no settings yet
        settings = partial(settings)
    if isinstance(settings, partial):
        arguments = inspect.signature(settings.func).parameters
        if name not in arguments:
            raise ValueError(f"no setting {name!r} in {settings.func.__name__}: it has {', '.join(arguments)}")
        func: Any = settings.func
        made = func.__init__ if isinstance(func, type) else func  # type: ignore[misc]
        if rest:
            old = settings.keywords.get(name, arguments[name].default)
            if old is None:
                raise _unset(whole, rest, _hint(made, name))
            new = _change(old, rest, value, whole)
        else:
            kind, default = _hint(made, name), arguments[name].default
            if kind is Any and type(default) in (bool, int, float, str):
                kind = type(default)
            if kind is Any and isinstance(value, str):
                raise ValueError(f"{whole} has no type in {func.__name__}: annotate it there, or set it in Python")
            new = coerce(value, kind, whole)
        return partial(settings.func, *settings.args, **settings.keywords | {name: new})
    fields = [field.name for field in dataclasses.fields(settings)] if dataclasses.is_dataclass(settings) else []
    if name not in fields:
        known = f"it has {', '.join(fields)}" if fields else "it has no settings"
        raise ValueError(f"no setting {name!r} in {type(settings).__name__}: {known}")
    old, kind = getattr(settings, name), _hint(type(settings), name)
    if rest and old is None:
        raise _unset(whole, rest, kind)
    new = _change(old, rest, value, whole) if rest else coerce(value, kind, whole)
    return dataclasses.replace(settings, **{name: new})


def _unset(path: str, rest: str, kind: Any) -> ValueError:
    """The error for a part of what is None: it says what that can be."""
    holder = path.removesuffix(f".{rest}")
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    names = [each.__name__ for each in kinds if dataclasses.is_dataclass(each) and isinstance(each, type)]
    remedy = f"set {holder} first, in Python, to a {' or a '.join(names)}" if names else f"it can be {wanted(kind)}"
    return ValueError(f"no setting {rest!r} in {holder}, which is None: {remedy}")


def _hint(owner: Any, name: str) -> Any:
    """The annotation of a field or an argument; Any where it has none that can be read."""
    try:
        return get_type_hints(owner).get(name, Any)
    except (NameError, TypeError):
        return Any


def coerce(value: Any, kind: Any, name: str) -> Any:
    """Convert a value to a type: a value of that type is returned as it is, a text is parsed.

    Args:
        value: a Python value, or a text, such as from the command line: ``true``, ``12``, ``1e-3``, ``inf``, ``None``,
            ``0.9,0.99`` for a tuple, one of the names of a ``Literal``, ``module:attribute`` for what has no text, and
            several of them, with commas between, for a tuple of such.
        kind: a type or annotation: bool, int, float, str, Path, a tuple or a union of them, or a ``Literal``. Of any
            other type, Python values are returned as they are, and a text must be that of :func:`import_named`.
        name: of the setting, for the message.

    Returns:
        The value, of that type.

    Raises:
        ValueError: if the value is of another type; the message names the setting, the value and what it should be.

    Example:
        >>> from ismkit.utils import coerce
        >>> coerce("inf", float, "optim.clip"), coerce("0.9, 0.99", tuple[float, float], "optim.betas")
        (inf, (0.9, 0.99))
        >>> coerce("fast", float, "optim.lr")
        Traceback (most recent call last):
        ValueError: optim.lr must be a number, got 'fast'
    """
    if isinstance(value, str) and ":" in value and _has_no_text(kind):
        found: Any = import_named(value, name)
        if get_origin(kind) is Callable and not callable(found):
            raise ValueError(f"{name} must be a function, got {value}, {_what(found)}")
        return found
    if isinstance(value, str) and ":" in value and (each := _parts_without_text(kind)):
        return tuple(coerce(part, each, name) for part in _listed(value))
    try:
        return _coerce(value, kind)
    except (ValueError, TypeError, KeyError, StopIteration) as error:
        raise ValueError(f"{name} must be {wanted(kind)}, got {shown(value)}") from error


def _parts_without_text(kind: Any) -> Any:
    """Of a tuple of any length the type of its parts, if they cannot be written as text; else None."""
    kinds = get_args(kind)
    return kinds[0] if get_origin(kind) is tuple and kinds[1:] == (...,) and _has_no_text(kinds[0]) else None


def _listed(text: str) -> list[str]:
    """The parts of a tuple that is written as text."""
    inner = text.strip().strip("()[]").strip(", ")
    return re.split(r"\s*,\s*", inner) if inner else []


def _has_no_text(kind: Any) -> bool:
    """Whether values of a type cannot be written as text, but for None."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return kind is not Any and all(wanted(each) == IN_PYTHON for each in kinds if each is not type(None))


def import_named(name: str, what: str, *kinds: type[T]) -> T:
    """Import what a text such as ``my_runs:moons`` names: this runs the code of the module.

    A module of the current folder comes first, as it does for ``python -m``.

    Args:
        name: ``module:attribute``; both may have points, ``package.module:Class.method``.
        what: the argument or option that is named so, for the message.
        kinds: what it must be one of; by default anything.

    Returns:
        The value.

    Raises:
        ValueError: for a text of another form, if there is no such module or attribute, if the module fails when it is
            imported, or for a value of another type.

    Example:
        >>> from ismkit.utils import import_named
        >>> import_named("math:pi", "number", float)
        3.141592653589793
        >>> import_named("math:pi", "name", str)
        Traceback (most recent call last):
        ValueError: name math:pi must be a str, got the float 3.141592653589793
    """
    module, _, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    if module.endswith(".py") or "/" in module:
        stem = os.path.basename(module).removesuffix(".py")
        raise ValueError(f"{what} must name a module, not its file: {stem}:{path} in its folder, got {shown(name)}")
    if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise ValueError(f"{what} must be module:attribute, such as my_runs:moons, got {shown(name)}")
    value: Any = _imported(module, f"{what} {name}")
    for part in path.split("."):
        if not hasattr(value, part):
            known = [attribute for attribute in dir(value) if not attribute.startswith("_")]
            near = difflib.get_close_matches(part, known, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known[:20]) or 'nothing'}"
            file = getattr(sys.modules[module], "__file__", None)
            where = f"{module} ({file})" if file else module
            raise ValueError(f"{what} {name}: {where} has no {path}; {hint}")
        value = getattr(value, part)
    if kinds and not isinstance(value, kinds):
        rule = " or a ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{what} {name} must be a {rule}, got {_what(value)}")
    return value


def _imported(module: str, what: str) -> types.ModuleType:
    """A module, the current folder first; ValueError with the place of what fails in it."""
    here = os.getcwd()
    if here not in sys.path and not sys.flags.safe_path:
        sys.path.insert(0, here)  # and it stays: workers, which import the module again, have the same path
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # its code may raise anything
        absent = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if absent is not None and f"{module}.".startswith(f"{absent}."):
            near = difflib.get_close_matches(module, [file.stem for file in Path(here).glob("*.py")], 1)
            hint = f"did you mean {near[0]}?" if near else f"looked for in {here} and among the installed packages"
            raise ValueError(f"{what}: there is no module {absent}; {hint}") from error
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = "" if isinstance(error, SyntaxError) else f" ({place.filename}, line {place.lineno})"
        raise ValueError(f"{what}: importing {module} failed: {type(error).__name__}: {error}{said}") from error


def _what(value: Any) -> str:
    """What a value is, for a message."""
    if inspect.isroutine(value) or isinstance(value, type):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__qualname__}"
    if isinstance(value, types.ModuleType):
        return f"the module {value.__name__}"
    return f"the {type(value).__name__} {shown(value)}"


def _coerce(value: Any, kind: Any) -> Any:
    origin, text = get_origin(kind), isinstance(value, str)
    if origin in (Union, types.UnionType):
        return _one_of(value, get_args(kind))
    if origin is Literal:
        return next(option for option in get_args(kind) if value in (option, str(option)))
    if origin is tuple:
        parts = _listed(value) if text else list(value)
        kinds = get_args(kind)
        kinds = kinds[:1] * len(parts) if kinds[1:] == (...,) else kinds
        return tuple(_coerce(part, each) for part, each in zip(parts, kinds, strict=True))
    if kind is type(None):
        if value not in (None, "None", "none"):
            raise ValueError(value)
        return None
    if kind is bool:
        return {"true": True, "false": False}[value.lower()] if text else _exactly(value, bool)
    if kind is int:
        return int(value) if text else operator.index(_not(value, bool))
    if kind is float:
        number = float(value) if text else float(_not(value, bool, complex))
        if math.isnan(number):
            raise ValueError(value)
        return number
    if kind in (str, Path):
        return kind(_exactly(value, str, Path))
    if text and kind is not Any:
        raise ValueError("cannot be read from text")
    return value


def check_types(settings: Any) -> None:
    """Refuse a dataclass whose fields hold other types than they say: the first call of its ``__post_init__``.

    Numbers, truth values, texts, paths, None, tuples and unions of them are compared, and parts that are dataclasses;
    fields of other types, such as functions, are left to the class. NumPy's numbers count as Python's.

    Args:
        settings: the dataclass.

    Raises:
        ValueError: for the first field of another type; the message names it, its value and what it should be.

    Example:
        >>> from ismkit import Strengths
        >>> Strengths(w_max="3.5")
        Traceback (most recent call last):
        ValueError: w_max must be a number, got '3.5'
    """
    for name, kind in _hints(type(settings)).items():  # type: ignore[arg-type]
        if not _fits(value := getattr(settings, name), kind):
            rule = f"a {_called(kind)}" if dataclasses.is_dataclass(kind) else wanted(kind)
            raise ValueError(f"{name} must be {rule}, got {shown(value)}")


@cache
def _hints(owner: type) -> dict[str, Any]:
    return {field.name: _hint(owner, field.name) for field in dataclasses.fields(owner)}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind that can be compared; of any other kind all are."""
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in kinds)
    if origin is Literal:
        return isinstance(value, str) and value in kinds
    if origin is tuple:
        sized = isinstance(value, tuple | list) and (kinds[1:] == (...,) or len(value) == len(kinds))
        return sized and all(map(_fits, value, kinds[:1] * len(value) if kinds[1:] == (...,) else kinds))
    value = plain(value)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    known = kind in (bool, str, Path, type(None)) or (isinstance(kind, type) and dataclasses.is_dataclass(kind))
    return not known or isinstance(value, str | Path if kind is Path else kind)


def _one_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    """Convert to the first kind that fits: None, then the narrow ones, then text."""
    order = [type(None), bool, int, float]
    for kind in sorted(kinds, key=lambda kind: order.index(kind) if kind in order else 5 if kind is str else 4):
        try:
            return _coerce(value, kind)
        except (ValueError, TypeError, KeyError, StopIteration):
            continue
    raise ValueError(value)


def _exactly(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(value)
    return value


def _not(value: Any, *kinds: type) -> Any:
    if isinstance(value, (str, *kinds)):
        raise TypeError(value)
    return value


def wanted(kind: Any) -> str:
    """What a value of a type is called in a message.

    Example:
        >>> from ismkit.utils.settings import wanted
        >>> wanted(int | None)
        'an integer or None'
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(sorted(map(wanted, get_args(kind)), key=IN_PYTHON.__eq__))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if origin is tuple:
        kinds = get_args(kind)
        if kinds[1:] == (...,):
            return f"a tuple, each part {wanted(kinds[0])}"
        return f"a tuple ({', '.join(map(wanted, kinds))})"
    names: Mapping[Any, str] = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "a text",
        Path: "a path",
        type(None): "None",
    }
    return names.get(kind, IN_PYTHON)
