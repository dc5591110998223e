"""The jobs of Try it: draw the requested images, save them and show them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.disk.durable import atomic_write
from engine.disk.typed_path import typed_path
from engine.errors import UserError
from engine.jobs.control import Token
from engine.jobs.runner import Emit, progress_events
from engine.jobs.snapshot import JobKind, Outcome
from engine.machine.units import format_duration
from engine.runs.run import Run
from engine.tuning.facts import facts_of
from ui.page.context import AppContext
from ui.page.model_jobs import Draw, ModelJobs
from ui.try_it.try_control import ControlSource, make_map
from ui.try_it.try_nets import Net

if TYPE_CHECKING:
    from engine.inference.request import TryRequest
    from engine.inference.session import TrySession
    from engine.jobs.control import CancelToken, OnProgress

PREVIEW = "try-preview"
"""The result that holds the live preview of the image being drawn."""
WITH, WITHOUT, MAP = "with", "without", "control"
"""Ends of the names of the saved images."""


@dataclass(frozen=True)
class DrawRequest:
    """The images that the user asked for on the page."""

    run: str
    net: Net
    control: ControlSource
    settings: dict[str, Any]
    """Values of the declared settings (engine/inference/settings.py). No base: the run's own."""
    count: int = 1
    """Number of images, each with the next seed."""
    random_seed: bool = False
    compare: bool = True
    """Also draw without the ControlNet."""
    bases_folder: str = ""
    """Draw on every base in this folder instead."""
    image: Any = None
    mask: Any = None
    second_control: str | None = None
    memory_saving: int = 0
    """The level to start with, see ``engine.inference.memory_saving``."""


def painted(value: Any) -> tuple[Any, Any]:
    """Return the image and the mask (white where it was painted) in gradio's editor; None for what is missing."""
    background = (value or {}).get("background")
    if background is None or not background.getbbox():
        return None, None
    layers = [one for one in value.get("layers", []) if one is not None and one.getbbox()]
    if not layers:
        return background.convert("RGB"), None
    return background.convert("RGB"), layers[0].convert("RGBA").getchannel("A").point(lambda level: 255 * (level > 64))


def start(jobs: ModelJobs, asked: DrawRequest) -> None:
    """Start drawing.

    Raises:
        UserError: other bases were asked for while a training runs.
        Busy: another job is running.
    """
    if jobs.training and asked.bases_folder:
        raise UserError(
            "Other bases cannot be tried while a run is training.",
            "The card's memory has room for only one base.",
            "Wait until the training has ended, or pause it.",
        )
    context = jobs.context

    def work(token: Token, emit: Emit, use_models: Callable[[Draw], None]) -> Outcome:
        drawing = _Drawing.prepare(context, asked, token)
        try:
            use_models(lambda session, borrowed: drawing.draw(session, borrowed, emit))
        finally:
            context.clear_result(PREVIEW)
        return "completed"

    jobs.start(JobKind.TRY, "Drawing an image", work)


