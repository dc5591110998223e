"""Images and scores of a run in progress, drawn with the weights that are in memory."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.errors import UserError
from engine.evaluation import probes
from engine.evaluation.pairs import Models, encoder, read_pair
from engine.evaluation.previews import PreviewCache, PreviewRequest, make_previews
from engine.evaluation.probes import Probe
from engine.inference.sampling import Text, long_prompt_note
from engine.jobs.control import Cancelled
from engine.jobs.events import Message, Progress
from engine.machine.errors import is_device_lost
from engine.nets.master_weights import as_exported
from engine.runs.run import PreviewRecord
from engine.training import oom

if TYPE_CHECKING:
    from engine.training.trainer import Trainer


class DrawPreviews:
    """Called as (trainer, step): draws and scores the held-out pairs, and the odd ones beside them.

    Keeps what stays the same over a run: the odd pairs, the user's prompts as embeddings, and what the true images
    reach.
    """

    def __init__(self) -> None:
        self._cache = PreviewCache()
        self._probes: list[Probe] | None = None
        self._own_text: dict[str, Text] = {}

    def __call__(self, trainer: Trainer, step: int) -> None:
        """Draw with the weights that an export would have (the average, where there is one).

        A fault here never ends the training: it is told in the log.
        """
        try:
            record = self._draw(trainer, step)
            if record is None:  # out of memory: from now on one image at a time
                oom.clear(trainer)
                trainer.images_at_once = 1
                words = f"Memory ran out for the images of step {step:,}; from now on they are drawn one at a time."
                trainer.emit(Message(words, "warning"))
                record = self._draw(trainer, step)
            if record is None:
                raise MemoryError("memory ran out even for one image at a time")
        except Cancelled:
            if trainer.token.stop is None:
                raise
            return  # a pause does not wait for images: the loop saves and ends
        except Exception as error:
            if is_device_lost(error):
                raise  # nothing will work any more: the run ends with words of its own
            detail = traceback.format_exc(limit=-2).replace("\n", " ")[:400]
            trainer.emit(Message(f"The images of step {step:,} could not be made: {error} ({detail})", "warning"))
            return
        trainer.emit(record.event)

    def _draw(self, trainer: Trainer, step: int) -> PreviewRecord | None:
        """The images, or None where memory ran out."""
        if self._probes is None:
            self._probes = self._choose(trainer)
        try:
            with as_exported(trainer) as controlnet:
                return make_previews(
                    Models(
                        trainer.family,
                        trainer.base,
                        trainer.unet,
                        controlnet,
                        lambda prompts: self._encode(trainer, prompts),
                    ),
                    PreviewRequest(
                        samples=trainer.held_out,
                        dataset=trainer.dataset,
                        settings=trainer.config.validation,
                        plan=trainer.plan,
                        out_folder=trainer.run_folder / "previews",
                        step=step,
                        seed=trainer.config.train.seed,
                        batch=trainer.images_at_once,
                        probes=self._probes,
                    ),
                    cache=self._cache,
                    # The last images are drawn in spite of a pause: nobody resumes a finished run to draw them.
                    token=None if step == trainer.config.train.steps else trainer.token,
                    progress=lambda done, total, label: trainer.emit(Progress(done, total, label)),
                    watch=trainer.promises.slow.watching,
                )
        except (RuntimeError, MemoryError) as error:
            if not oom.is_out_of_memory(error):
                raise
            return None

    def _choose(self, trainer: Trainer) -> list[Probe]:
        """Odd prompts from the held-out pairs, then the user's own; without these, and a word, where they fail."""
        settings = trainer.config.validation
        pairs = [read_pair(sample, trainer.dataset, trainer.plan) for sample in trainer.held_out[: settings.pictures]]
        found = probes.of_held_out(pairs, settings.probes)
        try:
            found += probes.own(settings, trainer.dataset, trainer.plan, pairs)
        except UserError as error:
            trainer.emit(Message(f"{error.what} {error.why} {error.try_this}", "warning"))
        return found

    def _encode(self, trainer: Trainer, prompts: Sequence[str]) -> list[Text]:
        """Captions come from the training's cache, cut as they were there. The user's own prompts are read once, all of
        each, by the text encoder on the processor: it never takes the card's memory from the training."""
        rows = {prompt: self._known_text(trainer, prompt) for prompt in prompts}
        foreign = [prompt for prompt, row in rows.items() if row is None]
        if foreign:
            texts = encoder(trainer.family, trainer.base, "cpu", whole=True)(foreign)
            once = trainer.family.text_length(trainer.cache.text([""]))
            for prompt, text in zip(foreign, texts, strict=True):
                self._own_text[prompt] = {name: row.float().clone() for name, row in text.items()}
                pieces = trainer.family.text_length(text) // once
                if pieces > 1:
                    trainer.emit(Message(long_prompt_note(f"Your prompt “{prompt[:40]}…”", pieces)))
        return [rows[prompt] or self._own_text[prompt] for prompt in prompts]

    def _known_text(self, trainer: Trainer, prompt: str) -> Text | None:
        if prompt in self._own_text:
            return self._own_text[prompt]
        try:
            return {name: table[0] for name, table in trainer.cache.text([prompt]).items()}
        except KeyError:
            return None  # no caption of this dataset


def preview_during_training(trainer: Trainer, step: int) -> None:
    """One set of images that knows nothing of earlier ones."""
    DrawPreviews()(trainer, step)
