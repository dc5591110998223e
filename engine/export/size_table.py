"""The table of size against quality, on disk and as text. No torch: pages show it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.disk.durable import atomic_write_text
from engine.export.quantization_loss import Interval
from engine.machine.units import counted

FILE = "size_against_quality.json"


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    title: str
    megabytes: float
    adherence: float
    """Mean of the score over the held-out pairs."""
    loss: float
    """Of the checkpoint's score."""
    obeys: Interval | None = None
    """Adherence; None: it was not measured, or cannot be."""


@dataclass(frozen=True)
class SizeTable:
    """The whole table and what it was measured on."""

    rows: tuple[Row, ...]
    score: str
    pictures: int
    step: int


def write_table(table: SizeTable, exports: Path) -> None:
    """Write the table into a run's exports folder."""
    exports.mkdir(parents=True, exist_ok=True)
    atomic_write_text(exports / FILE, json.dumps(asdict(table), indent=2))


def read_table(exports: Path) -> SizeTable | None:
    """Read the last table of a run; None if there is none."""
    try:
        found = json.loads((exports / FILE).read_text(encoding="utf-8"))
        rows = [{**row, "obeys": Interval(**row["obeys"]) if row.get("obeys") else None} for row in found["rows"]]
        return SizeTable(tuple(Row(**row) for row in rows), found["score"], found["pictures"], found["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def obeys_text(row: Row) -> str:
    """The adherence of a line with its interval; a dash where there is none."""
    return row.obeys.text if row.obeys else "–"


def as_text(table: SizeTable) -> str:
    """The table for the command line and the docs."""
    lines = [f"{'format':<33}{'MB':>9}{table.score:>12}{'loss':>9}  adherence (95 %)"]
    lines += [
        f"{row.title:<33}{row.megabytes:>9.1f}{row.adherence:>12.3f}{row.loss:>+9.3f}  {obeys_text(row)}"
        for row in table.rows
    ]
    return "\n".join([*lines, f"step {table.step:,}, {counted(table.pictures, 'held-out pair')}"])