@dataclass
class _Drawing:
    """A request with its control image and its run, ready to be drawn."""

    context: AppContext
    asked: DrawRequest
    first: TryRequest
    categorical: bool
    notes: list[str]
    added: str = ""
    """What is added to the base and drawn with, without a control image ("a LoRA"); empty: a ControlNet."""
    images: list[tuple[str, str]] = field(default_factory=list)
    """Paths and titles of the images for the page."""

    @staticmethod
    def prepare(context: AppContext, asked: DrawRequest, token: CancelToken) -> _Drawing:
        """Prepare everything that needs no model."""
        from engine.disk.images import load_map
        from engine.inference.control_image import blank_map, condition_type
        from engine.inference.request import TryRequest

        run = Run(context.workspace.runs / asked.run)
        notes: list[str] = []
        if facts_of(run.config).added_to_base:
            categorical, control = False, blank_map(int(asked.settings["width"]), int(asked.settings["height"]))
        else:
            categorical = condition_type(run).categorical
            control, notes = make_map(context, asked.control, run, token)
        settings = {**asked.settings, "base": asked.settings.get("base") or run.config.model.base}
        if asked.random_seed:
            settings["seed"] = secrets.randbelow(2**31)
        first = TryRequest(
            **settings,
            controlnet=asked.net.path,
            control=control,
            image=asked.image,
            mask=asked.mask,
            second_control=load_map(asked.second_control) if asked.second_control else None,
        )
        trained = facts_of(run.config)
        return _Drawing(context, asked, first, categorical, notes, trained.trains if trained.added_to_base else "")

    def draw(self, session: TrySession, token: CancelToken, emit: Emit) -> None:
        """Draw, save and show the images."""
        began, saving = time.monotonic(), session.memory_saving
        saving.level = max(saving.level, min(self.asked.memory_saving, saving.max_level))
        label = "Drawing, steps" if session.step is None else "Drawing between two training steps"
        progress = progress_events(emit, label)
        (self._draw_on_bases if self.asked.bases_folder else self._draw_seeds)(session, token, progress)
        facts = f"{_net_title(self.asked.net)}, seed {self.first.seed}, {format_duration(time.monotonic() - began)}."
        notes = [
            facts,
            *self.asked.net.notes,
            *self.notes,
            *session.warnings,
            f"Saved in {self.context.workspace.outputs}.",
        ]
        self.context.set_result(JobKind.TRY, images=tuple(self.images), note=" ".join(dict.fromkeys(notes)))

    def _draw_seeds(self, session: TrySession, token: CancelToken, progress: OnProgress) -> None:
        """Draw as many seeds as were asked for, and the first of them without the ControlNet."""
        from PIL import Image

        from engine.inference.sampling import fit_control

        first, count = self.first, self.asked.count
        requests = [replace(first, seed=first.seed + number) for number in range(count)]
        live_base = self.added and self.asked.net.live  # carries what is trained, so it cannot be drawn with alone
        compare = self.asked.compare and not live_base
        without = [replace(first, without_control=True)] if compare else []
        show = _show_preview(self.context)
        drawn = session.generate([*requests, *without], token, progress, self.categorical, show)
        stem = self._stem()
        map = fit_control(first.control, *drawn[0].size, self.categorical).numpy()
        control = ""
        if not self.added:
            saved = self._save(f"{stem}_seed-{first.seed}_{MAP}", Image.fromarray(map), first)
            self.images.append((str(saved), "Control image"))
            control = saved.name
        with_it = f"With the {self.added.removeprefix('a ') or 'ControlNet'}"
        titles = [with_it] if count == 1 else [f"Seed {request.seed}" for request in requests]
        ways = [*((request, title, WITH) for request, title in zip(requests, titles, strict=True))]
        ways += [(request, "Without it", WITHOUT) for request in without]
        for (request, title, way), image in zip(ways, drawn, strict=True):
            path = self._save(f"{stem}_seed-{request.seed}_{way}", image, request, control)
            self.images.append((str(path), title))

    def _draw_on_bases(self, session: TrySession, token: CancelToken, progress: OnProgress) -> None:
        """Draw one image on each base of a folder."""
        from engine.families.files import bases_in
        from engine.inference.transfer import transfer

        folder = Path(typed_path(self.asked.bases_folder)).expanduser()
        bases = dict.fromkeys([self.context.workspace.locate_base(self.first.base), *bases_in(folder)])
        stem = self._stem()
        for result in transfer(session, self.first, list(bases), token, progress, self.categorical):
            if result.image is None:
                self.notes.append(f"{result.name}: {result.problem}")
                continue
            request = replace(self.first, base=result.base)
            path = self._save(f"{stem}_{result.name}_seed-{request.seed}_{WITH}", result.image, request)
            self.images.append((str(path), result.name))

    def _stem(self) -> str:
        return f"{time.strftime('%Y%m%d-%H%M%S')}_{self.asked.run}_{self.asked.net.name}"

    def _save(self, name: str, image: Any, request: TryRequest, control: str = "") -> Path:
        """Save a PNG with all its settings in workspace/outputs. ``control``: file name of its control image."""
        from engine.inference.image_info import request_settings, save_png

        settings = request_settings(request) | {
            "run": self.asked.run,
            "net": _net_title(self.asked.net),
            "control": control,
            "width": image.width,
            "height": image.height,
        }
        return save_png(self.context.workspace.outputs / f"{name}.png", image, settings)


def _show_preview(context: AppContext) -> Callable[[Any], None]:
    """Return a callback that shows live previews. It writes two files in turn, so that pages never read half of one."""
    number = 0

    def show(image: Any) -> None:
        nonlocal number
        number += 1
        path = context.workspace.thumbnails / f"try-preview-{number % 2}.webp"
        with atomic_write(path, flushed=False) as temporary:
            image.save(temporary, "WEBP", quality=80)
        context.set_result(PREVIEW, where=str(path), note=f"{time.monotonic()}")  # a new note, so that pages reload it

    return show


def _net_title(net: Net) -> str:
    return "Live weights" if net.live else net.name.replace("step-", "Step ")
