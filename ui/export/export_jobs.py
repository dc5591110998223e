"""What the Export tab's jobs do: write a file, take it somewhere, measure, average, bring one in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.export import AS_TRAINED
from engine.families.files import is_local
from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import JobKind, Outcome
from engine.machine.units import format_bytes
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.workspace.paths import safe_name
from ui.page.context import AppContext
from ui.page.jobs import progress_events
from ui.page.messages import counted

KIND = JobKind.EXPORT
"""Of every job of the tab: they share its progress bar."""


@dataclass(frozen=True)
class Way:
    """How a net is to be written."""

    format: str
    precision: Any
    average: bool
    """The running average's weights, where the run kept one."""
    rank: int
    name: str
    overwrite: bool

    def weights(self, checkpoint: Checkpoint) -> Any:
        """ "ema" or "plain"."""
        return "ema" if self.average and checkpoint.has_ema else "plain"


def way_of(kind: str, precision: str, weights: str, rank: int, name: str, overwrite: bool) -> Way:
    """The left column's answers."""
    return Way(kind, precision, weights == "ema", int(rank or AS_TRAINED), name or "", bool(overwrite))


def export_it(context: AppContext, run_name: str, checkpoint: Checkpoint, way: Way) -> Work:
    """Write the file into the run's exports folder and tell what was checked."""
    context.clear_result(KIND)

    def work(token: Token, emit: Emit) -> Outcome:
        run = Run(context.workspace.runs / run_name)
        emit(Message(f"Exporting step {checkpoint.step:,} of {run_name}."))
        _write(context, run, checkpoint, way, f"{run_name}, step {checkpoint.step:,}", token, emit)
        return "completed"

    return work


def average_it(
    context: AppContext, run_name: str, checkpoints: Sequence[Checkpoint], kind: Any, decay: float, way: Way
) -> Work:
    """Average checkpoints, keep the average with the run, and export it."""
    context.clear_result(KIND)

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.export.merge import FOLDER, merge, merged_checkpoints

        run = Run(context.workspace.runs / run_name)
        taken = {checkpoint.folder.name for checkpoint in merged_checkpoints(run.folder)}
        steps = "-".join(str(checkpoint.step) for checkpoint in checkpoints)
        name = next(n for n in _numbered(f"{kind}-{steps}") if safe_name(n) not in taken)
        progress = progress_events(emit, "Averaging, checkpoints")
        folder = merge(checkpoints, run.folder / FOLDER, name, kind, decay, token, progress)
        made = next(c for c in merged_checkpoints(run.folder) if c.folder == folder)
        origin = f"{run_name}, average of the steps {', '.join(f'{c.step:,}' for c in checkpoints)}"
        # Named after what it is, so that it is never in the way of the run's own export.
        own = replace(way, name=f"{way.name or run.config.name or run.name}-{folder.name}")
        _write(context, run, made, own, origin, token, emit)
        return "completed"

    return work


def _numbered(stem: str) -> Any:
    yield stem
    yield from (f"{stem}-{number}" for number in range(2, 1000))


def _write(
    context: AppContext, run: Run, checkpoint: Checkpoint, way: Way, origin: str, token: Token, emit: Emit
) -> None:
    from engine.export import export

    made = export(
        checkpoint.folder, way.format, run.exports, safe_name(way.name or run.config.name or run.name),
        way.precision, way.weights(checkpoint), way.overwrite, token, progress_events(emit, "Exporting, stages"),
        local_base(context, run), way.rank,
    )  # fmt: skip
    facts = [("Where", str(made.path)), ("Size", format_bytes(made.bytes))]
    facts += [("Checked", sentence.strip() + ".") for sentence in made.checked.rstrip(".").split(". ")]
    if made.card is not None and made.card != made.path:
        facts.append(("Beside it", f"{made.card.name}: model card, ComfyUI workflow, note for AUTOMATIC1111"))
    facts.append(("From", origin))
    context.set_result(KIND, note="The export is ready.", facts=tuple(facts), where=str(made.path))


def local_base(context: AppContext, run: Run) -> str:
    """The run's base where it lies on this disk, else empty: nothing is downloaded for a comparison."""
    try:
        base = context.workspace.locate_base(run.config.model.base)
    except UserError:
        return ""  # removed since; only a Control-LoRA needs it, and says so
    return base if is_local(base) else ""


