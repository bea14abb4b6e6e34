"""The committed notebooks are executed, clean and readable; and nbval, which runs them, does compare.

Their cells run under ``make notebooks``; here is what nbval cannot see.
"""

import ast
import itertools
import os
import platform
import re
import signal
import subprocess
import symtable
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

import ismkit
from ismkit import cli
from ismkit.lessons.notebooks import REFRESHED, NotebookError, find, measure, number, refresh, solutions, solve
from ismkit.utils.files import out_dir
from ismkit.utils.workers import thread_limit
from tests.conftest import MACHINE_PATH, ROOT
from tests.forks import WITHOUT_LIMIT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 1_000_000
MAX_LINES = 25
IMPORT_LINES = 10  # of the first cell that imports
WORDS, QUESTION_WORDS = (1200, 1800), 120
LEVELS = ("warm-up", "core", "stretch")
#: A lab: its solutions make up a complete program, which is code to run and not text to read, so it is not counted.
LAB = "01b"
#: It explains what a claim is by one of another notebook, and tests none of its own.
ABOUT_CLAIMS = "13"
CODE = re.compile(r"\bC\d\d\.\w+")


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def parse(cell: nbformat.NotebookNode) -> ast.Module:
    """The syntax tree of a cell, its magics turned into calls."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def is_literal_assignment(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets, value = [statement.target], statement.value
    else:
        return False
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return all(isinstance(target, ast.Name) for target in targets)


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """The source of a cell and every textual output of it."""
    found = [cell.source]
    for output in cell.get("outputs", []):
        found.append(output.get("text", ""))
        data = output.get("data", {})
        found += [str(value) for kind, value in data.items() if not kind.startswith("image/")]
        found += ["\n".join(output.get("traceback", []))]
    return found


def problems(notebook: nbformat.NotebookNode, prefix: str) -> list[str]:
    """Everything that is wrong with a notebook whose file name starts with ``prefix``, one line each."""
    found = []
    code = code_cells(notebook)

    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith(f"# {prefix} "):
        found.append(f"the first cell must be markdown with the title '# {prefix} ...'")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel must be named python3")

    # nbval compares nothing in a cell that has no execution count.
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"not run from top to bottom in a fresh kernel: execution counts {counts}")

    parameters = tagged(notebook, "parameters")
    if len(parameters) != 1:
        found.append(f"exactly one cell must be tagged parameters, found {len(parameters)}")
    for cell in parameters:
        for statement in parse(cell).body:
            if not is_literal_assignment(statement):
                found.append(f"parameters: not a literal: {ast.unparse(statement)}")
    if tagged(notebook, "injected-parameters"):
        found.append("holds the parameters of a papermill run: commit one that was run with its own")

    importing = [i for i, cell in enumerate(code, 1) if any(map(is_import, ast.walk(parse(cell))))]
    if not importing:
        found.append("nothing is imported")
    else:
        first = [node for node in parse(code[importing[0] - 1]).body if is_import(node)]
        lines = sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in first)
        if lines > IMPORT_LINES:
            found.append(f"the first cell that imports has {lines} lines of imports, more than {IMPORT_LINES}")
    # What one cell alone uses may be imported there, at its top: never the kit's, and never inside a function.
    for i in importing[1:]:
        tree = parse(code[i - 1])
        top = list(itertools.takewhile(is_import, tree.body))
        late = [
            node for node in ast.walk(tree) if is_import(node) and (node not in top or "ismkit" in ast.unparse(node))
        ]
        if late:
            found.append(f"code cell {i}: {ast.unparse(late[0])} belongs in the first cell that imports")

    # nbval knows this tag; it overlooks `# NBVAL_CHECK_OUTPUT: note`, and says nothing.
    compared = tagged(notebook, "nbval-check-output")
    if not compared:
        found.append("no cell is tagged nbval-check-output: its run compares nothing")
    if any(not cell.get("outputs") for cell in compared):
        found.append("a cell tagged nbval-check-output has no output to compare")

    for i, cell in enumerate(code, 1):
        lines = sum(bool(line.strip()) for line in cell.source.splitlines())
        if lines > MAX_LINES:
            found.append(f"code cell {i}: {lines} lines, at most {MAX_LINES}")
        if "NBVAL_" in cell.source:
            found.append(f"code cell {i}: mark cells for nbval by tags, not by comments")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"code cell {i}: ended in {output.ename}")
            for kind in output.get("data", {}):
                alt = output.metadata.get(kind, {}).get("alt", "")
                if kind.startswith("image/") and not alt.strip():
                    found.append(f"code cell {i}: {kind} without alt text")
    for i, cell in enumerate(notebook.cells):
        for text in texts(cell):
            if match := MACHINE_PATH.search(text):
                found.append(f"cell {i}: path of one machine: {text[match.start() :][:60]!r}")
    return found


def words(text: str) -> int:
    """How many words a text has: bars of tables, bullets and dollars are none."""
    return sum(any(map(str.isalnum, word)) for word in text.split())


def ideas_first(notebook: nbformat.NotebookNode, prefix: str) -> list[str]:
    """What keeps a notebook from the convention: a question and a picture first, claims last, graded exercises."""
    found = []
    prose = [(i, cell.source) for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"]
    own = [k for k, (_, source) in enumerate(prose) if source.startswith("## Your own file")]
    if own:  # the reader's own model, which 01b begins
        end = next(k for k, (_, source) in enumerate(prose) if k > own[0] and source.startswith("## "))
        prose = prose[: own[0]] + prose[end:]
    text = "\n\n".join(source for _, source in prose)
    low, high = WORDS
    read = words(re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL) if prefix == LAB else text)
    if not low <= read <= high:
        found.append(f"{read} words of Markdown, want {low} to {high}")

    question, _, table = notebook.cells[0].source.partition("\n|")
    question = question.partition("\n")[2]  # without the title
    if "?" not in question or words(question) > QUESTION_WORDS:
        found.append(f"the first cell must ask a question in at most {QUESTION_WORDS} words, has {words(question)}")
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", table, re.MULTILINE)
    if rows != ["Afterwards you can", "You need", "Time"]:
        found.append(f"the table of the first cell must be Afterwards you can, You need, Time; got {rows}")

    outputs = [output for cell in code_cells(notebook) for output in cell.get("outputs", [])]
    if not outputs or not any(kind.startswith("image/") for kind in outputs[0].get("data", {})):
        found.append("the first output must be a picture")

    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    if headings[-4:] != ["Exercises", "Claims tested here", "Summary", "Next"]:
        found.append(f"must end with Exercises, Claims tested here, Summary, Next; ends with {headings[-4:]}")
    table = text.partition("## Claims tested here")[2].partition("\n## ")[0]
    early = sorted(set(CODE.findall(text.replace(table, ""))))
    if early and prefix != ABOUT_CLAIMS:
        found.append(f"codes of claims outside of their table: {', '.join(early)}")
    tested = {code for cell in code_cells(notebook) for code in re.findall(r'\.check\(\s*"(C\d\d\.\w+)"', cell.source)}
    if tested != set(CODE.findall(table)):
        found.append(f"in the table of claims or in a check, not in both: {sorted(tested ^ set(CODE.findall(table)))}")

    kinds = []
    for i, source in prose:
        for exercise in re.split(r"^(?=\*\*\d\d[a-z]?\.\d)", source, flags=re.MULTILINE):
            if not (match := re.match(r"\*\*(\d\d[a-z]?\.\d+).*?\(\*([\w-]+)\*\)", exercise)):
                continue
            kinds.append(match[2])
            if match[1] != f"{prefix}.{len(kinds)}":
                found.append(f"cell {i}: exercise {match[1]}, want {prefix}.{len(kinds)}")
            if match[2] in LEVELS and any(f"<summary>Hint {n}</summary>" not in exercise for n in (1, 2)):
                found.append(f"cell {i}: exercise {match[1]} needs folded hints, Hint 1 and Hint 2")
    missing = [kind for kind in (*LEVELS, "open", "project") if kind not in kinds]
    if missing:
        found.append(f"no exercise is labelled {', '.join(missing)}")
    _, _, rubric = text.partition("<summary>Rubric")
    points = len(re.findall(r"^\d\. ", rubric.partition("</details>")[0], re.MULTILINE))
    if not 3 <= points <= 5:
        found.append(f"the rubric of the project has {points} points, want 3 to 5")
    if "<summary>What a good answer contains</summary>" not in text:
        found.append("the open question must have what a good answer contains, folded")
    return found


def is_import(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def test_the_first_notebook_is_there() -> None:
    assert (ROOT / "notebooks" / "00_start_here.ipynb").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook(path: Path) -> None:
    assert re.fullmatch(r"\d\d[a-z]?_[a-z0-9_]+", path.stem), f"{path.name}: want a name like 07_twin_ema.ipynb"
    assert path.stat().st_size <= MAX_BYTES, f"{path.name}: {path.stat().st_size} bytes, at most {MAX_BYTES}"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    found = problems(notebook, number(path))
    found += ideas_first(notebook, number(path))
    assert not found, "\n".join([path.name, *found])


def image(alt: str) -> nbformat.NotebookNode:
    return new_output("display_data", {"image/png": "aGk="}, metadata={"image/png": {"alt": alt}})


def good() -> nbformat.NotebookNode:
    notebook = new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    passed = new_output("stream", name="stdout", text="PASS C01 want=1\n")
    notebook.cells = [
        new_markdown_cell("# 00 Start here\n\nTrain."),
        new_code_cell("seed = 0\nstrengths = [0.0, -1.5]", metadata={"tags": ["parameters"]}),
        new_code_cell("%matplotlib inline\nimport math"),
        new_code_cell("show(math.pi)", outputs=[image("a circle")]),
        new_code_cell("check(1)", metadata={"tags": ["nbval-check-output"]}, outputs=[passed]),
    ]
    for count, cell in enumerate(code_cells(notebook), 1):
        cell.execution_count = count
    return notebook


def test_lint_accepts_a_good_notebook() -> None:
    assert problems(good(), "00") == []


BREAKS: dict[str, tuple[Callable[[nbformat.NotebookNode], object], str]] = {
    "title": (lambda nb: nb.cells[0].update(source="# 01 Other"), "title '# 00"),
    "kernel": (lambda nb: nb.metadata.kernelspec.update(name="venv"), "named python3"),
    "stripped": (lambda nb: nb.cells[4].update(execution_count=None), "execution counts"),
    "out of order": (lambda nb: nb.cells[4].update(execution_count=7), "execution counts"),
    "no parameters": (lambda nb: nb.cells[1].metadata.update(tags=[]), "found 0"),
    "two parameters": (lambda nb: nb.cells[3].metadata.update(tags=["parameters"]), "found 2"),
    "derived": (lambda nb: nb.cells[1].update(source="n = 2\nm = n + 1"), "not a literal: m = n + 1"),
    "call": (lambda nb: nb.cells[1].update(source="n = len('a')"), "not a literal: n = len('a')"),
    "injected": (lambda nb: nb.cells[3].metadata.update(tags=["injected-parameters"]), "papermill"),
    "kit": (
        lambda nb: nb.cells[3].update(source="from ismkit import sample"),
        "code cell 3: from ismkit import sample",
    ),
    "imports": (
        lambda nb: nb.cells[2].update(source="\n".join(f"import math as m{i}" for i in range(11))),
        "has 11 lines",
    ),
    "late": (lambda nb: nb.cells[3].update(source="def f():\n    import os"), "code cell 3: import os belongs"),
    "nothing compared": (lambda nb: nb.cells[4].metadata.update(tags=[]), "compares nothing"),
    "empty comparison": (lambda nb: nb.cells[4].update(outputs=[]), "no output to compare"),
    "comment marker": (lambda nb: nb.cells[3].update(source="# NBVAL_SKIP\n1"), "by tags"),
    "long cell": (lambda nb: nb.cells[3].update(source="x = 1\n" * 26), "26 lines, at most 25"),
    "error": (
        lambda nb: nb.cells[3].update(outputs=[new_output("error", ename="KeyError", evalue="")]),
        "ended in KeyError",
    ),
    "alt": (lambda nb: nb.cells[3].update(outputs=[image(" ")]), "image/png without alt text"),
    "path in source": (
        lambda nb: nb.cells[3].update(source="open('/" + "home/me/x')"),
        "cell 3: path of one machine",
    ),
    "path in output": (
        lambda nb: nb.cells[3].update(
            outputs=[new_output("execute_result", {"text/plain": "at /" + "tmp/kernel/3.py"})]
        ),
        "cell 3: path of one machine",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_lint_finds(name: str) -> None:
    notebook = good()
    change, complaint = BREAKS[name]
    change(notebook)
    found = problems(notebook, "00")
    assert any(complaint in problem for problem in found), found


def exemplary() -> nbformat.NotebookNode:
    """A notebook that follows the convention, of the fewest words."""
    notebook = good()
    notebook.cells[0].source = (
        "# 00 Start here\n\nWhy?\n\n| | |\n|---|---|\n| **Afterwards you can** | ask |\n| **You need** | - |\n"
        "| **Time** | none |"
    )
    hints = "".join(f"<details>\n<summary>Hint {n}</summary>\n\nThink.\n\n</details>\n" for n in (1, 2))
    graded = "\n\n".join(f"**00.{k} One** (*{level}*)\n\n{hints}" for k, level in enumerate(LEVELS, 1))
    answer = "<details>\n<summary>What a good answer contains</summary>\n\nReasons.\n\n</details>"
    rubric = "<details>\n<summary>Rubric: one point each</summary>\n\n1. a\n2. b\n3. c\n\n</details>"
    notebook.cells[-1].source = 'ledger.check("C00.one", 1)'
    notebook.cells += [
        new_markdown_cell("word " * (WORDS[0])),
        new_markdown_cell(f"## Exercises\n\n{graded}"),
        new_markdown_cell(f"**00.4 Two** (*open*)\n\n{answer}\n\n**00.5 Three** (*project*)\n\n{rubric}"),
        new_markdown_cell("## Claims tested here\n\n| claim | what is tested |\n|---|---|\n| C00.one | one |"),
        new_markdown_cell("## Summary\n\nDone.\n\n## Next\n\nMore."),
    ]
    return notebook


def test_lint_accepts_a_notebook_with_ideas_first() -> None:
    assert ideas_first(exemplary(), "00") == []


def test_lint_leaves_out_the_readers_own_file_and_nothing_else() -> None:
    notebook = exemplary()
    own = [new_markdown_cell("## Your own file\n\n**00.your**" + " word" * 900), new_markdown_cell("word " * 900)]
    notebook.cells[-2:-2] = own  # before the claims
    assert ideas_first(notebook, "00") == []
    notebook.cells[-3].source = "## Another section\n\n" + notebook.cells[-3].source
    assert any("words of Markdown" in problem for problem in ideas_first(notebook, "00"))


def test_lint_makes_an_exception_of_the_lab_and_of_the_ledger_and_of_no_other() -> None:
    def numbered(prefix: str) -> nbformat.NotebookNode:
        notebook = exemplary()
        for cell in notebook.cells:
            cell.source = cell.source.replace("00.", f"{prefix}.")
        return notebook

    program = new_markdown_cell("```python\n" + "word " * 900 + "\n```")
    for prefix, accepted in (("01b", True), ("02", False)):
        notebook = numbered(prefix)
        notebook.cells.insert(6, program)
        assert (ideas_first(notebook, prefix) == []) == accepted, prefix
    for prefix, accepted in (("13", True), ("12", False)):
        notebook = numbered(prefix)
        notebook.cells[5].source += " C04.flat"
        assert (ideas_first(notebook, prefix) == []) == accepted, prefix


def swap(cell: int, old: str, new: str) -> Callable[[nbformat.NotebookNode], object]:
    """A change of one cell's source."""

    def change(notebook: nbformat.NotebookNode) -> None:
        assert old in notebook.cells[cell].source
        notebook.cells[cell].source = notebook.cells[cell].source.replace(old, new)

    return change


