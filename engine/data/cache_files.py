"""Files of the training cache. Their description with checksums is written last, and verified before they are used."""

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


def verify(description: Path, token: CancelToken, progress: OnProgress) -> bool:
    """Whether the files of a part of the cache match their checksums. Removes those that do not, to be made again.

    Verifying costs little, since files that training reads anyway are then in the system's file cache. Caches of older
    versions have no checksums and are not verified.
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
    """Writes the description of a part with the checksums of its files. Call it last."""
    about["checksums"] = {file.name: known for file, known in zip(files, checksums(files), strict=True)}
    atomic_write_text(path, json.dumps(about, ensure_ascii=False))


def base_files(base: str, parts: Sequence[str]) -> list[str]:
    """Size and time of change of the files in these folders of a base, for a cache's key. A local base can be moved."""
    found = [] if Path(base).exists() else [str(base)]
    if Path(base).is_file():
        found.append(f"{Path(base).stat().st_size}:{Path(base).stat().st_mtime_ns}")
    if Path(base).is_dir():
        for part in parts:
            for path in sorted((Path(base) / part).glob("*")):
                facts = path.stat()
                found.append(f"{part}/{path.name}:{facts.st_size}:{facts.st_mtime_ns}")
    return found


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a file atomically. Raises OSError if the disk is full; nothing is left behind."""
    try:
        with atomic_write(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    except SafetensorError as error:
        raise as_os_error(error) from error
