"""A disk that is full, gone or slow: the run waits with everything in memory, says so, and goes on."""

from __future__ import annotations

import mmap
import os
import pkgutil
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.disk import retry, space, watchdog
from engine.disk.retry import Unsaved
from engine.disk.watchdog import DiskWatchdog
from engine.errors import UserError
from engine.jobs.events import CheckpointSaved, DiskSpace, Message, PreviewMade, StepDone, Waiting
from engine.jobs.runner import Emit
from engine.machine.clock import active_time
from engine.machine.errors import as_os_error, is_disk_full
from engine.training import checkpointer
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import RunFactory, Trained, train

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(retry, "FIRST_RETRY", 0.02)


class Disk:
    """What the disk says it has left; full from the moment that ``full`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, real = False, shutil.disk_usage
        monkeypatch.setattr(space.shutil, "disk_usage", lambda path: Usage(1, 1, 1000) if self.full else real(path))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.answers("The last checkpoint is half-written")
def test_a_full_disk_halts_the_run_until_there_is_room(
    new_run: RunFactory, ready_workspace: Workspace, disk: Disk
) -> None:
    settings = {"train.checkpoint_every": 2}
    straight, run = new_run(**settings), new_run(**settings)
    train(ready_workspace, straight)
    saved: list[list[int]] = []

    def fill(trained: Trained) -> None:
        disk.full = trained.of(StepDone)[-1].step == 3

    def make_room(trained: Trained) -> None:
        saved.append([checkpoint.step for checkpoint in run.checkpoints()])
        assert not list((run.folder / "checkpoints").glob(".*")), "nothing half-written takes the room that is left"
        disk.full = False

    trained = train(ready_workspace, run, when={StepDone: fill, Waiting: make_room})
    assert trained.outcome == "completed"
    assert saved == [], "step 3 needs no disk"

    run = new_run(**settings)
    full_from = {CheckpointSaved: lambda trained: setattr(disk, "full", len(trained.of(CheckpointSaved)) == 1)}
    trained = train(ready_workspace, run, when={**full_from, Waiting: make_room})
    assert trained.outcome == "completed"
    assert saved == [[2]], "the last good checkpoint is there while it waits"
    text = " ".join(trained.warnings)
    assert "The checkpoint of step 4 is waiting for disk space" in text and "continues by itself" in text
    assert "the disk responds again" in " ".join(message.text for message in trained.of(Message))
    assert_same_run(straight, run)


def test_images_wait_for_room_before_they_are_drawn(
    new_run: RunFactory, ready_workspace: Workspace, disk: Disk
) -> None:
    settings = {"train.steps": 3, "validation.every": 2, "validation.pictures": 1, "validation.sampling_steps": 1}
    straight, run = new_run(**settings), new_run(**settings)
    train(ready_workspace, straight)
    drawn: list[list[int]] = []

    def make_room(trained: Trained) -> None:
        drawn.append([event.step for event in trained.of(PreviewMade)])
        disk.full = False

    full = {StepDone: lambda trained: setattr(disk, "full", trained.of(StepDone)[-1].step == 2)}
    trained = train(ready_workspace, run, when={**full, Waiting: make_room})
    assert trained.outcome == "completed"
    assert drawn == [[0]], "nothing is drawn that could not be kept"
    assert "The set of images of step 2 is waiting for disk space" in " ".join(trained.warnings)
    assert [event.step for event in trained.of(PreviewMade)] == [0, 2, 3]
    assert_same_run(straight, run)


class AtOnce:
    """In the place of the thread that waits for the disk: it has no time of its own."""

    def __init__(self, *_: Any) -> None:
        pass

    def submit(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments, **named))
        except OSError as error:
            done.set_exception(error)
        return done

    def shutdown(self) -> None:
        pass


@pytest.mark.answers("Checkpoints fill the disk")
def test_a_checkpoint_that_will_not_fit_is_reported_ahead(
    new_run: RunFactory, ready_workspace: Workspace, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "ThreadPoolExecutor", AtOnce)
    run = new_run(**{"train.steps": 4, "train.checkpoint_every": 2})
    when = {
        CheckpointSaved: lambda trained: setattr(disk, "full", len(trained.of(CheckpointSaved)) == 1),
        StepDone: lambda trained: setattr(disk, "full", disk.full and trained.of(StepDone)[-1].step < 4),
    }
    trained = train(ready_workspace, run, when=when)
    assert "free some space, or the run will have to wait before it can save" in " ".join(trained.warnings)
    seen = trained.of(DiskSpace)
    assert seen[0].next_checkpoint > 0 and seen[-1].run > seen[0].run
    assert not trained.of(Waiting)


@pytest.mark.parametrize(("ask", "outcome"), [("pause", "paused"), ("save_now", "completed")])
def test_a_pause_while_it_waits_ends_the_run_once_it_is_saved(
    new_run: RunFactory, ready_workspace: Workspace, disk: Disk, ask: str, outcome: str
) -> None:
    def wait(trained: Trained) -> None:
        if len(trained.of(Waiting)) == 1:
            getattr(trained.control, ask)()
        else:
            disk.full = False  # it has tried once more, and still waits

    run = new_run(**{"train.checkpoint_every": 2})
    fill = {StepDone: lambda trained: setattr(disk, "full", len(trained.of(StepDone)) == 2)}
    trained = train(ready_workspace, run, when={**fill, Waiting: wait})
    assert trained.outcome == outcome
    assert run.last_step == (2 if outcome == "paused" else 6)
    # Save now means "try now" here, and not one more checkpoint later.
    assert {saved.step for saved in trained.of(CheckpointSaved)} <= {2, 4, 6}


def test_a_stop_while_it_waits_ends_it_and_says_what_is_lost(
    new_run: RunFactory, ready_workspace: Workspace, disk: Disk
) -> None:
    run = new_run(**{"train.checkpoint_every": 2})
    when = {
        CheckpointSaved: lambda trained: setattr(disk, "full", True),
        Waiting: lambda trained: trained.control.stop(),
    }
    with pytest.raises(Unsaved, match="stopped at step 4, which could not be saved.*step 2 and repeats 2 steps"):
        train(ready_workspace, run, when=when)
    assert run.last_step == 2 and run.ending == "failed"
    disk.full = False
    assert train(ready_workspace, run).outcome == "completed"


def test_a_write_that_the_system_refuses_in_the_middle_is_tried_again(
    new_run: RunFactory, ready_workspace: Workspace
) -> None:
    """A real refusal by the kernel, under the very call that writes: the largest file that this process may write."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    straight, run = new_run(), new_run()
    train(ready_workspace, straight)

    def limit(trained: Trained) -> None:
        if trained.of(StepDone)[-1].step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    def lift(trained: Trained) -> None:
        assert not list((run.folder / "checkpoints").glob(".*"))
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    try:
        trained = train(ready_workspace, run, when={StepDone: limit, Waiting: lift})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert trained.outcome == "completed" and len(trained.of(Waiting)) == 1
    assert_same_run(straight, run)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 450 MB in memory; a run asks for 256 before it starts."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting needs Linux and root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=450m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("this system does not let tests mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_real_small_disk_that_fills_up(
    small_disk: Path, paired_folder: Path, make_config: Callable[..., RunConfig]
) -> None:
    workspace = Workspace(small_disk / "workspace")
    Dataset.create(workspace, "pairs", scan_folder(paired_folder))
    run = create_run(workspace, make_config(**{"train.checkpoint_every": 3}), {})
    ballast = small_disk / "a game"

    def fill(trained: Trained) -> None:
        if trained.of(StepDone)[-1].step == 4:
            metrics = run.folder / "metrics.jsonl"
            with metrics.open("ab") as file:  # this file system counts in pages: none is begun, either
                file.write(b" " * (mmap.PAGESIZE - 1 - metrics.stat().st_size % mmap.PAGESIZE) + b"\n")
            with ballast.open("wb") as file:
                file.write(bytes(space.free_bytes(small_disk)))  # to the last byte: the metrics cannot grow

    trained = train(workspace, run, when={StepDone: fill, Waiting: lambda trained: ballast.unlink(missing_ok=True)})
    assert trained.outcome == "completed" and trained.of(Waiting)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3, 6]
    assert [entry["step"] for entry in run.metrics() if "loss" in entry] == [1, 2, 3, 4, 5, 6]


