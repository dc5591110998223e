"""Try it: draws with models that stay loaded from one drawing to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image

from engine.families.tiles import in_tiles
from engine.inference import samplers
from engine.inference.img2img import encode_init, keep_outside
from engine.inference.loaded_models import LoadedModels
from engine.inference.request import TryRequest, batches, prepare, sampling_options, steps_drawn
from engine.inference.sampling import (
    LivePreview,
    SecondControlNet,
    decode,
    draw_latents,
    fit_control,
    is_guided,
    long_prompt_note,
)
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.memory import free_memory, none_if_out_of_memory
from engine.nets.union_mode import in_mode
from engine.workspace.base_reference import join


class TrySession(LoadedModels):
    """Draws with the models that it keeps loaded. Call it from one job at a time; ``free`` from any thread."""

    warnings: tuple[str, ...] = ()
    """Sentences about the last ``generate``: what was rounded, resized or done to save memory."""

    @property
    def step(self) -> int | None:
        """The step of the live weights, in a session that borrows the models of a run in progress; else None."""
        return None

    def generate(
        self,
        requests: Sequence[TryRequest],
        token: CancelToken | None = None,
        progress: OnProgress | None = None,
        categorical: bool = False,
        on_preview: Callable[[Image.Image], None] | None = None,
    ) -> list[Image.Image]:
        """Draw an image for each request, in order. Neighbours that differ in prompt, control or seed share a batch.

        Args:
            progress: called as progress(denoising steps done, in all, label).
            categorical: the values of the control images are labels and must not be mixed in resizing.
            on_preview: called now and then with a small preview of the first image of the batch.

        Raises:
            Cancelled: the token is cancelled.
            UserError: a request cannot be drawn, base and ControlNet do not load, or memory is not enough.
        """
        with self._lock:
            prepared, notes = [], []
            for request in requests:
                request, changed = prepare(request)
                prepared.append(request)
                notes += changed
            total = sum(map(steps_drawn, prepared))
            images: list[Image.Image] = []
            done = 0

            def on_step(step: int) -> None:
                if progress:
                    progress(done + step * len(batch), total, "Drawing")

            todo = batches(prepared, self.memory_saving.batch_size)
            while todo:
                batch = todo.pop(0)
                if token:
                    token.raise_if_cancelled()
                draw = partial(
                    self._draw,
                    batch,
                    categorical=categorical,
                    token=token,
                    on_step=on_step,
                    on_preview=on_preview,
                    notes=notes,
                    merging=progress or (lambda done, total, label: None),
                )
                drawn = none_if_out_of_memory(draw)
                if drawn is None:  # out of memory: again, one by one and at the next level
                    notes.append(self.memory_saving.save_more())
                    todo = [[request] for request in batch] + todo
                    free_memory()
                    continue
                images += drawn
                done += sum(map(steps_drawn, batch))
            self.warnings = tuple(dict.fromkeys(notes))
            return images

    def _draw(
        self,
        batch: Sequence[TryRequest],
        *,
        categorical: bool,
        token: CancelToken | None,
        on_step: Callable[[int], None],
        on_preview: Callable[[Image.Image], None] | None,
        notes: list[str],
        merging: OnProgress,
    ) -> list[Image.Image]:
        first, saving = batch[0], self.memory_saving
        base, net = join(first.base, first.ingredients), first.controlnet
        self.load(base, net, token, merging, bare=first.without_control, engine=first.engine)
        notes += self.notes
        family, pipeline = self._family, self.pipeline
        assert family is not None and pipeline is not None, "load sets both"
        second = None
        if first.second:
            net = self._second_net(first.second, notes)
            maps = [fit_control(r.second_control or r.control, r.width, r.height, categorical) for r in batch]
            second = SecondControlNet(net, torch.stack(maps), first.second_strength)
        text, negative = self._encode_prompts(batch, notes)
        init = None
        if first.image is not None:
            with saving.on_device(self._vae):
                init = encode_init(family, self._vae, batch)
        preview = None
        if on_preview is not None and not saving.offload:  # with offload the VAE is in RAM while the UNet works
            preview = LivePreview(family, self._vae, on_preview)
        files, guided = family.facts.control_files, is_guided(family.facts, first.guidance)
        unused = "" if first.guess else samplers.why_no_effect(samplers.balance(first.balance), guided)
        notes += [unused] if unused else []
        with (
            in_mode(pipeline.controlnet, files, first.union_mode) as note,
            saving.on_device(family.denoiser_of(pipeline), pipeline.controlnet, second.net if second else None),
        ):
            notes += [note] if note else []
            latents = draw_latents(
                family,
                pipeline,
                text=text,
                negative=negative,
                control=torch.stack([fit_control(r.control, r.width, r.height, categorical) for r in batch]),
                seeds=[r.seed for r in batch],
                options=sampling_options(first),
                init=init,
                second=second,
                control_vae=self._vae,
                token=token,
                on_step=on_step,
                on_latents=preview,
            )
        with saving.on_device(self._vae), saving.tiled(self._vae):
            drawn = decode(family, self._vae, latents, token)
        if in_tiles(self._vae, max(first.width, first.height)):
            notes.append("Memory ran out, so large images go through the VAE in tiles.")
        return [keep_outside(request, image) for request, image in zip(batch, drawn, strict=True)]

    def _encode_prompts(self, batch: Sequence[TryRequest], notes: list[str]) -> tuple[Any, Any]:
        """Encode prompts and negative prompts, all in as many chunks as the longest needs."""
        family = self._family
        assert family is not None, "load sets it"
        prompts, negatives = [r.prompt for r in batch], [r.negative for r in batch]
        chunks = family.count_chunks(self._tokenizer, [*prompts, *negatives])
        if chunks > 1:
            notes.append(long_prompt_note("A prompt", chunks))
        with torch.no_grad(), self.memory_saving.on_device(self._text_encoder):
            text, negative = (
                family.encode_long(self._tokenizer, self._text_encoder, texts, chunks, batch[0].clip_skip)
                for texts in (prompts, negatives)
            )
        return text, negative
