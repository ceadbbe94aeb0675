"""Rows of results: how they are summed up over runs, shown as tables and written as JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of a benchmark's table; `figures` go to JSON as they are, `shown` to the table as text."""

    benchmark: str
    name: str
    guarantee: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "name": self.name,
            "guarantee": self.guarantee,
            "events_per_second": None,
            "ratio_to_stock": None,
            **self.figures,
        }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median and the range of a figure over its runs."""
    return {"median": median(values), "min": min(values), "max": max(values), "runs": len(values)}


def ratio(numerators: Mapping[int, float], denominators: Mapping[int, float]) -> float | None:
    """The median over rounds of the ratio within a round; None when no round has both figures."""
    rounds = numerators.keys() & denominators.keys()
    return median(numerators[number] / denominators[number] for number in rounds) if rounds else None


def times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} ×" if value < 10 else f"{value:.1f} ×"


def write_json(rows: Sequence[Row], file: Path) -> None:
    file.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n", encoding="utf-8")


def show(title: str, rows: Sequence[Row]) -> None:
    """Print a benchmark's table: with rich on a terminal, else as aligned text."""
    columns = ["name", "guarantee", *dict.fromkeys(column for row in rows for column in row.shown)]
    lines = [
        [row.name, row.guarantee.replace("_", " "), *(row.shown.get(column, "") for column in columns[2:])]
        for row in rows
    ]
    if sys.stdout.isatty():
        _show_rich(title, columns, lines)
    else:
        _show_plain(title, columns, lines)


def _show_rich(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right", overflow="fold")
    for line in lines:
        table.add_row(*line)
    Console().print(table)


def _show_plain(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    print(f"\n{title}")
    for line in (columns, ["-" * width for width in widths], *lines):
        cells = [
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), flush=True)
