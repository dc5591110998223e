"""Preview images and their scores while a run trains, drawn with the weights that are in memory."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from engine.config import ValidationConfig
from engine.errors import UserError
from engine.evaluation import probes
from engine.evaluation.adherence import PairScores
from engine.evaluation.pairs import Encode, Models, encoder, read_pair
from engine.evaluation.previews import PreviewCache, PreviewRequest, make_previews, reference_scores
from engine.evaluation.probes import Probe
from engine.evaluation.prompt_previews import make_prompt_previews
from engine.families.zero_controlnet import zero_controlnet_for
from engine.inference.samplers import DEFAULT
from engine.inference.sampling import Text, long_prompt_note
from engine.jobs.control import Cancelled
from engine.jobs.events import Message, Progress
from engine.machine.errors import is_device_lost
from engine.machine.memory import none_if_out_of_memory
from engine.runs.run import PreviewRecord
from engine.training import oom
from engine.training.state import TrainState
from engine.tuning.facts import facts_of
from engine.tuning.learned_text import LearnedText


class DrawPreviews:
    """Called as (state, step): draws and scores the held-out pairs, and the probes beside them.

    Keeps what stays the same over a run: the probes, the embeddings of the user's prompts, and the true images' scores.
    """

    def __init__(self) -> None:
        self._cache = PreviewCache()
        self._probes: list[Probe] | None = None
        self._reference: list[PairScores] | None = None
        self._own_text: dict[str, Text] = {}

    def __call__(self, state: TrainState, step: int) -> None:
        """Draw with the weights that an export would have (the average, where there is one).

        An error here never ends the training: it is logged.
        """
        try:
            record = none_if_out_of_memory(lambda: self._draw(state, step))
            if record is None:  # out of memory: from now on one image at a time
                oom.clear(state)
                state.draw_one_image_at_a_time()
                words = f"Memory ran out for the images of step {step:,}; from now on they are drawn one at a time."
                state.emit(Message(words, "warning"))
                record = none_if_out_of_memory(lambda: self._draw(state, step))
            if record is None:
                raise MemoryError("memory ran out even for one image at a time")
        except Cancelled:
            if state.token.stop_requested is None:
                raise
            return  # a pause does not wait for images: the loop saves and ends
        except Exception as error:
            if is_device_lost(error):
                raise  # nothing works from here on: the run ends with its own message
            detail = traceback.format_exc(limit=-2).replace("\n", " ")[:400]
            state.emit(Message(f"The images of step {step:,} could not be made: {error} ({detail})", "warning"))
            return
        state.emit(record.event)

    def _draw(self, state: TrainState, step: int) -> PreviewRecord:
        """The images.

        Raises:
            OutOfMemoryError, MemoryError: they do not fit.
        """
        by_prompt = facts_of(state.config).drawn_by_prompt
        if self._probes is None:
            self._probes = [] if by_prompt else self._choose(state)
        make = make_prompt_previews if by_prompt else make_previews

        def encode(prompts: Sequence[str]) -> list[Text]:
            return self.encode(state, prompts)

        request = PreviewRequest(
            samples=state.held_out,
            dataset=state.dataset,
            settings=state.config.validation,
            plan=state.plan,
            out_folder=state.run_folder / "previews",
            step=step,
            seed=state.config.train.seed,
            batch=state.images_at_once,
            probes=self._probes,
            trained=state.samples[: state.trained_samples] if by_prompt else (),
        )
        # The last images are drawn even if a pause was requested: a finished run is not resumed to draw them.
        token = None if step == state.config.train.steps else state.token

        def progress(done: int, total: int, label: str) -> None:
            state.emit(Progress(done, total, label))

        def models(controlnet: Any, sampler: str = DEFAULT) -> Models:
            net = zero_controlnet_for(state.denoiser) if by_prompt else controlnet
            schedule = state.noise_process.schedule
            return Models(state.family, state.base, state.denoiser, net, encode, schedule=schedule, sampler=sampler)

        facts = facts_of(state.config)
        fewer = facts.drawn_with
        if fewer and not by_prompt and self._reference is None:
            with state.trainable.untrained():
                untrained = models(state.trainable.control_net)
                self._reference = reference_scores(untrained, request, self._cache, token, progress)
        with state.exported_weights() as exported:
            return make(
                models(state.trainable.control_net if facts.frozen_net else exported, fewer.get("sampler", DEFAULT)),
                replace(request, settings=_in_fewer_steps(request.settings, fewer), reference=self._reference or ()),
                cache=self._cache,
                token=token,
                progress=progress,
                watch=state.watchdog.watch,
            )

    def _choose(self, state: TrainState) -> list[Probe]:
        """Probes from the held-out pairs, then the user's own; without the latter, and with a warning, if they fail."""
        settings = state.config.validation
        pairs = [read_pair(sample, state.dataset, state.plan) for sample in state.held_out[: settings.pictures]]
        found = probes.of_held_out(pairs, settings.probes)
        try:
            found += probes.own(settings, state.dataset, state.plan, pairs, state.token)
        except UserError as error:
            state.emit(Message(f"{error.what} {error.why} {error.try_this}", "warning"))
        return found

    def encode(self, state: TrainState, prompts: Sequence[str]) -> list[Text]:
        """Captions come from the training's cache, cut as they were there. The user's own prompts are encoded once, in
        full, by the text encoder on the processor: it never takes the card's memory from the training.

        Where words or text encoders are trained, all are encoded by these, as they are now.
        """
        if state.trainable.learned_text is not None:
            return [self._learned_text(state, state.trainable.learned_text, prompt) for prompt in prompts]
        rows = {prompt: self._known_text(state, prompt) for prompt in prompts}
        foreign = [prompt for prompt, row in rows.items() if row is None]
        if foreign:
            options = replace(state.config.text, whole=True)
            texts = encoder(state.family, state.base, "cpu", options)(foreign)
            once = state.family.text_length(state.cache.text_of(""))
            for prompt, text in zip(foreign, texts, strict=True):
                self._own_text[prompt] = {name: row.float().clone() for name, row in text.items()}
                pieces = state.family.text_length(text) // once
                if pieces > 1:
                    state.emit(Message(long_prompt_note(f"Your prompt “{prompt[:40]}…”", pieces)))
        return [rows[prompt] or self._own_text[prompt] for prompt in prompts]

    @torch.no_grad()
    def _learned_text(self, state: TrainState, learned: LearnedText, prompt: str) -> Text:
        try:
            numbers = state.cache.text_of(prompt)
        except KeyError:  # no caption of this dataset
            numbers = learned.numbers_of(prompt)
        return {name: row[0].float() for name, row in learned.encode(numbers).items()}

    def _known_text(self, state: TrainState, prompt: str) -> Text | None:
        if prompt in self._own_text:
            return self._own_text[prompt]
        try:
            return {name: table[0] for name, table in state.cache.text_of(prompt).items()}
        except KeyError:
            return None  # no caption of this dataset


def _in_fewer_steps(settings: ValidationConfig, drawn_with: Mapping[str, Any]) -> ValidationConfig:
    """The settings of previews, with the steps and the guidance of ``TrainableFacts.drawn_with``, if there are any."""
    if not drawn_with:
        return settings
    changed = {"sampling_steps": drawn_with["steps"], "probe_steps": 0, "guidance_scale": drawn_with["guidance"]}
    return settings.model_copy(update=changed)


def models_without_control(state: TrainState, encode: Encode) -> Models:
    """The models of a run that has no ControlNet, to draw with captions alone."""
    silent = zero_controlnet_for(state.denoiser)
    return Models(state.family, state.base, state.denoiser, silent, encode, schedule=state.noise_process.schedule)


def preview_during_training(state: TrainState, step: int) -> None:
    """Draw one set of images without anything kept from earlier ones."""
    DrawPreviews()(state, step)
