"""The queue on the command line: a night's work from a folder of images to a file, failures and crashes on the way."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from engine.cli.main import EXIT_FELL_SHORT, EXIT_PROBLEM, main
from engine.jobs.control import Control
from engine.jobs.events import StepDone
from engine.queue.folder import QueueFolder
from engine.queue.kinds import job_of
from engine.queue.perform import perform
from engine.runs.run import Run
from engine.workspace.lock import WorkspaceLock
from engine.workspace.paths import Workspace
from tests.bases.hub import BASE, files_of_base, serving, use
from tests.cli.test_main import train_settings
from tests.forked import Forks


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "ws"


@pytest.fixture
def queue(root: Path) -> QueueFolder:
    return QueueFolder(Workspace(root))


def add(root: Path, *words: str) -> int:
    return main(["--workspace", str(root), "queue", "add", *words])


def test_a_night_from_a_download_to_a_file(
    root: Path,
    queue: QueueFolder,
    paired_folder: Path,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A dataset that is not there fails in its turn, and the rest goes on. Later jobs use what earlier ones made."""
    start = ["--workspace", str(root)]
    settings = [word if word != str(tiny_base) else BASE for word in train_settings(tiny_base)]
    settings = ["--dataset", "pairs", "--preset", "cpu", *settings, "--set", "train.checkpoint_every=2"]
    assert add(root, "bases", "get", BASE) == 0
    assert add(root, "import", str(paired_folder), "--name", "pairs") == 0
    assert add(root, "check", "pairs") == 0
    assert add(root, "extract", "gone", "--type", "canny") == 0
    assert add(root, "extract", "pairs", "--type", "canny", "--set", "low=50") == 0
    assert add(root, "trial", *settings) == 0
    assert add(root, "train", *settings) == 0
    training = queue.waiting()[-1].id
    assert add(root, "export", f"@{training}", "--name", "mine") == 0
    assert add(root, "merge", f"@{training}", "--steps", "2", "3", "--name", "mean") == 0
    assert main([*start, "queue", "list"]) == 0
    listed = capsys.readouterr().out
    assert f"7  {training}  Training pairs  (waiting" in listed
    assert "Nothing is running the queue" in listed

    with serving(BASE, files_of_base(tiny_base)) as hub:
        use(hub, tmp_path, monkeypatch)
        assert main([*start, "queue", "run"]) == EXIT_FELL_SHORT
    results = {result.title: result for result in queue.results()}
    assert [result.title for result in queue.results() if result.outcome != "completed"] == ["Making maps of gone"]
    assert "gone" in results["Making maps of gone"].words
    run = Run(Workspace(root).run_folders()[0])
    assert run.completed and run.config.model.base == BASE
    assert run.condition["parameters"]["low"] == 50
    said = " ".join(result.words for result in queue.results())
    assert f"{BASE} is downloaded" in said and "12 images checked, " in said and " s per step, " in said
    (averaged,) = run.exports.glob("mean-*.safetensors")
    assert f"The average of the steps 2, 3: {averaged}" in said
    assert len(list(run.exports.glob("mine*.safetensors"))) == 1
    assert "9 jobs ended, 1 of them failed." in capsys.readouterr().out
    assert main([*start, "queue", "list"]) == 0
    assert "failed     Making maps of gone" in capsys.readouterr().out
    assert main([*start, "queue", "clear"]) == 0
    assert queue.results() == []
    assert main([*start, "queue", "run"]) == 0


def test_jobs_of_every_command_go_into_a_file_and_come_back(root: Path, queue: QueueFolder, tmp_path: Path) -> None:
    words = [
        ["bases", "get", "sd15"],
        ["datasets", "get", "fill50k"],
        ["check", "birds", "--fix", "correct", "--finding", "map_shifted"],
        ["extract", "birds", "--type", "depth", "--download"],
        ["export", "run", "--compare", "--step", "20", "--pairs", "8"],
        ["export", "run", "--format", "lora"],
        ["merge", "run", "--kind", "ema"],
        ["import-net", str(tmp_path / "net.safetensors"), "--base", "sd15"],
    ]
    for line in words:
        assert add(root, *line) == 0
    jobs = [job_of(entry) for entry in queue.waiting()]
    kinds = ["bases", "datasets", "check", "maps", "compare", "export", "merge", "import-net"]
    assert [job.kind for job in jobs] == kinds
    assert [entry.title for entry in queue.waiting()] == [job.title for job in jobs]
    assert jobs[3].model_dump()["download"] and jobs[4].model_dump()["checkpoint"] == 20
    assert jobs[4].model_dump()["pairs"] == 8


