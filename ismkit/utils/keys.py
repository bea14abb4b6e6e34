"""What settings are, as text: equal texts mean equal results, and what has no such text is refused.

Folders of runs, trials of a sweep and checkpoints are found again by their settings. A key that forgets what changes
the result gives back another experiment's weights; :func:`identity` is what all keys are made of.
"""

from __future__ import annotations

import ast
import dataclasses
import dis
import enum
import functools
import importlib.util
import inspect
import linecache
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import PurePath
from typing import Any

from ismkit.utils.files import json_sum
from ismkit.utils.settings import bytes_text, in_kit, plain

#: Metadata of a dataclass's field that changes no result: ``field(metadata=UNKEYED)``.
UNKEYED = {"keyed": False}
REMEDY = "make it a frozen dataclass or a function of a module"

#: Sources used so far that another process cannot find, those of a notebook's cells and of a script, by their name.
_CELLS: dict[str, str] = {}


def identity(value: Any, name: str = "") -> dict[str, str]:
    """Write settings as texts by their path, which differ where anything differs that can change a result.

    ======================  ===============================================================================
    numbers, texts, None    type and value: ``1``, ``1.0``, ``True`` and ``"1"`` are four; NumPy's are Python's
    lists, tuples, dicts    kind and parts; the order of a dict's keys does not matter
    tensors, arrays         dtype, shape and a checksum of the bytes
    frozen dataclasses      class and fields, but those that are marked :data:`UNKEYED`
    ``functools.partial``   its parts
    functions of the kit    module and name; classes too
    other functions         module, name, source without comments, layout and docstring, default arguments, and the
                            globals that it uses: values, functions and classes in the same way, those of other modules
                            too (``module.TABLE``, imports in its body)
    other classes           module, name, bases, methods, plain attributes and the defaults of a dataclass's fields
    members of enums        module and name; outside the kit value and methods, too
    objects                 class and ``identity``, where they have that attribute: a text, or other settings here
    ======================  ===============================================================================

    Not seen are the insides of the kit and of installed packages (they are named), what a function reads from a file or
    the environment, and attributes that were set on a function.

    Refused are lambdas (two on a line have one source), closures (what they hold can change, and no card can show it),
    functions without source, your own modules that a function hands on as a whole, and any other object.

    Args:
        value: settings.
        name: of the whole, the beginning of every path.

    Returns:
        A text for each path, such as ``optim.lr``.

    Raises:
        ValueError: for what has no identity; the message names the setting.

    Example:
        >>> from ismkit import Coupling, l2
        >>> from ismkit.utils import identity
        >>> identity({"clip": 1.0, "distance": l2})
        {'': 'dict of clip, distance', 'clip': '1.0', 'distance': 'ismkit.method.wavelet.l2'}
        >>> identity(Coupling(pool=8), "coupling")["coupling.pool"]
        '8'
        >>> identity({"distance": lambda prediction, target: 0.0})
        Traceback (most recent call last):
        ValueError: distance is a lambda, which has no identity: make it a frozen dataclass or a function of a module
    """
    return dict(_leaves(value, name, ()))


def identity_sum(value: Any, name: str = "") -> str:
    """Compute the SHA-256 checksum of :func:`identity`.

    Args:
        value: settings.
        name: of the whole, for the message.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: for what has no identity.

    Example:
        >>> from ismkit.utils.keys import identity_sum
        >>> identity_sum({"steps": 1, "lr": 0.1}) == identity_sum({"lr": 0.1, "steps": 1})
        True
        >>> identity_sum({"steps": 1}) == identity_sum({"steps": True})
        False
    """
    return json_sum(identity(value, name))


def cells() -> dict[str, str]:
    """The sources used so far that another process cannot find, for :func:`add_cells` there."""
    return dict(_CELLS)


def add_cells(sources: Mapping[str, str]) -> None:
    """Make the sources of another process, which :func:`cells` gave there, known in this one."""
    _CELLS.update(sources)


