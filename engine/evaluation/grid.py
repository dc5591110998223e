"""The checkpoint grid: columns are checkpoints and "without ControlNet", rows are control images, prompts, seeds and
strengths. Defines what is requested and what a drawn grid holds; grid_drawing.py draws it.
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
from engine.evaluation.run_verdict import judge_run
from engine.runs.run import Run
from engine.workspace.paths import Workspace

T = TypeVar("T", int, float)

MOST_COLUMNS = 6
"""Number of checkpoints that are chosen by default."""


@dataclass(frozen=True)
class GridRequest:
    """The contents of a grid. Empty fields take the values of the run's preview images."""

    steps: tuple[int, ...] | None = None
    """Steps of the checkpoints. None: at most MOST_COLUMNS, spread over the run."""
    live: bool = False
    """Add the current weights of a run in progress."""
    without: bool = True
    """Add a column without ControlNet."""
    pictures: tuple[int, ...] = (0, 1)
    """Held-out pairs, counted from 0, whose maps are control images."""
    controls: tuple[Path, ...] = ()
    """Additional control images of the user's own."""
    prompts: tuple[str, ...] = ()
    """Empty: each pair's own caption."""
    seeds: tuple[int, ...] = (0,)
    strengths: tuple[float, ...] = ()
    negative: str = ""
    sampling_steps: int = 0
    guidance: float = 0.0


@dataclass(frozen=True)
class Column:
    """``step``: of the checkpoint or of the current weights. None: without ControlNet."""

    title: str
    step: int | None
    weights: str
    """Digest of the weights. Empty without ControlNet."""
    live: bool = False


@dataclass(frozen=True)
class RowLabel:
    """The heading of a row."""

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
    """A drawn grid. ``cells[row][column]``: keys of images. None: not drawn, or not yet."""

    run: str
    made: str
    columns: tuple[Column, ...]
    rows: tuple[RowLabel, ...]
    cells: tuple[tuple[str | None, ...], ...]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    best: int | None = None
    """Step of the checkpoint that the verdict recommends."""

    @property
    def keys(self) -> frozenset[str]:
        """Keys of all images in the grid, including the control images."""
        return frozenset([key for row in self.cells for key in row if key] + [row.control for row in self.rows])

    @property
    def complete(self) -> bool:
        return all(key is not None for row in self.cells for key in row)


def default_steps(steps: Sequence[int], best: int | None, most: int = MOST_COLUMNS) -> list[int]:
    """At most ``most`` of the steps, evenly spread. The first, the last and the best are always among them."""
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
    """The checkpoint on disk that the verdict recommends. None until the net follows its control images."""
    history = run.history()
    if not history.measured:
        return None
    verdict = judge_run(run.config, history, history.kept)
    return verdict.best if verdict.follows_since is not None else None


def held_out_pairs(workspace: Workspace, run: Run) -> list[Sample]:
    """The pairs that this run was not trained on, in its own order. Empty if its dataset is gone."""
    try:
        dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    except UserError:
        return []
    if dataset.condition is None:
        return []
    found = []
    for key in run.held_out or ():  # one by one, since the dataset may be large
        try:
            sample = dataset.sample(key)
        except KeyError:
            continue  # its image is gone
        if dataset.condition_path(sample).is_file():
            found.append(sample)
    return found or list(split(dataset, run.config.data.held_out, run.held_out).held_out)


def grid_file(run: Run) -> Path:
    """The file with the last grid of a run. Exported sheets and votes lie beside it."""
    folder = run.folder / "comparisons"
    folder.mkdir(exist_ok=True)
    return folder / "grid.json"


def write_grid(run: Run, grid: Grid) -> None:
    """Stores the grid as the run's last one."""
    atomic_write_text(grid_file(run), json.dumps(asdict(grid), indent=1, ensure_ascii=False))


def read_grid(run: Run) -> Grid | None:
    """The last grid of a run. None if there is none, or if its file is damaged."""
    try:
        about = json.loads((run.folder / "comparisons" / "grid.json").read_text(encoding="utf-8"))
        return Grid(
            run=str(about["run"]),
            made=str(about["made"]),
            columns=tuple(Column(**column) for column in about["columns"]),
            rows=tuple(RowLabel(**row) for row in about["rows"]),
            cells=tuple(tuple(row) for row in about["cells"]),
            settings=dict(about["settings"]),
            notes=tuple(about["notes"]),
            best=about["best"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def numbers(text: str, read: Callable[[str], T]) -> tuple[T, ...]:
    """ "1, 2.5" -> (1.0, 2.5); "3-5" -> (3, 4, 5); "" -> ().

    Raises:
        UserError: a part is not a number.
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
                "It is not a number.",
                "Enter numbers separated by commas, for example 1, 2, 3.",
            ) from error
    return tuple(dict.fromkeys(found))
