"""Predictions are scored as stated; exercises tell what is to do, wrong, raised and solved."""

import pytest
import torch

from ismkit.lessons.exercises import exercise, score_guess


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
    assert out.startswith("gap: measured 17.1. No guess was made")
    assert "points" not in out


def test_scales_that_cannot_judge_are_refused() -> None:
    with pytest.raises(ValueError, match="measured must be above 0"):
        score_guess(1.0, 0.0, "gap")
    with pytest.raises(ValueError, match="scale must be above 0, got 0"):
        score_guess(1.0, 1.0, "gap", scale=0)


CASES = [((2.0,), 4.0), ((torch.tensor([1.0, 3.0]),), torch.tensor([1.0, 9.0]))]


def test_exercise_solved(capsys: pytest.CaptureFixture[str]) -> None:
    assert exercise("03.1", lambda x: x * x, CASES)
    assert capsys.readouterr().out == "exercise 03.1: solved\n"


def test_exercise_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    def square(x: float) -> float:
        return ...  # type: ignore[return-value]

    assert not exercise("03.1", square, CASES)
    assert capsys.readouterr().out.startswith("exercise 03.1: to do. Write the body of square")


def test_exercise_wrong_on_the_second_case_only(capsys: pytest.CaptureFixture[str]) -> None:
    def double(x: float) -> float:
        return 2 * x

    assert not exercise("03.1", double, CASES, hint="square it")
    out = capsys.readouterr().out
    assert out == "exercise 03.1: not yet. double([1.0, 3.0]) gave [2.0, 6.0], want [1.0, 9.0]. Hint: square it\n"


def test_exercise_that_raises_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(x: float) -> float:
        raise KeyError("no")

    assert not exercise("03.1", broken, CASES)
    assert "broken(2.0) raised KeyError: 'no'" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [4.001, [4.0], None, "4", float("nan"), torch.full((2, 3), 4.0)])
def test_exercise_is_not_solved_by(wrong: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert not exercise("1", lambda x: wrong, [((2.0,), 4.0)])
    assert "solved" not in capsys.readouterr().out


def test_booleans_and_sequences_are_results_too() -> None:
    assert exercise("1", lambda a, b: a < b, [((1, 2), True), ((2, 1), False)])
    assert exercise("1", lambda n: [n, n + 1], [((1,), (1, 2))])
    assert exercise("1", lambda: 1 / 3, [((), torch.tensor(1 / 3, dtype=torch.float64))])
