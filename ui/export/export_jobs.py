"""The jobs of the Export tab: export, copy, upload, measure, average, import."""

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
from engine.jobs.runner import Emit, Work, progress_events
from engine.jobs.snapshot import JobKind, Outcome
from engine.machine.units import counted, format_bytes
from engine.queue.net_jobs import Average
from engine.queue.run_jobs import CheckpointChoice, Export
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.workspace.paths import safe_name
from ui.page.context import AppContext

KIND = JobKind.EXPORT
"""All jobs of the tab are of this kind: they share its progress bar."""


@dataclass(frozen=True)
class ExportOptions:
    """The options in the left column of the tab."""

    format: str
    precision: Any
    average: bool
    """Export the EMA weights, if the run kept them."""
    rank: int
    name: str
    overwrite: bool

    def weights(self, checkpoint: Checkpoint) -> Any:
        """Return "ema" or "plain"."""
        return "ema" if self.average and checkpoint.has_ema else "plain"


def export_options(kind: str, precision: str, weights: str, rank: int, name: str, overwrite: bool) -> ExportOptions:
    """Return the options from the values of the widgets."""
    return ExportOptions(kind, precision, weights == "ema", int(rank or AS_TRAINED), name or "", bool(overwrite))


def export_job(
    context: AppContext, run_name: str, checkpoint: Checkpoint, options: ExportOptions, notes: Sequence[str] = ()
) -> Work:
    """Return the job that writes a checkpoint into the run's exports folder and shows the result of the check.

    ``notes``: what there is to say about the choice of the checkpoint.
    """
    context.clear_result(KIND)

    def work(token: Token, emit: Emit) -> Outcome:
        run = Run(context.workspace.runs / run_name)
        emit(Message(f"Exporting step {checkpoint.step:,} of {run_name}."))
        origin = " ".join([f"{run_name}, step {checkpoint.step:,}{'.' if notes else ''}", *notes])
        _write(context, run, checkpoint, options, origin, token, emit)
        return "completed"

    return work


def queued_export(run_name: str, checkpoint: CheckpointChoice, options: ExportOptions) -> Export:
    """Return the export as a job of the queue."""
    return Export(run=run_name, checkpoint=checkpoint, **_as_settings(options))


def queued_average(run_name: str, steps: Sequence[int], kind: Any, decay: float, options: ExportOptions) -> Average:
    """Return the average and its export as a job of the queue."""
    return Average(run=run_name, steps=tuple(steps), average=kind, decay=decay, **_as_settings(options))


def _as_settings(options: ExportOptions) -> dict[str, Any]:
    weights = "ema" if options.average else "plain"
    return {**{name: value for name, value in vars(options).items() if name != "average"}, "weights": weights}


def average_job(
    context: AppContext,
    run_name: str,
    checkpoints: Sequence[Checkpoint],
    kind: Any,
    decay: float,
    options: ExportOptions,
) -> Work:
    """Return the job that averages checkpoints, stores the average with the run, and exports it."""
    context.clear_result(KIND)

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.export.checkpoint_average import FOLDER, average_checkpoints, averaged_checkpoints, free_name

        run = Run(context.workspace.runs / run_name)
        name = free_name(run, kind, [checkpoint.step for checkpoint in checkpoints])
        progress = progress_events(emit, "Averaging, checkpoints")
        folder = average_checkpoints(checkpoints, run.folder / FOLDER, name, kind, decay, token, progress)
        made = next(c for c in averaged_checkpoints(run.folder) if c.folder == folder)
        origin = f"{run_name}, average of the steps {', '.join(f'{c.step:,}' for c in checkpoints)}"
        # Named after the average, so that it does not overwrite an export of the run.
        own = replace(options, name=f"{options.name or run.config.name or run.name}-{folder.name}")
        _write(context, run, made, own, origin, token, emit)
        return "completed"

    return work


def _write(
    context: AppContext, run: Run, checkpoint: Checkpoint, options: ExportOptions, origin: str, token: Token, emit: Emit
) -> None:
    from engine.export import export
    from engine.export.model_card import NOTE
    from engine.export.quantization_check import QuantizationCheck

    made = export(
        checkpoint.folder,
        options.format,
        run.exports,
        safe_name(options.name or run.config.name or run.name),
        options.precision,
        options.weights(checkpoint),
        options.overwrite,
        token,
        progress_events(emit, "Exporting, stages"),
        local_base(context, run),
        options.rank,
        QuantizationCheck(
            context.workspace, run, checkpoint, token, progress_events(emit, "Measuring the loss, steps")
        ),
    )
    facts = [("File", str(made.path)), ("Size", format_bytes(made.bytes))]
    facts += [("Checked", sentence.strip() + ".") for sentence in made.checked.rstrip(".").split(". ")]
    if made.card is not None and made.card != made.path:
        note = ", note for AUTOMATIC1111" if (made.card / NOTE).exists() else ""
        facts.append(("Next to it", f"{made.card.name}: model card, ComfyUI workflow{note}"))
    facts.append(("From", origin))
    context.set_result(KIND, note="The export is ready.", facts=tuple(facts), where=str(made.path))


