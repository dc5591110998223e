"""The advice on a run: before it starts, and while it goes, with what it has measured. Imports no torch."""

from __future__ import annotations

from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.errors import UserError
from engine.estimate.advice import Advice, Line, advise
from engine.estimate.sudden_convergence import Progress, RunPlan
from engine.evaluation.recorded_runs import recorded_runs
from engine.evaluation.verdict import convergence
from engine.families.files import denoiser_parameters
from engine.jobs.snapshot import JobSnapshot
from engine.runs.run import Run
from engine.training.caution import SMALL_NET, StartFacts
from engine.tuning.facts import facts_of
from engine.workspace.paths import Workspace

NO_FORECAST = Line(
    "Draws what it is taught",
    "not forecast, since no figures are published; the gain on held-out images shows it while it trains",
    "It depends on the images, the learning rate and what the base can draw already.",
)


def plan_of(config: RunConfig, facts: StartFacts) -> RunPlan | None:
    """What the advice needs of a run that could start. None: what it trains does not read control images."""
    if not facts_of(config).learned.control:
        return None
    return RunPlan(
        steps=config.train.steps,
        images_per_step=config.images_per_step,
        images=facts.images,
        published=not facts.toy and not config.model.controlnet,
        seconds_per_step=facts.seconds_per_image * config.images_per_step,
        measured=facts.measured,
        recorded=facts.recorded,
    )


def advice_for(config: RunConfig, facts: StartFacts) -> Advice | None:
    """The advice before Start. Of a run that teaches its base, why nothing is forecast."""
    plan = plan_of(config, facts)
    if plan is not None:
        return advise(plan)
    pace = facts.seconds_per_image * config.images_per_step
    told = facts_of(config).drawn_by_prompt
    return Advice(None, 0, config.images_per_step, pace, (NO_FORECAST,)) if told else None


def advice_on(workspace: Workspace, run: Run, history: JobSnapshot) -> Advice | None:
    """The advice on a run that goes or has ended, corrected by its checks and its pace.

    Args:
        history: of the live job, or of the run's files.
    """
    config = run.config
    if not facts_of(config).learned.control:
        return None
    plan = RunPlan(
        steps=config.train.steps,
        images_per_step=config.images_per_step,
        images=_images(workspace, config),
        published=not 0 < denoiser_parameters(workspace, config.model.base) < SMALL_NET and not config.model.controlnet,
        recorded=recorded_runs(workspace, config, str(run.condition.get("type", "")), run.name),
    )
    gains = [(check.step, check.gain_share) for check in history.checks]
    return advise(plan, Progress(history.step, gains, convergence(history.checks), history.seconds_per_step))


def _images(workspace: Workspace, config: RunConfig) -> int:
    try:
        return Dataset.open(workspace.dataset_folder(config.data.dataset)).count(ready=True)
    except UserError:
        return 0  # removed since
