"""Settings described, changed by their path, and read from text by the type they have."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from ismkit.method.auction import Auction
from ismkit.method.recipes import RECIPES
from ismkit.models.nets import ToyMLP
from ismkit.training.runs import RUNS, change_run
from ismkit.utils.settings import change, coerce


@pytest.mark.parametrize(
    ("value", "kind", "want"),
    [
        ("false", bool, False),
        ("True", bool, True),
        ("12", int, 12),
        (np.int64(7), int, 7),
        ("-3", int, -3),
        ("1e-3", float, 1e-3),
        ("inf", float, float("inf")),
        (3, float, 3.0),
        ("ism", str, "ism"),
        ("here", Path, Path("here")),
        ("None", int | None, None),
        ("7", int | None, 7),
        ("0.5", float | str, 0.5),
        ("word", float | str, "word"),
        ("0.9, 0.99", tuple[float, float], (0.9, 0.99)),
        ("(1,2,3)", tuple[int, ...], (1, 2, 3)),
        ("()", tuple[str, ...], ()),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ("fsdp", Literal["ddp", "fsdp"], "fsdp"),
        ("2", Literal[1, 2], 2),
    ],
)
def test_a_value_is_read_by_its_type(value: Any, kind: Any, want: Any) -> None:
    got = coerce(value, kind, "name")
    assert got == want
    assert type(got) is type(want)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("yes", bool, "x must be true or false, got 'yes'"),
        (1, bool, "x must be true or false, got 1"),
        ("64.0", int, "x must be an integer, got '64.0'"),
        (2.0, int, r"x must be an integer, got 2\.0"),
        (True, int, "x must be an integer, got True"),
        ("fast", float, "x must be a number, got 'fast'"),
        ("nan", float, "x must be a number, got 'nan'"),
        (True, float, "x must be a number, got True"),
        (3, str, "x must be a text, got 3"),
        ("none at all", int | None, "x must be an integer or None, got"),
        ("1,2,3", tuple[float, float], r"x must be a tuple \(a number, a number\), got"),
        ("1,a", tuple[int, ...], "x must be a tuple, each part an integer, got"),
        ("zero", Literal["ddp", "fsdp"], "x must be one of ddp, fsdp, got 'zero'"),
        ("fast", Callable[[int], int] | None, "x must be None or module:attribute, or set in Python, got 'fast'"),
        ("l2", type(RECIPES["ism"]), "x must be module:attribute, or set in Python, got 'l2'"),
    ],
)
def test_another_type_is_refused(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        coerce(value, kind, "x")


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("optim.lr", "fast", r"optim\.lr must be a number, got 'fast'"),
        ("recipe", "ddpm", "recipe must be one of flow, .*, got 'ddpm'"),
        ("net.width", "64.0", r"net\.width must be an integer, got '64\.0'"),
        ("recipe.coupling.pool", "2.0", r"recipe\.coupling\.pool must be an integer, got '2\.0'"),
        ("recipe.coupling.class_aware", "no", r"recipe\.coupling\.class_aware must be true or false, got 'no'"),
        (
            "recipe.coupling.solver",
            "auction",
            r"recipe\.coupling\.solver must be None or module:attribute, or set in Py",
        ),
        ("recipe.coupling.solver", 3, r"solver must be None or a function \(x0, x1\) -> permutation, got 3"),
        (
            "recipe.coupling.solver.exact",
            "0",
            "no setting 'exact' in recipe.coupling.solver, which is None: it can be None or module:attribute",
        ),
        ("recipe.target.gap", "medium", r"recipe\.target\.gap must be one of fast, slow, got 'medium'"),
        ("recipe.distance", "l2", r"recipe\.distance must be module:attribute, or set in Python"),
        ("steps", "0", "steps must be an integer of at least 1, got 0"),
        ("net.height", "3", "no setting 'height' in ToyMLP: it has "),
        ("steps.few", "3", "no setting 'few' in int: it has no settings"),
    ],
)
def test_a_run_refuses_what_its_settings_cannot_be(path: str, text: Any, message: str) -> None:
    """faults A2: text was taken for truth, and ended in tracebacks or late errors."""
    with pytest.raises(ValueError, match=message):
        change_run(RUNS["gaussians"], path, text)


def test_a_run_is_changed_by_text() -> None:
    run = RUNS["gaussians"]
    assert change_run(run, "recipe.coupling.class_aware", "false").recipe.coupling.class_aware is False
    auctioned = change_run(run, "recipe.coupling.solver", Auction())
    assert change_run(auctioned, "recipe.coupling.solver.exact", "64").recipe.coupling.solver == Auction(exact=64)
    assert change_run(auctioned, "recipe.coupling.solver", "None") == run
    assert change_run(run, "optim.clip", "inf").optim.clip == float("inf")
    assert change_run(run, "optim.betas", "0.9,0.95").optim.betas == (0.9, 0.95)
    assert change_run(run, "net.width", "64").build(8).config["width"] == 64  # type: ignore[index, operator, union-attr]
    assert change_run(run, "recipe", "ism_plus").recipe == run.adapt(RECIPES["ism_plus"])


@dataclass(frozen=True)
class Inner:
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    call: partial[ToyMLP] = field(default_factory=lambda: partial(ToyMLP, width=8))


def test_change_leaves_the_original_alone() -> None:
    outer = Outer()
    assert change(outer, "inner.share", 1).inner.share == 1.0
    assert change(outer, "call.width", 16).call.keywords == {"width": 16}
    assert (outer.inner, outer.call.keywords) == (Inner(), {"width": 8})


def first(net: Any, prediction: Any, query: Any, velocity: Any, context: Any) -> Any:
    """A term of a loss."""
    return prediction.square().mean()


def second(net: Any, prediction: Any, query: Any, velocity: Any, context: Any) -> Any:
    """Another one."""
    return prediction.abs().mean()


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("first", (first,)),
        ("first,", (first,)),
        ("(first, second)", (first, second)),
        ("second,first", (second, first)),
    ],
)
def test_a_tuple_of_what_has_no_text_is_named_part_by_part(text: str, terms: tuple[Any, ...]) -> None:
    text = text.replace("first", f"{__name__}:first").replace("second", f"{__name__}:second")
    named = change(RUNS["gaussians"], "recipe.terms", text).recipe.terms
    assert [part.__name__ for part in named] == [part.__name__ for part in terms]
    with pytest.raises(ValueError, match=f"recipe.terms {__name__}:third: .* has no third"):
        change(RUNS["gaussians"], "recipe.terms", f"{__name__}:first,{__name__}:third")
