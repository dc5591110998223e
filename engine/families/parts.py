"""Loads one part of a base model, or one of its configs. Failures become errors that say what to do."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from engine.errors import UserError
from engine.families import single_file
from engine.machine.errors import is_of_machine

# transformers warns at import that torchvision is missing; the app does not need it.
logging.getLogger("transformers").setLevel(logging.ERROR)


def read_component_config(base: str, subfolder: str, name: str) -> dict[str, Any]:
    """Read a JSON file of a base model: from its folder, from the layout of its single file, or from the hub.

    Raises:
        UserError: it cannot be read; says what is missing and where to put it.
    """
    path = Path(base) / subfolder / name
    try:
        if Path(base).is_file():
            return single_file.read_config(base, subfolder, name)
        if not Path(base).is_dir():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(base, f"{subfolder}/{name}" if subfolder else name))
        return json.loads(path.read_text(encoding="utf-8"))
    except UserError:
        raise
    except Exception as error:
        raise cannot_load(base, subfolder, error) from error


def read_optional_config(base: str, subfolder: str, name: str) -> dict[str, Any]:
    """``read_component_config``, or an empty config if there is none.

    To recognise a base: a part that is missing is reported when it is loaded.
    """
    try:
        return read_component_config(base, subfolder, name)
    except UserError:
        return {}


def cannot_load(base: str, part: str, error: Exception) -> UserError:
    """The error for a base model, or a part of one, that does not load."""
    if Path(base).is_file():
        return UserError(
            f"The model {Path(base).name} cannot be loaded.",
            f"Its {part or 'weights'} cannot be read: {str(error)[:300] or repr(error)}.",
            "Check that the file is complete: download it again, or use the base as a folder in diffusers layout.",
        )
    if Path(base).exists():
        why = f"{part or 'The model'} cannot be read: {str(error).splitlines()[0][:300] if str(error) else error!r}."
        return UserError(
            f"The model {base} cannot be loaded.",
            why,
            "Check that the folder is complete (model_index.json, unet, vae, text_encoder, tokenizer, scheduler).",
        )
    return UserError(
        f"The model {base} could not be downloaded.",
        f"The download from the Hugging Face hub failed: {type(error).__name__}.",
        "Check the name and the connection, or put its folder into the workspace's models folder and choose it.",
    )


def load_part(kind: Any, base: str, subfolder: str, dtype: torch.dtype | None) -> Any:
    """Call ``kind.from_pretrained``: safetensors first, and never code that comes with a model.

    Args:
        kind: a class of diffusers or transformers.
        subfolder: in the base; empty for the folder itself.
        dtype: of the weights; None for parts without weights.

    Raises:
        UserError: it does not load. Errors of the machine, such as a lack of memory, pass.
    """
    options: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    if dtype is not None:
        options["torch_dtype"] = dtype
    try:
        if Path(base).is_file():
            return single_file.load(kind, base, subfolder, dtype)
        return kind.from_pretrained(base, **options)
    except UserError:
        raise
    except Exception as error:
        if is_of_machine(error):
            raise
        raise cannot_load(base, subfolder, error) from error