LAPSES: dict[str, tuple[Callable[[nbformat.NotebookNode], object], str]] = {
    "short": (swap(5, "word " * 200, ""), "words of Markdown, want 1200 to 1800"),
    "long": (swap(5, "word", "word more"), "words of Markdown, want 1200 to 1800"),
    "no question": (swap(0, "?", "."), "must ask a question in at most 120 words, has 1"),
    "long question": (swap(0, "Why", "Why " * 121), "must ask a question in at most 120 words, has 121"),
    "table": (swap(0, "**Time**", "**Claims**"), "must be Afterwards you can, You need, Time; got"),
    "text first": (
        lambda nb: nb.cells[2].update(outputs=[new_output("stream", name="stdout", text="3")]),
        "the first output must be a picture",
    ),
    "order": (swap(9, "## Summary", "## End"), "must end with Exercises, Claims tested here, Summary, Next"),
    "code in the text": (swap(5, "word ", "C00.one "), "codes of claims outside of their table: C00.one"),
    "claim not listed": (swap(8, "C00.one", "one"), "not in both: ['C00.one']"),
    "claim not tested": (swap(8, "C00.one", "C00.one, C00.two"), "not in both: ['C00.two']"),
    "number": (swap(7, "00.4", "00.7"), "exercise 00.7, want 00.4"),
    "level": (swap(6, "(*core*)", "(*hard*)"), "no exercise is labelled core"),
    "hint": (swap(6, "Hint 2", "Answer"), "exercise 00.1 needs folded hints"),
    "no open question": (swap(7, "(*open*)", ""), "no exercise is labelled open"),
    "no answer": (swap(7, "What a good answer contains", "Answer"), "the open question must have"),
    "no project": (swap(7, "(*project*)", ""), "no exercise is labelled project"),
    "rubric": (swap(7, "3. c", ""), "has 2 points, want 3 to 5"),
}


