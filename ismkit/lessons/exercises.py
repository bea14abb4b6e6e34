"""What makes a notebook a lesson: predictions that are scored, and exercises that check themselves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ismkit.utils.checks import as_number, shown

#: Common slips: what is said, and what a function with the slip returns instead of the right result.
SLIPS: dict[str, Callable[[Tensor], Tensor]] = {
    "has the wrong sign": torch.neg,
    "is twice what it should be": lambda want: 2 * want,
    "is half what it should be": lambda want: want / 2,
    "is 1 too large": lambda want: want + 1,
    "is 1 too small": lambda want: want - 1,
    "is 1 over what it should be": torch.reciprocal,
    "is the square of what it should be": torch.square,
    "is the root of what it should be": torch.sqrt,
    "is rounded down (is there a // instead of a /?)": torch.floor,
    "is a natural logarithm instead of one to base 2": lambda want: math.log(2) * want,
    "is a logarithm to base 2 instead of a natural one": lambda want: want / math.log(2),
    "is right, but transposed": lambda want: want.mT if want.ndim > 1 else want,
    "is right, but in reverse order": lambda want: want.flip(0) if want.ndim else want,
}

#: Of each exercise, how many answers were wrong so far: the second hint is for a reader who has tried the first.
_WRONG: Counter[str] = Counter()


def score_guess(
    guess: float | None, measured: float, what: str, *, scale: float | None = None, how: str = "measured"
) -> None:
    """Compare the reader's prediction with what was measured, and print 0 to 3 points.

    Args:
        guess: the reader's number, or None if no guess was made.
        measured: what came out.
        what: the quantity, as it reads in a sentence.
        scale: None judges the ratio (3 points within 10 %, 2 within a factor 1.5, 1 within 3), for numbers above 0; a
            number judges the difference in its unit (3 points within 0.1 scale, 2 within 0.5, 1 within 1).
        how: the word before the number: "modelled" or "computed" if it was not measured.

    Raises:
        ValueError: if a ratio cannot be judged because ``measured`` is not above 0, or ``scale`` is not above 0.

    Example:
        >>> from ismkit.lessons import score_guess
        >>> score_guess(10.5, 17.09, "guidance in one step")
        guidance in one step: measured 17.1; you guessed 10.5, off by a factor 1.6: 1 of 3 points.
        >>> score_guess(0.9, 0.87, "class agreement", scale=0.5)
        class agreement: measured 0.87; you guessed 0.9, off by 0.03: 3 of 3 points.
    """
    measured = as_number("measured", measured)
    guess = None if guess is None else as_number("guess", guess)
    scale = None if scale is None else as_number("scale", scale)
    found = f"{what}: {how} {measured:.3g}"
    if guess is None:
        print(f"{found}. No guess was made: write one where guess_... = None is set, and run both cells again.")
        return
    if scale is None:
        if measured <= 0:
            raise ValueError(f"measured must be above 0 to judge a ratio, got {measured}: give a scale")
        off = max(guess / measured, measured / guess) if guess > 0 else float("inf")
        bounds, distance = (1.1, 1.5, 3.0), f"off by a factor {off:.2g}"
    else:
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        off = abs(guess - measured)
        bounds, distance = (0.1 * scale, 0.5 * scale, scale), f"off by {off:.2g}"
    points = sum(off <= bound for bound in bounds)
    print(f"{found}; you guessed {guess:g}, {distance}: {points} of 3 points.")


def exercise(name: str, answer: Callable[..., Any], cases: Sequence[tuple[tuple, Any]]) -> None:
    """Check the reader's function on cases, and print whether it is solved or what is wrong.

    A missing ``return``, a result of another type or shape, and a common slip that explains every case (the sign, a
    factor 2, one too many, transposed ...) are named. The first wrong result points to Hint 1, which is folded above
    the cell, later ones in the same exercise to Hint 2. Errors in ``answer`` are printed, not raised, so that the
    notebook continues.

    Args:
        name: of the exercise, such as "03.1".
        answer: the function that the reader writes; as long as it returns ``...`` it counts as not written.
        cases: pairs of arguments (a tuple) and the right result: a number, a tensor, a bool or a sequence of numbers,
            compared in float64 within a relative 1e-5 and an absolute 1e-7.

    Raises:
        TypeError: if ``answer`` is not a function, ``cases`` are not pairs, or a right result is none of the above.

    Example:
        >>> from ismkit.lessons import exercise
        >>> def compounded(scale, doublings):
        ...     return scale * doublings
        >>> exercise("03.1", compounded, [((1.5, 1), 1.5), ((1.5, 7), 1.5**7)])
        exercise 03.1: not yet. compounded(1.5, 7) gave 10.5, want 17.0859375. See Hint 1 above this cell.
        >>> exercise("03.1", compounded, [((1.5, 7), 1.5**7)])
        exercise 03.1: not yet. compounded(1.5, 7) gave 10.5, want 17.0859375. See Hint 2 above this cell.
        >>> exercise("03.2", abs, [((0.5,), -0.5)])
        exercise 03.2: not yet. abs(0.5) gave 0.5, want -0.5. The result has the wrong sign. See Hint 1 above this cell.
        >>> exercise("03.1", lambda scale, doublings: scale**doublings, [((1.5, 7), 1.5**7)])
        exercise 03.1: solved
    """
    if not callable(answer):
        raise TypeError(f"answer must be a function, got {shown(answer)}")
    if not isinstance(cases, Sequence) or not all(isinstance(case, tuple | list) and len(case) == 2 for case in cases):
        raise TypeError(f"cases must be pairs of arguments and result, got {shown(cases)}")
    wants = [_numbers(want) for _, want in cases]
    called = getattr(answer, "__name__", "answer")
    complaint, results = "", []
    for (arguments, result), want in zip(cases, wants, strict=True):
        if want is None:
            raise TypeError(f"results in cases must be numbers or tensors, got {shown(result)}")
        call = f"{called}({', '.join(_short(argument) for argument in arguments)})"
        got = _answered(answer, arguments, call)
        if isinstance(got, str):
            complaint = complaint or got
            break
        results.append((got, want))
        if not complaint and not _equal(got, want):
            complaint = f"not yet. {call} gave {_apart(got, want)}."
    if not complaint:
        print(f"exercise {name}: solved")
        return
    if results and not all(_equal(got, want) for got, want in results):
        complaint += f"{_diagnosis(results)} See Hint {2 if _WRONG[name] else 1} above this cell."
        _WRONG[name] += 1
    print(f"exercise {name}: {complaint}")


def _answered(answer: Callable[..., Any], arguments: Sequence[Any], call: str) -> Tensor | str:
    """What the reader's function returns, in float64, or a message if it cannot be compared."""
    called = call.partition("(")[0]
    try:
        given = answer(*arguments)
    except Exception as error:
        return f"{call} raised {type(error).__name__}: {error}"
    if given is ... or (isinstance(given, tuple | list) and any(part is ... for part in given)):
        return f"to do. Write the body of {called}, and run the cell again."
    if given is None:
        return f"not yet. {call} gave None: {called} must end in `return` with the result."
    got = _numbers(given)
    if got is None:
        return f"not yet. {call} gave {shown(given)}, a {type(given).__name__}: return a number or a tensor."
    return got


