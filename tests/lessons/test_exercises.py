"""Predictions are scored as stated; exercises tell what is to do, wrong, raised and solved."""

import math
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import pytest
import torch

from ismkit.lessons import exercises
from ismkit.lessons.exercises import exercise, score_guess


@pytest.fixture(autouse=True)
def _untried() -> None:
    exercises._WRONG.clear()


@pytest.mark.parametrize(
    ("guess", "points"),
    [
        (10.0, 3),
        (11.0, 3),
        (9.2, 3),
        (11.2, 2),
        (15.0, 2),
        (6.7, 2),
        (15.1, 1),
        (30.0, 1),
        (3.4, 1),
        (31.0, 0),
        (3.0, 0),
    ],
)
def test_ratio_points(guess: float, points: int, capsys: pytest.CaptureFixture[str]) -> None:
    score_guess(guess, 10.0, "guidance gap")
    out = capsys.readouterr().out
    assert out.startswith("guidance gap: measured 10; you guessed ")
    assert f": {points} of 3 points" in out


@pytest.mark.parametrize("guess", [0.0, -10.0])
def test_a_guess_of_the_wrong_sign_has_no_ratio(guess: float, capsys: pytest.CaptureFixture[str]) -> None:
    score_guess(guess, 10.0, "gap")
    assert "off by a factor inf: 0 of 3 points" in capsys.readouterr().out


@pytest.mark.parametrize(("guess", "points"), [(0.05, 3), (-0.15, 2), (0.4, 2), (-0.9, 1), (1.05, 0), (-2.0, 0)])
def test_difference_points(guess: float, points: int, capsys: pytest.CaptureFixture[str]) -> None:
    score_guess(guess, 0.0, "shift", scale=1.0)
    assert f": {points} of 3 points" in capsys.readouterr().out


def test_no_guess_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    score_guess(None, 17.0859, "gap")
    out = capsys.readouterr().out
    assert out == (
        "gap: measured 17.1. No guess was made: write one where guess_... = None is set, and run both cells again.\n"
    )
    assert "points" not in out
    score_guess(None, 124.0, "hours", how="modelled")  # what a model says is not called measured
    assert capsys.readouterr().out.startswith("hours: modelled 124. No guess was made")


def test_scales_that_cannot_judge_are_refused() -> None:
    with pytest.raises(ValueError, match="measured must be above 0"):
        score_guess(1.0, 0.0, "gap")
    with pytest.raises(ValueError, match="scale must be above 0, got 0"):
        score_guess(1.0, 1.0, "gap", scale=0)


def solves(*arguments: Any, **options: Any) -> bool:
    """Whether an answer is called solved; what is printed is printed on."""
    with redirect_stdout(StringIO()) as out:
        exercise(*arguments, **options)
    print(out.getvalue(), end="")
    return out.getvalue().endswith(": solved\n")


CASES = [((2.0,), 4.0), ((torch.tensor([1.0, 3.0]),), torch.tensor([1.0, 9.0]))]


def test_exercise_solved(capsys: pytest.CaptureFixture[str]) -> None:
    assert solves("03.1", lambda x: x * x, CASES)
    assert capsys.readouterr().out == "exercise 03.1: solved\n"


def test_exercise_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    def square(x: float) -> float:
        return ...  # type: ignore[return-value]

    assert not solves("03.1", square, CASES)
    assert capsys.readouterr().out.startswith("exercise 03.1: to do. Write the body of square")


