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

USUAL_STEPS = {
    "lora": "500 to 3,000",
    "subject": "400 to 1,200",
    "word": "500 to 3,000",
    "base": "thousands of",
    "svdiff": "500 to 1,000",
}
"""Steps for real bases, as in docs/teaching-the-base.md, by ``tuning.what``."""


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
    what = facts_of(config)
    if not what.drawn_by_prompt or what.distilled:
        return None
    return Advice(None, 0, config.images_per_step, pace, (_no_forecast(config, facts),))


def _no_forecast(config: RunConfig, facts: StartFacts) -> Line:
    """Why it is not forecast when a run that teaches its base has learned, and what shows it."""
    shows = "the gain on held-out images shows it while it trains"
    if not config.validation.check_every:
        shows = "the preview images show it while it trains, and with a Loss check the gain on held-out images"
    why = "It depends on the images, the learning rate and what the base can draw already."
    usual = USUAL_STEPS.get(config.tuning.what, "")
    if usual and not facts.toy:
        why += f" Usual: {usual} steps."
    return Line("Draws what it is taught", f"not forecast; {shows}", why)


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
