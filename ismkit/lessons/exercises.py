"""What makes a notebook a lesson: predictions that are scored, and exercises that check themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ismkit.utils.checks import as_number, shown


def score_guess(guess: float | None, measured: float, what: str, *, scale: float | None = None) -> None:
    """Compare the reader's prediction with what was measured, and print 0 to 3 points.

    Args:
        guess: the reader's number, or None where none was written.
        measured: what came out.
        what: the quantity, as it reads in a sentence.
        scale: None judges the ratio (3 points within 10 %, 2 within a factor 1.5, 1 within 3), for numbers above 0; a
            number judges the difference in its unit (3 points within 0.1 scale, 2 within 0.5, 1 within 1).

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
    found = f"{what}: measured {measured:.3g}"
    if guess is None:
        print(f"{found}. No guess was made: write one in the cell above (guess = ...), and run both again.")
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


def exercise(name: str, answer: Callable[..., Any], cases: Sequence[tuple[tuple, Any]], *, hint: str = "") -> bool:
    """Check the reader's function on cases, and print how far it is.

    Args:
        name: of the exercise, such as "03.1".
        answer: the function that the reader writes; as long as it returns ``...`` it counts as not written.
        cases: pairs of arguments (a tuple) and the right result: a number, a tensor, a bool or a sequence of numbers,
            compared in float64 within a relative 1e-5 and an absolute 1e-7.
        hint: printed where a result is wrong.

    Returns:
        Whether it is solved. Errors in ``answer`` are printed, not raised, so that the notebook runs on.

    Raises:
        TypeError: if ``answer`` is no function, or ``cases`` are no pairs.

    Example:
        >>> from ismkit.lessons import exercise
        >>> def compounded(scale, doublings):
        ...     return scale * doublings
        >>> exercise("03.1", compounded, [((1.5, 1), 1.5), ((1.5, 7), 1.5**7)], hint="each doubling multiplies")
        exercise 03.1: not yet. compounded(1.5, 7) gave 10.5, want 17.0859375. Hint: each doubling multiplies
        False
        >>> exercise("03.1", lambda scale, doublings: scale**doublings, [((1.5, 7), 1.5**7)])
        exercise 03.1: solved
        True
    """
    if not callable(answer):
        raise TypeError(f"answer must be a function, got {shown(answer)}")
    if not isinstance(cases, Sequence) or not all(isinstance(case, tuple | list) and len(case) == 2 for case in cases):
        raise TypeError(f"cases must be pairs of arguments and result, got {shown(cases)}")
    called = getattr(answer, "__name__", "answer")
    for arguments, want in cases:
        given = ", ".join(_short(argument) for argument in arguments)
        try:
            got = answer(*arguments)
            if got is ...:
                print(f"exercise {name}: to do. Write the body of {called}, and run the cell again.")
                return False
            got, want = (torch.as_tensor(value, dtype=torch.float64) for value in (got, want))
        except Exception as error:
            print(f"exercise {name}: {called}({given}) raised {type(error).__name__}: {error}")
            return False
        if got.shape != want.shape or not torch.allclose(got, want, rtol=1e-5, atol=1e-7):
            told = f" Hint: {hint}" if hint else ""
            print(f"exercise {name}: not yet. {called}({given}) gave {_short(got)}, want {_short(want)}.{told}")
            return False
    print(f"exercise {name}: solved")
    return True


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor) and value.numel() > 4:
        return f"a tensor {tuple(value.shape)}"
    return f"{value.tolist()}" if isinstance(value, torch.Tensor) else repr(value)