def compare_it(context: AppContext, run_name: str, checkpoint: Checkpoint, average: bool) -> Work:
    """Measure how much each smaller way of writing loses."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.export.compare import compare

        run = Run(context.workspace.runs / run_name)
        weights: Any = "ema" if average and checkpoint.has_ema else "plain"
        table = compare(
            context.workspace, run, checkpoint, weights, token=token, progress=progress_events(emit, "Measuring, ways")
        )
        note = f"Step {table.step:,}, {counted(table.pictures, 'held-out image', 'held-out images')} for each line."
        context.set_result("compare", note=note, where=str(run.exports))
        return "completed"

    return work


def copy_it(context: AppContext, file: str, program: str, folder: str, overwrite: bool) -> Work:
    """Copy an export into a program's folder, and remember the folder."""
    from engine.export import deliver
    from engine.workspace.remembered import remember

    context.clear_result("deliver")
    wanted = deliver.program(program)
    target = deliver.models_folder(folder, wanted)  # said at once, not from within the job
    remember(context.workspace, **{program: folder.strip()})

    def work(token: Token, emit: Emit) -> Outcome:
        made = deliver.copy_to(Path(file), target, overwrite, token, progress_events(emit, "Copying, MB"))
        words = f"Copied to {made}. In {wanted.title}, reload the list of models."
        context.set_result("deliver", note=words, where=str(made))
        return "completed"

    return work


def upload_it(context: AppContext, file: str, repository: str, token_text: str, private: bool) -> Work:
    """Upload an export with its card. The token lives in this call alone."""
    from engine.export.deliver import exports_in
    from engine.workspace.remembered import remember

    context.clear_result("deliver")
    remember(context.workspace, hub_repository=repository.strip())

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.export.hub import files_of, upload

        made = next((m for m in exports_in(Path(file).parent) if str(m.path) == file), None)
        if made is None:
            raise UserError("Nothing was uploaded.", f"{Path(file).name} is not there any more.", "Export it again.")
        link = upload(
            files_of(made), repository, token_text, private, None, token, progress_events(emit, "Uploading, MB")
        )
        context.set_result("deliver", note=f"Uploaded: {link}", where=link)
        return "completed"

    return work


def import_it(context: AppContext, path: str, base: str, condition: str, name: str) -> Work:
    """Bring in a ControlNet as a run of its own."""
    context.clear_result("import")

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.export.imported_run import import_as_run

        emit(Message(f"Reading {Path(path).name}."))
        run = import_as_run(
            context.workspace,
            path.strip(),
            base.strip(),
            condition,
            name,
            token,
            progress_events(emit, "Importing, stages"),
        )
        context.files_changed()
        context.show_run(run.name)
        words = f"It is now in the list of runs as {run.name}: try it, export it, or train on from it."
        context.set_result("import", note=words, where=str(run.folder))
        return "completed"

    return work


def trim_it(context: AppContext, run_name: str) -> str:
    """Drop the resume state of all but the newest checkpoint; a sentence about what that freed."""
    from engine.runs.retention import trim

    if context.runner.alive:
        raise UserError(
            "Nothing was removed.", f"“{context.runner.snapshot.title}” is running.", "Wait for it, or pause it."
        )
    count, freed = trim(context.workspace.runs / run_name)
    if not count:
        return "There is nothing to remove: only the newest checkpoint can be resumed from."
    made_smaller = f"{counted(count, 'checkpoint', 'checkpoints')} made smaller"
    return f"{made_smaller}, {format_bytes(freed)} freed. Their weights are kept."


def train_on(context: AppContext, run_name: str, checkpoint: Checkpoint) -> str:
    """Make the checkpoint the start of the next run; a sentence that says so."""
    run = Run(context.workspace.runs / run_name)
    model = {"base": run.config.model.base, "controlnet": str(checkpoint.folder)}
    changes = {**context.draft.changes, "model": {**context.draft.changes.get("model", {}), **model}}
    context.set_draft(context.draft.preset, changes, refresh_forms=True)
    context.show_run("")
    return f"The next run starts from step {checkpoint.step:,} of {run_name}: see the Train tab."
