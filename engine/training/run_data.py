"""The data of a run: training and held-out pairs, latents and text embeddings in the cache, prepared condition maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from engine.config import RunConfig
from engine.data import balance, control_cache
from engine.data.balance import ImageClass, classes_of
from engine.data.cache import TrainingCache, open_or_build
from engine.data.captions import add_trigger, has_word
from engine.data.control_cache import ControlCache
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.held_out import split as split_of
from engine.data.map_cache import MapCache
from engine.data.samples import Sample, Split
from engine.disk.retry import DiskRetry
from engine.distributed.group import ProcessGroup
from engine.errors import UserError
from engine.estimate.memory import images_encoded_together
from engine.families.base import Family
from engine.jobs.control import Cancelled, Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, progress_events
from engine.machine.units import counted, plural
from engine.training.preserved_captions import preserved_captions
from engine.training.torch_settings import without_tf32
from engine.tuning.facts import facts_of
from engine.tuning.learned_text import tokenizer_of

T = TypeVar("T")


@dataclass(frozen=True)
class RunData:
    """What the batches of a run are made of."""

    samples: list[Sample]
    """Those used for training, then the held-out ones."""
    held_out: Sequence[Sample]
    classes: Sequence[ImageClass]
    """Of those used for training."""
    plan: CropPlan
    cache: TrainingCache
    preserved: tuple[str, ...]
    """Captions of what the base should not forget; empty: nothing is preserved."""
    maps: MapCache | ControlCache | None
    """None: the run needs no condition maps, or they are read from their files."""

    @property
    def trained(self) -> range:
        """Rows of the samples that are trained on."""
        return range(len(self.samples) - len(self.held_out))


def prepare_data(
    config: RunConfig,
    dataset: Dataset,
    held_out: Sequence[str] | None,
    cache_folder: Path,
    family: Family,
    base: str,
    device: torch.device,
    group: ProcessGroup,
    retry: DiskRetry,
    token: Token,
    emit: Emit,
) -> RunData:
    """Choose the pairs of a run, and fill the cache with what is missing.

    Args:
        held_out: keys of the held-out pairs; None: chosen by number.
        base: where the base is.

    Raises:
        UserError: there are too few pairs, or a file cannot be read. Cancelled: by the user.
    """
    facts = facts_of(config)
    split = split_of(dataset, config.data.held_out, held_out)
    if word := config.tuning.caption_word:
        split = _with_word(split, word, emit)
    samples = [*split.train, *split.held_out]
    if not split.train:
        needs_maps = facts.needs_condition_maps
        raise UserError(
            "Training cannot start.",
            f"{dataset.name} has {counted(len(samples), 'pair' if needs_maps else 'image')}; at least 2 are needed, "
            "since one is held out to measure by.",
            f"Add images{', or make their condition maps on the Conditions tab' if needs_maps else ''}.",
        )
    if (told := _about_weights(split.train)) and config.objective.image_weights:
        emit(Message(told))
    classes = classes_of(split.train, config.data)
    if config.data.balance != "off":
        emit(Message(f"Class balance, in each epoch: {balance.words_about(classes)}."))
        for doubt in balance.doubts(classes, config.data):
            emit(Message(doubt, "warning"))
    preserved = preserved_captions(config, [sample.caption for sample in split.train])
    plan, progress = CropPlan.of(config.data, config.train.seed), progress_events(emit)
    tokenizer = tokenizer_of(config, family, base)
    at_once = images_encoded_together(config.data.resolution)

    def warn(words: str) -> None:
        emit(Message(words, "warning"))

    others = config.validation.captions_of_others if facts.drawn_by_prompt and not facts.distilled else ()

    def build_cache() -> TrainingCache:
        with without_tf32():  # other runs use the cache, too
            return open_or_build(
                cache_folder,
                family,
                base,
                samples,
                plan,
                device,
                token,
                progress,
                batch=at_once,
                group=group,
                on_message=warn,
                text=config.text,
                other_captions=(*others, *preserved),
                tokenizer=tokenizer,
            )

    cache = _wait_for_disk(retry, build_cache) if group.alone else build_cache()
    if cache.text_note:
        emit(Message(cache.text_note))

    def build_maps() -> MapCache | ControlCache | None:
        with without_tf32():
            data = (dataset, samples, plan)
            return control_cache.open_or_build(cache, family, base, *data, device, token, progress, at_once, warn)

    maps = None
    if facts.needs_condition_maps:
        maps = _wait_for_disk(retry, build_maps) if group.alone else group.main_first(build_maps)
        if maps is None:
            warn("There is no disk space for prepared condition maps; their files are read instead.")
    return RunData(samples, split.held_out, classes, plan, cache, preserved, maps)


def _about_weights(trained: Sequence[Sample]) -> str:
    """A sentence about the images' loss weights for the run's log; empty if all are 1."""
    weights = [sample.weight for sample in trained]
    others = sum(weight != 1 for weight in weights)
    if not others:
        return ""
    return (
        f"{counted(others, 'image has', 'images have')} a loss weight other than 1 (from {min(weights):g} to "
        f"{max(weights):g}, {sum(weights) / len(weights):.3g} on average)."
    )


def _with_word(split: Split, word: str, emit: Emit) -> Split:
    """The samples with the word in each caption. It is put in front where it is missing, which is told."""
    train, held_out = (
        [replace(sample, caption=add_trigger(sample.caption, word)) for sample in samples]
        for samples in (split.train, split.held_out)
    )
    captions = [sample.caption for sample in (*split.train, *split.held_out)]
    if lacking := sum(not has_word(caption, word) for caption in captions):
        of = counted(len(captions), "caption")
        emit(Message(f"{lacking:,} of {of} {plural(lacking, 'lacks', 'lack')} the word {word}; it is put in front."))
    return replace(split, train=train, held_out=held_out)


def _wait_for_disk(retry: DiskRetry, build: Callable[[], T]) -> T:
    """``build()``, waiting while the disk has no room; finished parts are kept.

    Several processes do not wait: they would no longer agree on which parts are finished.
    """

    def stop(problem: UserError) -> T:
        raise Cancelled

    return retry.until_done("The cache of images and captions", build, stop)
