"""A base model in a single file (.safetensors or .ckpt, with LDM names), read without a download.

The names and shapes of its tensors show the family, so only the header is read for that. The configs of each family
are in ``layouts/``, with CLIP's vocabulary; diffusers converts the names. A folder in diffusers layout with the file's
name beside it (configs only, no weights) takes precedence: for a base with another structure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from transformers import CLIPTokenizer, PreTrainedModel

from engine.errors import UserError
from engine.families.file_kinds import NoBase, family_of_tensors
from engine.families.files import LAYOUTS, UNET_PREFIX, shapes_of
from engine.families.invalid_weights import UNFINISHED, why_invalid
from engine.families.pickled import load_tensors, objects_left_out
from engine.families.schedule_hints import names_noise, schedule_beside, schedule_of_name
from engine.machine.errors import is_of_machine

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth")
COMPLETE = "Choose a complete Stable Diffusion 1.x, 2.x or XL checkpoint, or a folder in diffusers layout."
FOLDER = (
    "Single files of this kind cannot be read. Choose the base's folder in diffusers layout, as on Hugging Face: "
    "model_index.json, with transformer, vae, scheduler, text encoders and tokenizers next to it. Get a base "
    "model, on the Train tab, downloads one."
)


@dataclass(frozen=True)
class SingleFile:
    """The kind of a file."""

    configs: Path
    """Folder with its configs."""
    schedule: Mapping[str, Any]
    """Entries of the scheduler's config that the file's name, its marker tensors or a .yaml beside it override."""


def recognize(path: str) -> SingleFile:
    """Recognize the kind of a base file by its header.

    Raises:
        UserError: it cannot be read, or is of no family that can be trained for.
    """
    facts, yaml = Path(path).stat(), Path(path).with_suffix(".yaml")
    yaml_changed = yaml.stat().st_mtime_ns if yaml.is_file() else 0
    return _recognize(path, facts.st_size, facts.st_mtime_ns, yaml_changed)


def read_config(path: str, subfolder: str, name: str) -> dict[str, Any]:
    """Read a JSON file of the configs that belong to a single file."""
    found = recognize(path)
    values = json.loads((found.configs / subfolder / name).read_text(encoding="utf-8"))
    return {**values, **found.schedule} if subfolder == "scheduler" else values


def load(kind: Any, path: str, part: str, dtype: torch.dtype | None) -> Any:
    """Load one part of the model (``unet``, ``vae``, ``text_encoder``, ``tokenizer`` ...) as the class ``kind``."""
    configs = recognize(path).configs
    if kind is CLIPTokenizer:
        own = configs / part
        return CLIPTokenizer.from_pretrained(own) if own.is_dir() else clip_tokenizer(configs.name, part)
    if kind is DDPMScheduler:
        return DDPMScheduler.from_config(read_config(path, part, "scheduler_config.json"))
    if issubclass(kind, PreTrainedModel):
        from diffusers.loaders import single_file_utils as tools

        with objects_left_out(path):
            weights = _with_usual_names(tools.load_single_file_checkpoint(path))
        return tools.create_diffusers_clip_model_from_ldm(
            kind, weights, subfolder=part, config=str(configs), torch_dtype=dtype, local_files_only=True
        )
    with objects_left_out(path):
        return kind.from_single_file(
            path, config=str(configs), subfolder=part, torch_dtype=dtype, local_files_only=True
        )


def _with_usual_names(weights: dict[str, Any]) -> dict[str, Any]:
    """The tensors of the text encoders as most files have them.

    NovelAI's files lack ``text_model`` in CLIP's names. Some files of XL hold OpenCLIP's ``text_projection`` as the
    weight of a linear layer, (out, in), instead of as a matrix, (in, out).
    """
    found = dict(weights)
    short, long = "cond_stage_model.transformer.", "cond_stage_model.transformer.text_model."
    if any(name.startswith(f"{short}embeddings.") for name in weights):
        found = {long + name.removeprefix(short) if name.startswith(short) else name: w for name, w in found.items()}
    for name in [name for name in found if name.endswith(".model.text_projection.weight")]:
        found.setdefault(name.removesuffix(".weight"), found[name].T)
        del found[name]
    return found


def part_shapes(path: str, part: str, net: Any) -> dict[str, list[int]]:
    """Shapes of a part's tensors, by the names of ``net``, which is that part without weights. No tensor is read.

    Raises:
        KeyError: the file lacks a tensor that the conversion of the names needs. It holds its name in the file.
        UserError: as ``recognize``.
    """
    recognize(path)
    held = {name: torch.empty(shape, device="meta") for name, shape in _shapes(Path(path)).items()}
    return {name: list(tensor.shape) for name, tensor in converted(held, part, net).items() if tensor is not None}


def converted(tensors: dict[str, Any], part: str, net: Any) -> dict[str, Any]:
    """The tensors of a part under the names of ``net``, which is that part, by diffusers' own converters.

    Args:
        tensors: of the file, under its names.
    """
    from diffusers.loaders import single_file_utils as tools

    if not isinstance(net, PreTrainedModel):
        convert = tools.convert_ldm_vae_checkpoint if part == "vae" else tools.convert_ldm_unet_checkpoint
        return convert(tensors, net.config)
    found = _of_clip(_with_usual_names(tensors), part, net)
    if hasattr(net, "text_model"):
        return found
    return {name.removeprefix("text_model."): tensor for name, tensor in found.items()}


def _of_clip(weights: dict[str, Any], part: str, net: Any) -> dict[str, Any]:
    """CLIP's tensors under the names of transformers, found as diffusers finds them."""
    from diffusers.loaders import single_file_utils as tools

    open_clip = "conditioner.embedders.1.model." if part == "text_encoder_2" else "cond_stage_model.model."
    if any(name.startswith(open_clip) for name in weights):
        return tools.convert_open_clip_checkpoint(net, weights, prefix=open_clip)
    return tools.convert_ldm_clip_checkpoint(weights) if part == "text_encoder" else {}


