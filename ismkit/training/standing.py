"""Stand-ins for networks: a rule or a term is called, and what it asks of networks is answered by a function."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ismkit.method.path import Query

Answer = Callable[..., Tensor]  # of the network, and of its query

_ONE_AT_A_TIME = threading.RLock()  # the call of all modules is replaced


class StandIn(nn.Module):
    """Stands for a network, or for a function that may be one: what is called otherwise is called.

    Args:
        answer: a function of this module and the query (x, t, d, w, y).
        function: what it stands for, if that is no network of the training.
    """

    def __init__(self, answer: Answer, function: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.answer, self.function = answer, function
        if function is None:
            self.scale = nn.Parameter(torch.zeros(()))  # for rules and terms that ask the network for its weights

    def forward(self, *given: Any, **named: Any) -> Any:
        """The answer; see :class:`ismkit.method.path.Network`."""
        query = _in_order(given, named)
        if self.function is None or _is_query(query):
            return self.answer(self, *query)
        return self.function(*given, **named)


@contextmanager
def networks_answer(answer: Answer) -> Iterator[None]:
    """Within it, the calls that this thread makes of networks are answered by a function; other modules are called.

    A network is a module that is called with samples (B, ...) and four times (B,), and that holds no other network: one
    that does, such as one that guides another, is called, and what it asks is answered.

    Args:
        answer: a function of the module and the query (x, t, d, w, y).
    """
    thread = threading.get_ident()

    def answered(module: nn.Module, *given: Any, **named: Any) -> Any:
        query = _in_order(given, named)
        if threading.get_ident() != thread or isinstance(module, StandIn) or not _is_query(query):
            return call(module, *given, **named)
        if _holds_networks(module):
            return call(_with_functions_standing(module, answer), *given, **named)
        return answer(module, *query)

    with _ONE_AT_A_TIME:
        call = nn.Module.__call__
        nn.Module.__call__ = answered  # type: ignore[method-assign]  # as torch.fx does while it traces
        try:
            yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]


def with_stand_ins(part: Any, answer: Answer) -> Any:
    """A rule or a term with stand-ins for the networks in its fields that are no modules, such as a teacher's file.

    Args:
        part: a dataclass, the fields of which may be dataclasses too; anything else is returned unchanged.
        answer: a function of the stand-in and the query (x, t, d, w, y).
    """
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return part
    changed = copy.copy(part)
    for field in dataclasses.fields(part):
        held = getattr(part, field.name)
        plain = _takes_query(held) and not isinstance(held, nn.Module)
        # Set past the checks of the class: they are for what is trained.
        object.__setattr__(changed, field.name, StandIn(answer, held) if plain else with_stand_ins(held, answer))
    return changed


def _in_order(given: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arguments of a network's call, those that are given by name too."""
    return (*given, *(named[name] for name in Query._fields if name in named))


def _is_query(given: tuple[Any, ...]) -> bool:
    """Whether something is called as networks are: with samples (B, ...), and with (B,) four times."""
    if len(given) != len(Query._fields) or not all(isinstance(part, Tensor) for part in given):
        return False
    return given[0].ndim > 0 and all(part.shape == given[0].shape[:1] for part in given[1:])


def _takes_query(part: Any) -> bool:
    """Whether something can be a network by its arguments: five, or, of a function, any number."""
    if not callable(part) or isinstance(part, type):
        return False
    try:
        arguments = inspect.signature(part.forward if isinstance(part, nn.Module) else part).parameters.values()
    except (TypeError, ValueError):  # some that are built in have no signature
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(one.kind in positional and one.default is one.empty for one in arguments)
    # Modules without a forward of their own, such as lists of modules, have one of any number of arguments.
    any_number = any(one.kind is one.VAR_POSITIONAL for one in arguments) and not isinstance(part, nn.Module)
    return needed == len(Query._fields) or (any_number and needed < len(Query._fields))


def _holds_networks(module: nn.Module) -> bool:
    """Whether a module asks other networks, by what it has as modules and as attributes."""
    inner = [child for child in module.modules() if child is not module]
    known = any(isinstance(child, StandIn) for child in inner)
    return known or any(map(_takes_query, inner)) or any(map(_takes_query, vars(module).values()))


def _with_functions_standing(module: nn.Module, answer: Answer) -> nn.Module:
    """The module, or if it asks functions as networks, a copy with stand-ins for them and the same weights."""
    functions = {name: StandIn(answer, held) for name, held in vars(module).items() if _takes_query(held)}
    if not functions:
        return module
    changed = copy.copy(module)
    vars(changed).update(functions)  # past `nn.Module`, which would add them to what both have
    return changed
