"""A checkpoint is believed only where it is what was written; what a killed process left is cleared away."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import RunConfig
from engine.config.presets import resolve
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.disk import durable
from engine.errors import UserError
from engine.export.source import read_source
from engine.jobs.events import Event, Message
from engine.runs import checkpoints as checkpoints_module
from engine.runs.checkpoints import (
    REMOVING,
    DamagedCheckpoint,
    broken_checkpoints,
    describe_files,
    description_checksum,
    list_checkpoints,
    read_checkpoint,
)
from engine.runs.cleanup import checkpoints_to_keep, clean_up, prune, star, trim
from engine.runs.run import Run
from engine.training import checkpoint as checkpoint_module
from engine.training.new_run import create_run
from engine.training.resume import open_run
from engine.tuning.controlnet import WholeControlNet
from engine.tuning.trainable import Placement
from engine.workspace.paths import Workspace
from tests.short_runs import train

WEIGHTS = "controlnet/diffusion_pytorch_model.safetensors"
OPTIMIZER = "training_state/optimizer.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, paired_folder: Path, tiny_base: Path) -> Path:
    """The folder of a finished run with checkpoints of steps 1, 2 and 3."""
    workspace = Workspace(tmp_path_factory.mktemp("trained"))
    Dataset.create(workspace, "pairs", scan_folder(paired_folder))
    settings = {
        "model": {"base": str(tiny_base)},
        "data": {"dataset": "pairs", "resolution": 64, "held_out": 2},
        "train": {"steps": 3, "batch_size": 1, "precision": "fp32", "checkpoint_every": 1, "keep_checkpoints": 0},
        "validation": {"every": 0, "check_every": 0},
    }
    run = create_run(workspace, resolve(("test", settings))[0], {})
    train(workspace, run)
    return run.folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be harmed."""
    return Path(shutil.copytree(trained, tmp_path / trained.name))


def newest(folder: Path) -> Path:
    return folder / "checkpoints" / "step-000003"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def steps(folder: Path) -> list[int]:
    return [checkpoint.step for checkpoint in list_checkpoints(folder)]


def opened(folder: Path) -> tuple[int, list[str]]:
    """The step that a resume would go on from, and what it says."""
    events: list[Event] = []
    checkpoint = open_run(folder, events.append)
    return checkpoint.step if checkpoint else 0, [event.text for event in events if isinstance(event, Message)]


def test_every_file_has_its_checksum_and_a_whole_run_opens_without_a_word(folder: Path) -> None:
    about = json.loads((newest(folder) / "checkpoint.json").read_text(encoding="utf-8"))
    files = {p.relative_to(newest(folder)).as_posix() for p in newest(folder).rglob("*") if p.is_file()}
    assert set(about["files"]) == set(about["checksums"]) == files - {"checkpoint.json"}
    assert about["checksums"][WEIGHTS] == durable.checksum(newest(folder) / WEIGHTS)
    assert opened(folder) == (3, [])


def break_weights(place: Path) -> None:
    flip(place / WEIGHTS)


def break_numbers(place: Path) -> None:
    """Weights full of NaN, as a version without checks could have saved them: every checksum is right."""
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(place / WEIGHTS).items()}
    save_file(broken, place / WEIGHTS, metadata={"format": "pt"})
    about = json.loads((place / "checkpoint.json").read_text(encoding="utf-8"))
    files = [place / name for name in about["files"]]
    about |= describe_files(place, dict(zip(files, durable.checksums(files), strict=True)))
    (place / "checkpoint.json").write_text(json.dumps(about | {"seal": description_checksum(about)}), encoding="utf-8")


@pytest.mark.parametrize(("harm", "words"), [(break_weights, "checksum differs"), (break_numbers, "NaN or infinity")])
def test_a_broken_checkpoint_is_set_aside_in_words_and_never_offered_again(
    folder: Path, harm: Callable[[Path], None], words: str
) -> None:
    harm(newest(folder))
    assert steps(folder) == [1, 2, 3], "sizes alone do not tell"
    step, messages = opened(folder)
    assert step == 2 and words in messages[0] and "step 3" in messages[0]
    assert steps(folder) == [1, 2]
    assert "step-000003 was set aside" in broken_checkpoints(folder)[0]
    assert opened(folder)[0] == 2


