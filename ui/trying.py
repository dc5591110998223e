"""What Try it does: a control picture from the dataset or from the user, and the two pictures drawn from it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.jobs.control import Token
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import Outcome
from engine.runs import Run
from engine.training.checkpoint_files import Checkpoint
from ui.context import AppContext
from ui.tasks import counting

THUMBNAIL = 384


@dataclass(frozen=True)
class HeldOut:
    """A pair that the run was not trained on."""

    condition: Path
    thumbnail: Path
    caption: str


@dataclass(frozen=True)
class Wish:
    """What the user asked for. ``upload``: a picture of the user's, or None for the held-out pair number ``at``."""

    run: str
    checkpoint: Checkpoint
    prompt: str
    upload: str | None
    is_map: bool
    at: int
    seed: int
    strength: float
    negative: str
    steps: int
    guidance: float
    side: int
    """Pixels; 0: the run's resolution."""


def held_out(context: AppContext, run_name: str | None, at: int) -> HeldOut | None:
    """A held-out pair of the run's dataset (``at`` wraps around), or None where there is none any more."""
    from engine.data.dataset import Dataset
    from engine.data.images import thumbnail

    if not run_name or run_name not in context.files()[1]:
        return None
    try:
        run = Run(context.workspace.runs / run_name)
        dataset = Dataset.open(context.workspace.dataset_folder(run.config.data.dataset))
        samples = dataset.held_out(run.config.data.held_out).held_out
        if not samples:
            return None
        sample = samples[at % len(samples)]
        condition = dataset.condition_path(sample)
        return HeldOut(condition, thumbnail(condition, context.workspace.thumbnails, THUMBNAIL), sample.caption)
    except UserError:
        return None  # the dataset was removed: an own picture can still be tried


def as_in_run(context: AppContext, run_name: str | None) -> tuple[Any, Any, Any]:
    """Sampling steps, guidance scale and strength with which the run draws its own control pictures."""
    if not run_name or run_name not in context.files()[1]:
        return gr.skip(), gr.skip(), gr.skip()
    try:
        settings = Run(context.workspace.runs / run_name).config.validation
    except UserError:
        return gr.skip(), gr.skip(), gr.skip()
    return settings.sampling_steps, settings.guidance_scale, settings.strength


def try_it(context: AppContext, wish: Wish) -> Work:
    """Draw with and without control, keep both in workspace/outputs, and show them."""

    def work(token: Token, emit: Emit) -> Outcome:
        import dataclasses

        from engine.conditions import registry
        from engine.inference import TryRequest

        run = Run(context.workspace.runs / wish.run)
        side = wish.side or run.config.data.resolution
        control = _control(context, wish, run, side)
        request = TryRequest(
            run.config.model.base,
            wish.checkpoint.controlnet,
            wish.prompt,
            control,
            wish.negative,
            wish.seed,
            wish.steps,
            wish.guidance,
            wish.strength,
            side,
            side,
        )
        session = context.try_session()
        both = [request, dataclasses.replace(request, without_control=True)]
        categorical = registry.get(str(run.condition["type"])).categorical
        started = time.monotonic()
        pictures = session.generate(both, token, counting(emit, "Drawing, steps"), categorical=categorical)
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}_{wish.run}_step-{wish.checkpoint.step}_seed-{wish.seed}"
        names = {"control": control.resize((side, side)), "with": pictures[0], "without": pictures[1]}
        paths = {name: _save(context.workspace.outputs / f"{stem}_{name}.png", image) for name, image in names.items()}
        titles = {"control": "Control picture", "with": "With the ControlNet", "without": "Without it"}
        shown = tuple((str(paths[name]), title) for name, title in titles.items())
        words = [f"Step {wish.checkpoint.step:,}, seed {wish.seed}, {time.monotonic() - started:.0f} s."]
        words += [*session.warnings, f"Saved in {context.workspace.outputs}."]
        context.result("try", pictures=shown, note=" ".join(words))
        return "completed"

    return work


def _control(context: AppContext, wish: Wish, run: Run, side: int) -> Any:
    """The condition map, a Pillow image in RGB."""
    import numpy as np
    from PIL import Image

    from engine.conditions import registry
    from engine.data.crop import apply_crop, shared_crop
    from engine.data.images import load_rgb

    kind = registry.get(str(run.condition["type"]))
    if wish.upload is None:
        sample = held_out(context, wish.run, wish.at)
        if sample is None:
            raise UserError(
                "There is no held-out picture.",
                "The run's dataset is gone or has too few pictures.",
                "Upload a picture.",
            )
        image = load_rgb(sample.condition)
    else:
        image = load_rgb(wish.upload)
        if not wish.is_map and kind.extract is not None:
            image = Image.fromarray(kind.extractor(np.asarray(image), **run.condition["parameters"]))
        elif not wish.is_map:
            raise UserError(
                "A map cannot be made of this picture.",
                f"The run was trained on maps of the kind “{kind.title}”, which the app cannot make.",
                "Upload a map and tick “It is a condition map already”.",
            )
    return apply_crop(image, shared_crop(image.width, image.height, side), nearest=kind.categorical)


def _save(path: Path, image: Any) -> Path:
    import os

    temporary = path.with_name(path.name + ".tmp")
    image.save(temporary, "PNG")
    os.replace(temporary, path)
    return path