def tensor_places(path: str, part: str) -> dict[str, tuple[Path, str]] | None:
    """Where each tensor of the denoiser is, by diffusers name: the file, and the name in it. None: no safetensors."""
    if Path(path).suffix != ".safetensors":
        return None
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    # diffusers only moves the values to their new names, so names can stand in for the tensors.
    names = {name: name for name in _shapes(Path(path)) if name.startswith(UNET_PREFIX)}
    renamed: dict[str, str] = convert_ldm_unet_checkpoint(names, read_config(path, part, "config.json"))
    return {ours: (Path(path), UNET_PREFIX + theirs.removeprefix(UNET_PREFIX)) for ours, theirs in renamed.items()}


def clip_tokenizer(layout: str, part: str) -> CLIPTokenizer:
    """CLIP's tokenizer from its merges, which are beside this module (MIT licence, OpenAI).

    Token numbers follow Radford et al.'s ``simple_tokenizer.py``: the bytes, the bytes at the end of a word, a token
    for each merge, start and end. OpenCLIP's encoders were trained with text padded by zeros, CLIP's by the end token.
    """
    lines = (LAYOUTS / "clip" / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (chr(256 + number) for number in range(256 - len(printable)))
    letters = [*map(chr, printable), *others]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges)]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    zeros = layout.startswith("sd2") or part == "tokenizer_2"
    pad = "!" if zeros else "<|endoftext|>"
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)


@lru_cache(maxsize=8)
def _recognize(path: str, size: int, changed: int, yaml_changed: int) -> SingleFile:
    """``recognize``, kept until the file or the .yaml beside it changes."""
    shapes = _shapes(Path(path))
    own_configs, of_yaml = Path(path).with_suffix(""), schedule_beside(Path(path))
    try:
        facts = family_of_tensors(shapes, (own_configs / "model_index.json").is_file())
    except NoBase as error:
        base = Path(path).absolute().parent.parent  # of a part's weights
        inside = f"Choose the folder {base}." if (base / "model_index.json").is_file() else ""
        raise _refused(path, str(error), inside or (FOLDER if error.as_folder else COMPLETE)) from error
    if facts is None:
        return SingleFile(own_configs, _markers(shapes) | of_yaml)
    layout = facts.name
    schedule = schedule_of_name(path) | _markers(shapes) | of_yaml
    says_noise = of_yaml.get("prediction_type", "epsilon" if names_noise(path) else "") == "epsilon"
    if layout == "sd2" and says_noise:
        layout = "sd2-base"
    return SingleFile(LAYOUTS / layout, schedule)


def _markers(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Scheduler settings for the marker tensors ``v_pred`` and ``ztsnr``."""
    found: dict[str, Any] = {}
    if "v_pred" in shapes:
        found["prediction_type"] = "v_prediction"
    if "ztsnr" in shapes:
        found["rescale_betas_zero_snr"] = True
    return found


def _shapes(path: Path) -> dict[str, list[int]]:
    if path.suffix not in ENDINGS:
        raise _no_weights(path)
    if why := why_invalid(path):
        raise _unreadable(path, why)
    try:
        if path.suffix == ".safetensors":
            return shapes_of(path)
        # The meta device reads names and shapes only; no code from the file is run.
        weights = load_tensors(path, "meta")
        while "state_dict" in weights:
            weights = weights["state_dict"]
        return {name: list(value.shape) for name, value in weights.items() if isinstance(value, torch.Tensor)}
    except Exception as error:
        if is_of_machine(error):
            raise
        code = "Unsupported global" in str(error) or "Unsupported class" in str(error)
        why = "It holds more than weights, and code in it will not be run"
        raise _unreadable(path, why if code else "The file is damaged or not a model") from error


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(
        f"The model {path.name} cannot be read.",
        f"{why}.",
        "Download it again, as .safetensors if there is a choice.",
    )


def _no_weights(path: Path) -> UserError:
    """The error for a file of another ending than weights have."""
    if path.name == "model_index.json":
        return UserError(
            f"{path.name} alone is no base model.", "It is a part of one.", f"Choose the folder {path.parent}."
        )
    ending = path.suffix.lower()
    if ending in ENDINGS:
        why = f"Its file ending has capital letters: rename it to {path.stem}{ending}"
    elif ending in UNFINISHED:
        why = why_invalid(path)
    else:
        why = f"Its file type must be one of {', '.join(ENDINGS)}"
    return UserError(f"{path.name} cannot be used as a base model.", f"{why}.", COMPLETE)


def _refused(path: str, what: str, try_this: str = COMPLETE) -> UserError:
    return UserError(
        f"{Path(path).name} cannot be used as a base model.",
        f"The names of its tensors show that it is {what}.",
        try_this,
    )
