"""A start compares what it has not compared yet, and of the rest a little at a time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from engine.data import cache_files
from engine.data.cache_files import AGAIN_SECONDS, NOTE, describe, verify
from engine.disk.durable import checksum
from engine.jobs.control import Cancelled, Control


class Part:
    """Three files of a cache and their description; ``read`` are the files that a start has compared."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.description, self.control = folder / "cache.json", Control()
        self.files = [folder / f"latents-{number}.safetensors" for number in range(3)]
        for number, file in enumerate(self.files):
            file.write_bytes(bytes([number]) * 1000)
        describe(self.description, {}, self.files)
        self.read: list[str] = []
        monkeypatch.setattr(cache_files, "checksum", lambda path: (self.read.append(path.stem[-1]), checksum(path))[1])

    def start(self) -> tuple[bool, str]:
        """(whether all is whole, the numbers of the files that were read)."""
        self.read.clear()
        whole = verify(self.description, self.control.token, lambda *_: None)
        return whole, "".join(self.read)


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Part:
    return Part(tmp_path, monkeypatch)


def test_an_unchanged_file_is_compared_once(part: Part) -> None:
    assert part.start() == (True, "012")
    assert part.start() == (True, "")
    (part.description.parent / NOTE).write_text("[damaged", encoding="utf-8")
    assert part.start() == (True, "012")


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "only touched"])
def test_a_changed_file_is_compared_again(part: Part, harm: str) -> None:
    part.start()
    file = part.files[1]
    if harm == "gone":
        file.unlink()
    elif harm == "only touched":
        os.utime(file, ns=(1, 1))
    else:
        file.write_bytes(b"\xff" * (1000 if harm == "flipped" else 999))
    whole = harm == "only touched"
    assert part.start() == (whole, "" if harm == "gone" else "1")
    assert part.description.exists() is whole and file.exists() is whole


def test_a_file_with_another_checksum_is_compared_again(part: Part) -> None:
    part.start()
    times = part.files[0].stat()
    part.files[0].write_bytes(b"\xee" * 1000)
    describe(part.description, {}, part.files)
    os.utime(part.files[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert part.start() == (True, "0")


def test_after_a_month_a_part_of_it_is_compared_again_at_each_start(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    part.start()
    monkeypatch.setattr(cache_files, "AGAIN_BYTES", 2500)
    now = time.time() + AGAIN_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: now)
    assert [part.start()[1] for _ in range(3)] == ["01", "2", ""]
    facts = part.files[2].stat()
    part.files[2].write_bytes(b"\xaa" * 1000)  # a bad sector: neither size nor time tells
    os.utime(part.files[2], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert part.start() == (True, "")
    monkeypatch.setattr(time, "time", lambda: now + AGAIN_SECONDS + 1)
    part.start()
    assert part.start() == (False, "2")


def test_what_was_compared_before_a_cancel_is_not_compared_again(part: Part) -> None:
    def progress(done: int, total: int, label: str) -> None:
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        verify(part.description, part.control.token, progress)
    assert part.start() == (True, "2")
