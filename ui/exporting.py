"""What Export does."""

from __future__ import annotations

from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import Outcome
from engine.runs import Run
from engine.training.checkpoint_files import Checkpoint
from engine.workspace import safe_name
from ui.context import AppContext
from ui.messages import size

# name -> title, hint
FORMATS: dict[str, tuple[str, str]] = {
    "single_file": (
        "One file (ComfyUI, AUTOMATIC1111)",
        "A .safetensors file for the folder models/controlnet (ComfyUI) or models/ControlNet (AUTOMATIC1111, Forge).",
    ),
    "diffusers": ("A folder (diffusers)", "For Python: ControlNetModel.from_pretrained(folder)."),
}


def export_it(
    context: AppContext, run_name: str, checkpoint: Checkpoint, kind: str, precision: str, weights: str, name: str
) -> Work:
    """Write the file into the run's exports folder and tell what was checked."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.export.formats import export

        run = Run(context.workspace.runs / run_name)
        file_name = safe_name(name or run.config.name or run.name)
        emit(Message(f"Exporting step {checkpoint.step:,} of {run_name}."))
        made = export(checkpoint.folder, kind, run.exports, file_name, precision, weights)
        facts = (
            ("Where", str(made.path)),
            ("Size", size(made.bytes)),
            ("Checked", made.checked),
            ("From", f"{run_name}, step {checkpoint.step:,}"),
        )
        context.result("export", note="The export is ready.", facts=facts)
        return "completed"

    return work
