"""The children's environment, the record, the stamp, and reading torch's version without importing it."""

from __future__ import annotations

from pathlib import Path

from engine.install.layout import Layout, clean_environment, installed_torch, note, read_record, stamp
from tests.install.pretended import Machine


def test_another_pythons_settings_are_scrubbed() -> None:
    dirty = {
        "PYTHONPATH": "x",
        "PYTHONHOME": "x",
        "VIRTUAL_ENV": "x",
        "CONDA_PREFIX": "x",
        "conda_default_env": "x",
        "PIP_TARGET": "x",
        "PIP_USER": "1",
    }
    clean = clean_environment({**dirty, "PATH": "/bin"})
    assert clean.pop("PIP_USER") == "0"
    assert not set(clean) & set(dirty)
    assert clean["PATH"] == "/bin"
    assert clean["PYTHONUTF8"] == "1" and clean["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_network_settings_of_pip_are_kept() -> None:
    network = {"HTTPS_PROXY": "p", "PIP_INDEX_URL": "i", "PIP_CERT": "c", "PIP_CONFIG_FILE": "f", "PIP_FIND_LINKS": "l"}
    assert network.items() <= clean_environment(network).items()


def test_the_given_environment_is_not_changed() -> None:
    given = {"PYTHONPATH": "x"}
    clean_environment(given)
    assert given == {"PYTHONPATH": "x"}


def test_record_adds_up_and_survives_garbage(any_root: Path) -> None:
    layout = Layout(any_root)
    note(layout, cpu=True)
    note(layout, checked="abc")
    assert read_record(layout) == {"cpu": True, "checked": "abc"}
    layout.record.write_text('{"half', encoding="utf-8")
    assert read_record(layout) == {}
    assert not list(layout.venv.glob("*.tmp"))


def test_torch_is_read_from_its_files(machine: Machine) -> None:
    assert installed_torch(machine.layout) == ("", "")
    machine.put_torch("2.13.0+cu130", "13.0")
    assert installed_torch(machine.layout) == ("2.13.0+cu130", "cu130")
    machine.put_torch("2.13.0", "12.6")
    assert installed_torch(machine.layout) == ("2.13.0", "cu126")
    machine.put_torch("2.13.0+cpu", None)
    assert installed_torch(machine.layout) == ("2.13.0+cpu", "cpu")


def test_a_half_installed_torch_does_not_count(machine: Machine) -> None:
    machine.put_torch("2.13.0+cpu", None, half=True)
    assert installed_torch(machine.layout) == ("", "")


def test_stamp_changes_with_each_of_its_parts(machine: Machine) -> None:
    layout = machine.layout
    stamps = [stamp(layout)]
    machine.put_torch("2.13.0+cpu", None)
    stamps.append(stamp(layout))
    machine.put_torch("2.13.0+cu130", "13.0")
    stamps.append(stamp(layout))
    (layout.venv / "pyvenv.cfg").write_text("version = 3.12.4\n", encoding="utf-8")
    stamps.append(stamp(layout))
    (layout.root / "requirements.txt").write_text("torch==2.13.0\n", encoding="utf-8")
    stamps.append(stamp(layout))
    assert len(set(stamps)) == len(stamps)


def test_stamp_does_not_depend_on_line_ends(root: Path) -> None:
    file = root / "requirements.txt"
    file.write_bytes(b"a\nb\n")
    before = stamp(Layout(root))
    file.write_bytes(b"a\r\nb\r\n")
    assert stamp(Layout(root)) == before
