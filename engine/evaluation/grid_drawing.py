"""Drawing a checkpoint grid. What was drawn before with the same settings and weights is not drawn again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.conditions import registry
from engine.errors import UserError
from engine.evaluation.drawn import Drawn, base_of, file_digest, key_of, pixels_key, weights_of
from engine.evaluation.grid import Column, Grid, GridWish, RowWords, best_step, default_steps, write_grid
from engine.evaluation.grid_rows import Row, rows_of
from engine.inference.memory_saving import MAX_BATCH
from engine.inference.request import LIVE, TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import CancelToken, OnProgress
from engine.runs.checkpoints import DECODER, Checkpoint
from engine.runs.run import Run
from engine.workspace.paths import Workspace

MOST_IMAGES = 600
LABEL = "Images of the grid, steps"
WITHOUT = "without ControlNet"


def draw_grid(
    workspace: Workspace,
    run: Run,
    wish: GridWish,
    session: TrySession,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    live_step: int | None = None,
    on_column: Callable[[Grid], None] | None = None,
) -> Grid:
    """Draw what is not there yet, checkpoint after checkpoint, and note the grid in the run's folder.

    Args:
        session: of its own, or one on the models of the run in progress (engine/lending.py).
        progress: called as progress(denoising steps done, in all, LABEL).
        live_step: of the run in progress, where the session draws with its models.
        on_column: called with the grid so far after each checkpoint.

    Raises:
        Cancelled: the token says so; what was drawn is kept, and the grid so far is noted.
        UserError: nothing to compare, too many images, or no checkpoint could be used.
    """
    rows = rows_of(workspace, run, wish)
    columns, places = _columns(run, wish, live_step)
    if not columns:
        raise UserError("There is nothing to compare.", "No checkpoint was chosen.", "Choose at least one.")
    if len(columns) * len(rows) > MOST_IMAGES:
        raise UserError(
            "The grid was not drawn.",
            f"{len(columns):,} columns by {len(rows):,} rows are {len(columns) * len(rows):,} images; "
            f"at most {MOST_IMAGES:,} are drawn at once.",
            "Choose fewer checkpoints, images, seeds or strengths.",
        )
    work = _Work(workspace, run, wish, session, rows, columns, places)
    try:
        work.draw(token, progress, on_column)
    finally:
        if work.any_drawn:
            write_grid(run, work.grid)
        work.drawn.trim(work.grid.keys)
    if not work.any_drawn:
        raise UserError("No image of the grid was drawn.", " ".join(work.grid.notes), "Choose other checkpoints.")
    return work.grid


def _columns(run: Run, wish: GridWish, live_step: int | None) -> tuple[list[Column], dict[Column, Path]]:
    """The columns, oldest checkpoint first, and where the weights of each are."""
    there = {checkpoint.step: checkpoint for checkpoint in run.checkpoints()}
    chosen = default_steps(list(there), best_step(run)) if wish.steps is None else sorted(set(wish.steps))
    missing = [step for step in chosen if step not in there]
    if missing:
        named = ", ".join(f"{step:,}" for step in missing)
        raise UserError(
            "The grid was not drawn.",
            f"{run.name} has no whole checkpoint at step {named}.",
            "Choose among those that are there: " + (", ".join(f"{step:,}" for step in there) or "none yet") + ".",
        )
    places: dict[Column, Path] = {}
    moment = key_of({"run": str(run.folder), "step": live_step, "now": time.time_ns()})
    if wish.without and (chosen or live_step is not None):
        decoder = _decoder(there[chosen[0]]) if chosen else ""
        # While a base learns, too, it is in memory only as it is now.
        now = live_step is not None and (decoder or not chosen)
        places[Column(WITHOUT, None, moment if now else decoder)] = LIVE if now else there[chosen[0]].controlnet
    for step in chosen:
        net = there[step].controlnet
        places[Column(f"step {step:,}", step, weights_of(net) + _decoder(there[step]))] = net
    if wish.live:
        if live_step is None:
            raise UserError(
                "The live weights cannot be drawn.", "The run is not in progress.", "Choose its last checkpoint."
            )
        places[Column(f"now (step {live_step:,})", live_step, moment, live=True)] = LIVE
    return list(places), places


def _decoder(checkpoint: Checkpoint) -> str:
    """Of a run whose base learns, too, the base differs from checkpoint to checkpoint."""
    path = checkpoint.folder / DECODER
    return file_digest(path) if path.is_file() else ""


class _Work:
    """One grid while it is drawn."""

    def __init__(
        self,
        workspace: Workspace,
        run: Run,
        wish: GridWish,
        session: TrySession,
        rows: Sequence[Row],
        columns: Sequence[Column],
        places: dict[Column, Path],
    ) -> None:
        settings = run.config.validation
        self.drawn, self.session, self.rows, self.places = Drawn(workspace), session, rows, places
        self.base = run.config.model.base
        self.steps = wish.sampling_steps or settings.sampling_steps
        self.guidance, self.negative = wish.guidance or settings.guidance_scale, wish.negative
        self.categorical = registry.get(str(run.condition["type"])).categorical
        base = base_of(workspace.locate_base(self.base))
        controls = [pixels_key(row.control) for row in rows]
        for row, control in zip(rows, controls, strict=True):
            if not self.drawn.has(control):
                self.drawn.put(control, row.control, lossless=True)
        self.keys = [
            [self._key(base, control, row, column) for column in columns]
            for row, control in zip(rows, controls, strict=True)
        ]
        self.grid = Grid(
            run=run.name,
            made=time.strftime("%Y-%m-%d %H:%M:%S"),
            columns=tuple(columns),
            rows=tuple(
                RowWords(row.source, row.prompt, row.seed, row.strength, control, *row.control.size)
                for row, control in zip(rows, controls, strict=True)
            ),
            cells=self._found(),
            settings={"sampling_steps": self.steps, "guidance": self.guidance, "negative": self.negative},
            best=best_step(run),
        )

    def _key(self, base: str, control: str, row: Row, column: Column) -> str:
        without = column.step is None
        return key_of(
            {
                "base": base,
                "weights": column.weights,
                "control": "" if without else control,
                "strength": 0.0 if without else row.strength,
                "size": row.control.size,
                "prompt": row.prompt,
                "negative": self.negative,
                "seed": row.seed,
                "steps": self.steps,
                "guidance": self.guidance,
                "categorical": self.categorical,
            }
        )

    def _found(self) -> tuple[tuple[str | None, ...], ...]:
        """Keys of the images that are there."""
        there = {key: self.drawn.has(key) for key in set(itertools.chain(*self.keys))}
        return tuple(tuple(key if there[key] else None for key in row) for row in self.keys)

    @property
    def any_drawn(self) -> bool:
        return any(key for row in self.grid.cells for key in row)

    def draw(
        self, token: CancelToken | None, progress: OnProgress | None, on_column: Callable[[Grid], None] | None
    ) -> None:
        """Every image that is missing, column by column: the weights of each checkpoint are loaded once."""
        missing = self._missing()
        total, done = sum(map(len, missing)) * self.steps, 0
        try:
            for column, rows in zip(self.grid.columns, missing, strict=True):
                if not rows:
                    continue
                try:
                    for together in self._batches(rows):
                        if token:
                            token.raise_if_cancelled()
                        self._draw(column, together, token, _from(progress, done, total))
                        done += len(together) * self.steps
                except UserError as error:  # a checkpoint that is gone or broken: the others can still be compared
                    if token:
                        token.raise_if_cancelled()  # a training that lends its models was paused meanwhile
                    self.grid = replace(
                        self.grid, notes=(*self.grid.notes, f"{column.title}: {error.what} {error.why}")
                    )
                    total -= len(rows) * self.steps
                    done = min(done, total)
                self.grid = replace(self.grid, cells=self._found())
                if on_column:
                    on_column(self.grid)
        finally:
            self.grid = replace(self.grid, cells=self._found())

    def _missing(self) -> list[list[int]]:
        """Rows to draw for each column; images that several cells share are drawn once."""
        seen = {key for row in self.grid.cells for key in row if key}
        missing: list[list[int]] = []
        for number in range(len(self.grid.columns)):
            rows = []
            for row, keys in enumerate(self.keys):
                if keys[number] not in seen:
                    seen.add(keys[number])
                    rows.append(row)
            missing.append(rows)
        return missing

    def _batches(self, rows: Sequence[int]) -> list[list[int]]:
        """Rows that can be drawn together: of one size and strength."""
        alike: dict[Any, list[int]] = {}
        for number in rows:
            alike.setdefault((self.rows[number].control.size, self.rows[number].strength), []).append(number)
        return [same[at : at + MAX_BATCH] for same in alike.values() for at in range(0, len(same), MAX_BATCH)]

    def _draw(
        self, column: Column, numbers: Sequence[int], token: CancelToken | None, progress: OnProgress | None
    ) -> None:
        """Draw and keep images of one column."""
        requests = [self._request(column, self.rows[number]) for number in numbers]
        images = self.session.generate(requests, token, progress, self.categorical)
        new = [words for words in self.session.warnings if words not in self.grid.notes]
        self.grid = replace(self.grid, notes=(*self.grid.notes, *new))  # a long prompt, or a lack of memory
        place = self.grid.columns.index(column)
        for number, image in zip(numbers, images, strict=True):
            self.drawn.put(self.keys[number][place], image)

    def _request(self, column: Column, row: Row) -> TryRequest:
        return TryRequest(
            base=self.base,
            controlnet=self.places[column],
            prompt=row.prompt,
            control=row.control,
            negative=self.negative,
            seed=row.seed,
            steps=self.steps,
            guidance=self.guidance,
            strength=row.strength,
            width=row.control.width,
            height=row.control.height,
            without_control=column.step is None,
        )


def _from(progress: OnProgress | None, before: int, total: int) -> OnProgress | None:
    """Progress of a batch as progress of the whole; steps of one batch are counted from ``before`` on."""
    if progress is None:
        return None
    return lambda done, _of, _label: progress(before + done, total, LABEL)