def test_a_disk_that_vanishes_and_comes_back(new_run: RunFactory, ready_workspace: Workspace) -> None:
    straight, run = new_run(), new_run()
    train(ready_workspace, straight)
    away = run.folder.with_name("unplugged")

    def unplug(trained: Trained) -> None:
        if trained.of(StepDone)[-1].step == 4:
            run.folder.rename(away)

    def plug_in(trained: Trained) -> None:
        assert not run.folder.exists(), "nothing is written in the place where the disk was"
        away.rename(run.folder)

    trained = train(ready_workspace, run, when={StepDone: unplug, Waiting: plug_in})
    warnings = " ".join(trained.warnings)
    assert trained.outcome == "completed" and "is waiting for the disk" in warnings
    assert f"The folder {run.folder.name} is no longer in {run.folder.parent}: it was renamed" in warnings
    assert_same_run(straight, run)


def test_a_cache_on_a_disk_that_vanishes_is_waited_for_in_mid_step(
    new_run: RunFactory, ready_workspace: Workspace
) -> None:
    """Read, not mapped into memory: the system would end the whole process (SIGBUS)."""
    straight, run = new_run(), new_run()
    train(ready_workspace, straight)
    cache, away = ready_workspace.cache, ready_workspace.cache.with_name("unplugged")

    def unplug(trained: Trained) -> None:
        if trained.of(StepDone)[-1].step == 3:
            cache.rename(away)

    trained = train(ready_workspace, run, when={StepDone: unplug, Waiting: lambda trained: away.rename(cache)})
    warnings = " ".join(trained.warnings)
    assert trained.outcome == "completed" and "is waiting for the disk" in warnings
    assert f"The folder {cache.name} is no longer in {cache.parent}" in warnings
    assert_same_run(straight, run)