def _numbers(value: Any) -> Tensor | None:
    """A result in float64, or None if it is not made of numbers."""
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return None


def _equal(got: Tensor, want: Tensor, rtol: float = 1e-5, atol: float = 1e-7) -> bool:
    return got.shape == want.shape and torch.allclose(got, want, rtol=rtol, atol=atol)


def _diagnosis(results: Sequence[tuple[Tensor, Tensor]]) -> str:
    """A sentence on what the results have in common, or an empty text."""
    for slip, made in SLIPS.items():
        if all(_equal(got, made(want)) for got, want in results):
            return f" The result {slip}."
    got, want = next((got, want) for got, want in results if not _equal(got, want))
    if got.shape != want.shape:
        same = got.numel() == want.numel() and _equal(got.reshape(want.shape), want)
        numbers = "The numbers are right, but t" if same else "T"
        return f" {numbers}he shape is {_shape(got)}, want {_shape(want)}."
    if not got.isfinite().all():
        return " There is a nan or an infinity in it: is something divided by 0?"
    if all(_equal(got, want, rtol=1e-2) for got, want in results):
        return " It is close: is something rounded or approximated?"
    right = int(torch.isclose(got, want, rtol=1e-5, atol=1e-7).sum())
    return f" {right} of {want.numel()} numbers are right." if right else ""


def _shape(value: Tensor) -> str:
    return f"{tuple(value.shape)}" if value.ndim else "that of a single number"


def _apart(got: Tensor, want: Tensor) -> str:
    """Both results if they are short, or where they differ first."""
    if got.shape != want.shape or want.numel() <= 4:
        return f"{_short(got)}, want {_short(want)}"
    at = tuple((~torch.isclose(got, want, rtol=1e-5, atol=1e-7)).nonzero()[0].tolist())
    return f"{got[at]:.6g} at index {at[0] if len(at) == 1 else at}, want {want[at]:.6g}"


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor) and value.numel() > 4:
        return f"a tensor {tuple(value.shape)}"
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    return f"{value.tolist()}" if isinstance(value, torch.Tensor) else repr(value)
