"""Try it: a pipeline from a base and a checkpoint, kept while the same one is asked for, and pictures from it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from engine.controlnet_files import check_finite, check_fits, locate_controlnet, read_config
from engine.data.samples import CancelToken, Progress
from engine.errors import UserError
from engine.families import Family, detect
from engine.families.parts import read_component_config
from engine.sampling import Drawing, decode, draw_latents, free_memory, to_hint
from engine.training.checkpoint_files import DECODER, demand_whole
from engine.training.scope import decoder_of
from engine.workspace import Workspace

__all__ = ["TryRequest", "TrySession", "prepare", "to_hint"]

SIZE_STEP = 64  # three halvings of the latents, an eighth of the picture's size
MAX_BATCH = 4


@dataclass(frozen=True)
class TryRequest:
    """One picture to draw. ``control`` is already a condition map, RGB of any size; ``width`` and ``height`` in px."""

    base: str
    """As in the settings: "demo", a folder, a name in the workspace's models, or a hub id."""
    controlnet: Path
    """A checkpoint's folder, a ControlNet in diffusers layout, or a file of any export format."""
    prompt: str
    control: Image.Image
    negative: str = ""
    seed: int = 0
    steps: int = 20
    guidance: float = 7.5
    strength: float = 1.0
    width: int = 512
    height: int = 512
    without_control: bool = False
    """Draw the same noise with the ControlNet switched off."""


def prepare(request: TryRequest) -> tuple[TryRequest, list[str]]:
    """The request with sizes that can be drawn, and a sentence for each thing that was changed.

    Raises:
        UserError: a number is out of its range.
    """
    problems = [
        text
        for wrong, text in (
            (min(request.width, request.height) < SIZE_STEP, f"the size has to be at least {SIZE_STEP} px"),
            (max(request.width, request.height) > 2048, "the size can be at most 2048 px"),
            (not 1 <= request.steps <= 1000, "the steps have to lie between 1 and 1000"),
            (not 1 <= request.guidance <= 100, "the guidance scale has to lie between 1 and 100"),
            (not 0 <= request.strength <= 10, "the strength has to lie between 0 and 10"),
            (not 0 <= request.seed < 2**62, "the seed has to be a whole number from 0 on"),
        )
        if wrong
    ]
    if problems:
        raise UserError("The picture cannot be drawn.", f"{'; '.join(problems).capitalize()}.", "Correct it.")
    words = []
    size = (request.width, request.height)
    if any(side % 8 for side in size):
        width, height = (max(SIZE_STEP, round(side / SIZE_STEP) * SIZE_STEP) for side in size)
        words.append(f"The size was rounded from {size[0]} x {size[1]} to {width} x {height}.")
        size = (width, height)
    control = request.control
    if control.size != size:
        how = "resized" if control.width * size[1] == control.height * size[0] else "cut to the shape and resized"
        words.append(f"The control picture was {how}: {control.width} x {control.height} to {size[0]} x {size[1]}.")
    return replace(request, width=size[0], height=size[1]), words


