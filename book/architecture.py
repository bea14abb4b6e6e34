"""A drawing of the library, made from its imports: the rooms in floors, and an arrow for each room that one imports.

Every room that others import has a lane in the shaft between the two columns. An importer's line runs into that lane
and along it to the arrowhead at the imported room; the number beside the line counts import statements.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import ismkit

PACKAGE = Path(__file__).resolve().parent.parent / "ismkit"
#: The rooms from the ground up and what each holds, as the docstring of the package lists them.
ROOMS = dict(re.findall(r"^\* ``ismkit\.(\w+)``: (.*)[;.]$", ismkit.__doc__ or "", re.MULTILINE))

#: One colour per lane, each with a contrast of at least 3 on white and on the dark theme's ground.
COLOURS = ("#1f7fc4", "#d0611a", "#159a6c", "#c0589e", "#8a66d0", "#a87a2c", "#7b8794", "#d04a4a")
WIDTH, SHAFT, GAP = 690, 130, 26  # of the drawing, of the shaft, between floors
LINE, ROW, PAD, HEAD = 18, 19, 14, 9  # height of a line of text and of an arrow's row; margin in a box; arrowhead

Arrows = Mapping[tuple[str, str], int]


def arrows(package: Path = PACKAGE) -> Counter[tuple[str, str]]:
    """How many import statements in the files of one room name another room: ``{("method", "utils"): 2, ...}``."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted(package.glob("*/*.py")):
        if path.parent.name == "cli":  # the commands stand on the roof: they may call every room
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == package.name:
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            rooms = {name.split(".")[1] for name in modules if name.startswith(f"{package.name}.")}
            found.update((path.parent.name, room) for room in rooms if (package / room).is_dir())
    return Counter({pair: count for pair, count in found.items() if pair[0] != pair[1]})


def floors(rooms: Sequence[str], between: Arrows) -> list[list[str]]:
    """The rooms by floor: each one above all that it imports.

    Args:
        rooms: from the ground up.
        between: the imports, see :func:`arrows`.

    Raises:
        ValueError: if a room imports one that stands above it, or is not listed.
    """
    level: dict[str, int] = {}
    for room in rooms:
        below = [target for source, target in between if source == room]
        if missing := [target for target in below if target not in level]:
            raise ValueError(f"{room} imports {', '.join(missing)}, which must stand before it among {list(rooms)}")
        level[room] = 1 + max((level[target] for target in below), default=-1)
    if unknown := {room for pair in between for room in pair} - level.keys():
        raise ValueError(f"rooms must hold every room with an arrow, {', '.join(sorted(unknown))} missing")
    return [[room for room in rooms if level[room] == floor] for floor in range(1 + max(level.values()))]


@dataclass(frozen=True)
class Box:
    """A room's place in the drawing, in pixels."""

    room: str
    x: int
    y: int
    width: int
    height: int
    out: tuple[str, ...]

    @property
    def wide(self) -> bool:
        """Whether the room spans both columns, and is entered from above."""
        return self.width == WIDTH

    @property
    def edge(self) -> int:
        """Where its lines leave: the side that faces the shaft."""
        return self.x + self.width if self.x == 0 else self.x

    def row(self, k: int) -> int:
        """Height at which line number ``k`` leaves; at number 0 the arrow enters.

        Those of the right column are half a row lower, so that no line seems to run from box to box.
        """
        return self.y + PAD + ROW * k + (ROW if self.x else ROW // 2)


def place(rooms: Mapping[str, str], between: Arrows) -> tuple[list[Box], int]:
    """The boxes, two to a row and the upper floors first, and the height of the drawing."""
    boxes, y = [], 0
    order = list(rooms)
    for floor in reversed(floors(order, between)):
        for pair in (floor[k : k + 2] for k in range(0, len(floor), 2)):
            out = {room: tuple(target for target in order if (room, target) in between) for room in pair}
            width = (WIDTH - SHAFT) // 2 if len(pair) > 1 or out[pair[0]] else WIDTH
            lines = [len(text(rooms[room], width)) for room in pair]
            height = 2 * PAD + max(ROW * (2 + max(map(len, out.values()))), LINE * (1 + max(lines)))
            if width == WIDTH:
                height = 2 * PAD + 2 * LINE
            boxes += [Box(room, k * (WIDTH - width), y, width, height, out[room]) for k, room in enumerate(pair)]
            y += height + GAP
    return boxes, y - GAP


def text(phrase: str, width: int) -> list[str]:
    """A phrase in lines that leave room for the names of what is imported."""
    return textwrap.wrap(phrase, (width - 130) // 7, break_on_hyphens=False)


def lanes(boxes: Sequence[Box], between: Arrows) -> dict[str, tuple[int, str]]:
    """Position in the shaft and colour of each imported room's lane: the lower the room, the nearer to the middle."""
    imported = [box for box in boxes if any(target == box.room for _, target in between)]
    left = [box.room for box in imported if box.x == 0 and not box.wide]
    middle = [box.room for box in imported if box.wide]
    right = [box.room for box in reversed(imported) if box.x > 0]
    order = [*left, *middle, *right]
    step = SHAFT / (len(order) + 1)
    start = (WIDTH - SHAFT) // 2
    return {room: (round(start + step * (k + 1)), COLOURS[k % len(COLOURS)]) for k, room in enumerate(order)}


def drawing(rooms: Mapping[str, str], between: Arrows) -> str:
    """The drawing as one SVG element, for a page that is light or dark: it takes text and borders from the page.

    Args:
        rooms: name and phrase of each, from the ground up.
        between: the imports, see :func:`arrows`.
    """
    boxes, height = place(rooms, between)
    at, lane = {box.room: box for box in boxes}, lanes(boxes, between)
    parts = [f'<svg class="architecture" viewBox="-2 -2 {WIDTH + 4} {height + 4}" role="img"']
    parts[0] += f' aria-label="{escape(described(rooms, between))}" xmlns="http://www.w3.org/2000/svg">'
    for box in boxes:
        parts += [f'<g class="room" data-room="{box.room}">']
        parts += [f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="8"/>']
        x = box.x + PAD if box.x == 0 else box.x + box.width - PAD
        anchor = "start" if box.x == 0 else "end"
        lines = [f'<tspan class="name">{box.room}</tspan>', *map(escape, text(rooms[box.room], box.width))]
        for k, line in enumerate(lines):
            style = "name" if k == 0 else "phrase"
            down = box.y + PAD + 13 + LINE * k + (6 if k else 0)
            parts += [f'<text class="{style}" x="{x}" y="{down}" text-anchor="{anchor}">{line}</text>']
        parts += ["</g>"]
    for box in boxes:
        for k, target in enumerate(box.out, 1):
            x, colour = lane[target]
            end, y = at[target], box.row(k)
            stop = f"V {end.y - HEAD}" if end.wide else f"V {end.row(0)} H {end.edge + (-HEAD if end.x else HEAD)}"
            beside, anchor = (box.edge + 6, "start") if box.x else (box.edge - 6, "end")
            parts += [f'<g class="arrow" data-from="{box.room}" data-to="{target}" style="--lane: {colour}">']
            parts += [f"<title>{sentence(box.room, target, between[box.room, target])}</title>"]
            parts += [f'<path class="line" d="M {box.edge} {y} H {x} {stop}"/><circle cx="{x}" cy="{y}" r="3.5"/>']
            parts += [f'<path class="head" d="{head(end, x)}"/>']
            parts += [f'<text x="{beside}" y="{y + 4}" text-anchor="{anchor}">']
            parts += [f"{target} <tspan>{between[box.room, target]}</tspan></text></g>"]
    return "\n".join([*parts, "</svg>"])


def head(box: Box, x: int) -> str:
    """The arrowhead at a room's edge: from above where the room is wide, else from the shaft."""
    if box.wide:
        return f"M {x} {box.y} l -5 {-HEAD} h 10 z"
    return f"M {box.edge} {box.row(0)} l {-HEAD if box.x else HEAD} -5 v 10 z"


def sentence(source: str, target: str, count: int) -> str:
    """One arrow in words."""
    return f"{source} imports {target}: {count} {'statement' if count == 1 else 'statements'}"


def described(rooms: Mapping[str, str], between: Arrows) -> str:
    """The whole drawing in words, for those who cannot see it."""
    stand = "; ".join(" and ".join(floor) for floor in floors(list(rooms), between))
    imports = ", ".join(f"{source} {target} ({count})" for (source, target), count in sorted(between.items()))
    return f"The rooms of the library in floors, from the ground up: {stand}. Which room imports which: {imports}."
