"""Before the first step of a run: does the base predict what its config says, and does it suit these images?

The base alone, without control, denoises a few pairs at three noise levels. Its error is compared under each prediction
type: under the right one it is a small part of what remains without any knowledge of images, under a wrong one it is as
large or larger. The result overrides the base's config, and a setting overrides both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from engine.data.crop import size_numbers
from engine.errors import DataGone, UserError
from engine.families.base import Family
from engine.families.noise import NoiseProcess
from engine.jobs.events import Message
from engine.machine.memory import free_memory, none_if_out_of_memory
from engine.runs.known_bases import RECORD, UNKNOWN, WORKS
from engine.runs.run import write_run
from engine.training.fixed_images import NOISE_SEED
from engine.training.randomness import random_numbers
from engine.training.state import TrainState
from engine.tuning.facts import facts_of

LEVELS = (0.1, 0.3, 0.6, 0.8)
"""Noise levels, as shares of the schedule. The first is about fine detail and says least about the prediction type."""
IMAGES = (2, 4)
"""The fewest and the most images; in between, one batch of the run."""
CLEARLY = 2.0
"""A measurement decides if the other prediction type's error is at least this many times as large."""
NO_BETTER = "The base alone denoises these images no better than chance"


@dataclass(frozen=True)
class BaseCheck:
    """Errors of the bare base at each of ``LEVELS``, by name of the reading.

    0: it predicts its target exactly. 1: no better than a multiple of the noisy latents, the best formula that knows
    nothing of images.
    """

    errors: Mapping[str, Sequence[float]]

    def error(self, name: str) -> float:
        """Mean error under a reading."""
        return sum(self.errors[name]) / len(self.errors[name])

    @property
    def decided(self) -> str:
        """The reading for which the base was trained; "" if the errors do not tell."""
        noisy = {name: sum(found[1:]) / len(found[1:]) for name, found in self.errors.items()}
        best = min(noisy, key=noisy.__getitem__)
        others = [error for name, error in noisy.items() if name != best]
        return best if noisy[best] <= WORKS and all(error >= CLEARLY * noisy[best] for error in others) else ""


def set_noise_process(state: TrainState, new: bool) -> None:
    """Set the state's noise process: as the run has recorded it. A new run measures, records and reports it.

    Args:
        new: no step was taken yet. A run of an earlier version, which recorded nothing, continues as it began.
    """
    recorded = state.group.broadcast(lambda: _recorded_or_measured(state, new))
    state.use_noise_process(state.noise_process.with_schedule(recorded.get("schedule", {})))


def _recorded_or_measured(state: TrainState, new: bool) -> dict[str, Any]:
    path = state.run_folder / "run.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if RECORD in about or not new:
        return dict(about.get(RECORD, {}))
    process = state.noise_process
    check = measure(state, process.readings() or {process.prediction: process})
    steers = facts_of(state.config).learned.control
    chosen, notes = judge(process, check, state.config.model.prediction, steers)
    for note in notes:
        state.emit(Message(note, "warning"))
    measured = {name: check.error(name) for name in check.errors} if check else {}
    finite = {name: round(error, 4) if math.isfinite(error) else None for name, error in measured.items()}
    found = {"schedule": chosen.schedule, "errors": finite, "notes": notes}
    if about:
        try:
            write_run(state.run_folder, about | {RECORD: found})
        except OSError as error:
            words = f"The result of the base check could not be written to run.json ({error.strerror or error})."
            state.emit(Message(words, "warning"))
    return found


def judge(
    process: NoiseProcess, check: BaseCheck | None, setting: str, steers: bool = True
) -> tuple[NoiseProcess, list[str]]:
    """The noise process to train with, and a sentence for the user about everything doubtful.

    Args:
        process: as the settings and the base's config say.
        check: None: nothing could be measured.
        setting: ``model.prediction``.
        steers: a control net is trained, which steers the base and does not teach it other images.
    """
    readings, notes = process.readings(), []
    found = check.decided if check else ""
    if check and not found:
        figures = " and ".join(f"{check.error(name):.2f}" for name in check.errors)
        notes.append(
            f"{NO_BETTER} (error {figures}; 0 is exact, 1 means no knowledge of images). The run trains for a "
            f"base that {process.description}. If it is broken or of an unknown kind, the run will learn nothing."
        )
    elif check and found != process.prediction:
        measured = f"the base's error on your images is {check.error(found):.2f} if it {readings[found].description}"
        against = f"and {check.error(process.prediction):.2f} if it {process.description}"
        if setting == "auto":
            notes.append(f"The base does not match its config: {measured}, {against}. The run trains for the former.")
            process = readings[found]
            notes[-1] += process.not_measured and f" {process.not_measured}"
        else:
            notes.append(f"Prediction type is set to {setting}, but {measured}, {against}. The setting is used.")
    if steers and check and found and check.error(found) >= UNKNOWN:
        notes.append(
            f"The base hardly knows images like these: without control its error is {check.error(found):.2f} (0 "
            f"is exact, 1 means no knowledge of images; this warning appears from {UNKNOWN:g}). A ControlNet "
            "steers what its base can draw, so choose a base that was trained on such images, if there is one."
        )
    if readings and readings[process.prediction].schedule != process.schedule:
        notes.append("Zero terminal SNR is not used: a base that predicts noise learns nothing from pure noise.")
        process = readings[process.prediction]
    return process, notes


