"""The demo as the window offers it: sets that are drawn here, and the settings that train on them."""

from __future__ import annotations

from typing import Any

from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import Outcome
from ui.context import AppContext, Draft, with_focus
from ui.tasks import counting

SIDE = 128  # pixels; what the demo base was made for
DEMO_PICTURES = 2000
DEMO_STEPS = 400
# name -> title, and the function that draws it: make(folder, count, size, seed, progress)
DEMO_SETS: dict[str, tuple[str, str]] = {
    "circles": ("Coloured circles (outlines)", "engine.demo.circles:make_circles"),
    "blobs": ("Light-and-dark blobs", "engine.demo.blobs:make_blobs"),
}


def make_demo_set(context: AppContext, kind: str, count: int) -> Work:
    """Draw a set, read it, and choose it everywhere."""

    def work(token: Token, emit: Emit) -> Outcome:
        import importlib

        from engine.data.dataset import Dataset
        from engine.data.scan import scan_folder
        from engine.errors import UserError

        if not 4 <= count <= 100_000:
            raise UserError(
                "The demo set was not made.", f"{count:,} pictures were asked for.", "Choose between 4 and 100,000."
            )
        module, _, name = DEMO_SETS[kind][1].partition(":")
        make: Any = getattr(importlib.import_module(module), name)
        dataset_name = f"demo-{kind}-{count}"
        folder = context.workspace.dataset_folder(dataset_name) / "pictures"
        draw = counting(emit, "Pictures drawn")

        def drawn(done: int, total: int, what: str = "") -> None:
            token.raise_if_cancelled()
            draw(done, total, what)

        make(folder, count, SIDE, 0, progress=drawn)
        report = scan_folder(folder, counting(emit, "Pictures read"), token)
        Dataset.create(context.workspace, dataset_name, report, folder)
        emit(Message(f"The demo set {dataset_name} is ready: {len(report.samples):,} pictures with their maps."))
        with_focus(context, dataset_name)
        return "completed"

    return work


def choose_demo(context: AppContext, steps: int) -> None:
    """The demo's settings in the form: the tiny base, its resolution, and ``steps`` steps."""
    changes: dict[str, Any] = {
        "model": {"base": "demo"},
        "data": {"dataset": context.draft.changes.get("data", {}).get("dataset") or context.files()[0][0], "resolution": SIDE},
        "train": {"steps": steps, "batch_size": 8, "accumulation": 1, "precision": "fp32", "checkpoint_every": 100},
        "optim": {"learning_rate": 5e-4},
        "validation": {"every": 100, "pictures": 4, "sampling_steps": 10, "guidance_scale": 3.0},
    }
    context.draft = Draft(context.draft.preset, changes, context.draft.number + 1)