def test_only_the_resume_state_is_lost_where_only_that_is_broken(folder: Path) -> None:
    flip(newest(folder) / OPTIMIZER)
    assert opened(folder)[0] == 2
    assert steps(folder) == [1, 2, 3], "its weights can still be tried and exported"
    assert not list_checkpoints(folder)[-1].resumable


def edit(place: Path, **changes: object) -> None:
    path = place / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda place: (place / WEIGHTS).write_bytes(b"short"), "missing or shorter"),
        (lambda place: (place / WEIGHTS).unlink(), "missing or shorter"),
        (lambda place: (place / "checkpoint.json").unlink(), "not written completely"),
        (lambda place: (place / "checkpoint.json").write_text("{", encoding="utf-8"), "cannot be read"),
        (lambda place: edit(place, step=2), "changed since it was written"),
    ],
)
def test_what_is_not_whole_is_not_listed_and_named(folder: Path, harm: Callable[[Path], None], words: str) -> None:
    harm(newest(folder))
    assert steps(folder) == [1, 2]
    assert words in broken_checkpoints(folder)[0]
    step, messages = opened(folder)
    assert step == 2 and words in messages[0]


def test_a_checkpoint_from_the_future_is_left_alone(folder: Path) -> None:
    edit(newest(folder), format=99)
    assert steps(folder) == [1, 2]
    assert "newer version" in broken_checkpoints(folder)[0]
    with pytest.raises(UserError, match="Update the app") as refused:
        open_run(folder, lambda event: None)
    assert "step-000003" in refused.value.why
    assert newest(folder).is_dir()


def test_one_of_an_earlier_version_has_no_checksums_and_counts(folder: Path) -> None:
    path = newest(folder) / "checkpoint.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    earlier = {key: value for key, value in about.items() if key not in ("format", "checksums", "seal")}
    path.write_text(json.dumps(earlier), encoding="utf-8")
    assert opened(folder) == (3, [])


def test_no_run_is_begun_anew_without_a_word(folder: Path) -> None:
    for checkpoint in list_checkpoints(folder):
        flip(checkpoint.folder / WEIGHTS)
    step, messages = opened(folder)
    assert step == 0 and "the run starts from scratch" in messages[-1]


def test_damage_is_found_when_it_is_exported(folder: Path) -> None:
    flip(newest(folder) / WEIGHTS)
    checkpoint = read_checkpoint(newest(folder))
    assert checkpoint is not None
    with pytest.raises(DamagedCheckpoint, match="changed since it was written"):
        read_source(checkpoint, "fp16", "plain")
    assert steps(folder) == [1, 2]


def test_a_disk_that_does_not_answer_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(paths: object) -> list[str]:
        raise OSError(19, "No such device")

    monkeypatch.setattr("engine.runs.checkpoints.checksums", gone)
    with pytest.raises(OSError, match="No such device"):
        open_run(folder, lambda event: None)
    assert steps(folder) == [1, 2, 3], "nothing was set aside"


def test_what_a_dead_process_left_is_finished_or_swept(folder: Path) -> None:
    checkpoints = folder / "checkpoints"
    dead = 2**22 + 1  # beyond the largest number that Linux gives
    os.replace(newest(folder), checkpoints / f".writing-step-000003.{dead}")  # whole, only the name is missing
    shutil.copytree(checkpoints / "step-000002", checkpoints / f".writing-step-000004.{dead}")
    (checkpoints / f".writing-step-000004.{dead}" / "checkpoint.json").unlink()
    (checkpoints / f"{REMOVING}step-000000").mkdir()
    (folder / "previews" / ".drawing-step-000003").mkdir(parents=True)
    (folder / "run.json.tmp").write_text("{", encoding="utf-8")
    living = checkpoints / f".writing-step-000005.{os.getppid()}"
    living.mkdir()
    assert opened(folder) == (3, [])
    left = {path.name for path in [*checkpoints.iterdir(), *(folder / "previews").iterdir(), *folder.iterdir()]}
    assert {name for name in left if name.startswith(".") or name.endswith(".tmp")} == {living.name}
    mine = checkpoints / f".writing-step-000006.{os.getpid()}"
    mine.mkdir()
    clean_up(folder)
    assert mine.exists(), "what this process is writing is not rubbish"


