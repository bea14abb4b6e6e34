"""The examples in the docstrings run, and every public name has one, with its arguments, results and errors."""

import ast
import doctest
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "ismkit"
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if re.search(r"^ *>>> ", path.read_text(), re.MULTILINE))


#: Methods of networks that PyTorch names: a network is called itself, and its modes are no lesson.
TORCHS = ("forward", "train")


def exported() -> list[str]:
    """The public names of the rooms with the files that define them, as ``method.path.interpolate``."""
    found = []
    for stub in sorted(PACKAGE.glob("*/__init__.pyi")):
        for node in ast.parse(stub.read_text()).body:
            assert isinstance(node, ast.ImportFrom)
            if node.module:  # else the files themselves
                found += [f"{stub.parent.name}.{node.module}.{alias.name}" for alias in node.names]
    return found


def module(path: Path) -> str:
    """``ismkit.method.rows`` for the file of that module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def documented(docstring: str, *sections: str) -> set[str]:
    """The names that have an entry in a section: ``fast, slow: decays ...`` are two."""
    entries: list[str] = []
    for section in sections:
        if part := re.search(rf"^{section}:\n((?:    .*\n|\n)+)", docstring + "\n", re.MULTILINE):
            entries += re.findall(r"^    ([\w, ]+):", part[1], re.MULTILINE)
    return {name for entry in entries for name in entry.split(", ")}


def raised(value: Any) -> set[str]:
    """The exceptions that stand in the code of a function, or of how a class is made."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    bodies: list[ast.AST] = [tree]
    if inspect.isclass(value):
        made = ("__init__", "__post_init__")
        bodies = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in made]
    calls = [node.exc for body in bodies for node in ast.walk(body) if isinstance(node, ast.Raise)]
    return {call.func.id for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}


def methods(kind: type) -> dict[str, str]:
    """The public methods that a class of the kit defines, with the docstring of each; properties are not called."""
    names = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
    calls = {name: getattr(value, "__func__", value) for name, value in names.items()}
    return {
        name: inspect.getdoc(value) or ""
        for name, value in calls.items()
        if inspect.isfunction(value) and value.__qualname__ == f"{kind.__qualname__}.{name}" and name not in TORCHS
    }


def code_of(*docstrings: str | None) -> str:
    """The code of all examples."""
    parser = doctest.DocTestParser()
    return "\n".join(example.source for text in docstrings for example in parser.get_examples(text or ""))


@pytest.mark.parametrize("name", map(module, WITH_EXAMPLES))
def test_examples_give_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each starts from nothing, so it shows all its imports, and leaves nothing in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI", "true")  # no progress bars
    monkeypatch.delenv("ISMKIT_OUT", raising=False)
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(importlib.import_module(name), name, globs={}):
        runner.run(test)
    failed, attempted = runner.summarize(verbose=False)
    assert attempted
    assert failed == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", exported())
def test_public_name_is_documented(name: str) -> None:
    """Functions and classes: a summary, every parameter, what is returned and raised, an example with a result."""
    file, _, attribute = name.rpartition(".")
    value = inspect.unwrap(getattr(importlib.import_module(f"ismkit.{file}"), attribute))  # of a cache
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        source = (PACKAGE / f"{file.replace('.', '/')}.py").read_text()
        assert re.search(rf"^#: .*\n(?:#: .*\n)*{attribute}\b", source, re.MULTILINE), "no comment `#: ...`"
        return
    docstring = inspect.getdoc(value)
    assert docstring
    summary, *rest = docstring.split("\n")
    assert summary.endswith(".")
    assert not rest or not rest[0], "the summary takes more than a line"
    if inspect.isclass(value) and issubclass(value, Exception):
        return
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(value).parameters.values()
    if inspect.isclass(value):  # a protocol takes any arguments
        parameters = [parameter for parameter in parameters if parameter.kind not in kinds]
    assert {parameter.name for parameter in parameters} <= documented(docstring, "Args", "Attributes")
    assert raised(value) <= documented(docstring, "Raises")
    if inspect.isfunction(value) and inspect.signature(value).return_annotation != "None":
        assert re.search(r"^(Returns|Yields):\n    \S", docstring, re.MULTILINE)
    assert re.search(r"^Example:\n    \S", docstring, re.MULTILINE)
    examples = doctest.DocTestParser().get_examples(docstring)
    assert [example for example in examples if example.want and doctest.SKIP not in example.options]


#: Words by which a docstring names a source: a paper, one of the two papers of the method, or a choice of this kit.
SOURCE = re.compile(r"arXiv\s+\d{4}\.\d{5}|\b(?:iSM|SM)\b|[Tt]his\s+kit's|[a-z] \((?:19|20)\d\d[,)]")
#: Signatures, containers and the way in: nothing published stands behind them.
WITHOUT_SOURCE = {
    *("method.path.Network", "method.path.Query", "method.path.Source", "method.path.draw_noise"),
    *("method.recipes.Answer", "method.recipes.Context", "method.recipes.TargetRule", "method.recipes.Term"),
    *("method.recipes.ask", "method.rows.Blocked", "method.sampling.Solution"),
}


def test_what_implements_something_published_names_its_source() -> None:
    """The functions and classes of the method, and the metrics."""
    silent = set()
    for name in exported():
        file, _, attribute = name.rpartition(".")
        value = inspect.unwrap(getattr(importlib.import_module(f"ismkit.{file}"), attribute))
        if file.startswith("method.") or file == "evaluation.metrics":
            documented = inspect.isclass(value) or inspect.isfunction(value)
            if documented and not SOURCE.search(inspect.getdoc(value) or ""):
                silent.add(name)
    assert silent == WITHOUT_SOURCE


def classes() -> dict[str, type]:
    """The public classes, and those of the kit that they are made of, by their place."""
    found = {}
    for name in exported():
        file, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(f"ismkit.{file}"), attribute)
        if inspect.isclass(value):
            for kind in value.__mro__:
                if kind.__module__.startswith("ismkit."):
                    found[f"{kind.__module__.removeprefix('ismkit.')}.{kind.__qualname__}"] = kind
    return found


def test_every_public_method_is_called_in_an_example() -> None:
    """In its own, in that of its class, or in that of a public class which has it from there."""
    known = classes()
    lacking = []
    for place, kind in known.items():
        family = [inspect.getdoc(other) for other in known.values() if kind in other.__mro__]
        for name in methods(kind):
            own = [methods(base).get(name) for base in kind.__mro__]  # an override is called as what it replaces
            if not re.search(rf"\.{name}\(", code_of(*own, *family)):
                lacking.append(f"{place}.{name}")
    assert lacking == []
