"""What runs for a week keeps no more after a while than it kept at first. See benchmarks/soak.py for the long way."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch

from engine.data.cache import open_or_build
from engine.data.crop_plan import CropPlan
from engine.data.scan import scan_folder
from engine.families.registry import detect
from engine.jobs.control import Control
from engine.jobs.events import Checked, Message, StepDone
from engine.jobs.snapshot import CHECKS, CURVE_POINTS, LOG_LINES, RECENT_STEPS, JobSnapshot, fold
from engine.machine.memory import glibc_function, trim_heap
from engine.workspace.paths import APP_FOLDER, Workspace
from tests.living import living_objects
from tests.short_runs import RunFactory, train


def alive() -> Counter[str]:
    """How many objects of ours and of torch there are."""
    for thread in threading.enumerate():
        if thread.name == "slow-disk":  # told to end, which it does in its own time, and holds its trainer's until then
            thread.join(60)
    kinds = Counter(f"{type(thing).__module__}.{type(thing).__name__}" for thing in living_objects())
    return Counter(
        {kind: count for kind, count in kinds.items() if kind.startswith(("engine.", "torch.", "diffusers."))}
    )


def test_a_pause_and_a_resume_leave_nothing_behind(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**{"train.steps": 100, "validation.check_every": 50})
    kept = {}
    for session in range(1, 5):
        assert train(ready_workspace, run, {2 * session: "pause"}).outcome == "paused"
        if session in (2, 4):
            kept[session] = alive()
    grown = {kind: count - kept[2][kind] for kind, count in kept[4].items() if count > kept[2][kind] + 1}
    assert not grown


def test_reading_rows_of_the_cache_keeps_nothing(tmp_path: Path, tiny_base: Path, paired_folder: Path) -> None:
    samples = scan_folder(paired_folder).samples
    cache = open_or_build(
        tmp_path,
        detect(str(tiny_base)),
        str(tiny_base),
        samples,
        CropPlan(64),
        torch.device("cpu"),
        Control().token,
        lambda *_: None,
    )
    cache.latents([3, 7])
    gc.collect()
    before, reads = sys.getallocatedblocks(), 500
    for _ in range(reads):
        cache.latents([9, 11])
    gc.collect()
    assert sys.getallocatedblocks() - before < reads  # the slices of safetensors 0.8.0 kept eight of them each time


def test_what_the_pages_are_shown_is_bounded() -> None:
    snapshot = JobSnapshot()
    check = Checked(0, 0, 0.2, 0.2, 0.0, 0.0, 0.0, 0.5, 1.0)
    for step in range(1, 1501):
        snapshot = fold(snapshot, StepDone(step, step, 0.1, 1e-5, 0.5), float(step))
        snapshot = fold(snapshot, Message(f"line {step}"), float(step))
        snapshot = fold(snapshot, Checked(**{**vars(check), "step": step}), float(step))
    curves = (snapshot.loss, snapshot.rate, snapshot.pace)
    assert all(len(curve.points) <= CURVE_POINTS for curve in curves)
    assert len(snapshot.recent_seconds) == RECENT_STEPS and len(snapshot.log) == LOG_LINES
    assert len(snapshot.checks) <= CHECKS
    assert snapshot.loss.points[-1][0] > 1400 and snapshot.checks[-1].step == 1500


@pytest.mark.skipif(glibc_function("malloc_trim") is None, reason="only glibc hoards, and can be asked")
def test_what_is_free_goes_back_to_the_system() -> None:
    process = psutil.Process()
    blocks = [b"x" * 100_000 for _ in range(600)]  # too small to be mapped one by one
    last, full = blocks[-1], process.memory_info().rss
    del blocks  # the last one lives on, above all the others
    assert trim_heap()
    assert full - process.memory_info().rss > 30e6
    assert len(last) == 100_000


def test_giving_back_is_no_error_where_nobody_can(monkeypatch: pytest.MonkeyPatch) -> None:
    glibc_function.cache_clear()
    monkeypatch.setattr(sys, "platform", "win32")
    try:
        assert trim_heap() is False
    finally:
        glibc_function.cache_clear()


ROOM_OF_THREADS = """
import sys, threading, psutil
from engine.machine.memory import limit_arenas
done = limit_arenas() if sys.argv[1] == "few" else None
before, met = psutil.Process().memory_info().vms, threading.Barrier(13)
def work():
    kept = [bytes(5000) for _ in range(100)]
    met.wait(); met.wait(); kept.clear()
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads: thread.start()
met.wait(); print(done, psutil.Process().memory_info().vms - before); met.wait()
"""


@pytest.mark.skipif(glibc_function("mallopt") is None, reason="only glibc has a heap for each thread")
def test_threads_share_two_heaps() -> None:
    megabytes = {}
    for how in ("few", "many"):
        environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
        command = [sys.executable, "-c", ROOM_OF_THREADS, how]
        out = subprocess.run(
            command, cwd=APP_FOLDER, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        megabytes[how] = int(out[1])
        assert out[0] == ("True" if how == "few" else "None")
    assert megabytes["many"] - megabytes["few"] > 5 * 64 * 2**20, "each heap reserves 64 MiB of addresses"