def test_who_does_not_want_to_wait_for_the_cache_keeps_what_was_learnt(
    new_run: RunFactory, ready_workspace: Workspace
) -> None:
    run, cache = new_run(), ready_workspace.cache
    away = cache.with_name("unplugged")

    def unplug(trained: Trained) -> None:
        if trained.of(StepDone)[-1].step == 3:
            cache.rename(away)

    with pytest.raises(UserError, match="could not be read"):
        train(ready_workspace, run, when={StepDone: unplug, Waiting: lambda trained: trained.control.stop()})
    assert run.last_step == 3
    away.rename(cache)
    assert train(ready_workspace, run).outcome == "completed"


def test_the_cache_waits_for_room_too_and_a_cancel_ends_that(
    new_run: RunFactory, ready_workspace: Workspace, disk: Disk
) -> None:
    from engine.jobs.control import Cancelled

    run = new_run()
    disk.full = True
    with pytest.raises(Cancelled):
        train(ready_workspace, run, when={Waiting: lambda trained: trained.control.cancel()})
    trained = train(ready_workspace, run, when={Waiting: lambda trained: setattr(disk, "full", False)})
    assert trained.outcome == "completed"
    assert "The cache of images and captions is waiting for disk space" in " ".join(trained.warnings)


def test_a_write_that_takes_long_is_reported_by_another_thread() -> None:
    events: list[Any] = []
    slow = DiskWatchdog(events.append, slow_after=30)
    with slow.watch("Writing the checkpoint of step 500"):
        began = active_time()
        assert not slow.check(began + 29)
        assert slow.check(began + 31) and "has taken 31 s so far" in events[0].text
        assert not slow.check(began + 45), "not every second"
        assert slow.check(began + 63)
    assert not slow.check(began + 1000), "it is done"
    slow.close()


