"""Reads tensors from files that torch.save wrote (.ckpt, .pt, .pth, .bin). No code in them is run."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_DANGEROUS = frozenset(
    {
        "builtins", "__builtin__", "os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "importlib", "runpy",
        "ctypes", "code", "codeop", "pty", "webbrowser", "commands", "pickle", "_pickle", "operator", "functools",
        "types", "marshal", "multiprocessing", "threading", "asyncio", "platform", "tempfile", "urllib", "http",
        "requests", "pip", "ensurepip", "venv", "timeit", "cProfile", "profile", "pdb", "bdb", "inspect", "linecache",
    }
)  # fmt: skip
"""Modules that no saved state of a training refers to. A file that does is taken for an attack."""


class _LeftOut:
    """Stands in for an object of the training that wrote a file, such as Lightning's callbacks. Holds nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load_tensors(path: Path | str, map_location: str = "cpu") -> Any:
    """``torch.load`` with ``weights_only``: what is no tensor or plain value becomes an empty object.

    Raises:
        pickle.UnpicklingError: it refers to code that no training saves, or it is damaged. Other errors as torch.load.
    """
    with objects_left_out(path):
        return torch.load(path, map_location=map_location, weights_only=True)


@contextlib.contextmanager
def objects_left_out(path: Path | str) -> Iterator[None]:
    """Inside this context, ``torch.load(path, weights_only=True)`` reads past objects of unknown classes."""
    names: list[str] = []
    if zipfile.is_zipfile(path):  # what torch writes since 1.6; others can only hold what weights_only knows
        with contextlib.suppress(Exception):  # a damaged file is reported by torch.load itself
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if any(name.split(".")[0] in _DANGEROUS for name in names):
        names = []  # torch.load refuses it
    stand_ins = [(type("LeftOut", (_LeftOut,), {}), name) for name in names]
    with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
        yield