def test_list_move_and_remove_need_no_lock(root: Path, queue: QueueFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """They work beside an open window, which does the jobs. Running them there as well is refused."""
    start = ["--workspace", str(root)]
    with WorkspaceLock(Workspace(root), "its window"):
        for name in ("a", "b", "c"):
            assert add(root, "extract", name, "--type", "canny") == 0
        assert "Its window will run it when its turn comes." in capsys.readouterr().out
        assert main([*start, "queue", "move", "3", "1"]) == 0
        assert [entry.settings["dataset"] for entry in queue.waiting()] == ["c", "a", "b"]
        assert main([*start, "queue", "remove", "2"]) == 0
        assert [entry.settings["dataset"] for entry in queue.waiting()] == ["c", "b"]
        assert main([*start, "queue", "remove", "9"]) == EXIT_PROBLEM
        assert "no job 9" in capsys.readouterr().err
        assert main([*start, "queue", "run"]) == EXIT_PROBLEM
        assert "already open" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["doctor"], "The command doctor cannot be queued"),
        (["bases", "list"], "bases list cannot be queued"),
        (["datasets", "get", "dreams"], "no dataset called dreams"),
        (["check", "birds", "--fix", "undo", "--finding", "blurred"], "--fix undo cannot be queued"),
        (["check", "birds", "--fix", "correct", "--finding", "dull"], "no finding named dull"),
        (["captions", "birds", "--prefix", "a photo"], "Add --auto MODEL"),
        (["captions", "birds", "--auto", "blip", "--dry-run"], "--dry-run cannot be queued"),
        (["train", "--dataset", "birds", "--write", "all.toml"], "--write cannot be queued"),
        (["train", "--dataset", "birds", "--set", "train.steps=-1"], "train.steps"),
        (["extract", "birds", "--type", "dreams"], "dreams"),
        (["extract", "birds", "--type", "canny", "--set", "high=9999999"], "high"),
        (["evaluate", "run", "--json"], "--json cannot be queued"),
        (["grid", "run", "--seeds", "x"], "not a number"),
        (["export", "run", "--format", "floppy"], "there is no format floppy"),
    ],
)
def test_what_cannot_be_queued_is_said_at_once(
    root: Path, queue: QueueFolder, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(root, *words) == EXIT_PROBLEM
    assert said in capsys.readouterr().err
    assert queue.entries() == []


def queued_training(root: Path, paired_folder: Path, tiny_base: Path, steps: int) -> None:
    main(["--workspace", str(root), "scan", str(paired_folder), "--name", "pairs"])
    settings = [*train_settings(tiny_base, steps), "--set", "train.checkpoint_every=2"]
    assert add(root, "train", "--dataset", "pairs", "--preset", "cpu", *settings) == 0


def test_a_training_that_a_crash_ended_goes_on_from_its_checkpoint(
    root: Path, queue: QueueFolder, paired_folder: Path, tiny_base: Path
) -> None:
    """The crash is what SIGKILL leaves: an entry that is taken, and a run with a checkpoint and no ending."""
    queued_training(root, paired_folder, tiny_base, steps=6)
    entry = queue.take()
    assert entry is not None

    def die(event: Any) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            raise SystemExit

    with pytest.raises(SystemExit):
        perform(Workspace(root), queue, entry, Control().token, die)
    queue.take()  # put_back has no part in a real crash
    assert queue.running() is not None
    assert main(["--workspace", str(root), "queue", "run"]) == 0
    (folder,) = Workspace(root).run_folders()
    run = Run(folder)
    assert run.completed
    assert [line["event"] for line in run.metrics() if "event" in line][-2:] == ["resumed", "completed"]
    assert next(line["step"] for line in run.metrics() if line.get("event") == "resumed") == 2
    (result,) = queue.results()
    assert result.outcome == "completed"


def test_a_run_that_is_finished_is_not_trained_again(
    root: Path, queue: QueueFolder, paired_folder: Path, tiny_base: Path
) -> None:
    """The process was killed after the last step, before the queue heard of it. Nor is a second resume a failure."""
    queued_training(root, paired_folder, tiny_base, steps=2)
    entry = queue.take()
    assert entry is not None
    perform(Workspace(root), queue, entry, Control().token, lambda event: None)
    (folder,) = Workspace(root).run_folders()
    lines = (folder / "metrics.jsonl").read_bytes()
    queue.clear_results()
    queue.add(entry.kind, entry.title, entry.settings)
    next(queue.folder.glob("*.json")).rename(queue.folder / f"running-000001000-{entry.id}.json")
    assert add(root, "resume", folder.name) == 0
    assert main(["--workspace", str(root), "queue", "run"]) == 0
    assert (folder / "metrics.jsonl").read_bytes() == lines
    assert [result.outcome for result in queue.results()] == ["completed", "completed"]
    assert Workspace(root).run_folders() == [folder]


@pytest.mark.long
def test_kill_9_in_the_middle_of_the_queue(
    root: Path, queue: QueueFolder, paired_folder: Path, tiny_base: Path, forks: Forks, tmp_path: Path
) -> None:
    """A real SIGKILL while the second of three jobs trains: the next start goes on with that run, then the third."""
    queued_training(root, paired_folder, tiny_base, steps=60)
    assert add(root, "extract", "pairs", "--type", "canny") == 0
    printed = tmp_path / "stdout"
    child = forks.popen("engine.cli", "--workspace", str(root), "queue", "run", output=printed)
    try:
        deadline = time.monotonic() + 120
        while not (Workspace(root).run_folders() and Run(Workspace(root).run_folders()[0]).last_step >= 4):
            assert time.monotonic() < deadline and child.poll() is None, printed.read_text(encoding="utf-8")
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    finally:
        child.kill()
    assert queue.running() is not None
    child = forks.popen("engine.cli", "--workspace", str(root), "queue", "run", output=printed)
    assert child.wait(300) == 0, printed.read_text(encoding="utf-8")
    (folder,) = Workspace(root).run_folders()
    assert Run(folder).completed
    resumed = [line["step"] for line in Run(folder).metrics() if line.get("event") == "resumed"]
    assert len(resumed) == 1 and resumed[0] >= 4
    assert [result.title for result in queue.results()] == ["Making maps of pairs", "Training pairs"]
