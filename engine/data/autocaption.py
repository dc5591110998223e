"""Captions by a model: BLIP or Florence-2, through transformers, from a folder or a Hugging Face id.

BLIP: Li et al. 2022, arXiv 2201.12086. Florence-2: Xiao et al. 2023, arXiv 2311.06242. Code that comes with a model is
never run.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from engine.data.captions import clean
from engine.data.dataset import Dataset
from engine.data.encode import EncoderBatches
from engine.data.samples import Problem, Sample
from engine.disk.images import load_rgb
from engine.disk.typed_path import typed_path
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.device import is_card, torch_device
from engine.machine.errors import is_of_machine
from engine.machine.memory import cap_allocator
from engine.machine.net_lock import NET_LOCK

logging.getLogger("transformers").setLevel(logging.ERROR)  # otherwise it warns about torchvision on every start

FLORENCE_TASKS = {"short": "<CAPTION>", "detailed": "<DETAILED_CAPTION>", "long": "<MORE_DETAILED_CAPTION>"}
MOST_TOKENS = {"short": 48, "detailed": 128, "long": 256}
SUGGESTED = ("Salesforce/blip-image-captioning-base", "florence-community/Florence-2-base")
PAGE = 512
_SPECIAL = re.compile(r"</?s>|<pad>|<loc_\d+>|\[DEC\]")  # special tokens that some tokenizers leave in the text


@dataclass(frozen=True)
class CaptionReport:
    """The result. ``kept``: captions that existed already, or were written before an earlier cancellation."""

    written: int
    kept: int
    failures: list[Problem]


class Captioner:
    """A loaded caption model."""

    def __init__(self, name: str, architecture: str, processor: Any, model: Any, device: torch.device) -> None:
        self.name, self.architecture = name, architecture
        self._processor, self.model, self._device = processor, model, device

    @torch.no_grad()
    def describe(self, images: Sequence[Image.Image], length: str = "short") -> list[str]:
        """One caption for each RGB image. ``length``: short, detailed or long. BLIP only writes short ones."""
        task = _ARCHITECTURES[self.architecture].task(length)
        text: dict[str, Any] = {"text": [task] * len(images), "padding": True} if task else {}
        inputs = self._processor(images=list(images), return_tensors="pt", **text).to(self._device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        # Greedy decoding: the same image always gets the same caption.
        tokens = self.model.generate(**inputs, max_new_tokens=MOST_TOKENS[length], num_beams=1, do_sample=False)
        captions = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [clean(_SPECIAL.sub(" ", text), markup=False, urls=False, backslashes=False) for text in captions]


@dataclass(frozen=True)
class _Architecture:
    model: str
    processor: str
    tasks: dict[str, str]

    def task(self, length: str) -> str:
        return self.tasks.get(length, "")


_ARCHITECTURES = {
    "blip": _Architecture("BlipForConditionalGeneration", "BlipProcessor", {}),
    "florence2": _Architecture("Florence2ForConditionalGeneration", "Florence2Processor", FLORENCE_TASKS),
}


def load(model: str, models_folder: Path | None = None, device: torch.device | None = None) -> Captioner:
    """Loads a model from a folder, from ``models_folder``, or from the Hugging Face hub. fp16 on a graphics card.

    Raises:
        UserError: it is missing and cannot be downloaded, is damaged, or is neither BLIP nor Florence-2.
    """
    import transformers

    device = device or torch_device()
    cap_allocator(device)
    place = _locate(model, models_folder)
    kind = architecture(place, _where_to_put(model, models_folder))
    about = _ARCHITECTURES[kind]
    dtype = torch.float16 if is_card(device) else torch.float32
    try:
        processor = getattr(transformers, about.processor).from_pretrained(place, trust_remote_code=False)
        with NET_LOCK:
            net = getattr(transformers, about.model).from_pretrained(place, dtype=dtype, trust_remote_code=False)
    except Exception as error:  # a damaged file can make a loader raise anything
        if is_of_machine(error):
            raise
        first = (str(error).splitlines() or [repr(error)])[0][:300]
        raise UserError(
            f"The caption model {model} cannot be loaded.",
            f"{type(error).__name__}: {first}",
            f"Download it again. {_where_to_put(model, models_folder)}",
        ) from error
    return Captioner(model, kind, processor, net.to(device).eval(), device)


def architecture(place: str, advice: str = "") -> str:
    """ "blip" or "florence2", according to config.json. Raises UserError for anything else."""
    try:
        path = Path(place) / "config.json"
        if not Path(place).is_dir():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(place, "config.json"))
        config = json.loads(path.read_text(encoding="utf-8"))
    except Exception as error:  # offline, no such model, no such file: the advice is the same
        raise UserError(
            f"The caption model {place} is not on this computer.",
            f"Its config.json could not be read or downloaded ({type(error).__name__}).",
            advice or "Check the name and the connection.",
        ) from error
    kind = str(config.get("model_type", ""))
    if kind not in _ARCHITECTURES:
        raise UserError(
            f"{place} is not a supported caption model.",
            f"The model type in its config.json is {kind or 'missing'}; supported are BLIP and Florence-2.",
            f"Use one of these, for example {' or '.join(SUGGESTED)}.",
        )
    if "auto_map" in config:
        raise UserError(
            f"{place} needs its own program code, which this app does not run.",
            "It is an older form of Florence-2, from before transformers supported it.",
            f"Use {SUGGESTED[1]}, the same model without that code.",
        )
    return kind


def caption_all(
    dataset: Dataset,
    captioner: Captioner,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    *,
    only_empty: bool = True,
    length: str = "short",
    batch: int = 8,
) -> CaptionReport:
    """Writes captions as one operation that can be undone.

    ``only_empty``: keep existing captions; otherwise all are replaced. After a cancellation, finished captions are
    kept, and the same call continues from there. Images that cannot be read are reported and skipped.
    """
    extent = "images without a caption" if only_empty else "all images"
    what = f"Captions by {Path(captioner.name).name} ({length}) for {extent}"
    total, written, seen = dataset.count(), 0, 0
    failures: list[Problem] = []
    batches = EncoderBatches(batch, "images", lambda message: None)
    with dataset.captions.operation(what, resumable=True) as writing:
        for page in _pages(dataset):
            done = writing.done([sample.key for _, sample in page])
            todo = [pair for pair in page if pair[1].key not in done and not (only_empty and pair[1].caption.strip())]
            seen += len(page) - len(todo)
            for first in range(0, len(todo), batch):
                if token:
                    token.raise_if_cancelled()
                some = todo[first : first + batch]
                readable = [
                    (original, sample, image) for original, sample in some if (image := _read(sample, failures))
                ]
                images = [image for _, _, image in readable]
                describe = partial(captioner.describe, length=length)
                captions = [text for texts in batches.over(images, describe) for text in texts]
                pairs = zip(readable, captions, strict=True)
                written += writing.put((sample.key, original, text) for (original, sample, _), text in pairs)
                writing.save()
                seen += len(some)
                if progress:
                    progress(seen, total, "Captions written")
    return CaptionReport(written, total - written - len(failures), failures)


def _read(sample: Sample, failures: list[Problem]) -> Image.Image | None:
    try:
        return load_rgb(sample.image, old_ground=sample.old_ground)
    except UserError as error:
        failures.append(Problem(sample.image, error.what, error.why, error.try_this))
        return None


def _pages(dataset: Dataset) -> Iterator[list[tuple[str, Sample]]]:
    """Pages of (scanned caption, sample with its current caption)."""
    offset = 0
    while scanned := dataset.index.samples(offset, PAGE):
        yield list(zip((s.caption for s in scanned), dataset.captions.overlay(scanned), strict=True))
        offset += len(scanned)


def _locate(model: str, models_folder: Path | None) -> str:
    model = typed_path(model)
    for candidate in (Path(model), *([models_folder / model] if models_folder else [])):
        if model and candidate.is_dir():
            return str(candidate.resolve())
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise UserError(
            f"There is no caption model {model or '(none given)'}.",
            "It is neither a folder nor a Hugging Face id such as owner/name.",
            _where_to_put(model, models_folder),
        )
    return model


def _where_to_put(model: str, models_folder: Path | None) -> str:
    name = model if re.fullmatch(r"[\w.-]+/[\w.-]+", model) else SUGGESTED[0]
    where = f"into {models_folder / name.split('/')[-1]}" if models_folder else "into a folder"
    return (
        f"Without a connection: on another computer download all files of huggingface.co/{name}, put them {where}, "
        "and choose that folder."
    )
