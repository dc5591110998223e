"""Start and resume a run as a background job. torch is imported inside the job only."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.conditions import registry
from engine.config import RunConfig
from engine.data.changed_files import changed_since_read
from engine.data.dataset import Dataset
from engine.data.held_out import choose
from engine.disk.watchdog import DiskWatchdog
from engine.distributed import group
from engine.errors import UserError
from engine.jobs.control import Cancelled, Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, JobRunner, Work, progress_events
from engine.jobs.snapshot import JobKind, Outcome
from engine.machine.hardware import detect
from engine.machine.units import counted
from engine.runs.changes import allowed_changes, record_changes
from engine.runs.checkpoints import go_back
from engine.runs.metrics import drop_after
from engine.runs.recorder import Recorder
from engine.runs.run import Run, write_run
from engine.training import failure
from engine.training.loggers import Loggers
from engine.training.new_run import create_run, require_all, require_startable
from engine.tuning.facts import facts_of
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from engine.training.trainer import Trainer


def start_training(runner: JobRunner, workspace: Workspace, config: RunConfig, origins: dict[str, str]) -> Path:
    """Create a run and train it in the background; returns its folder.

    Raises:
        UserError: something is missing, or the base cannot be trained for. Busy: another job is running. No folder is
            left behind.
    """
    if runner.alive:
        runner.start(JobKind.TRAIN, "Training", lambda token, emit: "failed")  # says who is busy
    require_startable(workspace, config)
    run = create_run(workspace, config, origins)
    runner.start(JobKind.TRAIN, f"Training {run.config.name}", training_job(workspace, run))
    return run.folder


def resume_training(
    runner: JobRunner,
    workspace: Workspace,
    folder: Path,
    changes: Mapping[str, Any] | None = None,
    from_step: int | None = None,
) -> Path:
    """Go on from the newest checkpoint of a run, in the background. ``changes``, ``from_step``: see ``change_run``.

    Raises:
        UserError: the run is complete, its dataset is gone, or it cannot continue with these settings. Busy: another
            job is running (nothing was changed).
    """
    if runner.alive:
        runner.start(JobKind.TRAIN, "Training", lambda token, emit: "failed")  # says who is busy
    run = Run(folder)
    require_all(workspace, run)
    run = change_run(run, changes or {}, from_step)
    runner.start(JobKind.TRAIN, f"Training {run.config.name}", training_job(workspace, run), initial=run.history())
    return run.folder


def change_run(run: Run, changes: Mapping[str, Any], from_step: int | None = None) -> Run:
    """Prepare a run to be resumed with other settings, and record them. Returns the run as it will continue.

    Args:
        changes: values by dotted name; those that are as now are ignored.
        from_step: go back to the checkpoint of this step, and set later ones aside; 0: start again from scratch. None:
            the newest.

    Raises:
        UserError: a setting may not be changed (see ``allowed_changes``), there is no such checkpoint, or nothing is
            left to do. Nothing was changed then.
    """
    steps = [checkpoint.step for checkpoint in run.checkpoints() if checkpoint.resumable]
    if from_step not in (None, 0, *steps):
        raise UserError(
            f"{run.name} cannot go back to step {from_step:,}.",
            "There is no checkpoint of that step that can be resumed.",
            f"Choose one of these steps: {', '.join(f'{step:,}' for step in (0, *steps))}.",
        )
    if run.last_step and not steps and from_step is None:
        raise UserError(
            f"{run.name} cannot be resumed.",
            "Its checkpoints contain weights but no training state (of the optimizer): the run was imported, or "
            "the state was removed.",
            f"Start a new run from its weights: set Start from a ControlNet to {run.checkpoints()[-1].folder}."
            if facts_of(run.config).learned.control
            else f"Start a new run. Its weights stay in {run.checkpoints()[-1].folder}.",
        )
    done = max(steps, default=0) if from_step is None else from_step
    changed = allowed_changes(run.name, run.begun_with, run.config, done, changes)
    reached = run.last_step if from_step is None else from_step
    if reached >= changed.get("train.steps", run.config.train.steps):
        raise UserError(
            f"{run.name} is complete.",
            f"It has finished all {counted(run.config.train.steps, 'step')}.",
            "Give it more steps (Resume with other settings, on the Train tab; or python -m engine.cli resume "
            f"{run.name} --set train.steps={2 * run.config.train.steps}), or start a new run.",
        )
    if from_step is not None:
        go_back(run.folder, from_step)
    if changed:
        record_changes(run.folder, done, run.config, changed)
    return Run(run.folder)


def training_job(workspace: Workspace, run: Run) -> Work:
    """The job: train until the end, a pause or a stop, and record how it ended."""

    def work(token: Token, emit: Emit) -> Outcome:
        if not group.current().main:
            return _train_silently(workspace, run, token)
        slow = DiskWatchdog(emit)  # bypasses the recorder, which may be what the disk blocks
        logged = Loggers(run.folder, run.config, emit, slow)
        recorder = Recorder(run.folder, logged, slow)
        drop_after(run.folder, run.last_step)
        recorder.record_status("resumed" if run.last_step else "started", run.last_step, group.current().world_size)
        trainer: Trainer | None = None
        try:
            note_machine(run, recorder)
            if changed := [one.words for one in run.changes if one.by_user and one.step == run.last_step]:
                recorder(Message(f"Settings changed from step {run.last_step:,}: {'; '.join(changed)}."))
            recorder(Message("Loading torch and diffusers."))
            trainer = build_trainer(workspace, run, token, recorder)
            outcome = trainer.train()
            group.current().barrier()
        except Cancelled:
            recorder.record_status(token.stop_outcome if token.stop_requested else "stopped", run.last_step)
            raise
        except BaseException as error:
            words = failure.record_failure(run, trainer, recorder, error)
            if words is not None:
                raise words from error
            raise
        finally:
            if trainer is not None:
                failure.close(trainer)
            logged.close()
            slow.close()
        recorder.record_status(outcome, run.last_step)
        recorder(Message(SENTENCES[outcome].format(step=run.last_step, steps=counted(run.last_step, "step"))))
        return outcome

    return work


def note_machine(run: Run, emit: Emit) -> None:
    """Record what the run is trained on from here on, and tell the user if that is another card than before."""
    before, words, hardware = run.machine, run.trained_on, detect()
    run.note_machine(name=hardware.name, vram_gib=hardware.vram_gib, torch=metadata.version("torch"))
    if before not in ("", hardware.name):
        now = f"Until now the run was trained on {words}; from now on it is trained on {run.trained_on}."
        emit(Message(f"{now} Its figures differ by rounding from those of a run on a single machine."))


def _train_silently(workspace: Workspace, run: Run, token: Token) -> Outcome:
    """Train in a process that is not main: it computes its share of each step, and reports and writes nothing."""
    trainer = build_trainer(workspace, run, token, lambda event: None)
    try:
        outcome = trainer.train()
        group.current().barrier()
        return outcome
    finally:
        trainer.close()


SENTENCES = {
    "completed": "Training is complete after {steps}.",
    "paused": "Paused. Saved at step {step:,}; it is safe to close the app.",
    "stopped": "Stopped. Saved at step {step:,}; you can resume later.",
}


def build_trainer(workspace: Workspace, run: Run, token: Token, emit: Emit) -> Trainer:
    """Load everything, resume from the newest checkpoint, and return the trainer."""
    from engine.bases.merging import ready_base
    from engine.training.previews import DrawPreviews
    from engine.training.trainer import Trainer

    dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    held_out = group.current().broadcast(lambda: _held_out(run, dataset, token))
    warn_of_changes(run, dataset, emit)
    about: dict[str, Any] = {"condition": run.condition, "dataset_fingerprint": dataset.fingerprint, "run": run.name}
    return Trainer(
        run.folder,
        run.config,
        group.current().broadcast(
            lambda: ready_base(workspace, run.config.model.whole_base, token, progress_events(emit))
        ),
        dataset,
        workspace.cache,
        token,
        emit,
        preview=DrawPreviews() if facts_of(run.config).has_previews else None,
        about=about,
        configured_batch_size=run.begun_with.train.batch_size,
        held_out=held_out,
    )


def _held_out(run: Run, dataset: Dataset, token: Token) -> list[str] | None:
    """Keys of the held-out pairs: chosen when a run begins, then read from run.json; None for older runs without."""
    if run.held_out is None and not run.last_step:
        count = run.config.data.held_out
        diverse = run.config.data.held_out_choice == "diverse"
        keys = choose(dataset, count, token=token) if diverse else [s.key for s in dataset.held_out(count).held_out]
        run.about["held_out"] = keys
        write_run(run.folder, run.about)
    return run.held_out


def warn_of_changes(run: Run, dataset: Dataset, emit: Emit) -> None:
    """Warn if the images or maps are no longer those that the run began with."""
    if run.about.get("dataset_fingerprint") != dataset.fingerprint:
        emit(Message("The dataset has changed since this run began; it continues with the new images.", "warning"))
    if changed := changed_since_read(dataset).sentence:
        emit(Message(changed, "warning"))
    spec, began = dataset.condition, run.condition
    if not began or spec is None:
        return
    stored = registry.stored_parameters(began["type"], began["parameters"])
    if (spec.type, spec.parameters) != (began["type"], stored):
        other = "" if spec.type != began["type"] else ", made with other settings"
        emit(Message(f"The condition maps are now {spec.type}{other}; the run began with {began['type']}.", "warning"))