@pytest.mark.parametrize("name", LAPSES)
def test_lint_finds_a_lapse(name: str) -> None:
    notebook = exemplary()
    change, complaint = LAPSES[name]
    change(notebook)
    found = ideas_first(notebook, "00")
    assert any(complaint in problem for problem in found), found


def nbval(path: Path) -> subprocess.CompletedProcess[str]:
    """Run nbval on one notebook as ``make notebooks`` does, but outside this run of pytest."""
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-sanitize-with=tests/nbval.cfg"]
    options += ["-p", "no:cacheprovider", "--color=no", "--noconftest"]  # which imports torch
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", str(path), *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_nbval_fails_on_the_canary(tmp_path: Path) -> None:
    canary = ROOT / "tests" / "canary.ipynb"
    run = nbval(canary)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Cell outputs differ" in run.stdout
    assert "1 failed" in run.stdout
    # The wrong output alone is what it fails on: put right, the same notebook passes, whatever was measured.
    righted, text = tmp_path / "canary.ipynb", canary.read_text()
    text = text.replace("PASS canary want=2", "PASS C03.law: want = 1 within 0.5 | measured 1.1 | toys only")
    righted.write_text(text.replace("PASS canary want=1", "PASS C03.law: want = 1 within 0.5 | measured 0.9 | exact"))
    run = nbval(righted)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout


