"""The reader's own shortcut model: what is right is kept, common mistakes are named, and the file runs by itself."""

import linecache
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from torch import Tensor, nn

from ismkit.data.sets import eight_gaussians
from ismkit.lessons.notebooks import solutions
from ismkit.lessons.workbook import CHECKS, HEADER, PIECES, Workbook, source_of, unwritten
from tests.conftest import ROOT

LAB = nbformat.read(ROOT / "notebooks" / "01b_blank_file.ipynb", as_version=4)
LATER = {  # what notebooks 04 to 07 add; the kit's own pieces are those of 01b
    "condition": """def condition(t, d, w):
    level = torch.log2((N * d).clamp(min=1)) / 7
    angles = torch.stack([t, level, w / 3.5], 1)[..., None] * math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
    return torch.cat([angles.sin(), angles.cos()], 2).flatten(1)
""",
    "strengths": """def strengths(n, generator):
    w = 0.25 * torch.randint(1, 15, (n,), generator=generator)
    return torch.where(torch.rand(n, generator=generator) < 0.5, 0.0, w)
""",
    "velocity_target": """def velocity_target(teacher, x, t, w, y, v):
    zero = torch.zeros_like(t)
    with torch.no_grad():
        gap = teacher(x, t, zero, zero, y) - teacher(x, t, zero, zero, torch.full_like(y, teacher.null))
    return v + (w * (t >= 0.3)).view(-1, *[1] * (x.ndim - 1)) * gap
""",
    "distance": """def distance(prediction, target):
    x, size = prediction - target, prediction[0].numel()
    if x.ndim < 4:
        return x.square().flatten(1).mean(1)
    total = 0
    for weight in (1.0, 0.5, 0.25):
        a, b, c, e = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
        for band in (a + b - c - e, a - b + c - e, a - b - c + e):
            total = total + weight * (band / 2).square().flatten(1).sum(1) / size
        x = (a + b + c + e) / 2
    return total + 0.25 * x.square().flatten(1).sum(1) / size
""",
    "couple": """def couple(x0, x1, y):
    from scipy.optimize import linear_sum_assignment

    order = torch.empty(len(y), dtype=torch.long)
    for c in y.unique():
        rows = (y == c).nonzero().flatten()
        cost = torch.cdist(x1[rows].flatten(1), x0[rows].flatten(1)).square()
        order[rows] = rows[torch.from_numpy(linear_sum_assignment(cost.numpy())[1])]
    return x0[order]
""",
    "averages": """def averages(net):
    return [(copy.deepcopy(net), 0.95), (copy.deepcopy(net), 0.9999)]
""",
}
RIGHT = PIECES | LATER


def defined(source: str, name: str) -> Callable[..., Any]:
    """A piece as a cell of a notebook defines it: its source is known to linecache alone."""
    cell = f"<cell {abs(hash(source))}>"
    linecache.cache[cell] = (len(source), None, source.splitlines(keepends=True), cell)
    scope = {"torch": torch, "Tensor": Tensor, "nn": nn, "Any": Any, "Net": nn.Module}
    exec(compile(source, cell, "exec"), scope)
    return scope[name]  # type: ignore[return-value]


def solves(mine: Workbook, *arguments: Any) -> bool:
    """Whether pieces are called solved; what is printed is printed on."""
    with redirect_stdout(StringIO()) as out:
        mine.check(*arguments)
    print(out.getvalue(), end="")
    return out.getvalue().endswith(": solved\n")


@pytest.fixture
def mine(tmp_path: Path) -> Workbook:
    return Workbook(tmp_path / "my_shortcut.py")


def test_the_solutions_of_the_lab_are_the_pieces_that_stand_in() -> None:
    answers = "\n\n".join(answer for _, answer in solutions(LAB))
    gaps = re.findall(r'mine\.check\("01b\.\d", (\w+)\)', "\n".join(cell.source for cell in LAB.cells))
    assert gaps == ["condition", "Net", "rows", "half_steps", "averaged", "loss", "train", "sampler"]
    for name in gaps:
        assert PIECES[name] in answers, name
    written = [line for name in gaps for line in PIECES[name].splitlines() if line.strip()]
    assert len(written) <= 120