class TrySession:
    """Keeps one base and one ControlNet in memory. Call from one job at a time; ``free`` from anywhere.

    Args:
        device: default: the graphics card where there is one.
        dtype: default: fp16 on a card, fp32 without. Pictures are always decoded in fp32.
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
        self._family: Family | None = None
        self._base, self._decoder_learnt = "", False
        self._controlnet: tuple[Path, int] | None = None
        self.warnings: tuple[str, ...] = ()
        """Sentences about the last ``generate``: what was rounded, resized or cut."""

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
            controlnet = Path(controlnet)
            folder = controlnet if controlnet.is_file() else locate_controlnet(controlnet)
            stamped = folder if folder.is_file() else folder / "config.json"
            wanted = (folder, stamped.stat().st_mtime_ns)  # a run may write the same step again
            if self.loaded and (located, wanted) == (self._base, self._controlnet):
                return
            family = detect(located)
            name = _display_name(controlnet)
            if folder.is_dir():  # of a file, the reading itself checks that it fits
                check_fits(read_config(folder), read_component_config(located, "unet", "config.json"), name, base)
            if located != self._base or self._decoder_learnt:
                self.free()
            if folder.is_dir():
                demand_whole(folder.parent, f"{folder.name}/")
                demand_whole(folder.parent, DECODER)
            opened = self._open(family, folder, located)
            net: Any = opened.to(self._device).eval().requires_grad_(False)
            check_finite(net, name)
            if self._pipeline is None:
                pipeline = family.pipeline(located, net, self._dtype, vae=None)
                pipeline.to(self._device)
                self._vae = family.load_vae(located, torch.float32).to(self._device)
                self._pipeline, self._family, self._base = pipeline, family, located
            else:
                self._pipeline.register_modules(controlnet=net)
            decoder = folder.parent / DECODER
            if folder.is_dir() and decoder.is_file():  # of a run whose base was not locked
                decoder_of(self._pipeline.unet).load_state_dict(load_file(decoder))
                self._decoder_learnt = True
            self._controlnet = wanted

    def _open(self, family: Family, path: Path, base: str) -> Any:
        if path.is_dir():
            return family.load_controlnet(path, self._dtype)
        from engine.export.importing import open_controlnet

        return open_controlnet(path, family, base, self._dtype)

    def free(self) -> None:
        """Forget everything that is loaded and give its memory back."""
        with self._lock:
            self._pipeline = self._vae = self._family = self._controlnet = None
            self._base, self._decoder_learnt = "", False
            free_memory()

    def generate(
        self,
        requests: Sequence[TryRequest],
        token: CancelToken | None = None,
        progress: Progress | None = None,
        categorical: bool = False,
    ) -> list[Image.Image]:
        """A picture for each request, in their order; neighbours that differ in prompt, control or seed share a batch.

        Args:
            progress: called as progress(denoising steps done, in all, label).
            categorical: the control's values are labels and must not be mixed when it is resized.

        Raises:
            Cancelled: the token says so.
            UserError: a request cannot be drawn, or base and ControlNet do not load.
        """
        with self._lock:
            prepared, words = [], []
            for request in requests:
                request, said = prepare(request)
                prepared.append(request)
                words += said
            total = sum(request.steps for request in prepared)
            pictures: list[Image.Image] = []
            done = 0

            def on_step(step: int) -> None:
                if progress:
                    progress(done + step * len(batch), total, "Drawing")

            for batch in _batches(prepared):
                if token:
                    token.raise_if_cancelled()
                self.load(batch[0].base, batch[0].controlnet)
                words += [text for request in batch for text in self._cut_prompts(request)]
                pictures += self._draw(batch, categorical, token, on_step)
                done += sum(request.steps for request in batch)
            self.warnings = tuple(dict.fromkeys(words))
            return pictures

    def generate_pair(
        self,
        request: TryRequest,
        token: CancelToken | None = None,
        progress: Progress | None = None,
        categorical: bool = False,
    ) -> tuple[Image.Image, Image.Image]:
        """The same seed with the ControlNet and without it."""
        both = [replace(request, without_control=False), replace(request, without_control=True)]
        first, second = self.generate(both, token, progress, categorical)
        return first, second

    def _draw(
        self, batch: Sequence[TryRequest], categorical: bool, token: CancelToken | None, on_step: Any
    ) -> list[Image.Image]:
        family, pipeline, first = self._family, self._pipeline, batch[0]
        assert family is not None and pipeline is not None, "generate loads before it draws"
        with torch.no_grad():
            parts = family.text_parts(pipeline)
            encode = lambda words: family.encode_text(*parts, words)  # noqa: E731
            text, negative = encode([r.prompt for r in batch]), encode([r.negative for r in batch])
        hints = torch.stack([to_hint(r.control, r.width, r.height, categorical) for r in batch])
        how = Drawing(first.steps, first.guidance, _strength(first))
        latents = draw_latents(family, pipeline, text, negative, hints, [r.seed for r in batch], how, token, on_step)
        return decode(family, self._vae, latents, token)

    def _cut_prompts(self, request: TryRequest) -> list[str]:
        tokenizer = self._pipeline.tokenizer
        room = tokenizer.model_max_length
        words = []
        for name, prompt in (("prompt", request.prompt), ("negative prompt", request.negative)):
            count = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
            if count > room:
                words.append(
                    f"The {name} is longer than the base reads: of {count - 2} tokens only the first {room - 2} count."
                )
        return words


def _strength(request: TryRequest) -> float:
    return 0.0 if request.without_control else request.strength


def _batches(requests: Sequence[TryRequest]) -> list[list[TryRequest]]:
    """Neighbours that can be drawn together, at most MAX_BATCH at once."""
    batches: list[list[TryRequest]] = []
    for request in requests:
        last = batches[-1] if batches else []
        if last and len(last) < MAX_BATCH and _shared(last[0]) == _shared(request):
            last.append(request)
        else:
            batches.append([request])
    return batches


def _shared(request: TryRequest) -> tuple[Any, ...]:
    return (
        request.base, request.controlnet, request.steps, request.guidance, request.width, request.height,
        _strength(request),
    )  # fmt: skip


def _display_name(controlnet: Path) -> str:
    """The name people know: that of the checkpoint, not of the folder inside it."""
    return controlnet.parent.name if controlnet.name.startswith("controlnet") else controlnet.name
