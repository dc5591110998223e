"""nvidia-smi's answers, the usual and the odd ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engine.install import hardware
from engine.install.hardware import Gpu, detect_gpus, free_disk_gb, memory_gb, parse_nvidia_smi

POSIX = pytest.mark.skipif(os.name == "nt", reason="the pretended nvidia-smi is a shell script")


def pretend_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text("#!/bin/sh\n" + script, encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setattr(hardware, "find_nvidia_smi", lambda: str(tool))


def test_a_card_is_read_with_its_driver_and_capability() -> None:
    (gpu,) = parse_nvidia_smi("NVIDIA GeForce RTX 3060, 12288, 581.08, 8.6\n").gpus
    assert gpu == Gpu("NVIDIA GeForce RTX 3060", 12288, (581, 8), (8, 6))
    assert gpu.label == "NVIDIA GeForce RTX 3060, 12 GB, driver 581.8"


def test_two_cards_are_read_in_order() -> None:
    gpus = parse_nvidia_smi("RTX 4090, 24564, 580.65.06, 8.9\nGTX 1060, 6144, 580.65.06, 6.1\n").gpus
    assert [gpu.capability for gpu in gpus] == [(8, 9), (6, 1)]


def test_memory_that_the_driver_does_not_report_is_zero() -> None:
    (gpu,) = parse_nvidia_smi("NVIDIA GB10, [N/A], 580.95.05, 12.1").gpus
    assert gpu.memory_mib == 0
    assert "GB," not in gpu.label


@pytest.mark.parametrize(
    "text", ["", "No devices were found\n", "\x00\x01garbage,,\n,,,", "a, b, c, d\n", "x, 1, [N/A], 8.6\n"]
)
def test_garbage_is_no_card(text: str) -> None:
    assert parse_nvidia_smi(text).gpus == ()


def test_without_nvidia_smi_there_is_no_card_and_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "find_nvidia_smi", lambda: None)
    assert detect_gpus() == hardware.GpuReport()


@POSIX
def test_a_driver_too_old_for_compute_cap_is_asked_again_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'case "$*" in *compute_cap*) echo \'Field "compute_cap" is not a valid field to query.\'; exit 2;; esac\n'
    pretend_nvidia_smi(tmp_path, monkeypatch, script + "echo 'GeForce GTX 970, 4096, 471.11'\n")
    (gpu,) = detect_gpus().gpus
    assert (gpu.driver, gpu.capability) == ((471, 11), None)


@POSIX
def test_a_driver_that_fails_is_a_problem_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_nvidia_smi(
        tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed because it could not reach the driver'; exit 9"
    )
    report = detect_gpus()
    assert not report.gpus
    assert "could not reach the driver" in report.problem


@POSIX
def test_a_driver_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_nvidia_smi(tmp_path, monkeypatch, "exec sleep 20")
    assert "did not respond" in detect_gpus(timeout=0.2).problem


def test_disk_and_memory_are_numbers(tmp_path: Path) -> None:
    assert free_disk_gb(tmp_path) > 0
    assert memory_gb() > 0 or sys.platform == "darwin"