def test_everything_is_on_the_disk_before_it_gets_its_name(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of flushes and renames is all that a test can see of a power cut."""
    order: list[tuple[str, str]] = []
    for module in (durable, checkpoint_module, checkpoints_module):
        monkeypatch.setattr(module, "flush_folder", lambda path: order.append(("folder", str(path))))
    real_flush, real_replace = durable.flush, os.replace
    monkeypatch.setattr(durable, "flush", lambda path: (order.append(("file", str(path))), real_flush(path)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(("name", str(b))), real_replace(a, b)))
    net = torch.nn.Linear(2, 2)
    net.save_pretrained = lambda place, **_: (  # type: ignore[assignment]
        place.mkdir(),
        save_file(net.state_dict(), place / "weights.safetensors"),
    )
    optimizer = torch.optim.AdamW(net.parameters())
    checkpoint_module.stage_checkpoint(_empty_run(tmp_path), 1, 1, whole(net), None, optimizer, None, {})()
    named = order.index(("name", str(tmp_path / "run" / "checkpoints" / "step-000001")))
    flushed = {Path(path).name for kind, path in order[:named] if kind == "file"}
    assert flushed >= {"weights.safetensors", "optimizer.safetensors", "state.json"}
    assert order[named + 1] == ("folder", str(tmp_path / "run" / "checkpoints"))


def test_all_that_was_added_is_sealed_however_many_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, real = threading.Event(), durable.seal
    monkeypatch.setattr(durable, "seal", lambda path: (gate.wait(60), real(path))[1])
    files = [tmp_path / str(number) for number in range(3 * durable.THREADS)]
    for file in files:
        file.write_text(file.name, encoding="utf-8")
    with durable.ChecksumPool() as pool:
        pool.add(*files)
        threading.Timer(0.1, gate.set).start()
    assert pool.checksums() == {file: durable.checksum(file) for file in files}


def whole(net: torch.nn.Module) -> WholeControlNet:
    return WholeControlNet(net, Placement(torch.device("cpu"), torch.float32))


def _empty_run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize("wrong", [(torch.nan, 1.0), (torch.inf, -torch.inf)])
def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path, wrong: tuple[float, float]) -> None:
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight[0] = torch.tensor(wrong)
    with pytest.raises(UserError, match="half the learning rate"):
        checkpoint_module.stage_checkpoint(
            _empty_run(tmp_path), 7, 7, whole(net), None, torch.optim.AdamW(net.parameters()), None, {}
        )
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_weights_whose_sum_is_too_large_for_a_number_are_numbers() -> None:
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight[:] = 3e38
    assert not net.weight.sum().isfinite()
    checkpoint_module.check_finite(whole(net), 7)


def test_the_last_every_so_many_the_best_and_the_starred_stay(folder: Path) -> None:
    checkpoints = list_checkpoints(folder)
    assert [c.step for c in checkpoints_to_keep(checkpoints, 1)] == [3]
    assert [c.step for c in checkpoints_to_keep(checkpoints, 1, every=2)] == [2, 3]
    assert [c.step for c in checkpoints_to_keep(checkpoints, 1, best=1)] == [1, 3]
    assert [c.step for c in checkpoints_to_keep(checkpoints, 0)] == [1, 2, 3]
    star(folder, 1)
    assert [c.starred for c in list_checkpoints(folder)] == [True, False, False]
    prune(folder, 1)
    assert steps(folder) == [1, 3]
    star(folder, 1, wanted=False)
    prune(folder, 1)
    assert steps(folder) == [3]
    with pytest.raises(UserError, match="no checkpoint of step 1"):
        star(folder, 1)


def test_a_shrunk_checkpoint_keeps_its_weights(folder: Path) -> None:
    before = load_file(folder / "checkpoints" / "step-000001" / WEIGHTS)
    count, freed = trim(folder, keep=2)
    assert count == 1 and freed > 0
    assert [c.resumable for c in list_checkpoints(folder)] == [False, True, True]
    after = load_file(folder / "checkpoints" / "step-000001" / WEIGHTS)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert opened(folder) == (3, [])


def test_a_clock_that_jumps_changes_nothing(folder: Path) -> None:
    """The order of checkpoints is that of their steps: dates of files say nothing."""
    for number, path in enumerate(sorted((folder / "checkpoints").iterdir())):
        os.utime(path, (2_000_000_000 - number, 2_000_000_000 - number))
        os.utime(path / "checkpoint.json", (1_000 - number, 1_000 - number))
    assert opened(folder) == (3, [])
    prune(folder, 1)
    assert steps(folder) == [3]
    assert Run(folder).completed and isinstance(Run(folder).config, RunConfig)
