"""metrics.jsonl of a run, its figures step by step: read from the start or the end, cut when a resume goes back."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.disk.durable import atomic_write_bytes

BLOCK = 2**18
TAIL = 2**16
"""Bytes at the end that are looked at first: the newest few hundred steps."""


def _metrics_lines(folder: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each whole line of a run's metrics.jsonl, and what it says.

    A block after the other: all at once take several times as much memory as the file, and what many small objects took
    is never quite given back. The file is not open in between, so that another thread can replace it, on Windows, too;
    what ``forget_after`` leaves away are lines at its end.
    """
    at, begun = 0, b""
    while True:
        try:
            with (folder / "metrics.jsonl").open("rb") as file:
                file.seek(at)
                block = file.read(BLOCK)
        except FileNotFoundError:
            return
        at += len(block)
        whole, _, rest = (begun + block).rpartition(b"\n")
        begun = rest if block else b""
        for line in io.BytesIO(whole if block else rest):
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # cut off by a crash in mid-write; the step it told of is repeated on resume
            yield line.rstrip(b"\r\n") + b"\n", entry
        if not block:
            return


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """Lines of a run's metrics.jsonl, none where there is no such file; a line that was cut off is left out."""
    return (entry for _, entry in _metrics_lines(folder))


def _end_of_metrics(folder: Path, most: int) -> bytes:
    """The last whole lines of metrics.jsonl, in about so many bytes."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - most)
            file.seek(begin)
            text = file.read()
    except FileNotFoundError:
        return b""
    return text[text.find(b"\n") + 1 :] if begin else text


def newest_step(folder: Path) -> int:
    """The last step that the figures tell of, 0 for none; quick, however long the run was."""
    steps = [0]
    for line in _end_of_metrics(folder, TAIL).splitlines()[-3:]:
        with contextlib.suppress(ValueError):  # cut off by a crash in mid-write
            steps.append(json.loads(line).get("step", 0))
    return max(steps)


def last_turn(folder: Path) -> str:
    """The last thing that ``Recorder.note`` wrote down, empty for none; of a run that has ended it is near the end."""
    for most in (TAIL, sys.maxsize):
        text = _end_of_metrics(folder, most)
        end = len(text)
        while (found := text.rfind(b'{"event":', 0, end)) >= 0:
            try:
                return str(json.loads(text[found:].split(b"\n", 1)[0])["event"])
            except ValueError:
                end = found  # cut off by a crash in mid-write
    return ""


def forget_after(folder: Path, step: int) -> None:
    """Drop metrics of steps after ``step``: a resumed run does them again."""
    path = folder / "metrics.jsonl"

    def kept() -> Iterator[bytes]:
        return (line for line, entry in _metrics_lines(folder) if entry.get("step", 0) <= step)

    # After a pause there is nothing to drop, and the file of a long run is not written anew.
    if path.exists() and sum(map(len, kept())) != path.stat().st_size:
        atomic_write_bytes(path, kept())
