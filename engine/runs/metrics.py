"""metrics.jsonl of a run, one line per step: reading it from either end, and cutting it when a resume goes back."""

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
"""Bytes at the end that are read first: the newest few hundred steps."""


def _metrics_lines(folder: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each whole line of a run's metrics.jsonl with its parsed contents.

    The file is read in blocks: parsed at once it would take several times its size in memory, and memory of many small
    objects is never quite given back. It is closed between two blocks, so that another thread can replace it, also on
    Windows. Replacing it is safe, since ``drop_after`` only removes lines at its end.
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
                continue  # cut off by a crash in mid-write; a resume repeats that step
            yield line.rstrip(b"\r\n") + b"\n", entry
        if not block:
            return


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """Parsed lines of a run's metrics.jsonl; none without the file. A line that was cut off is left out."""
    return (entry for _, entry in _metrics_lines(folder))


def _end_of_metrics(folder: Path, most: int) -> bytes:
    """The last whole lines of metrics.jsonl, about ``most`` bytes."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - most)
            file.seek(begin)
            text = file.read()
    except FileNotFoundError:
        return b""
    return text[text.find(b"\n") + 1 :] if begin else text


def newest_step(folder: Path) -> int:
    """The last step in the metrics, 0 if there is none. Fast, however long the run was."""
    steps = [0]
    for line in _end_of_metrics(folder, TAIL).splitlines()[-3:]:
        with contextlib.suppress(ValueError):  # cut off by a crash in mid-write
            steps.append(json.loads(line).get("step", 0))
    return max(steps)


def last_status(folder: Path) -> str:
    """The last status that ``Recorder.record_status`` wrote, empty if there is none."""
    for most in (TAIL, sys.maxsize):  # once a run has ended it is among the last lines
        text = _end_of_metrics(folder, most)
        end = len(text)
        while (found := text.rfind(b'{"event":', 0, end)) >= 0:
            try:
                return str(json.loads(text[found:].split(b"\n", 1)[0])["event"])
            except ValueError:
                end = found  # cut off by a crash in mid-write
    return ""


def drop_after(folder: Path, step: int) -> None:
    """Drop the metrics of steps after ``step``, which a resumed run repeats."""
    path = folder / "metrics.jsonl"

    def kept() -> Iterator[bytes]:
        return (line for line, entry in _metrics_lines(folder) if entry.get("step", 0) <= step)

    # After a pause there is nothing to drop, and the file of a long run need not be rewritten.
    if path.exists() and sum(map(len, kept())) != path.stat().st_size:
        atomic_write_bytes(path, kept())