def test_kernel_python3_is_this_environment() -> None:
    notebook = new_notebook(cells=[new_code_cell("import sys; print(sys.prefix, end='')")])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    assert notebook.cells[0].outputs[0].text == sys.prefix


# ---------------------------------------------------------------- ismkit.lessons.notebooks


PARAMETERS = new_code_cell('profile = "laptop"\nseed = 0', metadata={"tags": ["parameters"]})
CHECK = """
from ismkit.lessons.ledger import Ledger
Ledger("01", profile, seed).check("C01.test", 1.0 + seed / 10, 1.0, 0.5)
from pathlib import Path
runs = Path("runs.txt")
runs.write_text((runs.read_text() if runs.exists() else "") + f"{seed}")
"""
CLAIM = """
from ismkit.lessons.claims import CLAIMS, Claim
CLAIMS["C01.test"] = Claim("a claim of the tests alone", "kit")
"""
STUB = """x = 3


def square(x: float) -> float:
    \"\"\"Its square.\"\"\"
    return ...  # your code


exercise("01.1", square, [((2.0,), 4.0)])"""
ANSWER = 'def square(x: float) -> float:\n    """Its square."""\n    product = x * x\n    return product\n'


def folded(answer: str) -> str:
    return f"<details>\n<summary>Solution</summary>\n\n```python\n{answer}```\n\n</details>"


