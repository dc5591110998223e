"""Merges a base with LoRA and embedding files into a base of its own, in diffusers layout.

Everything that reads a base (caches, training, previews, Try it, exports) then uses the merged one like any other. A
tensor that a file changes is computed in fp32 and stored as precisely as the base's own; all others are the base's bit
for bit, and parts that no file changes are linked, not copied, where the disk can do that.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.bases.merged_tensors import changed, text_tensors, write_denoiser
from engine.disk.durable import atomic_write_text
from engine.disk.in_use import clear, rename
from engine.disk.space import require_space
from engine.errors import UserError
from engine.families.base import Family
from engine.families.embedding_files import add_word, is_embedding, parts_by_folder, vectors_of, word_of
from engine.families.files import denoiser_files
from engine.families.lora_files import AdapterFile, lora_deltas, open_adapter
from engine.families.parts import FileTensors, file_tensors, read_component_config
from engine.families.registry import detect
from engine.families.weight_delta import WeightDelta
from engine.jobs.control import CancelToken, OnProgress
from engine.workspace.merged_bases import RECIPE, Recipe
from engine.workspace.paths import Workspace

Weighted = dict[str, dict[str, list[tuple[float, WeightDelta]]]]
"""Part -> tensor name -> the changes, each with its weight, in the order of the files."""


def ready_base(
    workspace: Workspace,
    reference: str,
    token: CancelToken | None = None,
    progress: OnProgress = lambda done, total, label: None,
) -> str:
    """Where a base is; one with ingredients is merged first, unless it has been.

    Args:
        reference: a base, or one with ingredients (``engine/workspace/base_reference.py``).

    Raises:
        UserError: the base or a file is missing, damaged, or they do not fit each other. DiskFull.
        Cancelled: the token was cancelled; nothing is left behind.
    """
    recipe = workspace.merged_base(reference)
    if recipe is None:
        return workspace.locate_base(reference)
    if not recipe.made:
        merge(recipe, token, progress)
    return str(recipe.folder)


def merge(recipe: Recipe, token: CancelToken | None, progress: OnProgress) -> None:
    """Make a merged base. See ``ready_base``."""
    family = detect(recipe.base)
    source = folder_or_file(recipe.base)
    partial = recipe.folder.with_name(f".{recipe.folder.name}.partial")
    clear(partial)
    partial.mkdir(parents=True)
    try:
        size = sum(file.stat().st_size for file in denoiser_files(str(source)))
        require_space(partial, 2 * size if source.is_file() else size, "The merged base")
        _Merging(family, source, partial, recipe, token, progress).write()
        atomic_write_text(partial / RECIPE, json.dumps(recipe.described(), indent=1))
        rename(partial, recipe.folder)
    except BaseException:
        clear(partial)
        raise


def folder_or_file(located: str) -> Path:
    """A base's file or folder, also in the hub library's cache.

    Raises:
        UserError: it is on the hub only.
    """
    if Path(located).exists():
        return Path(located)
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(located, "model_index.json")
    if isinstance(index, str):
        return Path(index).parent
    raise UserError(
        f"{located} cannot be merged with other files yet.",
        "It has not been downloaded.",
        f"Download it first: Get a base model, on the Train tab, or python -m engine.cli bases get {located}.",
    )


class _Merging:
    """One merged base while it is written."""

    def __init__(
        self,
        family: Family,
        source: Path,
        target: Path,
        recipe: Recipe,
        token: CancelToken | None,
        progress: OnProgress,
    ) -> None:
        self._family, self._source, self._target, self._recipe = family, source, target, recipe
        self._token, self._progress = token, progress
        self._done, self._count = 0, 1
        self._base = str(source)
        self._files = [(open_adapter(path), weight) for path, weight in recipe.ingredients]
        self._new_words = any(is_embedding(file) for file, _ in self._files)
        self._tokenizers: dict[str, Any] = {}
        self._encoders: dict[str, Any] = {}
        if self._new_words or source.is_file() or any(file.changes_text for file, _ in self._files):
            self._tokenizers = parts_by_folder(family, "tokenizer", family.load_tokenizer(self._base))
            loaded = family.load_text_encoder(self._base, torch.float32)
            self._encoders = parts_by_folder(family, "text_encoder", loaded)

    def write(self) -> None:
        """Write all parts."""
        index = read_component_config(self._base, "", "model_index.json")
        denoiser = self._family.facts.denoiser
        changes = self._changes(denoiser)
        rewritten = self._source.is_file() or denoiser in changes
        self._count = max(1, len(self._weights) * rewritten + sum(map(len, changes.values())))
        atomic_write_text(self._target / "model_index.json", json.dumps(index, indent=2))
        for name, kind in index.items():
            if not isinstance(kind, list) or None in kind:
                continue
            if name == denoiser and rewritten:
                config = self._family.denoiser_config(self._base)
                write_denoiser(self._target / name, config, self._weights, changes.get(name, {}), self._step)
            elif name in self._encoders and (changes.get(name) or self._new_words or self._source.is_file()):
                self._write_encoder(name, changes.get(name, {}))
            elif name in self._tokenizers and (self._new_words or self._source.is_file()):
                self._tokenizers[name].save_pretrained(self._target / name)
            else:
                self._take_over(name)

    @cached_property
    def _weights(self) -> Mapping[str, torch.Tensor]:
        """The denoiser's tensors: each read from its file when it is needed, where the kind of file allows that."""
        tensors = file_tensors(self._base, self._family.facts.denoiser, ("",))
        return tensors if tensors is not None else self._family.load_denoiser(self._base, torch.float32).state_dict()

    def _changes(self, denoiser: str) -> Weighted:
        """What all LoRA files change. The words of embeddings are added to tokenizers and text encoders meanwhile."""
        weights = self._weights
        shapes: dict[str, Mapping[str, torch.Size]] = {
            denoiser: weights.shapes()
            if isinstance(weights, FileTensors)
            else {name: tensor.shape for name, tensor in weights.items()}
        }
        for name, encoder in self._encoders.items():
            shapes[name] = {key: tensor.shape for key, tensor in text_tensors(encoder).items()}
        found: Weighted = {}
        for file, weight in self._files:
            if is_embedding(file):
                self._add_words(file)
                continue
            for part, of_part in lora_deltas(file, shapes, self._family.facts).items():
                for tensor, change in of_part.items():
                    found.setdefault(part, {}).setdefault(tensor, []).append((weight, change))
        return found

    def _add_words(self, file: AdapterFile) -> None:
        encoders = list(self._encoders.items())
        widths = [encoder.get_input_embeddings().weight.shape[1] for _, encoder in encoders]
        all_vectors = vectors_of(file, widths, self._family.title)
        for (name, encoder), vectors in zip(encoders, all_vectors, strict=True):
            add_word(self._tokenizers[name.replace("text_encoder", "tokenizer")], encoder, word_of(file.path), vectors)

    def _write_encoder(self, name: str, changes: Mapping[str, list[tuple[float, WeightDelta]]]) -> None:
        encoder, folder = self._encoders[name], self._target / name
        folder.mkdir()
        tensors = text_tensors(encoder)
        for tensor, listed in changes.items():
            tensors[tensor] = changed(tensor, tensors[tensor], listed)
            self._step(tensor)
        encoder.config.save_pretrained(folder)
        save_file({key: t.contiguous() for key, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})

    def _take_over(self, name: str) -> None:
        """A part as it is."""
        if self._source.is_dir():
            if (self._source / name).is_dir():
                link_tree(self._source / name, self._target / name)
            return
        if name == "vae":
            vae: Any = self._family.load_vae(self._base)
            vae.save_pretrained(self._target / name)
        elif name == "scheduler":
            config = read_component_config(self._base, name, "scheduler_config.json")
            (self._target / name).mkdir()
            atomic_write_text(self._target / name / "scheduler_config.json", json.dumps(config, indent=2))

    def _step(self, tensor: str) -> None:
        if self._token is not None:
            self._token.raise_if_cancelled()
        self._done += 1
        self._progress(min(self._done, self._count), self._count, "Merging LoRA and embedding files into the base")


def link_tree(source: Path, target: Path) -> None:
    """The files of a folder, linked where the disk can do that, else copied."""
    for path in _files(source):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(path.resolve(), place)


def link_or_copy(source: Path, target: Path, link: Callable[[Path, Path], None] = os.link) -> None:
    """A second name for a file; a copy where the two are on different disks, or the file system has no links."""
    try:
        link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
