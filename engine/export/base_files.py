"""The two forms of an exported base: a folder in diffusers layout, and one file with the original names (LDM)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.bases.merged_tensors import text_tensors, write_denoiser
from engine.disk.durable import atomic_write_text
from engine.disk.in_use import remove_folder
from engine.errors import UserError
from engine.families.ldm_base import names_of, to_ldm
from engine.families.parts import read_component_config
from engine.families.registry import Family
from engine.families.single_file import converted
from engine.families.text_names import clip_name
from engine.machine.precision import DTYPES

Tensors = dict[str, torch.Tensor]
TrainedParts = Mapping[str, Mapping[str, torch.Tensor]]
"""Tensors of parts of a base that a run has trained, fp32, by the part's folder and diffusers name; those of text
encoders with ``text_model.``."""
SCHEDULER = "scheduler"


@dataclass(frozen=True)
class BaseSource:
    """A base, ready to be written."""

    family: Family
    base: str
    """The folder or file that the run trained, or that is a merged base."""
    parts: Mapping[str, Tensors]
    """Tensors of denoiser, VAE and CLIP text encoders in the export's precision, by folder and diffusers name;
    those of the encoders with ``text_model.``, as every program knows them."""
    nets: Mapping[str, Any]
    """VAE and text encoders, which tell configs and names."""
    schedule: Mapping[str, Any]
    """The scheduler's config with the recorded entries."""
    recorded: Mapping[str, Any]
    """Entries of it that the run has recorded."""
    facts: Mapping[str, str]
    """For the file's header."""

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for part in self.parts.values() for tensor in part.values())


def read_base(
    family: Family,
    base: str,
    trained: TrainedParts,
    schedule: Mapping[str, Any],
    precision: str,
    facts: Mapping[str, str],
) -> BaseSource:
    """All parts of a base.

    Args:
        base: located, on this disk.
        trained: the other parts are the base's own.
        schedule: entries of the scheduler's config that differ from the base's.

    Raises:
        UserError: a part cannot be read, or is not finite in this precision.
    """
    encoder = family.load_text_encoder(base, torch.float32)
    nets: dict[str, Any] = {"vae": family.load_vae(base)}
    listed = family.pipeline_parts({"denoiser": None, "vae": None, "text_encoder": encoder, "tokenizer": None})
    nets |= {name: net for name, net in listed.items() if name.startswith("text_encoder") and _is_clip(net)}
    own = family.facts.denoiser
    denoiser = trained[own] if own in trained else family.load_denoiser(base, torch.float32).state_dict()
    parts: dict[str, Mapping[str, torch.Tensor]] = {own: denoiser, "vae": nets["vae"].state_dict()}
    parts |= {name: trained.get(name) or text_tensors(net) for name, net in nets.items() if name != "vae"}
    dtype = DTYPES[precision]
    cast = {part: {name: t.to(dtype).contiguous() for name, t in tensors.items()} for part, tensors in parts.items()}
    for part, tensors in cast.items():
        if wrong := next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), ""):
            raise UserError(
                "The base cannot be exported.",
                f"{wrong} of its {part} is NaN or infinite in {precision}.",
                "Choose another precision, or an earlier checkpoint.",
            )
    whole = {**read_component_config(base, SCHEDULER, "scheduler_config.json"), **schedule}
    return BaseSource(family, base, cast, nets, whole, schedule, dict(facts))


def _is_clip(net: Any) -> bool:
    return type(net).__name__.startswith("CLIP")


# A folder in diffusers layout


def write_folder(path: Path, source: BaseSource, on_tensor: Callable[[str], None] = lambda name: None) -> None:
    """Write all parts; those that the export does not change (tokenizers, T5) are copied as they are."""
    path.mkdir()
    write_configs(path, source)
    for part, tensors in source.parts.items():
        if part == source.family.facts.denoiser:
            remove_folder(path / part)
            write_denoiser(path / part, source.family.denoiser_config(source.base), tensors, {}, on_tensor)
        else:
            name = "diffusion_pytorch_model.safetensors" if part == "vae" else "model.safetensors"
            save_file(tensors, path / part / name, {"format": "pt"})


def write_configs(path: Path, source: BaseSource) -> None:
    """Write everything but the weights of ``source.parts``: beside one file it says how to read it."""
    family, base = source.family, Path(source.base)
    index = read_component_config(source.base, "", "model_index.json")
    atomic_write_text(path / "model_index.json", json.dumps(index, indent=2))
    tokenizers = family.pipeline_parts(
        {"denoiser": None, "vae": None, "text_encoder": None, "tokenizer": family.load_tokenizer(source.base)}
    )
    for name, kind in index.items():
        if not isinstance(kind, list) or None in kind:
            continue
        folder = path / name
        if name in source.nets:
            source.nets[name].config.save_pretrained(folder) if name != "vae" else source.nets[name].save_config(folder)
        elif name == family.facts.denoiser:
            _write_json(folder / "config.json", family.denoiser_config(source.base))
        elif name == SCHEDULER:
            _write_json(folder / "scheduler_config.json", source.schedule)
        elif (base / name).is_dir():
            shutil.copytree(base / name, folder)
        elif name in tokenizers:
            tokenizers[name].save_pretrained(folder)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True)
    atomic_write_text(path, json.dumps(dict(values), indent=2))


def read_folder(path: Path, source: BaseSource) -> Iterator[tuple[str, Tensors]]:
    """Each part as it is in a folder."""
    for part in source.parts:
        found: Tensors = {}
        for file in sorted((path / part).glob("*.safetensors")):
            found |= load_file(file)
        yield part, found


# One file


def write_file(path: Path, source: BaseSource) -> None:
    """Write one .safetensors file.

    Raises:
        UserError: the base has layers, or words, for which such a file has no place.
    """
    family = source.family
    tokenizers = family.load_tokenizer(source.base)
    for one in tokenizers if isinstance(tokenizers, list | tuple) else [tokenizers]:
        if len(one) > one.vocab_size:
            raise UserError(
                "The base cannot be written as one file.",
                "It has new words (embeddings), and such a file has no place for them.",
                "Export the folder for diffusers; or a base without embedding files, which programs load separately.",
            )
    save_file(to_ldm(source.parts, family.facts, source.schedule), path, dict(source.facts))


def read_file(path: Path, source: BaseSource) -> Iterator[tuple[str, Tensors]]:
    """Each part as diffusers' own converters read it, under the names of ``source.parts``."""
    family = source.family
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        for part in source.parts:
            of_part = {name: file.get_tensor(name) for name in names_of(names, part, family.facts)}
            net = source.nets.get(part) or _Configured(family.denoiser_config(source.base))
            found = converted(of_part, part, net)
            if part.startswith("text_encoder"):
                found = {clip_name(net, name): tensor for name, tensor in found.items()}
            yield part, found


@dataclass(frozen=True)
class _Configured:
    """Stands for the denoiser, of which its converter reads the config alone."""

    config: Mapping[str, Any]
