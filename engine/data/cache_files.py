"""Files of the training cache: written whole, described last, and looked at before they are believed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from engine.disk.durable import atomic_write, atomic_write_text, checksum, checksums
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.errors import as_os_error


def whole(description: Path, token: CancelToken, progress: OnProgress) -> bool:
    """Whether a part of the cache is as it was written; files that are not are removed, to be made again.

    A file is read once anyway, and from then on lies in the system's memory: looking costs little. Caches of older
    versions have no checksums and are taken as they are.
    """
    try:
        about = json.loads(description.read_text(encoding="utf-8"))
        sums = dict(about.get("checksums", {}))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, AttributeError):
        description.unlink(missing_ok=True)
        return False
    broken = []
    for done, (name, known) in enumerate(sums.items()):
        token.raise_if_cancelled()
        progress(done, len(sums), "Checking the cache")
        path = description.parent / name
        if not path.is_file() or checksum(path) != known:
            broken.append(path)
    for path in broken:
        path.unlink(missing_ok=True)
    if broken:
        description.unlink()
    return not broken


def describe(path: Path, about: dict[str, Any], files: Sequence[Path]) -> None:
    """The part's description, last of all."""
    about["checksums"] = {file.name: known for file, known in zip(files, checksums(files), strict=True)}
    atomic_write_text(path, json.dumps(about, ensure_ascii=False))


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Raises OSError where the disk does not take it; nothing is left behind."""
    try:
        with atomic_write(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    except SafetensorError as error:
        raise as_os_error(error) from error