def local_base(context: AppContext, run: Run) -> str:
    """Return the path of the run's base model, or an empty string if it is not on this disk."""
    try:
        base = context.workspace.locate_base(run.config.model.whole_base)
    except UserError:
        return ""  # removed since; only a Control-LoRA needs it, and reports that itself
    return base if is_local(base) else ""


def compare_job(
    context: AppContext, run_name: str, checkpoint: Checkpoint, average: bool, notes: Sequence[str] = ()
) -> Work:
    """Return the job that measures how much quality each smaller format loses. ``notes``: as for ``export_job``."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.export.compare import compare

        for sentence in notes:
            emit(Message(sentence, "warning"))
        run = Run(context.workspace.runs / run_name)
        weights: Any = "ema" if average and checkpoint.has_ema else "plain"
        table = compare(
            context.workspace,
            run,
            checkpoint,
            weights,
            token=token,
            progress=progress_events(emit, "Measuring, formats"),
        )
        note = f"Step {table.step:,}, {counted(table.pictures, 'held-out image')} for each line."
        context.set_result("compare", note=note, where=str(run.exports))
        return "completed"

    return work


def copy_job(context: AppContext, file: str, program: str, folder: str, overwrite: bool) -> Work:
    """Remember a program's folder, and return the job that copies an export there."""
    from engine.export import deliver
    from engine.workspace.remembered import remember

    context.clear_result("deliver")
    wanted = deliver.program(program)
    # Checked now, so that a wrong folder is reported at once.
    target = deliver.folder_of_kind(deliver.models_folder(folder, wanted), Path(file))
    remember(context.workspace, **{program: folder.strip()})

    def work(token: Token, emit: Emit) -> Outcome:
        made = deliver.copy_to(Path(file), target, overwrite, token, progress_events(emit, "Copying, MB"))
        text = f"Copied to {made}. {deliver.next_step(made, wanted)}"
        context.set_result("deliver", note=text, where=str(made))
        return "completed"

    return work


def upload_job(context: AppContext, file: str, repository: str, token_text: str, private: bool) -> Work:
    """Return the job that uploads an export with its model card. The token is not stored."""
    from engine.export.deliver import exports_in
    from engine.workspace.remembered import remember

    context.clear_result("deliver")
    remember(context.workspace, hub_repository=repository.strip())

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.export.hub import files_of, upload

        made = next((m for m in exports_in(Path(file).parent) if str(m.path) == file), None)
        if made is None:
            raise UserError("Nothing was uploaded.", f"{Path(file).name} is no longer there.", "Export it again.")
        link = upload(
            files_of(made), repository, token_text, private, None, token, progress_events(emit, "Uploading, MB")
        )
        context.set_result("deliver", note=f"Uploaded: {link}", where=link)
        return "completed"

    return work


def import_job(context: AppContext, path: str, base: str, condition: str, name: str) -> Work:
    """Return the job that imports a ControlNet as a run of its own."""
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
        text = f"It is now in the list of runs as {run.name}: you can try it, export it, or train it further."
        context.set_result("import", note=text, where=str(run.folder))
        return "completed"

    return work


def merged_base_job(context: AppContext, reference: str, format: str, name: str) -> Work:
    """Return the job that merges a base with its files, and writes it into the models folder."""
    context.clear_result(KIND)

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.export.base_export import export_merged

        progress = progress_events(emit, "Exporting, stages")
        made = export_merged(context.workspace, reference, format, name=name.strip(), token=token, progress=progress)
        context.files_changed()
        facts = [("File", str(made.path)), ("Size", format_bytes(made.bytes)), ("Checked", made.checked)]
        context.set_result(KIND, note="The export is ready.", facts=tuple(facts), where=str(made.path))
        return "completed"

    return work


def shrink_checkpoints(context: AppContext, run_name: str) -> str:
    """Delete the resume state of all but the newest checkpoint. Returns a sentence about the freed disk space."""
    from engine.runs.cleanup import trim

    if context.runner.alive:
        raise UserError(
            "Nothing was deleted.",
            f"“{context.runner.snapshot.title}” is running.",
            "Wait until it has ended, or end it first.",
        )
    count, freed = trim(context.workspace.runs / run_name)
    if not count:
        return "There is nothing to shrink: only the newest checkpoint can be resumed from."
    made_smaller = f"{counted(count, 'checkpoint')} made smaller"
    return f"{made_smaller}, {format_bytes(freed)} freed. Their weights are kept."


def continue_from(context: AppContext, run_name: str, checkpoint: Checkpoint) -> str:
    """Make a checkpoint the start of the next run. Returns a sentence that says so."""
    run = Run(context.workspace.runs / run_name)
    model = {"base": run.config.model.base, "controlnet": str(checkpoint.folder)}
    changes = {**context.draft.changes, "model": {**context.draft.changes.get("model", {}), **model}}
    context.set_draft(context.draft.preset, changes, refresh_forms=True)
    context.show_run("")
    return f"The next run starts from step {checkpoint.step:,} of {run_name}: see the Train tab."
