"""The bias of the Fréchet distance: its closed form, by simulation, and what the line through subsets makes of it."""

import math

import pytest
import torch

from ismkit.evaluation.metrics import Gaussian, Moments, bias, expected_bias, frechet
from ismkit.utils.seeding import stream

F = 6
SPECTRUM = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25, 0.1], dtype=torch.float64)


def gaussian(n: int, seed: int, spectrum: torch.Tensor = SPECTRUM) -> torch.Tensor:
    return torch.randn(n, len(spectrum), generator=stream(seed, "test"), dtype=torch.float64) * spectrum.sqrt()


def exact(spectrum: torch.Tensor = SPECTRUM) -> Gaussian:
    return Gaussian(torch.zeros(len(spectrum), dtype=torch.float64), spectrum.diag())


@pytest.mark.parametrize("size", [1, 2, 7])
def test_bias_of_a_standard_normal_has_its_closed_form(size: int) -> None:
    eye = torch.eye(size, dtype=torch.float64)
    assert expected_bias(eye, 100) == pytest.approx(size * (size + 5) / 400, rel=1e-12)
    assert expected_bias(9 * eye, 100) == pytest.approx(9 * size * (size + 5) / 400, rel=1e-12)


@pytest.mark.parametrize("spectrum", [torch.ones(F, dtype=torch.float64), SPECTRUM])
def test_bias_is_what_simulation_finds(spectrum: torch.Tensor) -> None:
    n, seeds = 1000, 300
    found = torch.tensor([frechet(Moments(gaussian(n, seed, spectrum)), exact(spectrum)) for seed in range(seeds)])
    expected = expected_bias(spectrum.diag(), n)
    error = (found.std() / math.sqrt(seeds)).item()
    assert abs(found.mean().item() - expected) < 4 * error + 0.02 * expected  # terms of 1 / n^2: below 2 %
    assert error < 0.03 * expected  # so that a wrong factor would show


def test_line_ends_nearer_to_the_truth_than_all_samples_do() -> None:
    lines = [bias(gaussian(1600, seed), exact(), seed=seed) for seed in range(12)]
    assert lines[0].n == [100, 200, 400, 800, 1600]
    ends = torch.tensor([line.infinity for line in lines])
    last = torch.tensor([line.distance[-1] for line in lines])
    error = (ends.std() / math.sqrt(12)).item()
    assert abs(ends.mean()) < 4 * error + 0.05 * last.mean()
    assert last.mean() > 5 * last.std() / math.sqrt(12)  # all samples are off by more than chance
    assert abs(ends.mean()) < 0.7 * last.mean()
    slopes = torch.tensor([line.slope for line in lines]).mean().item()
    assert slopes == pytest.approx(expected_bias(SPECTRUM.diag(), 1), rel=0.25)
    for line in lines:
        assert line.distance == sorted(line.distance, reverse=True)
        assert math.isnan(line.spread[-1])
        assert all(spread > 0 for spread in line.spread[:-1])


def test_largest_subset_is_the_set_and_the_line_goes_through_two_points() -> None:
    x = gaussian(300, 0) + 0.5
    line = bias(x, exact(), parts=(1, 3), repeats=1)
    assert line.n == [100, 300]
    assert line.distance[1] == pytest.approx(frechet(Moments(x), exact()), rel=1e-9)
    for n, distance in zip(line.n, line.distance, strict=True):
        assert line.infinity + line.slope / n == pytest.approx(distance, rel=1e-9)


@pytest.mark.parametrize(
    ("n", "parts", "message"),
    [
        (100, (16, 1), "the smallest subset, 100 / 16, must have more samples than the 6 features"),
        (100, (1,), "parts must be two or more different numbers"),
        (100, (2, 2), "parts must be two or more different numbers"),
        (100, (0, 1), "parts must be two or more different numbers"),
        (100, (14, 13), r"parts must give subsets of different sizes, 100 samples in \[14, 13\] parts do not"),
    ],
)
def test_subsets_without_a_law_are_refused(n: int, parts: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bias(gaussian(n, 0), exact(), parts=parts)
