"""A run is what its files say."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.errors import UserError
from engine.jobs.events import Message, StepDone
from engine.jobs.snapshot import JobSnapshot, fold
from engine.runs.metrics import BLOCK, TAIL, drop_after, last_status, newest_step
from engine.runs.recorder import Recorder
from engine.runs.run import Run, last_lines, write_run
from engine.workspace.paths import Workspace, safe_name


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    made = workspace.new_run("my run")
    write_run(made, {"config": RunConfig(name="my run").model_dump(mode="json"), "origins": {}, "condition": {}})
    return made


def make_checkpoint(folder: Path, number: int) -> None:
    place = folder / "checkpoints" / f"step-{number:06d}"
    place.mkdir(parents=True)
    about = {"step": number, "images_seen": number * 4, "has_ema": False, "files": {}}
    (place / "checkpoint.json").write_text(json.dumps(about), encoding="utf-8")


def step(number: int) -> StepDone:
    return StepDone(number, number * 4, 1 / number, 1e-5, 0.5)


def test_a_run_without_an_ending_was_interrupted(folder: Path) -> None:
    recorder = Recorder(folder, lambda event: None)
    recorder.record_status("started", 0)
    recorder(step(1))
    assert Run(folder).ending == "interrupted"
    recorder.record_status("paused", 1)
    assert Run(folder).ending == "paused"
    recorder.record_status("resumed", 1)
    assert Run(folder).ending == "interrupted"


def test_a_line_that_was_cut_off_is_left_out(folder: Path) -> None:
    recorder = Recorder(folder, lambda event: None)
    recorder(step(1))
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 2, "lo')
    assert [entry["step"] for entry in Run(folder).metrics()] == [1]


def test_metrics_after_the_checkpoint_are_forgotten_on_resume(folder: Path) -> None:
    recorder = Recorder(folder, lambda event: None)
    for number in range(1, 8):
        recorder(step(number))
    drop_after(folder, 5)
    assert [entry["step"] for entry in Run(folder).metrics()] == [1, 2, 3, 4, 5]


def test_a_long_run_is_looked_at_without_holding_all_its_figures(folder: Path) -> None:
    line, count = json.dumps(vars(step(1))) + "\n", 20_000
    (folder / "metrics.jsonl").write_text(line * count + line.replace('"step": 1', '"step": 2'), encoding="utf-8")
    make_checkpoint(folder, 1)
    run = Run(folder)
    tracemalloc.start()
    try:
        run.history()
        drop_after(folder, 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count * len(line) > 5 * BLOCK, "the file is longer than all that was taken"
    assert peak < 5 * BLOCK
    assert len(run.metrics()) == count


def test_what_has_nothing_to_forget_is_not_written_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(folder, lambda event: None)
    recorder(step(1))
    recorder.record_status("paused", 1)
    monkeypatch.setattr("engine.runs.metrics.atomic_write_bytes", lambda *_: pytest.fail("it was written anew"))
    drop_after(folder, 1)
    drop_after(folder.with_name("nothing here"), 1)


@pytest.mark.parametrize("block", [1, 7, 64, 10**6])
def test_lines_are_whole_wherever_a_block_ends(folder: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("engine.runs.metrics.BLOCK", block)
    lines = [json.dumps({"step": number, "loss": "é" * number}, ensure_ascii=False) for number in range(5)]
    path = folder / "metrics.jsonl"
    path.write_bytes(
        "\n".join([*lines[:2], "{cut", "", *lines[2:]]).encode("utf-8")
    )  # the last line has no end, either
    assert [entry["step"] for entry in Run(folder).metrics()] == [0, 1, 2, 3, 4]
    drop_after(folder, 3)
    assert path.read_bytes() == "".join(line + "\n" for line in lines[:4]).encode("utf-8")


def test_the_history_is_what_its_events_amount_to_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, seen = Recorder(folder, lambda event: None), JobSnapshot()
    for number in range(1, 1801):
        done = StepDone(number, 3 * number, 1 / number, 1e-5 * number, 0.1 + number % 7)
        recorder(done)
        seen = fold(seen, done, 0.0)
        if number == 900:
            recorder.record_status("resumed", number)
    make_checkpoint(folder, 1800)
    folds: list[Any] = []
    monkeypatch.setattr("engine.runs.run.fold", lambda *what: folds.append(what) or fold(*what))
    history = Run(folder).history()
    for part in ("loss", "rate", "recent_seconds", "last_step"):
        assert getattr(history, part) == getattr(seen, part)
    assert [step for step, _ in history.pace.points] == [step for step, _ in seen.pace.points]
    assert history.pauses == (900,)
    assert len(folds) < 10, "a snapshot for each step of a week would take a minute"


def test_the_end_of_a_long_run_is_known_from_the_end_of_its_file(folder: Path) -> None:
    recorder = Recorder(folder, lambda event: None)
    assert (last_status(folder), newest_step(folder)) == ("", 0)
    recorder.record_status("started", 0)
    for number in range(1, TAIL // 60):
        recorder(step(number))
    assert (last_status(folder), newest_step(folder)) == ("started", number)
    recorder.record_status("paused", number)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event": "resu')  # cut off by a crash
    assert (folder / "metrics.jsonl").stat().st_size > TAIL
    assert (last_status(folder), newest_step(folder)) == ("paused", number)


def test_the_history_leaves_out_steps_that_were_lost(folder: Path) -> None:
    recorder = Recorder(folder, lambda event: None)
    recorder(step(1))
    assert Run(folder).last_step == 0
    assert Run(folder).history().loss.points == ()


def test_the_history_shows_the_curve_and_the_log(folder: Path) -> None:
    recorder = Recorder(folder, lambda event: None)
    recorder(Message("hello"))
    recorder(step(1))
    recorder(step(2))
    make_checkpoint(folder, 2)
    history = Run(folder).history()
    assert [point[0] for point in history.loss.points] == [1, 2]
    assert history.log == ("hello",)


LETTERS = "schärfer, 深い, 🙂"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 2**14])
def test_the_end_of_a_log_is_the_same_wherever_a_block_begins(tmp_path: Path, block: int, ending: str) -> None:
    log, lines = tmp_path / "log.txt", [f"{number}: {LETTERS}" for number in range(30)]
    lines[20] = ""
    for text in (ending.join([*lines, ""]), ending.join(lines)):  # with and without an end of its last line
        log.write_bytes(text.encode("utf-8"))
        for count in (1, 2, 9, 29, 30, 31, 200):
            assert last_lines(log, count, block) == lines[-count:]


def test_of_a_long_log_only_the_end_is_read(folder: Path) -> None:
    log = folder / "log.txt"
    log.write_bytes(f"{LETTERS} of before\n".encode() * 400_000 + b"newest\n")
    tracemalloc.start()
    tail = Run(folder).log_tail()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tail == [*[f"{LETTERS} of before"] * 199, "newest"]
    assert peak < 2**18 < log.stat().st_size / 50


def test_a_log_that_is_missing_empty_or_cut_off_does_not_hide_the_run(folder: Path) -> None:
    log = folder / "log.txt"
    log.unlink(missing_ok=True)
    assert Run(folder).log_tail() == []
    log.write_bytes(b"")
    assert Run(folder).log_tail() == []
    log.write_bytes("Going on.\nschä".encode()[:-1])
    assert Run(folder).log_tail() == ["Going on.", "sch\ufffd"] == list(Run(folder).history().log)


def test_a_damaged_run_is_refused_in_words(folder: Path) -> None:
    (folder / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="run.json"):
        Run(folder)


def test_settings_of_a_newer_app_are_refused_in_words(folder: Path) -> None:
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    about["config"]["version"] = 99
    write_run(folder, about)
    with pytest.raises(UserError, match="Update the app"):
        Run(folder)


def test_runs_never_share_a_folder(workspace: Workspace) -> None:
    assert workspace.new_run("same") != workspace.new_run("same")


@pytest.mark.parametrize("name", ["CON", "a/b", "..", "  ", "nul.txt", "x" * 300, 'q"?*<>|', "é à ü", "-"])
def test_any_name_becomes_a_file_name(tmp_path: Path, name: str) -> None:
    safe = safe_name(name)
    assert safe and len(safe) <= 63 and not set(safe) & set('/\\:*?"<>| ')
    assert safe.split(".")[0].lower() not in {"con", "nul"}
    (tmp_path / safe).write_text("", encoding="utf-8")
