"""Try it: a pipeline from a base and a checkpoint, kept while the same one is asked for, and images from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from engine.families.registry import Family, detect
from engine.inference.parts import MAX_BATCH, LiveImage, Thrift, beginning_of, keep_outside
from engine.inference.request import TryRequest, prepare, shared, steps_drawn, strength_of
from engine.inference.sampling import Beside, Drawing, decode, draw_latents, fit_control, in_pieces
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.memory import free_memory, none_if_out_of_memory
from engine.nets.controlnet_files import check_finite, check_fits, locate_controlnet, read_config
from engine.nets.trainable import decoder_of
from engine.runs.checkpoints import DECODER, demand_whole
from engine.workspace.paths import Workspace

__all__ = ["TryRequest", "TrySession", "fit_control", "prepare"]

Key = tuple[Path, int]


class TrySession:
    """Keeps one base and one ControlNet in memory. Call from one job at a time; ``free`` from anywhere.

    Args:
        device: default: the graphics card where there is one.
        dtype: default: fp16 on a card, fp32 without. Images are always decoded in fp32.
    """

    def __init__(
        self, workspace: Workspace, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self._workspace = workspace
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._dtype = dtype or (torch.float16 if self._device.type == "cuda" else torch.float32)
        self._lock = threading.RLock()
        self._pipeline: Any = None
        self._vae: Any = None
        self._words: tuple[Any, Any] = (None, None)  # tokenizer and text encoder
        self._family: Family | None = None
        self._base, self._decoder_learnt = "", False
        self._controlnet: Key | None = None
        self._second: tuple[Key, Any] | None = None
        self.thrift = Thrift(self._device)
        """How it saves memory; it grows by itself when memory runs out, and stays so."""
        self.warnings: tuple[str, ...] = ()
        """Sentences about the last ``generate``: what was rounded, resized, cut or done otherwise."""

    @property
    def loaded(self) -> bool:
        return self._pipeline is not None

    def load(self, base: str, controlnet: Path) -> None:
        """Have this base and ControlNet ready; what is loaded already is kept. Checked before weights are read.

        Raises:
            UserError: missing, broken, or not made for each other.
        """
        with self._lock:
            located = self._workspace.locate_base(base)
            folder, wanted = _stamped(Path(controlnet))
            if self.loaded and (located, wanted) == (self._base, self._controlnet):
                return
            family = detect(located)
            self._check(family, located, base, folder, Path(controlnet))
            if located != self._base or self._decoder_learnt:
                self.free()
            net = self._open(family, folder, located, _display_name(Path(controlnet)))
            self._use(family, located, net)
            decoder = folder.parent / DECODER
            if folder.is_dir() and decoder.is_file():  # of a run whose base was not locked
                self._take_decoder(decoder)
            self._controlnet = wanted

    def _check(self, family: Family, located: str, base: str, folder: Path, controlnet: Path) -> None:
        if folder.is_dir():  # of a file, the reading itself checks that it fits
            check_fits(read_config(folder), family.denoiser_config(located), _display_name(controlnet), base)
            demand_whole(folder.parent, f"{folder.name}/")

    def _open(self, family: Family, path: Path, base: str, name: str) -> Any:
        """A net of any kind, ready to draw with."""
        if path.is_dir():
            opened: Any = family.load_controlnet(path, self._dtype)
        else:
            from engine.nets.importing import open_controlnet

            opened = open_controlnet(path, family, base, self._dtype)
        net = opened.to(self._device).eval().requires_grad_(False)
        check_finite(net, name)
        return net

    def _use(self, family: Family, located: str, net: Any) -> None:
        """Draw with this net from now on, on this base."""
        if self._pipeline is None:
            denoiser = self._denoiser(family, located)
            # Not a part of the pipeline: text encoder and VAE may be elsewhere while it draws.
            alone = {"denoiser": denoiser, "vae": None, "text_encoder": None, "tokenizer": None}
            pipeline = family.pipeline(located, net, denoiser.dtype, **alone)
            encoder: Any = family.load_text_encoder(located, self._dtype)
            self._words = (family.load_tokenizer(located), encoder.to(self._device))
            self._vae = family.load_vae(located, torch.float32).to(self._device)
            self._pipeline, self._family, self._base = pipeline, family, located
        else:
            self._pipeline.register_modules(controlnet=net)

    def _denoiser(self, family: Family, located: str) -> Any:
        denoiser: Any = family.load_denoiser(located, self._dtype)
        return denoiser.to(self._device)

    def _take_decoder(self, path: Path) -> None:
        assert self._family is not None, "it is set with the pipeline"
        demand_whole(path.parent.parent, DECODER)
        decoder_of(self._family.denoiser_of(self._pipeline)).load_state_dict(load_file(path))
        self._decoder_learnt = True

    def _second_net(self, path: Path) -> Any:
        """The net that speaks along, loaded once."""
        assert self._family is not None, "the first one is loaded before"
        folder, wanted = _stamped(path)
        if self._second is None or self._second[0] != wanted:
            self._second = None
            self._check(self._family, self._base, self._base, folder, path)
            self._second = (wanted, self._open(self._family, folder, self._base, _display_name(path)))
        return self._second[1]

    def free(self) -> None:
        """Forget everything that is loaded and give its memory back."""
        with self._lock:
            self._pipeline = self._vae = self._family = self._controlnet = self._second = None
            self._words = (None, None)
            self._base, self._decoder_learnt = "", False
            free_memory()

    def generate(
        self,
        requests: Sequence[TryRequest],
        token: CancelToken | None = None,
        progress: OnProgress | None = None,
        categorical: bool = False,
        on_image: Callable[[Image.Image], None] | None = None,
    ) -> list[Image.Image]:
        """An image for each request, in their order; neighbours that differ in prompt, control or seed share a batch.

        Args:
            progress: called as progress(denoising steps done, in all, label).
            categorical: the control's values are labels and must not be mixed when it is resized.
            on_picture: called now and then with a small sketch of the first image of the batch that is being drawn.

        Raises:
            Cancelled: the token says so.
            UserError: a request cannot be drawn, base and ControlNet do not load, or memory is not enough for it.
        """
        with self._lock:
            prepared, words = [], []
            for request in requests:
                request, said = prepare(request)
                prepared.append(request)
                words += said
            total = sum(map(steps_drawn, prepared))
            images: list[Image.Image] = []
            done = 0

            def on_step(step: int) -> None:
                if progress:
                    progress(done + step * len(batch), total, "Drawing")

            todo = _batches(prepared, self.thrift.at_once)
            while todo:
                batch = todo.pop(0)
                if token:
                    token.raise_if_cancelled()
                draw = partial(self._draw, batch, categorical, token, on_step, on_image, words)
                drawn = none_if_out_of_memory(draw)
                if drawn is None:  # memory ran out: the same again with settings that need less
                    words.append(self.thrift.save_more())
                    todo = [[request] for request in batch] + todo
                    free_memory()
                    continue
                images += drawn
                done += sum(map(steps_drawn, batch))
            self.warnings = tuple(dict.fromkeys(words))
            return images

    def generate_pair(
        self,
        request: TryRequest,
        token: CancelToken | None = None,
        progress: OnProgress | None = None,
        categorical: bool = False,
    ) -> tuple[Image.Image, Image.Image]:
        """The same seed with the ControlNet and without it."""
        both = [replace(request, without_control=False), replace(request, without_control=True)]
        first, second = self.generate(both, token, progress, categorical)
        return first, second

    def _draw(
        self,
        batch: Sequence[TryRequest],
        categorical: bool,
        token: CancelToken | None,
        on_step: Callable[[int], None],
        on_image: Callable[[Image.Image], None] | None,
        words: list[str],
    ) -> list[Image.Image]:
        first = batch[0]
        self.load(first.base, first.controlnet)
        family, pipeline = self._family, self._pipeline
        assert family is not None and pipeline is not None, "load leaves both"
        second = self._second_net(first.second) if first.second else None
        beside = None
        if second is not None:
            maps = [fit_control(r.second_control or r.control, r.width, r.height, categorical) for r in batch]
            beside = Beside(second, torch.stack(maps), first.second_strength)
        text, negative = self._read(batch, words)
        beginning = None
        if first.image is not None:
            with self.thrift.on_device(self._vae):
                beginning = beginning_of(family, self._vae, batch)
        control = torch.stack([fit_control(r.control, r.width, r.height, categorical) for r in batch])
        how = Drawing(
            first.steps, first.guidance, strength_of(first), first.sampler, first.start, first.end, first.guess,
            first.balance,
        )  # fmt: skip
        # With offload the VAE is in RAM meanwhile, and a look at the image is not worth fetching it.
        looks = on_image is not None and not self.thrift.offload
        look = LiveImage(family, self._vae, on_image) if looks and on_image is not None else None
        with self.thrift.on_device(family.denoiser_of(pipeline), pipeline.controlnet, second):
            latents = draw_latents(
                family, pipeline, text, negative, control, [r.seed for r in batch], how, token, on_step, beginning,
                beside, look,
            )  # fmt: skip
        with self.thrift.on_device(self._vae), self.thrift.tiled(self._vae):
            drawn = decode(family, self._vae, latents, token)
        return [keep_outside(request, image) for request, image in zip(batch, drawn, strict=True)]

    def _read(self, batch: Sequence[TryRequest], words: list[str]) -> tuple[Any, Any]:
        """Prompts and negative prompts as the UNet takes them, all read in as many pieces as the longest needs."""
        family, (tokenizer, encoder) = self._family, self._words
        assert family is not None, "load leaves one"
        prompts, negatives = [r.prompt for r in batch], [r.negative for r in batch]
        pieces = family.pieces(tokenizer, [*prompts, *negatives])
        if pieces > 1:
            words.append(in_pieces("A prompt", pieces))
        with torch.no_grad(), self.thrift.on_device(encoder):
            return tuple(family.encode_long(tokenizer, encoder, texts, pieces) for texts in (prompts, negatives))  # type: ignore[return-value]


def _stamped(controlnet: Path) -> tuple[Path, Key]:
    """The net's folder or file, and what tells it from another: a run may write the same step again."""
    folder = controlnet if controlnet.is_file() else locate_controlnet(controlnet)
    stamped = folder if folder.is_file() else folder / "config.json"
    return folder, (folder, stamped.stat().st_mtime_ns)


def _batches(requests: Sequence[TryRequest], most: int = MAX_BATCH) -> list[list[TryRequest]]:
    """Neighbours that can be drawn together, at most ``most`` at once."""
    batches: list[list[TryRequest]] = []
    for request in requests:
        last = batches[-1] if batches else []
        if last and len(last) < most and shared(last[0]) == shared(request):
            last.append(request)
        else:
            batches.append([request])
    return batches


def _display_name(controlnet: Path) -> str:
    """The name people know: that of the checkpoint, not of the folder inside it."""
    return controlnet.parent.name if controlnet.name.startswith("controlnet") else controlnet.name