def lesson(stub: str = STUB, answer: str = ANSWER) -> nbformat.NotebookNode:
    return new_notebook(cells=[new_code_cell(stub, metadata={"tags": ["exercise"]}), new_markdown_cell(folded(answer))])


def test_solution_takes_the_place_of_the_stub_and_of_nothing_else() -> None:
    ((cell, answer),) = solutions(lesson())
    assert cell.source == STUB
    solved = solve(cell.source, answer)
    assert solved.replace(ANSWER.rstrip(), "") == STUB.replace(
        STUB[STUB.index("def") : STUB.index("\n\n\nexercise")], ""
    )
    scope: dict[str, object] = {"exercise": lambda name, function, cases: scope.update(got=function(3))}
    exec(solved, scope)
    assert (scope["x"], scope["got"]) == (3, 9)


def test_several_functions_are_all_replaced() -> None:
    stub = "def a(n: int) -> int:\n    return ...\n\n\ndef b(n: int) -> int:\n    return ...\n\n\ndone = a(1), b(1)"
    first, second = "def a(n: int) -> int:\n    m = n\n    return m + 1", "def b(n: int) -> int:\n    return a(n) + 1"
    solved = solve(stub, f"{second}\n\n\n{first}\n")
    assert solved == f"{first}\n\n\n{second}\n\n\ndone = a(1), b(1)"
    scope: dict[str, object] = {}
    exec(solved, scope)
    assert scope["done"] == (2, 3)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (ANSWER.replace("square(x: float)", "square(y: float)"), "square has other arguments"),
        (ANSWER.replace("-> float", "-> int"), "square has other arguments"),
        (ANSWER.replace("Its square", "The square"), "another docstring"),
        (ANSWER.replace("square(", "cube("), "the solution defines cube, the exercise does not"),
        ("x = 9\n", "defines no function"),
    ],
)
def test_solution_must_match_its_stub(answer: str, complaint: str) -> None:
    with pytest.raises(NotebookError, match=complaint):
        solve(STUB, answer)


CLASS = '''class Net(nn.Module):
    """A network."""

    def forward(self, x: float) -> float:
        return {}'''


def test_a_class_is_replaced_and_its_methods_must_match() -> None:
    stub, answer = CLASS.format("..."), CLASS.format("2 * x")
    assert solve(f"{stub}\n\n\ncheck(Net)", f"{answer}\n") == f"{answer}\n\n\ncheck(Net)"
    for changed in (answer.replace("x: float", "z: float"), answer.replace("nn.Module", "object")):
        with pytest.raises(NotebookError, match="Net has other arguments"):
            solve(stub, changed)


def test_exercises_and_solutions_come_in_pairs() -> None:
    notebook = lesson()
    del notebook.cells[1]
    with pytest.raises(NotebookError, match="cell 0 is an exercise, but cell 1 holds no folded solution"):
        solutions(notebook)
    notebook = lesson()
    notebook.cells[0].metadata.tags = []
    with pytest.raises(NotebookError, match="cell 1 holds a solution, but cell 0 is no exercise"):
        solutions(notebook)
    assert solutions(good()) == []


@pytest.mark.parametrize("name", ["00", "00_tiny", "{}/00_tiny.ipynb"])
def test_notebook_is_found_by_number_name_or_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismkit.lessons.notebooks.NOTEBOOKS", tmp_path)
    for file in ("00_tiny.ipynb", "01_other.ipynb"):
        (tmp_path / file).touch()
    assert find(name.format(tmp_path)) == tmp_path / "00_tiny.ipynb"
    with pytest.raises(NotebookError, match="names 2 notebooks, must name one of: 00_tiny, 01_other"):
        find("0")


