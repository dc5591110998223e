"""What Export does."""

from __future__ import annotations

from typing import Any

from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import Outcome
from engine.runs import Run
from engine.training.checkpoint_files import Checkpoint
from engine.workspace import safe_name
from ui.context import AppContext
from ui.messages import size
from ui.tasks import counting


def export_it(
    context: AppContext,
    run_name: str,
    checkpoint: Checkpoint,
    kind: str,
    precision: Any,
    weights: Any,
    name: str,
    overwrite: bool = False,
) -> Work:
    """Write the file into the run's exports folder and tell what was checked."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.export import export

        run = Run(context.workspace.runs / run_name)
        file_name = safe_name(name or run.config.name or run.name)
        emit(Message(f"Exporting step {checkpoint.step:,} of {run_name}."))
        made = export(
            checkpoint.folder, kind, run.exports, file_name, precision, weights, overwrite, token,
            counting(emit, "Exporting, stages"),
        )  # fmt: skip
        facts = (
            ("Where", str(made.path)),
            ("Size", size(made.bytes)),
            ("Checked", made.checked),
            ("From", f"{run_name}, step {checkpoint.step:,}"),
        )
        context.result("export", note="The export is ready.", facts=facts)
        return "completed"

    return work
