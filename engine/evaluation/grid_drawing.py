"""Draws a checkpoint grid. Images that were drawn before from the same settings and weights come from the cache."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.evaluation.grid import Column, Grid, GridRequest, RowLabel, best_step, default_steps, write_grid
from engine.evaluation.grid_rows import GridRow, rows_of
from engine.evaluation.image_cache import ImageCache, base_of, file_digest, key_of, pixels_key, weights_of
from engine.inference.control_image import condition_type
from engine.inference.memory_saving import MAX_BATCH
from engine.inference.request import LIVE, TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import counted
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.tuning.unlocked import trained_base_file
from engine.workspace.paths import Workspace

MOST_IMAGES = 600
LABEL = "Images of the grid, steps"
WITHOUT = "without ControlNet"


def draw_grid(
    workspace: Workspace,
    run: Run,
    request: GridRequest,
    session: TrySession,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    live_step: int | None = None,
    on_column: Callable[[Grid], None] | None = None,
) -> Grid:
    """Draws the images that are not cached, one checkpoint after the other, and stores the grid in the run's folder.

    Args:
        session: one with models of its own, or one that borrows those of the run in progress (training/lending.py).
        progress: called as progress(denoising steps done, total, LABEL).
        live_step: the step of the run in progress, if the session borrows its models.
        on_column: called with the grid so far after each checkpoint.

    Raises:
        Cancelled: the token was cancelled. Drawn images stay in the cache, and the grid so far is stored.
        UserError: there is nothing to compare, too many images, or no usable checkpoint.
    """
    rows = rows_of(workspace, run, request)
    columns, places = _columns(run, request, live_step)
    if not columns:
        raise UserError("There is nothing to compare.", "No checkpoint was chosen.", "Choose at least one.")
    if len(columns) * len(rows) > MOST_IMAGES:
        raise UserError(
            "The grid was not drawn.",
            f"{counted(len(columns), 'column')} by {counted(len(rows), 'row')} are "
            f"{counted(len(columns) * len(rows), 'image')}; the limit is {MOST_IMAGES:,}.",
            "Choose fewer checkpoints, images, seeds or strengths.",
        )
    job = _GridJob(workspace, run, request, session, rows, columns, places)
    try:
        job.draw(token, progress, on_column)
    finally:
        if job.any_drawn:
            write_grid(run, job.grid)
        job.cache.trim(job.grid.keys)
    if not job.any_drawn:
        raise UserError("No image of the grid was drawn.", " ".join(job.grid.notes), "Choose other checkpoints.")
    return job.grid


def _columns(run: Run, request: GridRequest, live_step: int | None) -> tuple[list[Column], dict[Column, Path]]:
    """The columns, the oldest checkpoint first, and where the weights of each are."""
    there = {checkpoint.step: checkpoint for checkpoint in run.checkpoints()}
    chosen = default_steps(list(there), best_step(run)) if request.steps is None else sorted(set(request.steps))
    missing = [step for step in chosen if step not in there]
    if missing:
        named = ", ".join(f"{step:,}" for step in missing)
        raise UserError(
            "The grid was not drawn.",
            f"{run.name} has no complete checkpoint at step {named}.",
            "Available steps: " + (", ".join(f"{step:,}" for step in there) or "none yet") + ".",
        )
    places: dict[Column, Path] = {}
    moment = key_of({"run": str(run.folder), "step": live_step, "now": time.time_ns()})
    if request.without and (chosen or live_step is not None):
        base = _trained_base(there[chosen[0]]) if chosen else ""
        # If the run trains the base, too, then the base in memory has its current weights only.
        now = live_step is not None and (base or not chosen)
        places[Column(WITHOUT, None, moment if now else base)] = LIVE if now else there[chosen[0]].controlnet
    for step in chosen:
        net = there[step].controlnet
        places[Column(f"step {step:,}", step, weights_of(net) + _trained_base(there[step]))] = net
    if request.live:
        if live_step is None:
            raise UserError(
                "The current weights cannot be drawn.", "The run is not in progress.", "Choose its last checkpoint."
            )
        places[Column(f"now (step {live_step:,})", live_step, moment, live=True)] = LIVE
    return list(places), places


def _trained_base(checkpoint: Checkpoint) -> str:
    """A digest of the base weights that the run has trained, which differ between checkpoints; empty: none."""
    path = trained_base_file(checkpoint.folder)
    return file_digest(path) if path is not None else ""


class _GridJob:
    """A grid while it is drawn."""

    def __init__(
        self,
        workspace: Workspace,
        run: Run,
        request: GridRequest,
        session: TrySession,
        rows: Sequence[GridRow],
        columns: Sequence[Column],
        places: dict[Column, Path],
    ) -> None:
        settings = run.config.validation
        self.cache, self.session, self.rows, self.places = ImageCache(workspace), session, rows, places
        self.base = run.config.model.whole_base
        self.steps = request.sampling_steps or settings.sampling_steps
        self.guidance, self.negative = request.guidance or settings.guidance_scale, request.negative
        self.clip_skip = run.config.model.clip_skip
        self.categorical = condition_type(run).categorical
        base = base_of(workspace.locate_base(self.base))
        controls = [pixels_key(row.control) for row in rows]
        for row, control in zip(rows, controls, strict=True):
            if not self.cache.has(control):
                self.cache.put(control, row.control, lossless=True)
        self.keys = [
            [self._key(base, control, row, column) for column in columns]
            for row, control in zip(rows, controls, strict=True)
        ]
        self.grid = Grid(
            run=run.name,
            made=time.strftime("%Y-%m-%d %H:%M:%S"),
            columns=tuple(columns),
            rows=tuple(
                RowLabel(row.source, row.prompt, row.seed, row.strength, control, *row.control.size)
                for row, control in zip(rows, controls, strict=True)
            ),
            cells=self._found(),
            settings={"sampling_steps": self.steps, "guidance": self.guidance, "negative": self.negative},
            best=best_step(run),
        )

    def _key(self, base: str, control: str, row: GridRow, column: Column) -> str:
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
                # Images of earlier versions, which had no such setting, stay valid.
                **({"clip_skip": self.clip_skip} if self.clip_skip != 1 else {}),
            }
        )

    def _found(self) -> tuple[tuple[str | None, ...], ...]:
        """The keys of the cells. None for images that are not in the cache."""
        there = {key: self.cache.has(key) for key in set(itertools.chain(*self.keys))}
        return tuple(tuple(key if there[key] else None for key in row) for row in self.keys)

    @property
    def any_drawn(self) -> bool:
        return any(key for row in self.grid.cells for key in row)

    def draw(
        self, token: CancelToken | None, progress: OnProgress | None, on_column: Callable[[Grid], None] | None
    ) -> None:
        """Draws missing images column by column, so that the weights of each checkpoint are loaded once."""
        missing = self._missing()
        total, done = sum(map(len, missing)) * self.steps, 0
        try:
            for column, rows in zip(self.grid.columns, missing, strict=True):
                if not rows:
                    continue
                try:
                    for batch in self._batches(rows):
                        if token:
                            token.raise_if_cancelled()
                        self._draw(column, batch, token, _from(progress, done, total))
                        done += len(batch) * self.steps
                except UserError as error:  # this checkpoint is gone or broken; the others can still be compared
                    if token:
                        token.raise_if_cancelled()  # the training that lends its models may have been paused
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
        """The rows to draw for each column. An image that several cells share is drawn once."""
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
        """Groups of rows with the same size and strength, which can be drawn together."""
        alike: dict[Any, list[int]] = {}
        for number in rows:
            alike.setdefault((self.rows[number].control.size, self.rows[number].strength), []).append(number)
        return [same[at : at + MAX_BATCH] for same in alike.values() for at in range(0, len(same), MAX_BATCH)]

    def _draw(
        self, column: Column, numbers: Sequence[int], token: CancelToken | None, progress: OnProgress | None
    ) -> None:
        """Draws images of one column and puts them into the cache."""
        requests = [self._request(column, self.rows[number]) for number in numbers]
        images = self.session.generate(requests, token, progress, self.categorical)
        new = [text for text in self.session.warnings if text not in self.grid.notes]
        self.grid = replace(self.grid, notes=(*self.grid.notes, *new))  # about long prompts or little memory
        place = self.grid.columns.index(column)
        for number, image in zip(numbers, images, strict=True):
            self.cache.put(self.keys[number][place], image)

    def _request(self, column: Column, row: GridRow) -> TryRequest:
        return TryRequest(
            base=self.base,
            controlnet=self.places[column],
            prompt=row.prompt,
            control=row.control,
            negative=self.negative,
            seed=row.seed,
            steps=self.steps,
            guidance=self.guidance,
            clip_skip=self.clip_skip,
            strength=row.strength,
            width=row.control.width,
            height=row.control.height,
            without_control=column.step is None,
        )


def _from(progress: OnProgress | None, before: int, total: int) -> OnProgress | None:
    """Turns the progress of a batch into that of the whole grid. ``before``: steps done by earlier batches."""
    if progress is None:
        return None
    return lambda done, _of, _label: progress(before + done, total, LABEL)
