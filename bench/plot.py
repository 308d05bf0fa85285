"""A picture of the tables as SVG, written by hand: bars, one group a table that has a ratio."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from attrs import frozen

WIDTH, BAR, GAP, LEFT, RIGHT = 900, 16, 5, 370, 70
COLOURS = {"yukari": "#2f6f9f", "direct": "#999999"}
OTHERS = "#d08b3c"


@frozen
class Picture:
    """What of a table is drawn: the column of the bars, those of their labels, and a line at 1."""

    table: str
    value: str
    labels: Sequence[str]
    better: str


PICTURES = (
    Picture("hits", "÷ nginx", ("readers", "peer"), "rate of hits ÷ nginx static; more is better"),
    Picture(
        "cold",
        "time ÷ direct",
        ("upstream", "client", "peer"),
        "time of a cold pull ÷ direct; less is better",
    ),
    Picture(
        "herd",
        "time ÷ one direct pull",
        ("clients", "peer"),
        "time of a herd ÷ one direct pull; less is better",
    ),
)


def svg(report: Mapping[str, Any]) -> str:
    """The picture of what ``--json`` wrote."""
    tables = {table["name"]: table for table in report["tables"]}
    lines: list[str] = []
    y = 24
    for picture in PICTURES:
        table = tables.get(picture.table)
        if table is None:
            continue
        y = _group(lines, y, picture, table["columns"], table["rows"])
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}"'
        f' viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="11">'
    )
    back = f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head, back, *lines, "</svg>", ""])


def _group(
    lines: list[str], y: int, picture: Picture, columns: list[str], rows: list[list[Any]]
) -> int:
    value = columns.index(picture.value)
    drawn = [row for row in rows if row[value] is not None]
    if not drawn:
        return y
    most = max(1.0, *(row[value] for row in drawn))
    scale = (WIDTH - LEFT - RIGHT) / most
    lines.append(f'<text x="10" y="{y}" font-weight="bold">{escape(picture.better)}</text>')
    y += 10
    top = y
    for row in drawn:
        cells = [str(row[columns.index(label)]) for label in picture.labels]
        peer = row[columns.index("peer")]
        colour = COLOURS.get(peer, OTHERS)
        length = row[value] * scale
        middle = y + BAR - 4
        label = escape(", ".join(cells))
        lines += [
            f'<text x="{LEFT - 6}" y="{middle}" text-anchor="end">{label}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LEFT + length + 4:.1f}" y="{middle}">{row[value]:.2f}</text>',
        ]
        y += BAR + GAP
    one = LEFT + scale
    lines.append(
        f'<line x1="{one:.1f}" y1="{top}" x2="{one:.1f}" y2="{y}" stroke="#333"'
        ' stroke-dasharray="3 3"/>'
    )
    return y + 28


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description=__doc__)
    parser.add_argument("report", help="what python -m bench --json wrote")
    parser.add_argument("picture", help="the SVG to write")
    options = parser.parse_args()
    Path(options.picture).write_text(svg(json.loads(Path(options.report).read_text())))


if __name__ == "__main__":
    main()
