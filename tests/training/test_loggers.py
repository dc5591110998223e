"""Figures for other programs: files that TensorBoard reads, and nothing that leaves the machine unasked."""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config import RunConfig, ValidationConfig
from engine.jobs.events import Checked, Event, Message, PreviewMade, StepDone
from engine.training.event_file import EventFile, checksum
from engine.training.loggers import TENSORBOARD, Loggers

EVENTS: tuple[Event, ...] = (
    StepDone(1, 8, 0.5, 1e-5, 2.0),
    Checked(1, 8, 0.2, 0.1, 0.01, 0.3, 0.05, 0.2, 1.0, 0.4, 6.5),
    PreviewMade(1, Path("x"), (), (), {"obeys": 0.7}, {"saturation": 1.1}),
)
WANTED = {
    "train/loss": 0.5,
    "train/learning_rate": 1e-5,
    "train/pictures_per_second": 4.0,
    "check/held_out_loss": 0.2,
    "check/training_loss": 0.1,
    "check/control_gain": 0.3,
    "check/control_gain_training": 0.4,
    "check/memory_gib": 6.5,
    "pictures/obeys": 0.7,
    "pictures/saturation": 1.1,
}


def config(**values: Any) -> RunConfig:
    return RunConfig(validation=ValidationConfig(**values))


def records(path: Path) -> list[bytes]:
    """The messages of an event file, their checksums checked."""
    data, found = path.read_bytes(), []
    while data:
        (length,), (of_length,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        message, (of_message,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert (of_length, of_message) == (checksum(data[:8]), checksum(message))
        found.append(message)
        data = data[16 + length :]
    return found


def test_the_checksum_is_the_standards_own() -> None:
    """RFC 3720, B.4: CRC-32C of 32 zero bytes is 0x8a9136aa; TFRecord turns it and adds a constant."""
    plain = 0x8A9136AA
    assert checksum(bytes(32)) == ((plain >> 15 | plain << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_records_are_whole_at_any_time(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    file.add({"a": 1.5}, 300)
    (path,) = tmp_path.iterdir()
    first, second = records(path)
    assert first.endswith(b"brain.Event:2")
    assert b"\x10\xac\x02" in second, "step 300 as a varint"
    assert second.endswith(b"\x0a\x01a\x15" + struct.pack("<f", 1.5))


@pytest.mark.answers("TensorBoard, Weights & Biases?")
def test_tensorboard_reads_them(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = Loggers(tmp_path, config(), lambda event: None)
    for event in EVENTS:
        log(event)
    read = reader.EventAccumulator(str(tmp_path / TENSORBOARD))
    read.Reload()
    found = {name: read.Scalars(name)[0] for name in read.Tags()["scalars"]}
    assert {name: scalar.value for name, scalar in found.items()} == pytest.approx(WANTED)
    assert {scalar.step for scalar in found.values()} == {1}


def test_every_figure_is_in_the_file_and_every_event_goes_on(tmp_path: Path) -> None:
    heard: list[Event] = []
    log = Loggers(tmp_path, config(), heard.append)
    for event in EVENTS:
        log(event)
    for step in range(2, 41):
        log(StepDone(step, 8 * step, 0.5, 1e-5, 2.0))
    (path,) = (tmp_path / TENSORBOARD).iterdir()
    data = path.read_bytes()
    assert all(name.encode() in data for name in WANTED)
    assert len(heard) == 42
    assert len(records(path)) == 1 + 3 + 9 + 3, "each of the first steps, then every tenth"


def test_a_file_that_cannot_be_written_is_reported_once_and_given_up(tmp_path: Path) -> None:
    heard: list[Event] = []
    log = Loggers(tmp_path, config(), heard.append)
    log(EVENTS[0])
    shutil.rmtree(tmp_path / TENSORBOARD)  # the disk is gone
    for event in EVENTS * 2:
        log(event)
    (message,) = [event for event in heard if isinstance(event, Message)]
    assert message.level == "warning" and "TensorBoard" in message.text and "the run continues" in message.text
    assert [event for event in heard if event in EVENTS] == [EVENTS[0], *EVENTS * 2]


def test_nothing_is_written_or_loaded_where_it_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it would raise
    heard: list[Event] = []
    Loggers(tmp_path, config(tensorboard=False), heard.append)(EVENTS[0])
    assert not list(tmp_path.iterdir()) and heard == [EVENTS[0]]
    assert RunConfig().validation.wandb is False


@pytest.mark.answers("TensorBoard, Weights & Biases?")
def test_weights_and_biases_is_reported_once_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    heard: list[Event] = []
    log = Loggers(tmp_path, config(wandb=True, tensorboard=False), heard.append)
    log(EVENTS[0])
    (message,) = [event for event in heard if isinstance(event, Message)]
    assert "pip install wandb" in message.text and message.level == "warning"


def test_weights_and_biases_gets_the_figures_and_its_faults_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[dict[str, float], int]] = []
    begun: list[dict[str, Any]] = []

    def take(values: dict[str, float], step: int) -> None:
        if len(logged) == 2:
            raise ConnectionError("the line is cut")
        logged.append((values, step))

    run = SimpleNamespace(log=take, finish=lambda: begun.append({"finished": True}))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **how: begun.append(how) or run))
    heard: list[Event] = []
    log = Loggers(tmp_path / "my-run", config(wandb=True, tensorboard=False), heard.append)
    for event in (*EVENTS, *EVENTS):
        log(event)
    log.close()
    assert begun[0]["id"] == "my-run" and begun[0]["resume"] == "allow" and begun[-1] == {"finished": True}
    assert [step for _, step in logged] == [1, 1]
    assert sum(isinstance(event, Message) and "the line is cut" in event.text for event in heard) == 1
    assert sum(event in EVENTS for event in heard) == 6
