"""Stands in for Windows and a program that keeps a file open: renames and removals are refused for a while."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.disk import in_use


def sharing_violation(code: int = 32) -> PermissionError:
    """The error as Windows raises it; other systems' errors have no ``winerror``."""
    error = PermissionError(13, "The process cannot access the file because it is being used by another process")
    error.winerror = code  # type: ignore[attr-defined, unused-ignore]
    return error


class OpenElsewhere:
    """Refuses to rename (from or to) and to remove paths for which ``held`` says so, the first ``times`` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, held: Callable[[Path], bool], times: float, code: int) -> None:
        self.held, self.left, self.code = held, times, code
        self.refused: list[str] = []
        monkeypatch.setattr(os, "replace", self._unless_held(os.replace))
        monkeypatch.setattr(shutil, "rmtree", self._unless_held(shutil.rmtree))
        monkeypatch.setattr(Path, "unlink", self._unless_held(Path.unlink))
        monkeypatch.setattr(in_use, "FIRST_WAIT", 0.001)

    def _unless_held(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def action(path: Any, *arguments: Any, **named: Any) -> Any:
            paths = [Path(path), *(Path(other) for other in arguments if isinstance(other, str | Path))]
            if self.left > 0 and any(map(self.held, paths)):
                self.left -= 1
                self.refused.append(Path(path).name)
                raise sharing_violation(self.code)
            return real(path, *arguments, **named)

        return action


def open_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
    held: Callable[[Path], bool],
    *,
    times: float = float("inf"),
    patience: float = 0.05,
    code: int = 32,
) -> OpenElsewhere:
    """Another program has the paths open for which ``held`` is true. ``patience``: seconds until the app gives up."""
    monkeypatch.setattr(in_use, "PATIENCE_SECONDS", patience)
    return OpenElsewhere(monkeypatch, held, times, code)