def test_a_number_names_one_notebook_though_another_stands_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ismkit.lessons.notebooks.NOTEBOOKS", tmp_path)
    for file in ("01_flow.ipynb", "01b_blank.ipynb", "02_next.ipynb"):
        (tmp_path / file).touch()
    assert [find(name).stem for name in ("01", "01b", "01_", "02")] == ["01_flow", "01b_blank", "01_flow", "02_next"]
    assert [number(path) for path in sorted(tmp_path.iterdir())] == ["01", "01b", "02"]  # the order of the book


def test_a_path_means_that_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook of one's own with a name of the kit's is not taken for the kit's; a missing one is an error."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "01_flow_matching.ipynb"
    with pytest.raises(NotebookError, match=r"01_flow_matching\.ipynb is not there: give the path of a notebook"):
        find(own.name)
    own.touch()
    assert find(own.name) == find(str(own)) == own


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in papermill and its dependencies
def test_measure_joins_seeds_and_repeats_no_complete_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISMKIT_OUT", str(tmp_path / "out"))
    monkeypatch.delenv("ISMKIT_CHECKS", raising=False)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = tmp_path / "01_tiny.ipynb"
    nbformat.write(new_notebook(cells=[PARAMETERS, new_code_cell(CLAIM), new_code_cell(CHECK)], metadata=kernel), path)
    (row,) = measure(path, [0, 2], tmp_path / "measured")
    assert os.environ["ISMKIT_OUT"] == str(tmp_path / "out")  # what the kernel had is not left to the next notebook
    assert "ISMKIT_CHECKS" not in os.environ
    assert row.seeds == {"0": 1.0, "2": 1.2}
    assert (row.claim, row.seed, row.cell, row.profile) == ("C01.test", 0, 3, "laptop")
    (row,) = measure(path, [0, 2, 3], tmp_path / "measured")
    assert row.seeds == {"0": 1.0, "2": 1.2, "3": 1.3}
    assert (tmp_path / "runs.txt").read_text() == "023"  # each seed ran once
    with pytest.raises(NotebookError, match=r"cell \[4\] of 01_tiny.ipynb failed: ClaimError: C01.test: measured 1.9"):
        measure(path, [0, 9], tmp_path / "measured")
    changed = nbformat.read(path, as_version=4)
    changed.cells[-1].source += "\n# another version"
    nbformat.write(changed, path)
    measure(path, [0], tmp_path / "measured")
    assert (tmp_path / "runs.txt").read_text() == "0230"  # what another version measured is not taken
    (row,) = measure(path, [1000], tmp_path / "measured", record=True)  # 101, where 1 within 0.5 is wanted
    assert row.seeds == {"1000": 101.0}


# ---------------------------------------------------------------- every notebook, at smoke


def with_solutions(path: Path) -> tuple[nbformat.NotebookNode, int]:
    """A notebook with its exercises solved, and their number."""
    notebook = nbformat.read(path, as_version=4)
    pairs = solutions(notebook)
    for cell, answer in pairs:
        cell.source = solve(cell.source, answer)
    return notebook, len(pairs)