def _refuse(path: str, what: str) -> ValueError:
    return ValueError(f"{path or 'the setting'} {what}: {REMEDY}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _leaves(value: Any, path: str, around: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    """Paths and texts; ``around`` are the functions and classes whose identity this is a part of."""
    value = plain(value)
    if (text := _text(value, path, around)) is not None:
        yield path, text
        return
    what, parts = _parts(value, path)
    yield path, what
    for name, part in parts.items():
        yield from _leaves(part, f"{path}{name}" if name.startswith("[") else _join(path, name), around)


def _text(value: Any, path: str, around: tuple[Any, ...]) -> str | None:
    """The identity of what has no parts."""
    if value is None or type(value) in (bool, int, float, complex, str):
        return repr(value)
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}{_member(value, path, around)}"
    if isinstance(value, PurePath):
        return f"path {str(value)!r}"
    if isinstance(value, functools._lru_cache_wrapper):
        value = value.__wrapped__
    if isinstance(value, types.FunctionType):
        return _name(value) if _is_named(value) else _function(value, path, around)
    if isinstance(value, type):
        return _name(value) if _is_named(value) else _class(value, path, around)
    return bytes_text(value)


def _parts(value: Any, path: str) -> tuple[str, dict[str, Any]]:
    """What a value is, and its parts by the rest of their path."""
    if type(value) in (list, tuple):
        return f"{type(value).__name__} of {len(value)}", {f"[{i}]": part for i, part in enumerate(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return "named tuple", {"class": type(value), **value._asdict()}  # type: ignore[attr-defined]
    if isinstance(value, set | frozenset):
        parts = sorted(value, key=lambda part: sorted(_leaves(part, path, ())))
        return f"{type(value).__name__} of {len(value)}", {f"[{i}]": part for i, part in enumerate(parts)}
    if type(value) is dict:
        named = {_key(key, path): part for key, part in value.items()}
        return f"dict of {', '.join(sorted(named))}", dict(sorted(named.items()))
    if isinstance(value, partial):
        given = {f"[{i}]": part for i, part in enumerate(value.args)} | dict(sorted(value.keywords.items()))
        return f"call with {', '.join(given)}", {"(function)": value.func, **given}
    if isinstance(value, types.MethodType):
        return f"method {value.__name__}", {"(object)": value.__self__}
    if _is_frozen(value):
        fields = [field.name for field in dataclasses.fields(value) if field.metadata.get("keyed", True)]
        return _name(type(value)), {
            **({} if _is_named(type(value)) else {"(class)": type(value)}),
            **{field: getattr(value, field) for field in fields},
        }
    if (own := getattr(value, "identity", None)) is not None and not callable(own):
        return _name(type(value)), {"identity": own}
    if hasattr(value, "state_dict"):
        raise ValueError(
            f"{path} is a network, whose weights may change: save it with save_model, and name the file by "
            "ismkit.neighbours.Trained.at(path)"
        )
    kind = f"a {type(value).__name__} that is not frozen" if dataclasses.is_dataclass(value) else type(value).__name__
    if isinstance(value, types.BuiltinFunctionType):
        raise _refuse(path, f"is {value.__name__}, whose source cannot be had")
    own = ", or give it an attribute `identity`, a text that changes with it" if hasattr(value, "__len__") else ""
    raise ValueError(f"{_refuse(path, f'is an object ({kind}), which has no identity')}{own}")


def _key(key: Any, path: str) -> str:
    key = plain(key)
    if key is not None and type(key) not in (bool, int, float, str):
        raise _refuse(path, f"has the key {key!r}, which is no number or text")
    return key if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


def _is_named(value: Any) -> bool:
    """Whether the name of a function or class of the kit says which it is."""
    found: Any = sys.modules.get(value.__module__) if in_kit(value) else None
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def _is_frozen(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen  # type: ignore[union-attr]


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _function(function: types.FunctionType, path: str, around: tuple[Any, ...]) -> str:
    """A function outside the kit: its name, and a checksum of source, defaults and globals."""
    if hasattr(function, "__wrapped__") and _is_installed(function.__globals__.get("__name__", "")):
        function = function.__wrapped__  # its source has the decorator, such as torch.no_grad()
    code = function.__code__
    if function in around:
        return f"{_name(function)}, itself"
    if function.__name__ == "<lambda>":
        raise _refuse(path, "is a lambda, which has no identity")
    if free := [name for name in code.co_freevars if name != "__class__"]:
        raise _refuse(path, f"is {function.__qualname__}, a closure over {', '.join(free)}, which has no identity")
    if (found := _source(code, function.__module__)) is None:
        raise _refuse(path, f"is {function.__qualname__}, whose source cannot be had, or was changed after its import")
    around, (source, decorators) = (*around, function), found
    parts: dict[str, Any] = {"source": source}
    for name, default in (("defaults", function.__defaults__), ("keywords", function.__kwdefaults__)):
        parts |= _leaves(default, _join(path, f"({name})"), around)
    used = {name: function.__globals__[name] for name in (_globals(code) | decorators) & function.__globals__.keys()}
    tree = ast.parse(source)
    for name, value in _reached(tree, used | _imported(tree, function.__globals__.get("__package__") or "")):
        parts[f"global {name}"] = _global(value, _join(path, f"(global {name})"), around)
    parts = {key.removeprefix(path): text for key, text in parts.items()}  # wherever it is used
    return f"{_name(function)}, source {json_sum(parts)[:16]}"


def _class(kind: type, path: str, around: tuple[Any, ...]) -> str:
    """A class outside the kit: its name, and a checksum of bases, methods and plain attributes."""
    if kind in around:
        return f"{_name(kind)}, itself"
    around = (*around, kind)
    parts = {"bases": [_global(base, path, around) for base in kind.__bases__]}
    for name, member in vars(kind).items():
        where = _join(path, name)
        for function in _functions(member):
            if _is_written(function):
                parts[f"{name}, {function.__name__}"] = [_function(function, where, around)]
        if name == "__dataclass_fields__":  # what a field is where the class is called without it
            inherited = {id(part) for base in kind.__mro__[1:] for part in getattr(base, name, {}).values()}
            own = [part for part in member.values() if id(part) not in inherited and part.metadata.get("keyed", True)]
            parts |= {f"field {part.name}": _default(part, _join(path, part.name), around) for part in own}
        if name.startswith("__") or name in getattr(kind, "__dataclass_fields__", ()):
            continue
        if not _functions(member) and not inspect.isdatadescriptor(member) and not name.startswith("_abc_"):
            parts[name] = [_global(member, where, around)]
    return f"{_name(kind)}, source {json_sum(parts)[:16]}"


def _default(part: dataclasses.Field[Any], path: str, around: tuple[Any, ...]) -> list[str]:
    """The default of a field, if it has one; of a lambda what it gives."""
    if part.default is not dataclasses.MISSING:
        return [_global(part.default, path, around)]
    if part.default_factory is dataclasses.MISSING:
        return []
    made = part.default_factory
    return [_global(made() if getattr(made, "__name__", "") == "<lambda>" else made, path, around)]


def _member(value: enum.Enum, path: str, around: tuple[Any, ...]) -> str:
    """What a member of an enum outside the kit is: its value, and the methods of its class."""
    kind = type(value)
    if _is_named(kind) or _is_installed(kind.__module__) or kind in around:
        return ""
    around = (*around, kind)
    parts = {"value": [_global(value.value, path, around)]}
    for name, member in vars(kind).items():
        if functions := _functions(member):
            parts[name] = [_global(function, _join(path, name), around) for function in functions]
    return f", source {json_sum(parts)[:16]}"


def _functions(member: Any) -> list[types.FunctionType]:
    """The functions in an attribute of a class."""
    found = [member]
    if isinstance(member, property):
        found = [member.fget, member.fset, member.fdel]
    elif isinstance(member, staticmethod | classmethod):
        found = [member.__func__]
    elif isinstance(member, functools.cached_property):
        found = [member.func]
    return [function for function in found if isinstance(function, types.FunctionType)]


def _is_written(function: types.FunctionType) -> bool:
    """Whether a method is the author's, and not made by ``dataclass``, whose settings are the fields."""
    return inspect.unwrap(function).__code__.co_filename != "<string>"


def _global(value: Any, path: str, around: tuple[Any, ...]) -> str:
    """What a function outside the kit uses: installed packages are named, the rest has its identity."""
    if isinstance(value, types.ModuleType):
        if _is_own(value):
            raise _refuse(path, f"is the module {value.__name__} as a whole: name what is used of it (module.function)")
        return f"module {value.__name__}"
    module = getattr(value, "__module__", None)
    if isinstance(module, str) and hasattr(value, "__qualname__") and _is_installed(module):
        return _name(value)
    if isinstance(value, types.BuiltinFunctionType):  # torch.relu says no module
        return f"builtin {value.__name__}"
    return json_sum(dict(_leaves(value, path, around)))


def _reached(tree: ast.AST, named: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a function uses of these globals: of your own modules its members, as ``module.member``."""
    chains: set[tuple[str, ...]] = {(name,) for name, value in named.items() if not _is_own(value)}

    def look(node: ast.AST) -> None:
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and _is_own(named.get(node.id)):
            chains.add((node.id, *chain))
        for part in ast.iter_child_nodes(node):
            look(part)

    look(tree)
    reached = {}
    for first, *rest in chains:
        name, value = first, named[first]
        for member in rest:
            if not _is_own(value):
                break
            name, value = f"{name}.{member}", getattr(value, member, None)
        reached[name] = value
    return sorted(reached.items(), key=lambda item: item[0])


def _imported(tree: ast.AST, package: str) -> dict[str, Any]:
    """What a function imports in its body from your own modules, by the names that it has there."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (module := _own_module(alias.name)) is not None:
                    top = sys.modules[alias.name.partition(".")[0]]
                    found[alias.asname or top.__name__] = module if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            name = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            if (module := _own_module(name)) is not None:
                for alias in node.names:
                    member = getattr(module, alias.name, None) or _own_module(f"{name}.{alias.name}")
                    found[alias.asname or alias.name] = member
    return found


def _own_module(name: str) -> types.ModuleType | None:
    """A module that is neither the kit's nor installed; None for others, and where there is none."""
    with suppress(ImportError, ValueError):  # of the spec: for __main__
        top = name.partition(".")[0]
        spec = None if top in sys.modules else importlib.util.find_spec(top)
        if not (_is_installed(top) or (spec and _is_in_packages(spec.origin or ""))):
            return module if _is_own(module := importlib.import_module(name)) else None
    return None


def _is_own(value: Any) -> bool:
    """Whether a value is a module outside the kit and the installed packages."""
    if not isinstance(value, types.ModuleType):
        return False
    return value.__name__.partition(".")[0] != __name__.partition(".")[0] and not _is_installed(value.__name__)


def _is_installed(module: str) -> bool:
    """Whether a module is one of Python, or stands in the folders of installed packages."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    return _is_in_packages(getattr(sys.modules.get(top), "__file__", None) or "")


def _is_in_packages(file: str) -> bool:
    return any(file.startswith(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _globals(code: types.CodeType) -> set[str]:
    """Names that a function, and those inside it, look up outside of it."""
    return {
        step.argval for part in _codes(code) for step in dis.get_instructions(part) if step.opname.startswith("LOAD_GL")
    }


def _source(code: types.CodeType, module: str) -> tuple[str, set[str]] | None:
    """The source of a function in memory, without comments, layout and docstring, and the names in its decorators."""
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename))
    entry = linecache.cache.get(code.co_filename)
    in_memory = entry is not None and len(entry) == 4 and entry[1] is None  # no time of change: no file
    if text and (in_memory or module == "__main__"):
        _CELLS[code.co_filename] = text
    # In another process a function of a cell or of a script has lost the name of its file.
    for source in [text] if text else list(_CELLS.values()):
        try:
            compiled, nodes = _read(source)
        except (SyntaxError, ValueError):
            continue
        # The file may have been edited since: what compiles to another function is not its source.
        places = ((found.co_firstlineno, found.co_name) for found in compiled if _alike(found, code))
        if found := next((nodes[place] for place in places if place in nodes), None):
            return found
    return None


def _alike(a: types.CodeType, b: types.CodeType) -> bool:
    """Whether two functions do the same, wherever in their file they are."""
    fields = ("co_qualname", "co_code", "co_names", "co_varnames", "co_freevars", "co_argcount", "co_flags")
    if any(getattr(a, field) != getattr(b, field) for field in fields) or len(a.co_consts) != len(b.co_consts):
        return False
    return all(
        _alike(x, y) if isinstance(x, types.CodeType) and isinstance(y, types.CodeType) else repr(x) == repr(y)
        for x, y in zip(a.co_consts, b.co_consts, strict=True)
    )


@functools.lru_cache(maxsize=32)
def _read(text: str) -> tuple[list[types.CodeType], dict[tuple[int, str], tuple[str, set[str]]]]:
    """The functions of a file: as code; and by first line and name as text, with the names in their decorators."""
    # A notebook compiles each statement by itself: then its functions do not know what its cell imports, and call it
    # by other instructions.
    tree = ast.parse(text)
    parts = [tree, *(ast.Module([statement], []) for statement in tree.body)]
    compiled = [code for part in parts for code in _codes(compile(part, "<source>", "exec", dont_inherit=True))]
    found = list(ast.walk(tree))
    for node in found:
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    nodes = {}
    for node in found:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = node.decorator_list
            names = {part.id for each in decorators for part in ast.walk(each) if isinstance(part, ast.Name)}
            first = min([node.lineno, *(each.lineno for each in decorators)])
            nodes[first, node.name] = ast.unparse(node), names
    return compiled, nodes
