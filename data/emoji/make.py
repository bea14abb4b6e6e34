"""Draw the set of this folder again: ``python data/emoji/make.py FONT EMOJI_TEST [--out FOLDER]``.

FONT is ``NotoColorEmoji.ttf`` of Debian's package fonts-noto-color-emoji, EMOJI_TEST ``emoji-test.txt`` of
unicode-data. Versions and what else the bytes depend on stand in README.md.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from ismkit.utils.files import replacing

SIZE = 109  # in pixels of the font's strike, its only one
WIDTH, HEIGHT = 136, 128  # of each of its drawings
SIDE = 32
COLUMNS = 64  # of the sheet
EVERY, FIRST = 8, 4  # of the families of a subgroup, these are kept apart for tests
_WHO = re.compile(r"\b(man|men|woman|women|person|people|boy|girl|mr|mrs|mx)\b\.? ?")


class Emoji(NamedTuple):
    """One drawing of the set."""

    code_points: str
    name: str
    group: str
    subgroup: str
    family: str
    split: str


def listed(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Code points, name, group and subgroup of all fully qualified sequences, in the order of the file."""
    group = subgroup = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ")
        elif "; fully-qualified" in line:
            code_points, _, rest = line.partition(";")
            yield code_points.strip(), rest.partition("#")[2].split(" ", 3)[3], group, subgroup


def family_of(name: str, group: str) -> str:
    """The drawings that differ in who is drawn, or in the colour of skin and hair, are one family."""
    if group != "People & Body":
        return name
    return _WHO.sub("", name.partition(":")[0]).strip() or "person"


def read(path: Path) -> list[Emoji]:
    """The rows of the table. Families are split, not drawings, so that nobody is in both parts with two skins."""
    rows, seen, counts = [], {}, Counter[str]()
    for code_points, name, group, subgroup in listed(path):
        family = family_of(name, group)
        if (subgroup, family) not in seen:
            seen[subgroup, family] = "test" if counts[subgroup] % EVERY == FIRST else "train"
            counts[subgroup] += 1
        rows.append(Emoji(code_points, name, group, subgroup, family, seen[subgroup, family]))
    return rows


def draw(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One drawing on white, SIDE x SIDE: the font's cell with white above and below, averaged over areas."""
    if font.getbbox(text) != (0, 0, WIDTH, HEIGHT):
        raise ValueError(f"{text!r} is not one drawing of this font: {font.getbbox(text)}")
    cell = Image.new("RGB", (WIDTH, WIDTH), "white")
    ImageDraw.Draw(cell).text((0, (WIDTH - HEIGHT) // 2), text, font=font, embedded_color=True)
    return cell.resize((SIDE, SIDE), Image.Resampling.BOX)


def main() -> None:
    """Draw all, and write the sheet and the table."""
    parser = argparse.ArgumentParser(description="Draw the emoji of this folder again.")
    parser.add_argument("font", type=Path)
    parser.add_argument("emoji_test", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    if not features.check("raqm"):
        parser.error("Pillow has no Raqm here, and joins no sequences without it: take a Pillow from PyPI")
    font, rows = ImageFont.truetype(args.font, SIZE, layout_engine=ImageFont.Layout.RAQM), read(args.emoji_test)
    sheet = np.full((-(-len(rows) // COLUMNS) * SIDE, COLUMNS * SIDE, 3), 255, np.uint8)
    for k, row in enumerate(rows):
        y, x = SIDE * (k // COLUMNS), SIDE * (k % COLUMNS)
        text = "".join(chr(int(point, 16)) for point in row.code_points.split())
        sheet[y : y + SIDE, x : x + SIDE] = np.asarray(draw(text, font))
    with replacing(args.out / "emoji.png") as file:
        Image.fromarray(sheet).save(file, "PNG", optimize=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Emoji._fields)
    writer.writerows(rows)
    with replacing(args.out / "emoji.csv") as file:
        file.write(text.getvalue().encode())
    print(f"{len(rows)} drawings, {sum(row.split == 'test' for row in rows)} of them kept apart")


if __name__ == "__main__":
    main()