@pytest.mark.parametrize("name", CHECKS)
def test_a_right_piece_is_kept(name: str, mine: Workbook, capsys: pytest.CaptureFixture[str]) -> None:
    assert solves(mine, "01b.1", defined(RIGHT[name], name)), capsys.readouterr().out
    assert capsys.readouterr().out == "exercise 01b.1: solved\n"
    text = mine.path.read_text()
    assert f"# ---- {name}: yours\n{RIGHT[name].strip()}\n" in text
    assert text.count(": yours\n") == 1
    mine.load()
    assert capsys.readouterr().out.startswith(f"my_shortcut.py: {name} yours; the kit's stand in for ")
    assert mine.lines() == len([line for line in RIGHT[name].splitlines() if line.strip()])


UNASKED = "t.new_zeros(len(t), self.first.in_features - x[0].numel() - 16)"
UNEVEN = "(1 + 14 * torch.rand(n, generator=generator) ** 2).floor()"
SQUARE = "(net(x, t, d, w, y) - target).square().flatten(1).mean(1)"
HIDDEN = "[nn.Linear(width, width) for _ in range(3)]"
# Each: a piece, a change to the right one, and what must be said.
MISTAKES = {
    "raw d": ("condition", "torch.log2((N * d).clamp(min=1)) / 7", "d", "d = 0 and 0.015625 look almost alike"),
    "time aliased": ("condition", "[0.5, 1.0, 2.0, 4.0]", "[2.0, 4.0]", "t = 0 and 1 look almost alike"),
    "level aliased": ("condition", "(min=1)) / 7", "(min=1)) * 4 / 7", "d = 0 and 1 look almost alike: a sine"),
    "of the batch": ("condition", "/ 7", "/ torch.log2((N * d).max().clamp(min=2))", "change with the other rows"),
    "log of 0": ("condition", "(N * d).clamp(min=1)", "N * d", r"not finite at d = 0: log2\(0\)"),
    "no time": ("condition", "[t, level", "[0 * t, level", "does not see t"),
    "no d": ("condition", "[t, level", "[t, 0 * level", "does not see d"),
    "no label": ("Net", "self.label(y)]", "0 * self.label(y)]", "does not change with y"),
    "no state": ("Net", "x.flatten(1), cond", "0 * x.flatten(1), cond", "does not change with x"),
    "flat": ("Net", ".view_as(x)", "", "states may be images"),
    "not flattened": ("Net", "x.flatten(1), cond", "x, cond", "states may be images"),
    "own features": ("Net", "condition(t, d, w)", UNASKED, "does not call condition"),
    "hidden layers": ("Net", "nn.ModuleList(nn.Linear(width, width) for _ in range(3))", HIDDEN, "use nn.ModuleList"),
    "linear": ("Net", "nn.functional.silu(h)", "h", "the answer is linear in x"),
    "dropout": ("Net", "nn.functional.silu(h))", "nn.functional.dropout(h))", "leave dropout out"),
    "batch": (
        "Net",
        "nn.functional.silu(h))",
        "nn.functional.batch_norm(h.sin(), None, None, training=True))",
        "mixes",
    ),
    "fixed features": ("Net", "condition(*torch.zeros(3, 1)).shape[1]", "16", "the number of features is fixed"),
    "no null": ("Net", "self.null = classes", "pass", "self.null = classes"),
    "forward returns nothing": ("Net", "return self.last", "self.last", "is its `return` missing"),
    "finest": ("rows", "(1 + (turn", "(0 + (turn", "d = 1/128 needs no rows"),
    "a level left out": ("rows", "% 7)", "% 6)", "steps of 1 get no rows"),
    "no grid": ("rows", "(t[first:] / d[first:]).floor() * d[first:]", "t[first:] * (1 - d[first:])", "off the grid"),
    "beyond the end": ("rows", "(t[first:] / d[first:]).floor()", "(t[first:] / d[first:]).ceil()", "end after t = 1"),
    "always from 0": ("rows", "(t[first:] / d[first:]).floor()", "0", r"equally often: the mean is 0\.00"),
    "any generator": ("rows", "torch.rand(n, generator=generator)", "torch.rand(n)", "one seed gives different rows"),
    "share": ("rows", "n - n // 4, n // 4", "n - n // 2, n // 2", "three quarters of the rows"),
    "from x": ("half_steps", "x + length * first", "x", "the second half step is taken from x"),
    "same time": ("half_steps", "t + half", "t", "the second half step is asked at time t"),
    "not halved": ("half_steps", "half = d / 2", "half = d", "d was not halved"),
    "asked whole": ("half_steps", "torch.where(half > 1 / N, half, 0.0)", "d", "asked for d, though"),
    "too far": ("half_steps", "x + length * first", "x + 2 * length * first", "the first step goes as far as d"),
    "sum": ("half_steps", "(first + second) / 2", "first + second", "the two answers were added"),
    "asked 1/128": ("half_steps", "torch.where(half > 1 / N, half, 0.0)", "half", "must be asked for as d = 0"),
    "gradient": ("half_steps", "torch.no_grad()", "torch.enable_grad()", "has a gradient: targets are constants"),
    "in place": (
        "half_steps",
        "second = net(x + length * first",
        "second = net(x.add_(length * first)",
        "x themselves were changed",
    ),
    "no return": ("half_steps", "return (first", "(first", "returned None: is its `return` missing"),
    "shape": ("half_steps", "return (first + second) / 2", "return first.sum(1)", r"must have shape \(14, 2\), got"),
    "broadcast": ("half_steps", "half.view(-1, *[1] * (x.ndim - 1))", "half", "does a .B,. tensor multiply"),
    "no ramp": ("averaged", "decay = min(decay, (1 + updates) / (10 + updates))", "pass", "the ramp is missing"),
    "swapped": ("averaged", "decay * old + (1 - decay) * new", "(1 - decay) * old + decay * new", "are swapped"),
    "backwards": ("loss", "(1 - at) * x0 + at * x1", "at * x0 + (1 - at) * x1", "the path runs backwards"),
    "one mean": ("loss", "error[flow].mean() + error[step].mean()", "error.mean()", "one mean over all rows"),
    "own teacher": ("loss", "half_steps(teacher", "half_steps(net", "net makes its own targets"),
    "own gap": ("loss", "velocity_target(teacher", "velocity_target(net", "velocity_target must ask the teacher"),
    "no rule": ("loss", "target[flow] = vel", "_ = vel", "must make the targets of the flow rows"),
    "own distance": ("loss", "distance(net(x, t, d, w, y), target)", SQUARE, "must measure the error"),
    "points": ("loss", "t.view(-1, *[1] * (x0.ndim - 1))", "t[:, None]", r"at states \(16, 2, 4, 4\)"),
    "teacher answers": ("loss", "distance(net(", "distance(teacher(", "the teacher answers"),
    "dead loss": ("loss", "distance(net(x, t, d, w, y), target)", "distance(target, target)", "has no gradient"),
    "adds up": ("train", "        optimiser.zero_grad()\n", "", "gradients add up"),
    "net teaches": ("train", "loss(net, kept[0][0]", "loss(net, net", "net is its own teacher"),
    "not Adam": ("train", "optim.Adam(", "optim.SGD(", "the optimiser must be Adam"),
    "no step": ("train", "        optimiser.step()\n", "", "the weights did not change"),
    "stale": ("train", "old.data = averaged(", "_ = averaged(", "the average stayed as it was"),
    "returns net": ("train", "return kept[-1][0]", "return net", "returned the network itself"),
    "unwatched": ("train", "watch(step + 1,", "watch(step,", "watch must be called with steps 1 to 20"),
    "slow teacher": ("train", "loss(net, kept[0][0]", "loss(net, kept[-1][0]", "the first must be the teacher"),
    "returns fast": ("train", "return kept[-1][0]", "return kept[0][0]", "the last must be watched and returned"),
    "watches net": ("train", "watch(step + 1, kept[-1][0])", "watch(step + 1, net)", "the last must be watched"),
    "one updated": ("train", "in kept:", "in kept[:1]:", "the average stayed as it was"),
    "averages again": ("train", "loss(net, kept[0][0]", "loss(net, averages(net)[0][0]", "must be called once"),
    "no decay": ("train", " * min(1, 2 * (1 - step / steps))", "", "the rate must fall to 0"),
    "decays early": ("train", "min(1, 2 * (1 - step / steps))", "(1 - step / steps)", "lr in step 10 of 20"),
    "counted from 1": ("train", "decay, step)", "decay, step + 1)", "counted from 0, got 1 to 20"),
    "nothing dropped": ("train", "< 0.1)", "< 0)", "no label is dropped: in a random tenth"),
    "all dropped": ("train", "< 0.1)", "< 1)", r"must lose their labels, got a share of 1\.00"),
    "a fifth dropped": ("train", "< 0.1)", "< 0.2)", r"must lose their labels, got a share of 0\.[12]\d\."),
    "swapped labels": ("train", "dropped, net.null, label)", "dropped, label, net.null)", "labels of consistency rows"),
    "steps without label": ("train", " & (d == 0)", "", "labels of consistency rows are dropped"),
    "another class": ("train", "net.null, label)", "net.null, 1 - label)", "must keep the labels that pairs yields"),
    "null is guided": (
        "train",
        "torch.where(dropped, 0.0, strengths(batch, generator))",
        "torch.ones(batch)",
        "w must be",
    ),
    "own strengths": ("train", "strengths(batch, generator)", "0.0 * t", "must get the strengths that strengths"),
    "Euler": ("sampler", "0.0 if nfe == N else 1 / nfe", "0.0", "which is an Euler step"),
    "asked 1/128 in 128 steps": ("sampler", "0.0 if nfe == N else 1 / nfe", "1 / nfe", "steps of 1/128 must be asked"),
    "late": ("sampler", "ones * k / nfe", "ones * (k + 1) / nfe", "the time is that of the end"),
    "long": ("sampler", "w, y) / nfe", "w, y)", "multiply it by the step size"),
    "noise changed": ("sampler", "x = x + net", "x += net", "the noise x0 itself was changed"),
    "gradient kept": ("sampler", "torch.no_grad()", "torch.enable_grad()", "the sample has a gradient"),
    "numbers": ("sampler", "ones * k / nfe", "k / nfe", r"asked 0\.0: every input has one number per row"),
    "guided points": ("velocity_target", ".view(-1, *[1] * (x.ndim - 1))", "[:, None]", r"at states \(8, 2, 4, 4\)"),
    "unguided": ("velocity_target", "w * (t", "0 * w * (t", "there is no guidance yet"),
    "everywhere": ("velocity_target", "(t >= 0.3)", "(t >= 0)", "the interval is missing"),
    "gap at w": ("velocity_target", "zero, zero,", "zero, w,", "the gap must be asked at w = 0"),
    "sign": ("velocity_target", "v + (w", "v - (w", "wrong sign"),
    "scale": ("velocity_target", "(w * (t", "((1 + w) * (t", "the factor is w, not 1"),
    "never 0": ("strengths", "< 0.5", "< 0.1", "half of the rows must be unguided"),
    "0 twice": ("strengths", "randint(1, 15", "randint(0, 15", r"must be unguided, w = 0, got a share of 0\.5"),
    "uneven": ("strengths", "torch.randint(1, 15, (n,), generator=generator)", UNEVEN, "must be equally frequent"),
    "in order": (
        "strengths",
        "torch.rand(n, generator=generator) < 0.5",
        "torch.arange(n) < n / 2",
        "at random",
    ),
    "of no seed": (
        "strengths",
        "torch.rand(n, generator=generator)",
        "torch.rand(n)",
        "one seed gives different",
    ),
    "coupled points": ("couple", "x1[rows].flatten(1), x0[rows].flatten(1)", "x1[rows], x0[rows]", "may be images"),
    "plain": ("distance", "x.ndim < 4", "x.ndim < 9", "this is the plain mean square"),
    "order": ("distance", "(1.0, 0.5, 0.25)", "(0.25, 0.5, 1.0)", "the wrong order"),
    "not orthonormal": ("distance", " / 2", " / 4", "must be orthonormal"),
    "mean per band": (
        "distance",
        ".square().flatten(1).sum(1) / size",
        ".square().flatten(1).mean(1)",
        "a mean per band weighs",
    ),
    "repeated": ("couple", "return x0[order]", "return x0[0 * order]", "permuted, each row used once"),
    "inverted": ("couple", "return x0[order]", "return x0[order.argsort()]", r"is the assignment inverted\?\n"),
    "one average": ("averages", ", (copy.deepcopy(net), 0.9999)", "", "a list of two pairs"),
    "not copied": ("averages", "(copy.deepcopy(net), 0.95)", "(net, 0.95)", "a copy of its own"),
    "slow first": (
        "averages",
        "0.95), (copy.deepcopy(net), 0.9999",
        "0.9999), (copy.deepcopy(net), 0.95",
        "come first",
    ),
    "a name": ("averaged", "min(decay", "np.minimum(decay", "NameError.*the file imports copy, math, torch"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_and_not_kept(mistake: str, mine: Workbook, capsys: pytest.CaptureFixture[str]) -> None:
    name, right, wrong, said = MISTAKES[mistake]
    assert right in RIGHT[name], "the change does not apply"
    assert not solves(mine, "01b.1", defined(RIGHT[name].replace(right, wrong), name))
    out = capsys.readouterr().out
    assert re.search(said, out), out
    assert out.startswith(f"exercise 01b.1: not yet. {name}: ")
    assert not mine.path.exists()


def test_noise_that_was_assigned_across_classes_is_found(mine: Workbook, capsys: pytest.CaptureFixture[str]) -> None:
    across = LATER["couple"].replace("y.unique()", "[0]").replace("(y == c)", "(y > -1)")
    assert not solves(mine, "06.your", defined(across, "couple"))
    assert "assigned across classes" in capsys.readouterr().out


@pytest.mark.parametrize("stub", [cell.source for cell, _ in solutions(LAB)])
def test_what_is_not_written_is_to_do(stub: str, mine: Workbook, capsys: pytest.CaptureFixture[str]) -> None:
    source, _, _ = stub.partition("\n\n\nmine.check")
    (name,) = re.findall(r"^(?:def|class) (\w+)", source, re.MULTILINE)
    assert unwritten(source)
    assert not unwritten(PIECES[name])
    assert not solves(mine, "01b.1", defined(source, name))
    assert capsys.readouterr().out == f"exercise 01b.1: to do. Write the body of {name}, and run the cell again.\n"
    assert not mine.path.exists()


def test_pieces_of_one_exercise_are_kept_together_or_not_at_all(
    mine: Workbook, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("condition", "strengths", "velocity_target")
    blind = defined(PIECES["condition"], "condition")
    rest = [defined(LATER[name], name) for name in names[1:]]
    assert not solves(mine, "04.your", blind, *rest)
    assert "condition does not see w" in capsys.readouterr().out
    aliased = defined(LATER["condition"].replace("w / 3.5", "2 * w"), "condition")
    assert not solves(mine, "04.your", aliased, *rest)
    assert "w = 0.25 and 2.25 look almost alike" in capsys.readouterr().out
    assert not mine.path.exists()
    assert solves(mine, "04.your", *(defined(LATER[name], name) for name in names))
    assert not solves(mine, "01b.1", blind)  # notebook 01b, run again, does not take the strength away
    assert mine.path.read_text().count(": yours\n") == 3
    assert mine.has(*names)
    assert not mine.has("strengths", "distance")
    assert solves(mine, "05.your", defined(LATER["distance"], "distance"))  # what was there stays
    assert mine.path.read_text().count(": yours\n") == 4


def test_a_file_that_cannot_be_written_leaves_the_earlier_one(mine: Workbook, monkeypatch: pytest.MonkeyPatch) -> None:
    assert solves(mine, "01b.5", defined(RIGHT["averaged"], "averaged"))
    before = mine.path.read_text()

    def full(path: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("ismkit.lessons.workbook.replacing", full)
    with pytest.raises(OSError, match="no space left"):
        mine.check("01b.8", defined(RIGHT["sampler"], "sampler"))
    assert mine.path.read_text() == before


def test_a_decorated_function_is_kept_with_its_decorator(mine: Workbook, capsys: pytest.CaptureFixture[str]) -> None:
    decorated = PIECES["sampler"].replace("def sampler", "@torch.no_grad()\ndef sampler")
    assert solves(mine, "01b.8", defined(decorated, "sampler")), capsys.readouterr().out
    assert f"# ---- sampler: yours\n{decorated}\n" in mine.path.read_text()
    method = PIECES["Net"].replace("    def __init__", "    @torch.no_grad()\n    def __init__")
    assert solves(mine, "01b.2", defined(method, "Net")), capsys.readouterr().out
    assert "\n    @torch.no_grad()\n    def __init__" in mine.path.read_text()


OTHERWISE = {  # each drops labels in another way that is right
    "in place": """label, w = label.clone(), strengths(batch, generator)
        label[(d == 0) & (torch.rand(batch) > 0.9)] = net.null
        w[label == net.null] = 0""",
    "an exact tenth": """w, flow = strengths(batch, generator), (d == 0).nonzero().flatten()
        lost = flow[torch.randperm(len(flow), generator=generator)[: len(flow) // 10]]
        label, w = label.index_fill(0, lost, net.null), w.index_fill(0, lost, 0)""",
    "Bernoulli": """lost = torch.bernoulli(0.1 * (d == 0), generator=generator)
        label, w = (label + (net.null - label) * lost).long(), strengths(batch, generator) * (1 - lost)""",
}


@pytest.mark.parametrize("way", OTHERWISE)
def test_labels_may_be_dropped_otherwise(way: str, mine: Workbook, capsys: pytest.CaptureFixture[str]) -> None:
    lines = PIECES["train"].splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if line.startswith("        dropped = "))
    source = "".join([*lines[:first], f"        {OTHERWISE[way]}\n", *lines[first + 2 :]])
    assert solves(mine, "01b.7", defined(source, "train")), capsys.readouterr().out


def test_a_piece_is_tested_with_what_the_reader_wrote_before(
    mine: Workbook, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four features of the reader's, where the kit has 16: a network that reads 16 would crash after loading."""
    few = PIECES["condition"].replace("torch.tensor([0.5, 1.0, 2.0, 4.0])", "torch.tensor([0.5])")
    assert solves(mine, "01b.1", defined(few, "condition")), capsys.readouterr().out
    asks = "condition(*torch.zeros(3, 1)).shape[1]"
    assert not solves(mine, "01b.2", defined(PIECES["Net"].replace(asks, "16"), "Net"))
    assert "shapes cannot be multiplied" in capsys.readouterr().out
    for features in ("4", asks):  # the fixed 4 fits now, and not in notebook 04
        assert solves(mine, "01b.2", defined(PIECES["Net"].replace(asks, features), "Net")) == (features == asks)
    mine.load().Net()


def test_earlier_pieces_can_be_written_again_after_the_later_notebooks(
    mine: Workbook, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, source in LATER.items():
        assert solves(mine, "later", defined(source, name))
    for name in ("Net", "rows", "half_steps", "averaged", "loss", "train", "sampler"):
        assert solves(mine, "again", defined(PIECES[name], name)), capsys.readouterr().out


def test_what_is_no_piece_is_refused(mine: Workbook) -> None:
    with pytest.raises(TypeError, match="pieces must be functions or classes, got 3"):
        mine.check("01b.1", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be named one of condition, .*, got other"):
        mine.check("01b.1", defined("def other():\n    return 1\n", "other"))


def test_a_name_without_a_place_in_the_file_is_refused(mine: Workbook) -> None:
    with pytest.raises(ValueError, match=r"names must be among condition, .*, got 'strength'"):
        mine.has("strengths", "strength")


def test_the_source_of_a_cell_is_that_of_the_piece_alone() -> None:
    cell = f"x = 3\n\n\ndef rows():\n    pass\n\n\n{PIECES['Net']}\n\n\nprint(x)\n"
    scope = cell.replace("features = condition", "features = len")
    assert source_of(defined(scope, "Net")) == PIECES["Net"].replace("features = condition", "features = len")


def test_the_complete_file_trains_an_ism_without_the_kit(mine: Workbook, tmp_path: Path) -> None:
    """All fixes at once, in a process that cannot import the kit: w, two averages, bands and coupling."""
    for name, source in RIGHT.items():
        if name in CHECKS and name in LATER:
            assert solves(mine, "all", defined(source, name))
    script = """
import torch, my_shortcut as own
torch.manual_seed(0)
x, y = torch.randn(64, 1, 8, 8), torch.arange(64) % 3
net = own.Net(dim=64, width=16, classes=3)
model = own.train(net, x, y, steps=4, batch=32)
print(own.sampler(model, torch.randn(3, 1, 8, 8), y[:3], torch.ones(3), 2).shape)
"""
    assert "ismkit" not in mine.path.read_text()
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.stdout == "torch.Size([3, 1, 8, 8])\n", run.stderr
    assert mine.path.read_text().startswith(HEADER)


def test_the_kits_pieces_learn(mine: Workbook) -> None:
    """A short training brings one-step samples nearer to their class than an untrained network's."""
    own = mine.load()
    data = eight_gaussians(2000, 0)
    torch.manual_seed(0)
    net = own.Net(width=64, classes=4)
    model = own.train(net, data.x, data.y // 2, steps=150, lr=4e-3)
    y = torch.arange(200) % 4
    drawn = own.sampler(model, torch.randn(200, 2), y, torch.zeros(200), 1)
    centres = torch.stack([data.x[data.y // 2 == k].mean(0) for k in range(4)])
    nearest = torch.cdist(drawn, centres).argmin(1)
    assert (nearest == y).float().mean() > 0.9
