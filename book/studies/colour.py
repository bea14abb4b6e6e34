"""Compounding guidance in colour: emoji by both readings of SM and by `ism`, which notebooks 03 and 04 show.

`python book/studies/colour.py` trains the network of the run `emoji` three times from seed 0, for 4000 steps of 256, by
`shortcut_every_level`, `shortcut_finest_level` and `ism`: half an hour of one CPU core. Stopped, it resumes. It
writes `colour.parquet`, what the samples of each are worth at 1, 4 and 128 calls (and `ism` at several strengths), and
`colour.png`, the first drawings of each setting, a line of sixteen classes for a row of the table. One seed: an
illustration, not a comparison of methods; that is the ladder's.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ismkit.data.colour import emoji
from ismkit.data.pictures import balanced, write_png
from ismkit.evaluation.judges import EmojiJudge, Setting
from ismkit.method.recipes import RECIPES
from ismkit.models.autoencoder import in_batches
from ismkit.models.drawing import draw_pictures, draw_samples
from ismkit.sweeps.sweep import write_table
from ismkit.training.options import Saving
from ismkit.training.runs import RUNS, Run, train_run

HERE = Path(__file__)
STEPS, N = 4000, 1000
GUIDED = {"shortcut_every_level": (0.0,), "shortcut_finest_level": (0.0,), "ism": (0.0, 0.5, 1.0, 2.0, 3.5)}
CALLS = (1, 4, 128)
SHOWN = (
    *("face-smiling", "cat-face", "heart", "animal-mammal", "animal-bird", "plant-flower", "food-fruit", "food-sweet"),
    *("place-building", "transport-ground", "sky & weather", "event", "sport", "clothing", "lock", "flag"),
)


def run_of(name: str) -> Run:
    """The run `emoji` with another recipe, shorter; SM's rows take no strength, and its clip is as in its code."""
    run = RUNS["emoji"]
    return replace(run, name=f"colour-{name}", recipe=run.adapt(RECIPES[name]), steps=STEPS)


def main() -> None:
    """Train what is not trained yet, score it, and draw."""
    judge, names = EmojiJudge.load(), emoji().class_names
    shown = [names.index(name) for name in SHOWN]
    data = balanced(emoji(), 10).x
    rows: list[dict[str, Any]] = [{"recipe": "data", **judge.colour(data), "latent_std": 1.0}]
    lines = [torch.stack([data[k * 10] for k in shown])]
    asked = torch.arange(N) % len(names)
    for name, strengths in GUIDED.items():
        net = train_run(run_of(name), 0, saving=Saving(save_every=500, resume=True)).ema.slow.eval()
        for nfe in CALLS:
            for w in strengths:
                scores = judge.score(net, Setting(nfe, w, N, 1))
                latents, _ = draw_samples(asked, net, judge.autoencoder.latent, w=w, nfe=nfe, seed=1)
                images = in_batches(judge.autoencoder.decode, latents)
                row = {"recipe": name, "nfe": nfe, "w": w, **scores, **judge.colour(images)}
                rows.append(row | {"latent_std": float(latents.std())})
                lines.append(draw_pictures("emoji", shown, net, w=w, nfe=nfe, seed=3))
                print(rows[-1], flush=True)
    write_table(pd.DataFrame(rows), HERE.with_suffix(".parquet"))
    write_png(torch.cat(lines), HERE.with_suffix(".png"), columns=len(shown), scale=1)


if __name__ == "__main__":
    main()
