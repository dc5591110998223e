"""The checkpoint grid: a column for each checkpoint (and one without ControlNet), a row for each control image,
prompt, seed and strength. What was wished for, and what a drawn one is; grid_drawing.py draws it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine.data.dataset import Dataset
from engine.data.held_out import split
from engine.data.samples import Sample
from engine.disk.durable import atomic_write_text
from engine.errors import UserError
from engine.evaluation.causes import facts_of
from engine.evaluation.verdict import judge
from engine.runs.run import Run
from engine.workspace.paths import Workspace

T = TypeVar("T", int, float)

MOST_COLUMNS = 6
"""Checkpoints that are chosen where nobody chooses."""


@dataclass(frozen=True)
class GridWish:
    """What to compare. Empty fields: as the run draws its own control images."""

    steps: tuple[int, ...] | None = None
    """Checkpoints; None: at most MOST_COLUMNS of them, spread over the run."""
    live: bool = False
    """Also the weights of this moment; the run has to be in progress."""
    without: bool = True
    """Also without ControlNet."""
    pictures: tuple[int, ...] = (0, 1)
    """Held-out pairs, counted from 0, whose maps are the control images."""
    controls: tuple[Path, ...] = ()
    """Maps of the user's own, besides."""
    prompts: tuple[str, ...] = ()
    """Empty: each pair's own caption."""
    seeds: tuple[int, ...] = (0,)
    strengths: tuple[float, ...] = ()
    negative: str = ""
    sampling_steps: int = 0
    guidance: float = 0.0


@dataclass(frozen=True)
class Column:
    """``step``: of the checkpoint, or of the live weights; None: without ControlNet."""

    title: str
    step: int | None
    weights: str
    """Digest of the weights; empty without ControlNet."""
    live: bool = False


@dataclass(frozen=True)
class RowWords:
    """What a row shows, for its heading."""

    source: str
    prompt: str
    seed: int
    strength: float
    control: str
    """Key of the control image."""
    width: int
    height: int


@dataclass(frozen=True)
class Grid:
    """A drawn grid. ``cells[row][column]``: keys of images; None where one could not be drawn or was not yet."""

    run: str
    made: str
    columns: tuple[Column, ...]
    rows: tuple[RowWords, ...]
    cells: tuple[tuple[str | None, ...], ...]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    best: int | None = None
    """Step of the checkpoint that the verdict names."""

    @property
    def keys(self) -> frozenset[str]:
        """Of all images in it, the control images included."""
        return frozenset([key for row in self.cells for key in row if key] + [row.control for row in self.rows])

    @property
    def complete(self) -> bool:
        return all(key is not None for row in self.cells for key in row)


def default_steps(steps: Sequence[int], best: int | None, most: int = MOST_COLUMNS) -> list[int]:
    """At most ``most`` of the checkpoints, evenly, the first, the last and the best among them."""
    ordered = sorted(set(steps))
    if len(ordered) <= most:
        return ordered
    chosen = {ordered[round(number * (len(ordered) - 1) / (most - 1))] for number in range(most)}
    if best in ordered and best not in chosen:
        inner = [step for step in chosen if step not in (ordered[0], ordered[-1])]
        chosen.remove(min(inner, key=lambda step: abs(step - best)))
        chosen.add(best)
    return sorted(chosen)


def best_step(run: Run) -> int | None:
    """The checkpoint on disk that the run's figures speak for; None before it listens: then none is better."""
    history = run.history()
    if not history.checks:
        return None
    verdict = judge(history.checks, facts_of(run.config), history.scores, history.kept)
    return verdict.best if verdict.listens_since is not None else None


def held_out_pairs(workspace: Workspace, run: Run) -> list[Sample]:
    """The pairs that this run was not trained on, in its own order; none where its dataset is gone."""
    try:
        dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    except UserError:
        return []
    if dataset.condition is None:
        return []
    found = []
    for key in run.held_out or ():  # asked one by one: the set may be large
        try:
            sample = dataset.sample(key)
        except KeyError:
            continue  # its image is gone
        if dataset.condition_path(sample).is_file():
            found.append(sample)
    return found or list(split(dataset, run.config.data.held_out, run.held_out).held_out)


def grid_file(run: Run) -> Path:
    """Where the last grid of a run is noted; exported sheets and votes lie beside it."""
    folder = run.folder / "comparisons"
    folder.mkdir(exist_ok=True)
    return folder / "grid.json"


def write_grid(run: Run, grid: Grid) -> None:
    """Note it as the run's last one."""
    atomic_write_text(grid_file(run), json.dumps(asdict(grid), indent=1, ensure_ascii=False))


def read_grid(run: Run) -> Grid | None:
    """The last grid of a run; None where there is none, or its note is damaged."""
    try:
        about = json.loads((run.folder / "comparisons" / "grid.json").read_text(encoding="utf-8"))
        return Grid(
            run=str(about["run"]),
            made=str(about["made"]),
            columns=tuple(Column(**column) for column in about["columns"]),
            rows=tuple(RowWords(**row) for row in about["rows"]),
            cells=tuple(tuple(row) for row in about["cells"]),
            settings=dict(about["settings"]),
            notes=tuple(about["notes"]),
            best=about["best"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def numbers(text: str, read: Callable[[str], T]) -> tuple[T, ...]:
    """ "1, 2.5" -> (1.0, 2.5); "3-5" -> (3, 4, 5). Empty text: none.

    Raises:
        UserError: something in it is no number.
    """
    found: list[T] = []
    for part in (piece.strip() for piece in text.replace(";", ",").split(",")):
        first, dash, last = part.partition("-")
        try:
            if dash and read is int:
                if not int(first) <= int(last) <= int(first) + 1000:
                    raise ValueError("not a range")
                found += [read(str(number)) for number in range(int(first), int(last) + 1)]
            elif part:
                found.append(read(part))
        except ValueError as error:
            raise UserError(
                f"“{part}” was not understood.",
                "It is no number.",
                "Write numbers with commas between them, for example 1, 2, 3.",
            ) from error
    return tuple(dict.fromkeys(found))