def printed(notebook: nbformat.NotebookNode, pattern: str) -> list[str]:
    text = "".join(output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs)
    return re.findall(pattern, text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lessons_have_three_exercises_that_are_committed_unsolved(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    count = len(solutions(notebook))
    assert count >= 3
    assert len(printed(notebook, r"exercise \S+: to do")) == count


def inner(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    """The functions and classes of a scope, and theirs; a comprehension reads its names immediately."""
    for part in table.get_children():
        if part.get_name() not in ("listcomp", "setcomp", "dictcomp", "genexpr"):
            yield part
            yield from inner(part)


def names_of(table: symtable.SymbolTable) -> set[str]:
    """The names of the notebook that a scope reads."""
    return {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}


def rebound(notebook: nbformat.NotebookNode) -> list[str]:
    """Names that a widget reads when it draws again, and that a cell below it has given something else."""
    transform = TransformerManager().transform_cell
    tables = [symtable.symtable(transform(cell.source), "cell", "exec") for cell in code_cells(notebook)]
    reads: dict[str, set[str]] = {}
    bound = [
        {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
        for table in tables
    ]
    found = []
    for k, (cell, table) in enumerate(zip(code_cells(notebook), tables, strict=True)):
        for function in table.get_children():
            reads[function.get_name()] = names_of(function).union(*map(names_of, inner(function)))
        if "plot.explore(" not in cell.source:
            continue
        names = {symbol.get_name() for symbol in table.get_symbols() if symbol.get_name() in reads}.union(
            *map(names_of, inner(table))
        )
        while more := set().union(*(reads.get(name, set()) for name in names)) - names:
            names |= more
        before, below = set().union(*bound[: k + 1]), set().union(*bound[k + 1 :])
        found += [f"a widget reads {name}, which a cell below it changes" for name in sorted(names & before & below)]
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_widget_draws_the_same_after_the_cells_below_it(path: Path) -> None:
    """In notebook 07 an exercise gave a name of the widget to a function of the reader's: the next move failed."""
    assert rebound(nbformat.read(path, as_version=4)) == []


def test_a_name_of_a_widget_that_is_changed_below_it_is_found() -> None:
    cells = [
        "import torch as t\nshift, n, k = 1, 2, 3\nlevel = 1",
        "def inside(x):\n    return x + shift",
        "def draw(n):\n    level = n\n    return inside(level) + t.e\nplot.explore(draw, n=[k for k in range(2)])",
        "n = k = level = 5",
        "def shift(x):\n    return x",
        "t = 1",
    ]
    found = rebound(new_notebook(cells=[new_code_cell(source) for source in cells]))
    assert found == [f"a widget reads {name}, which a cell below it changes" for name in ("shift", "t")]


def run_or_show_where(
    command: list[str], seconds: int, *, without: Iterable[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command; if it takes longer, fail with where it and the kernel it started stand.

    It gets this process's environment without the variables ``without``.
    """
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment["PYTHONFAULTHANDLER"] = "1"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            parent = psutil.Process(process.pid)
            for one in [*parent.children(recursive=True), parent]:
                one.send_signal(signal.SIGABRT)  # each prints the stack of every thread
            out, err = process.communicate()
            pytest.fail(f"{command} ran for more than {seconds} s\n{out[-3000:]}\n{err[-12000:]}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


WIDGETS = """
import sys
from pathlib import Path
from ismkit.lessons.notebooks import execute, refresh
source, out = map(Path, sys.argv[1:])
execute(source, out, {})
refresh(source)
"""


@pytest.mark.slow
def test_output_widgets_do_not_stop_a_notebook(tmp_path: Path) -> None:
    """nbclient answers them on the socket that it waits on; waiting to be woken there hung at cell 7 and at cell 21."""
    show = "from ipywidgets import Output\nout = Output()\nwith out:\n    display(1)\nout"
    cells = [new_code_cell("seed = 0", metadata={"tags": ["parameters"]}), *(new_code_cell(show) for _ in range(100))]
    own = write_notebook(tmp_path / "99_widgets.ipynb", cells)
    answer = run_or_show_where([sys.executable, "-c", WIDGETS, str(own), str(tmp_path / "out")], seconds=240)
    assert answer.returncode == 0, answer.stderr[-2000:]
    by_papermill = [cell.execution_count for cell in code_cells(nbformat.read(tmp_path / "out" / own.name, 4))]
    in_place = [cell.execution_count for cell in code_cells(nbformat.read(own, 4))]
    assert in_place == by_papermill == list(range(1, 102))


def without_run(path: Path) -> tuple[str, dict]:
    """A notebook's text without what its last refresh notes of itself, and that note."""
    notebook = nbformat.read(path, as_version=4)
    run = notebook.metadata.pop(REFRESHED)
    return nbformat.writes(notebook), run


def test_a_refresh_notes_how_long_the_notebook_took_and_joins_what_a_pause_divides(tmp_path: Path) -> None:
    source = "import time\nprint(1, flush=True)\ntime.sleep(2)\nprint(2, flush=True)\ndisplay(3)\nprint(4)"
    own = write_notebook(tmp_path / "99_slow.ipynb", [new_code_cell(source)])
    refresh(own)
    assert without_run(own)[1]["seconds"] >= 2
    (cell,) = code_cells(nbformat.read(own, 4))
    assert [output.get("text") or output.data["text/plain"] for output in cell.outputs] == ["1\n2\n", "3", "4\n"]


def test_a_notebook_is_refreshed_in_its_place_or_stays_as_it_was(tmp_path: Path) -> None:
    own = write_notebook(tmp_path / "99_own.ipynb", [new_code_cell("from pathlib import Path\nPath.cwd().name")])
    refresh(own)
    (cell,) = code_cells(nbformat.read(own, 4))
    assert (cell.execution_count, cell.outputs[0].data["text/plain"]) == (1, repr(tmp_path.name))
    assert "execution" not in cell.metadata  # times would differ each time
    first, run = without_run(own)
    assert own.read_bytes().endswith(b"}\n")
    assert (run["python"], run["ismkit"]) == (platform.python_version(), ismkit.__version__)
    assert torch.__version__.startswith(run["torch"])
    assert abs(date.fromisoformat(run["day"]) - datetime.now(UTC).date()) <= timedelta(days=1)
    assert 0 <= run["seconds"] < 600
    stale = nbformat.read(own, 4)
    stale.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {"a slider that is gone": {}}}}
    nbformat.write(stale, own)
    refresh(own)
    assert without_run(own)[0] == first
    bad = write_notebook(tmp_path / "98_bad.ipynb", [new_code_cell("x = 1"), new_code_cell("1 / 0")])
    before = bad.read_bytes()
    with pytest.raises(NotebookError, match=r"98_bad\.ipynb failed: ZeroDivisionError: division by zero; it is"):
        refresh(bad)
    assert bad.read_bytes() == before


def write_notebook(path: Path, cells: list[nbformat.NotebookNode]) -> Path:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def own_folder(folder: Path) -> Path:
    """Two classes, where the example has four; pictures that are not square, and a file that is none."""
    for name, colour in (("night", "navy"), ("sand", "tan")):
        (folder / name).mkdir(parents=True)
        for k in range(20):
            Image.new("RGB", (24 + k, 40), colour).save(folder / name / f"{k:02d}.png")
    (folder / "sand" / "broken.png").write_bytes(b"no picture")
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def drew_the_readers_folder(executed: nbformat.NotebookNode, _: Path) -> None:
    assert "sand/broken.png" in printed(executed, r"refused: (\S+):")
    assert len(printed(executed, r"PASS 14\.\w+")) == 6
    pictures = [data for cell in code_cells(executed) for data in cell.outputs if "image/png" in data.get("data", {})]
    assert pictures[0].metadata["image/png"]["alt"].endswith("night, sand")


def left_a_table_and_a_model(_: nbformat.NotebookNode, out: Path) -> None:
    assert {"00_grid.png", "00_scores.csv", "00_model.safetensors"} <= {file.name for file in out.iterdir()}
    assert len((out / "00_scores.csv").read_text().splitlines()) == 14  # a header and 13 settings


#: What else a run must have done.
AFTERWARDS = {"00": left_a_table_and_a_model, "14": drew_the_readers_folder}
STARTS = re.compile(r"\b(?:run_group|launch_processes)\(")
SMOKE = """
import sys
from pathlib import Path
from ismkit import cli
from ismkit.lessons import notebooks
notebooks.NOTEBOOKS = Path(sys.argv[1])
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_smoke_profile_runs_by_papermill_from_the_command_line(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the committed notebooks, as they read the data there; with the exercises solved.

    Those that start processes compute on as many threads as a reader's do, who sets no ``OMP_NUM_THREADS``: a process
    that was forked from such a kernel waits forever. For the others the command is called here. Notebook 14 takes a
    folder of the reader's, and leaves it as it is.
    """
    notebook, exercises = with_solutions(path)
    copy = tmp_path / "notebooks" / path.name
    copy.parent.mkdir()
    nbformat.write(notebook, copy)
    out = tmp_path / "out"
    if (encoded := out_dir() / "cache").is_dir():  # of clothes, by the committed profile: half a minute each time
        out.mkdir()
        (out / "cache").symlink_to(encoded.resolve())
    options = ["notebook", number(path), "--profile", "smoke", "--out", str(out)]
    settings = ['profile = "smoke"']
    if number(path) != "13":  # which reads what was measured
        options += ["-p", "seed", "3"]
        settings.append("seed = 3")
    if number(path) == "00":
        options += ["-p", "train", "True"]
    mine = own_folder(tmp_path / "mine") if number(path) == "14" else None
    before = contents(mine) if mine else {}
    if mine:
        options += ["-p", "your_folder", str(mine)]
    if number(path) == "11":
        options += ["-p", "processes", "1"]  # nbval starts two each time, and each imports everything
    if number(path) in ("08", "09"):
        options += ["-p", "workers", "1"]  # as there
    starts = any(STARTS.search(cell.source) for cell in code_cells(notebook))
    assert starts == (number(path) in ("11", "12"))
    if starts:
        # By default threads that wait for others spin: with tests beside them that takes 2.6 times as long.
        for name, value in WITHOUT_LIMIT.items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-c", SMOKE, str(copy.parent), *options]
        answer = run_or_show_where(command, seconds=240, without=thread_limit(1))
        assert answer.returncode == 0, answer.stderr[-2000:]
    else:
        monkeypatch.setattr("ismkit.lessons.notebooks.NOTEBOOKS", copy.parent)
        assert cli.main(options) == 0
    executed = nbformat.read(out / path.name, as_version=4)
    (given,) = tagged(executed, "injected-parameters")
    assert set(settings) <= set(given.source.splitlines())
    assert all(cell.execution_count for cell in code_cells(executed) if cell.source.strip())
    assert len(printed(executed, r"exercise \S+: solved")) == exercises, printed(executed, r"exercise .*")
    if mine:
        assert contents(mine) == before
    if number(path) in AFTERWARDS:
        AFTERWARDS[number(path)](executed, out)