def measure(state: TrainState, readings: Mapping[str, NoiseProcess]) -> BaseCheck | None:
    """The bare base's errors on a few pairs, held-out ones first; None if memory ran out even for one at a time."""

    def give_up(problem: UserError) -> Pairs:
        raise DataGone("The images for the base check could not be read.", problem.why, problem.try_this)

    pairs = state.retry.until_done("The check of the base model", partial(_read, state), give_up)
    pairs = pairs.to(state.device)
    with torch.no_grad():
        pairs = replace(pairs, text=state.trainable.encode_text(pairs.text))
    for at_once in (state.config.train.batch_size, 1):
        found = none_if_out_of_memory(
            partial(errors, state.family, state.denoiser, state.dtype, pairs, readings, at_once)
        )
        if found is not None:
            return BaseCheck(found)
        free_memory()
    return None


@dataclass(frozen=True)
class Pairs:
    """B images of one size with their noise."""

    latents: torch.Tensor
    """(B, C, h, w) fp32, scaled mean of the VAE's posterior."""
    noise: torch.Tensor
    text: dict[str, torch.Tensor]
    sizes: torch.Tensor
    """(B, 6), from ``size_numbers``."""

    def to(self, device: torch.device) -> Pairs:
        text = {name: rows.to(device) for name, rows in self.text.items()}
        return Pairs(self.latents.to(device), self.noise.to(device), text, self.sizes.to(device))


def _read(state: TrainState) -> Pairs:
    cache, trained = state.cache, state.trained_samples
    rows = [*range(trained, len(state.samples)), *range(trained)]
    wanted = min(max(state.config.train.batch_size, IMAGES[0]), IMAGES[1])
    rows = [row for row in rows if cache.size(row) == cache.size(rows[0])][:wanted]
    count, shape = state.noise_process.num_train_timesteps, cache.latent_shape(rows[0])
    return Pairs(
        latents=state.latent_space.scaled(cache.latents(rows)[0]),
        noise=random_numbers(NOISE_SEED, 0, len(rows), shape, count, 0.0).noise,
        text=cache.text([state.samples[row].caption for row in rows]),
        sizes=torch.tensor([size_numbers(cache.crop(row)) for row in rows], dtype=torch.float32),
    )


@torch.no_grad()
def errors(
    family: Family,
    denoiser: Any,
    dtype: torch.dtype,
    pairs: Pairs,
    readings: Mapping[str, NoiseProcess],
    at_once: int,
) -> dict[str, list[float]]:
    """The bare base's error at each of ``LEVELS``, by name of the reading; see ``BaseCheck``.

    Args:
        dtype: in which the denoiser computes.
        at_once: images in one forward pass.
    """
    found: dict[str, list[float]] = {name: [] for name in readings}
    text = family.conditioning(pairs.text, pairs.sizes, dtype)

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        parts = []
        for first in range(0, len(noisy), at_once):
            part = slice(first, first + at_once)
            given = {name: rows[part] for name, rows in text.items()}
            parts.append(family.predict(denoiser, None, noisy[part].to(dtype), timesteps[part], given, None))
        return torch.cat(parts).float()

    for level in LEVELS:
        noisy, predicted = torch.empty(0), torch.empty(0)
        for name, process in readings.items():
            timesteps = process.timesteps_at([level] * len(pairs.latents)).to(pairs.latents.device)
            before, noisy = noisy, process.add_noise(pairs.latents, pairs.noise, timesteps)
            if before.shape != noisy.shape or not torch.equal(before, noisy):  # else the prediction is the same
                predicted = predict(noisy, timesteps)
            target = process.target(pairs.latents, pairs.noise, timesteps)
            scale = (target * noisy).sum() / noisy.square().sum()
            without_knowledge = (target - scale * noisy).square().mean()
            found[name].append(float((predicted - target).square().mean() / without_knowledge))
    return found