def test_small_writes_that_take_long_together_are_reported() -> None:
    events: list[Any] = []
    slow = DiskWatchdog(events.append, slow_after=30)
    now = active_time()
    for _ in range(14):
        assert not slow.add_small("Writing the log and the figures", now, now + 2)
        now += 4
    assert slow.add_small("Writing the log and the figures", now, now + 2)
    assert "took 30 s of the last 58 s: the disk is slow" in events[0].text
    now += 4
    assert not any(slow.add_small("Writing", now + 4 * n, now + 4 * n + 2) for n in range(29)), "more and more seldom"
    slow.close()
    quick = DiskWatchdog(events.append, slow_after=30)
    now = active_time()
    assert not any(quick.add_small("Writing", now + 60 * n, now + 60 * n + 2) for n in range(100)), "a normal disk"
    quick.close()


PLACES = {
    "Writing the checkpoint of step 3": "engine.training.checkpointer.stage_checkpoint",
    "Writing the checkpoint of step 3 to the disk": "engine.training.checkpoint.flush_folder",
    "Removing old checkpoints": "engine.training.checkpointer.prune",
    "Checking the free disk space": "engine.training.hooks.free_bytes",
    "Reading the next images": "engine.training.batches.Batches._read",
    "Reading the held-out images": "engine.evaluation.previews.read_pair",
    "Loading the base's VAE": "engine.families.base.Family.load_vae",
    "Writing the images of step 3": "engine.evaluation.previews.write_folder",
    "Writing TensorBoard's files": "engine.training.event_file.EventFile.add",
    "Writing the log and the figures": "os.fsync",
}


def test_whatever_hangs_is_reported_while_it_hangs(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hangs once, until another thread has reported it; then the run goes on as if nothing had happened."""
    disks: list[DiskWatchdog] = []
    reported: dict[str, threading.Event] = {what: threading.Event() for what in PLACES}

    class Impatient(DiskWatchdog):
        def __init__(self, emit: Emit) -> None:
            super().__init__(emit, slow_after=0.05)
            disks.append(self)

    def hang(what: str, place: str) -> None:
        owner, name = place.rsplit(".", 1)
        real = pkgutil.resolve_name(place)

        def slowly(*arguments: Any, **named: Any) -> Any:
            watched = {what for disk in disks for what in disk.under_way()}
            if what in watched and not reported[what].is_set():
                assert reported[what].wait(60), f"{what} was not reported"
            return real(*arguments, **named)

        monkeypatch.setattr(pkgutil.resolve_name(owner), name, slowly)

    def hear(trained: Trained) -> None:
        words = trained.of(Message)[-1].text
        for what, event in reported.items():
            if words.startswith(f"{what} has taken"):
                event.set()

    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr("engine.training.setup.DiskWatchdog", Impatient)
    monkeypatch.setattr("engine.training.job.DiskWatchdog", Impatient)
    for what, place in PLACES.items():
        hang(what, place)
    images = {"validation.every": 3, "validation.pictures": 2, "validation.sampling_steps": 1}
    run = new_run(**{"train.steps": 3, "train.checkpoint_every": 3, "train.keep_resumable": 1}, **images)
    trained = train(ready_workspace, run, when={Message: hear})
    assert trained.outcome == "completed"
    assert [what for what, event in reported.items() if not event.is_set()] == []
    assert len(run.previews()) == 2 and run.last_step == 3


def test_what_the_system_says_is_taken_out_of_the_library_s_words() -> None:
    error = as_os_error(Exception("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert is_disk_full(error)
    other = Exception("something else")
    assert as_os_error(other) is other, "no reason to wait for the disk"
    with pytest.raises(UserError, match="are free on the disk"):
        space.require_space(Path.cwd(), 2**62, "A thing")
