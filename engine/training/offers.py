"""What may help a run that has failed: ways to resume it that the failure panel and the command line offer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from engine.config import RunConfig, changeable
from engine.errors import Offer, TrainingBroke, UserError
from engine.estimate.fallbacks import Machine, Shortage, choose, options
from engine.estimate.memory import predict_from
from engine.families.files import configs_at
from engine.jobs.faults import describe_crash, error_chain
from engine.machine.capabilities import capabilities
from engine.machine.device import is_card, torch_device
from engine.machine.errors import is_out_of_memory
from engine.machine.precision import usable_precision
from engine.runs.changes import in_words
from engine.runs.run import Run

FINER = {"fp16": ("bf16", "fp32"), "bf16": ("fp32",), "fp32": ()}
"""Precisions in which a run that broke may go on, the fastest first."""
WANTED_SAVING = 0.2
"""Share of a step's memory that *Resume with less memory* saves, if possible."""


def with_offers(error: BaseException, run: Run) -> UserError | None:
    """Add ways to resume the run to an error. None: there are none that may help.

    Args:
        run: as its files are now, with what could be saved.
    """
    device = torch_device()
    if isinstance(error, TrainingBroke):
        offers = tuple(after_break(run, error.step, device))
    elif any(is_out_of_memory(one) for one in error_chain(error)):
        offers = tuple(after_shortage(run, device=device))
    else:
        return None
    if not offers:
        return None
    if not isinstance(error, UserError):
        seen = describe_crash(error)
        return UserError(seen.what, seen.why, seen.try_this, offers)
    error.offers = offers
    return error


def after_break(run: Run, step: int, device: torch.device) -> Iterator[Offer]:
    """Half the learning rate from before the trouble, and a finer precision from the step before.

    The gradient of a step does not depend on its learning rate: with a lower one the same checkpoint would break again.

    Args:
        step: the first that could not be taken. Checkpoints of later steps only skipped it.
    """
    saved = [checkpoint.step for checkpoint in run.checkpoints() if checkpoint.resumable]
    back = max((before for before in saved if before < step - 1), default=0)
    rate = run.config.optim.learning_rate
    where = f"from the checkpoint of step {back:,}" if back else "from the start, as no earlier checkpoint is left"
    half = Offer(
        "Resume with half the learning rate",
        run.name,
        {"optim.learning_rate": rate / 2},
        back,
        f"{in_words('optim.learning_rate', rate, rate / 2)}, {where}",
    )
    now, _ = usable_precision(run.config.train.precision, device)
    finer = next((one for one in FINER[now] if usable_precision(one, device)[0] == one), None)
    last_good = max((before for before in saved if before < step), default=0)
    more = [
        Offer(f"Resume in {precision}", run.name, {"train.precision": precision}, last_good, f"from step {last_good:,}")
        for precision in (finer,)
        if precision is not None
    ]
    yield from [*more, half] if now == "fp16" else [half, *more]


def after_shortage(run: Run, device: torch.device) -> Iterator[Offer]:
    """The cheapest changes that save a good part of the memory and keep the run's result but for rounding."""
    config, base = run.config, configs_at(run.config.model.base)
    now = predict_from(config, base)
    allowed = {*changeable(), "train.accumulation"} - {"optim.optimizer"}  # another optimizer starts without its state
    machine = Machine(is_card(device), eight_bit=False, fp8=capabilities(device.type).fp8)
    kept = [one for one in options(config, base, machine) if allowed.issuperset(one.settings)]
    found = choose(kept, now, Shortage(WANTED_SAVING * now.step))
    if found is not None:
        # The accumulation follows from the batch size.
        changed = {dotted: value for dotted, value in found.settings.items() if dotted != "train.accumulation"}
        words = ", ".join(in_words(dotted, _value(config, dotted), value) for dotted, value in changed.items())
        yield Offer("Resume with less memory", run.name, changed, None, words)


def _value(config: RunConfig, dotted: str) -> Any:
    section, name = dotted.split(".")
    return getattr(getattr(config, section), name)