def said(answer: Callable[..., Any], cases: list[tuple[tuple, Any]], capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed of a wrong answer, without the hint that it points to."""
    assert not solves("1", answer, cases)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return re.sub(r" See Hint [12] above this cell\.$", "", out.removeprefix("exercise 1: ").strip())


def test_a_missing_return_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def square(x: float) -> None:
        x * x

    assert said(square, CASES, capsys) == "not yet. square(2.0) gave None: square must end in `return` with the result."


def test_a_return_that_is_missing_on_one_path_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def size(x: float) -> float | None:
        return x if x >= 0 else None

    assert "size(-2.0) gave None" in said(size, [((1.0,), 1.0), ((-2.0,), 2.0)], capsys)


def test_an_untouched_part_counts_as_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(lambda x: (x, ...), [((1.0,), (1.0, 2.0))], capsys).startswith("to do.")


@pytest.mark.parametrize("value", ["4", {"x": 4.0}, object, [1.0, [2.0, 3.0]], (torch.ones(2), torch.ones(3))])
def test_another_type_is_named(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(lambda x: value, CASES, capsys)
    assert out.endswith(f"a {type(value).__name__}: return a number or a tensor.")


MATRIX = torch.arange(6.0).reshape(2, 3)
POSITIVE = [((2.0,), 2.0), ((6.0,), 6.0), ((6.5,), 6.5)]
BACK = [((torch.tensor([1.0, 2.0, 5.0]),), [1.0, 2.0, 5.0])]
WRONG: dict[str, tuple[Callable[[Any], Any], list[tuple[tuple, Any]]]] = {
    "The result has the wrong sign.": (lambda x: -x, POSITIVE),
    "The result is twice what it should be.": (lambda x: 2 * x, POSITIVE),
    "The result is half what it should be.": (lambda x: x / 2, POSITIVE),
    "The result is 1 too large.": (lambda x: x + 1, POSITIVE),
    "The result is 1 too small.": (lambda x: x - 1, POSITIVE),
    "The result is 1 over what it should be.": (lambda x: 1 / x, POSITIVE),
    "The result is the square of what it should be.": (lambda x: x**2, POSITIVE),
    "The result is the root of what it should be.": (lambda x: x**0.5, POSITIVE),
    "The result is rounded down (is there a // instead of a /?).": (lambda x: x // 1, POSITIVE),
    "The result is a natural logarithm instead of one to base 2.": (
        math.log,
        [((8,), 3.0), ((2,), 1.0), ((5,), math.log2(5))],
    ),
    "The result is a logarithm to base 2 instead of a natural one.": (math.log2, [((5,), math.log(5))]),
    "The result is right, but transposed.": (lambda x: x.T, [((MATRIX,), MATRIX)]),
    "The result is right, but in reverse order.": (lambda x: x.flip(0), BACK),
    "The numbers are right, but the shape is (3, 1), want (3,).": (lambda x: x[:, None], BACK),
    "The numbers are right, but the shape is (1,), want that of a single number.": (lambda x: [x], POSITIVE),
    "The shape is (2,), want (3,).": (lambda x: x[:2], BACK),
    "There is a nan or an infinity in it: is something divided by 0?": (lambda x: x * math.inf, POSITIVE),
    "It is close: is something rounded or approximated?": (lambda x: round(x, 0) * 1.001, [((40.0,), 40.0)]),
    "2 of 3 numbers are right.": (lambda x: x.clamp(max=4.0), BACK),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_common_slip_is_named(sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(*WRONG[sentence], capsys).endswith(f". {sentence}")


def test_a_slip_must_explain_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 2 instead of 1 many things may be the cause; a right result says that it is none of them."""
    assert said(lambda x: x + 1, [((1.0,), 1.0), ((3.0,), 3.0)], capsys).endswith("The result is 1 too large.")
    assert said(lambda x: x * 2, [((1.0,), 1.0), ((3.0,), 6.0)], capsys).endswith("want 1.0.")
    assert said(lambda x: x * x, [((1.0,), 1.0), ((3.0,), 6.0)], capsys).endswith("want 6.0.")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.tensor([[0.0, 1, 2], [3, 9, 5]]), r"gave 9 at index \(1, 1\), want 4. 5 of 6 numbers are right."),
        (torch.full((2, 3), torch.nan), r"gave nan at index \(0, 0\), want 0"),
        (torch.zeros(3, 3), r"gave a tensor \(3, 3\), want a tensor \(2, 3\)"),
    ],
)
def test_of_long_results_the_first_difference_is_shown(
    wrong: torch.Tensor, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not solves("03.1", lambda: wrong, [((), torch.arange(6.0).view(2, 3))])
    assert re.search(said, out := capsys.readouterr().out), out


def test_in_a_long_vector_the_index_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert not solves("03.1", lambda: [0, 1, 2, 2, 4], [((), [0, 1, 2, 3, 4])])
    assert "gave 2 at index 3, want 3." in capsys.readouterr().out


def test_a_function_among_the_arguments_is_called_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    def constant(x: float) -> float:
        return x

    assert not solves("03.1", lambda field, at: 0.0, [((constant, 2.0), 2.0)])
    assert "<lambda>(constant, 2.0) gave 0.0, want 2.0" in capsys.readouterr().out


def test_the_second_hint_is_for_the_second_wrong_answer(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # what is not written yet, or raises, is not an answer
        assert not solves("1", lambda x: ..., POSITIVE)
        assert not solves("1", lambda x: 1 / 0, POSITIVE)
    assert "Hint" not in capsys.readouterr().out
    assert not solves("1", lambda x: -x, POSITIVE)
    assert capsys.readouterr().out.endswith("The result has the wrong sign. See Hint 1 above this cell.\n")
    assert not solves("2", lambda x: -x, POSITIVE)
    assert capsys.readouterr().out.endswith("See Hint 1 above this cell.\n"), "each exercise counts for itself"
    for wrong in (lambda x: -x, lambda x: 2 * x):
        assert not solves("1", wrong, POSITIVE)
        assert re.search(r"The result .*\. See Hint 2 above this cell\.\n$", capsys.readouterr().out)


@pytest.mark.parametrize("want", [None, "4", ...])
def test_cases_need_results_of_numbers(want: object) -> None:
    with pytest.raises(TypeError, match="results in cases must be numbers or tensors, got"):
        exercise("1", abs, [((1.0,), want)])


def test_exercise_wrong_on_the_second_case_only(capsys: pytest.CaptureFixture[str]) -> None:
    def double(x: float) -> float:
        return 2 * x

    assert not solves("03.1", double, CASES)
    out = capsys.readouterr().out
    assert (
        out
        == "exercise 03.1: not yet. double([1.0, 3.0]) gave [2.0, 6.0], want [1.0, 9.0]. See Hint 1 above this cell.\n"
    )


def test_exercise_that_raises_continues(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(x: float) -> float:
        raise KeyError("no")

    assert not solves("03.1", broken, CASES)
    assert "broken(2.0) raised KeyError: 'no'" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [4.001, [4.0], None, "4", float("nan"), torch.full((2, 3), 4.0)])
def test_exercise_is_not_solved_by(wrong: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert not solves("1", lambda x: wrong, [((2.0,), 4.0)])
    assert "solved" not in capsys.readouterr().out


def test_booleans_and_sequences_are_results_too() -> None:
    assert solves("1", lambda a, b: a < b, [((1, 2), True), ((2, 1), False)])
    assert solves("1", lambda n: [n, n + 1], [((1,), (1, 2))])
    assert solves("1", lambda: 1 / 3, [((), torch.tensor(1 / 3, dtype=torch.float64))])
