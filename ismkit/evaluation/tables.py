"""Our scores beside the paper's, in the form of its tables; what was not run is marked as not run, never filled in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ismkit.evaluation.fidelity import Metric
from ismkit.evaluation.judges import write_csv
from ismkit.utils.files import replacing

#: The paper's FID-50K on ImageNet-256 at 1 and at 4 NFE.
PAPER: dict[str, tuple[float, float]] = {
    "shortcut_finest_level": (10.60, 7.80),
    "ism_guidance": (9.62, 3.17),
    "+interval": (8.49, 2.81),
    "+wavelet": (8.12, 2.64),
    "+sot": (7.97, 2.23),
    "ism": (6.56, 2.16),
}
#: The paper's FID-50K on ImageNet-256 by method and NFE, and there its FD-DINOv2 and IS. Guidance strengths: not known.
#: NFE are network calls here. IMM guides each step by two (its code): the paper lists its steps, 1, 2, 4 and 8.
PAPER_FID: dict[str, dict[int, float]] = {
    "SM": {1: 10.60, 4: 7.80, 128: 3.80},
    "IMM": {2: 7.77, 4: 3.99, 8: 2.51, 16: 1.99},
    "iSM": {1: 5.27, 2: 2.44, 4: 2.05, 8: 1.93, 128: 1.88},
}
PAPER_DINOV2_IS: dict[str, dict[int, tuple[float, float]]] = {
    "SM": {1: (500.92, 102.66), 2: (329.53, 125.66), 4: (265.90, 136.79)},
    "iSM": {1: (232.31, 223.52), 2: (107.63, 302.29), 4: (83.70, 298.23)},
}
#: The paper's FID-50K on ImageNet-256 by NFE where one setting is changed, each on its rung of the ablation. The keys
#: are the variants of the sweep ``sensitivity``. Of the levels of the wavelet it says only that more are better.
PAPER_SETTINGS: dict[str, dict[str, dict[int, float]]] = {
    "w_max": {"w_max 2": {1: 10.10}, "w_max 3.5": {1: 9.62}, "w_max 5": {1: 10.38}},
    "t_interval": {
        "t_interval 0": {4: 3.17},
        "t_interval 0.1": {4: 3.14},
        "t_interval 0.3": {4: 2.81},
        "t_interval 0.5": {1: 19.22, 4: 2.84},
    },
    "levels": {},
    "K": {
        "K 0": {1: 8.12, 4: 2.64},
        "K 1": {1: 8.07, 4: 2.51},
        "K 8": {1: 8.03, 4: 2.28},
        "K 32": {1: 7.97, 4: 2.23},
    },
    "target EMA": {"target EMA 0.9999": {1: 7.97}, "target EMA 0.999": {1: 7.43}, "target EMA 0.95": {1: 6.56}},
}
#: The paper's FID, precision and recall at 512 pixels, by method and NFE.
PAPER_512: dict[tuple[str, int], tuple[float, float, float]] = {
    ("SM", 1): (43.81, 0.56, 0.11),
    ("iSM", 1): (37.05, 0.60, 0.55),
    ("SM", 4): (12.16, 0.86, 0.19),
    ("iSM", 4): (9.94, 0.78, 0.62),
}

NOT_RUN, NOT_STATED = "not run", "-"
PAPER_N = 50_000  # the paper's figures are FID-50K: others are not put beside them
NFE = (1, 2, 4, 8, 16, 128)
CALLS = (
    "NFE are network calls. IMM calls its network twice in each guided step: the paper lists its steps (1, 2, 4, 8), "
    "this table its calls. SM's code takes 128 steps with guidance (256 calls) and without (128); the paper does not "
    "say which of them gave 3.80."
)


def as_text(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric], protocol: Mapping[str, str]) -> str:
    """The protocol, and under it the table to print, one line for each setting."""
    lines = [f"{name}: {text}" for name, text in protocol.items()]
    titles = {"nfe": "NFE", "w": "w", "n": "n", "seed": "seed"} | {
        name: metric.title for name, metric in metrics.items()
    }
    settings = [
        [f"{row[name]:g}" if name in ("nfe", "w", "n", "seed") else f"{row[name]:.3f}" for name in titles]
        for row in rows
    ]
    table = [list(titles.values()), *settings]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in table]
    return "\n".join(lines)


def write(
    rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric], protocol: Mapping[str, str], folder: Path
) -> tuple[Path, Path]:
    """Write ``scores.json`` and ``scores.csv``, each with the protocol, and in the CSV beside every row; atomically."""
    told = {name: metric._asdict() for name, metric in metrics.items()}
    text = json.dumps({"protocol": dict(protocol), "metrics": told, "rows": [dict(row) for row in rows]}, indent=1)
    with replacing(path := folder / "scores.json") as file:
        file.write(text.encode())
    return path, write_csv([{**row, **protocol} for row in rows], folder / "scores.csv")


def ours(rows: Iterable[Mapping[str, Any]], metrics: Mapping[str, Metric], metric: str, nfe: int) -> tuple[str, str]:
    """Our figure for a metric at an NFE and the w it was taken at: the w of the least FID, among sets of 50 000.

    ``("not run", "")`` if there is none, or where the metric did not read its own feature network.
    """
    found = [row for row in rows if row["nfe"] == nfe and row["n"] == PAPER_N and metric in row and "fid" in row]
    if metric not in metrics or metrics[metric].title.endswith("]") or not found:
        return NOT_RUN, ""
    best = min(found, key=lambda row: row["fid"])
    return f"{best[metric]:.2f}", f"{best['w']:g}"


def paper_tables(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric]) -> str:
    """Write two Markdown tables: FID-50K by NFE, and FD-DINOv2 / IS by NFE.

    They hold the paper's figures (iSM and the baselines in its tables), and ours in the last row. Between them stands
    what a number of calls means for the baselines.

    Args:
        rows: of :meth:`ismkit.evaluation.fidelity.ImageJudge.table`; sets of other than 50 000 samples are left out.
        metrics: that the rows hold, by name.

    Returns:
        The text.

    Example:
        >>> from ismkit.evaluation import METRICS, paper_tables
        >>> rows = [{"nfe": 1, "w": w, "n": 50_000, "fid": fid} for w, fid in ((1.0, 7.51), (2.0, 6.02))]
        >>> for line in paper_tables(rows, METRICS).splitlines()[:6]:
        ...     print(line)
        | FID-50K, ImageNet-256 | 1 NFE | 2 NFE | 4 NFE | 8 NFE | 16 NFE | 128 NFE |
        |---|---|---|---|---|---|---|
        | SM (paper) | 10.60 | - | 7.80 | - | - | 3.80 |
        | IMM (paper) | - | 7.77 | 3.99 | 2.51 | 1.99 | - |
        | iSM (paper) | 5.27 | 2.44 | 2.05 | 1.93 | - | 1.88 |
        | iSM (here) | 6.02 (w = 2) | not run | not run | not run | not run | not run |
    """
    head = "| {} | " + " | ".join(f"{nfe} NFE" for nfe in NFE) + " |"
    lines = [head.format("FID-50K, ImageNet-256"), "|---" * (len(NFE) + 1) + "|"]
    for method, figures in PAPER_FID.items():
        settings = [f"{figures[nfe]:.2f}" if nfe in figures else NOT_STATED for nfe in NFE]
        lines.append(f"| {method} (paper) | {' | '.join(settings)} |")
    mine = [ours(rows, metrics, "fid", nfe) for nfe in NFE]
    lines.append(f"| iSM (here) | {' | '.join(text + (f' (w = {w})' if w else '') for text, w in mine)} |")
    lines += ["", CALLS, "", head.format("FD-DINOv2 / IS"), "|---" * (len(NFE) + 1) + "|"]
    for method, pairs in PAPER_DINOV2_IS.items():
        settings = [f"{pairs[nfe][0]:.2f} / {pairs[nfe][1]:.2f}" if nfe in pairs else NOT_STATED for nfe in NFE]
        lines.append(f"| {method} (paper) | {' | '.join(settings)} |")
    both = [[ours(rows, metrics, metric, nfe)[0] for metric in ("fd_dinov2", "is")] for nfe in NFE]
    settings = [NOT_RUN if pair == [NOT_RUN] * 2 else " / ".join(pair) for pair in both]
    return "\n".join([*lines, f"| iSM (here) | {' | '.join(settings)} |"])
