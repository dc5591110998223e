"""Cards of AMD, Intel and Apple, by pretended kernel files and answers, to the build that is installed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from engine.install import doctor, hardware, other_cards
from engine.install.console import InstallError, Outcome
from engine.install.hardware import Gpu, GpuReport, detect_gpus
from engine.install.job import run_steps
from engine.install.layout import installed_torch
from engine.install.other_cards import OtherCard, amd_on_linux, detect_others, from_windows, intel_on_linux
from engine.install.steps import APP_STEPS
from engine.install.torch_choice import INDEX, TORCH, choose, fits
from tests.install.pretended import Machine, job_for

AMD = OtherCard("AMD", "AMD gfx1100", "rocm7.2", "6.12", memory=24 * 2**30)
ARC = OtherCard("Intel", "Intel Arc B series", "xpu", "xe")


def kernel_file(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def amd_node(root: Path, number: int, version: int, gib: int = 0) -> None:
    node = f"class/kfd/kfd/topology/nodes/{number}"
    kernel_file(root, f"{node}/properties", f"cpu_cores_count 0\nsimd_count 192\ngfx_target_version {version}\n")
    kernel_file(root, f"{node}/mem_banks/0/properties", f"heap_type 1\nsize_in_bytes {gib * 2**30}\nflags 0\n")


def adapter(root: Path, card: str, vendor: str, device: str, driver: str = "xe") -> None:
    kernel_file(root, f"class/drm/{card}/device/vendor", vendor + "\n")
    kernel_file(root, f"class/drm/{card}/device/device", device + "\n")
    kernel_file(root, f"bus/pci/drivers/{driver}/bind", "")
    (root / f"class/drm/{card}/device/driver").symlink_to(root / f"bus/pci/drivers/{driver}")


@pytest.mark.parametrize(
    ("version", "name", "build"),
    [
        (110000, "gfx1100", "rocm7.2"),
        (90010, "gfx90a", "rocm7.2"),
        (120001, "gfx1201", "rocm7.2"),
        (101000, "gfx10a0", ""),
        (80003, "gfx803", ""),
        (90000, "gfx900", ""),  # compiled, but without a matrix product
        (110501, "gfx1151", "rocm7.2"),
        (110003, "gfx1103", ""),
    ],
)
def test_amds_architecture_decides(tmp_path: Path, version: int, name: str, build: str) -> None:
    amd_node(tmp_path, 0, 0)  # the processor
    amd_node(tmp_path, 1, version, gib=16)
    kernel_file(tmp_path, "module/amdgpu/version", "6.12.12\n")
    (card,) = amd_on_linux(tmp_path)
    assert (card.name, card.build, card.driver, card.memory) == (f"AMD {name}", build, "6.12.12", 16 * 2**30)
    assert card.label == f"AMD {name}, 16 GB, driver 6.12.12" and bool(card.why_not) is not bool(build)


def test_the_variable_that_makes_a_card_another_one_is_honoured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    amd_node(tmp_path, 1, 100302, gib=8)  # RX 6600
    (card,) = amd_on_linux(tmp_path)
    assert card.build == "" and f"{other_cards.OVERRIDE}=10.3.0" in card.why_not
    for value, build, name in (
        ("10.3.0", "rocm7.2", "AMD gfx1032 (run as gfx1030)"),
        ("no version", "", "AMD gfx1032"),
    ):
        monkeypatch.setenv(other_cards.OVERRIDE, value)
        (card,) = amd_on_linux(tmp_path)
        assert (card.build, card.name) == (build, name)


def test_an_amd_card_without_its_compute_driver_is_said(tmp_path: Path) -> None:
    adapter(tmp_path, "card1", "0x1002", "0x744c", "amdgpu")
    (card,) = amd_on_linux(tmp_path)
    assert card.build == "" and "/dev/kfd" in card.why_not and "usermod -aG render,video" in card.why_not
    assert amd_on_linux(tmp_path / "nothing here") == []


def test_intels_cards_are_told_from_the_graphics_part_that_every_computer_has(tmp_path: Path) -> None:
    adapter(tmp_path, "card0", "0x8086", "0x4680", "i915")  # UHD Graphics 770
    adapter(tmp_path, "card1", "0x8086", "0xe20b")  # Arc B580
    kernel_file(tmp_path, "class/drm/card1-DP-1/status", "connected\n")
    kernel_file(tmp_path, "class/drm/card2/device/vendor", "no PCI device\n")
    assert intel_on_linux(tmp_path) == [ARC]


def test_windows_lists_its_adapters() -> None:
    arc = {"Name": "Intel(R) Arc(TM) A770", "PNPDeviceID": r"PCI\VEN_8086&DEV_56A0&SUBSYS_1", "DriverVersion": "32.0"}
    radeon = {"Name": "AMD Radeon RX 7900 XTX", "PNPDeviceID": r"PCI\VEN_1002&DEV_744C", "DriverVersion": None}
    virtual = {"Name": "Remote display", "PNPDeviceID": None, "DriverVersion": "1"}
    assert [card.build for card in from_windows(json.dumps([virtual, radeon, arc]))] == ["", "xpu"]
    (card,) = from_windows(json.dumps(arc))
    assert card.label == "Intel(R) Arc(TM) A770, driver 32.0"
    odd = [None, "text", {}, {"PNPDeviceID": r"PCI\VEN_8086&DEV_ZZZZ"}, {"PNPDeviceID": 7}]
    assert from_windows(json.dumps(odd)) == from_windows("null") == []
    assert from_windows("") == from_windows("'powershell' is not recognized") == []


def test_the_best_card_comes_first_and_nvidias_before_all(monkeypatch: pytest.MonkeyPatch) -> None:
    old = OtherCard("AMD", "AMD gfx803", "", why_not="x", memory=2**40)
    monkeypatch.setattr(other_cards, "amd_on_linux", lambda kernel: [old, AMD])
    monkeypatch.setattr(other_cards, "intel_on_linux", lambda kernel: [ARC])
    assert detect_others("linux") == (AMD, ARC, old)
    monkeypatch.setattr(hardware, "detect_others", lambda timeout: (AMD,))
    monkeypatch.setattr(hardware, "detect_nvidia", lambda timeout: GpuReport())
    assert detect_gpus() == GpuReport(others=(AMD,))
    nvidia = GpuReport((Gpu("RTX 3060", 12288, (580, 95), (8, 6)),))
    monkeypatch.setattr(hardware, "detect_nvidia", lambda timeout: nvidia)
    assert detect_gpus() == GpuReport(nvidia.gpus, others=(AMD,))


RTX, GTX_680 = Gpu("RTX 3060", 12288, (580, 95), (8, 6)), Gpu("GTX 680", 2048, (470, 82), (3, 0))
LATE_RTX = Gpu("RTX 3060", 12288, (470, 82), (8, 6))
NO_BUILD = OtherCard("AMD", "AMD gfx1036", "", why_not="x")


@pytest.mark.parametrize(
    ("gpus", "others", "build", "sentence"),
    [
        ((RTX,), (AMD,), "cu130", "RTX 3060 is used, because .*instead, start ./install.sh --maker amd"),
        ((GTX_680, RTX), (ARC,), "cu130", "RTX 3060 is used, because .* --maker intel"),
        ((RTX,), (NO_BUILD,), "cu130", ""),
        ((GTX_680,), (AMD, ARC), "rocm7.2", "AMD gfx1100.* is used, because PyTorch .* does not support GTX 680"),
        ((GTX_680,), (NO_BUILD,), "cpu", "GTX 680: PyTorch .* no longer supports"),
        ((LATE_RTX,), (ARC,), "cpu", "The NVIDIA card comes first, but cannot be used yet. .* --maker intel"),
        ((), (AMD, ARC), "rocm7.2", "AMD gfx1100.* is used, because it reports the most memory. .* --maker intel"),
    ],
)
def test_of_several_makers_one_is_used_and_a_sentence_says_why(
    gpus: tuple[Gpu, ...], others: tuple[OtherCard, ...], build: str, sentence: str
) -> None:
    choice = choose(GpuReport(gpus, others=others), system="linux")
    assert choice.build == build
    assert re.match(sentence, choice.warnings[0]) if sentence else choice.warnings == ()
    assert "no longer" not in choice.warnings[0] if build == "rocm7.2" else True


@pytest.mark.answers("The installation fails, or another graphics card should be used")
def test_the_maker_that_is_asked_for_is_used() -> None:
    both = GpuReport((RTX,), others=(AMD, ARC))
    for maker, build in (("amd", "rocm7.2"), ("intel", "xpu"), ("nvidia", "cu130")):
        choice = choose(both, system="linux", maker=maker)
        assert (choice.build, choice.maker) == (build, maker) and "instead, start" not in " ".join(choice.warnings)
    assert choose(GpuReport((RTX,)), system="linux", maker="amd").build == "cpu"


def test_a_mac_is_told_by_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_cards.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(other_cards, "output_of", lambda command: "Apple M2\n")
    assert detect_others("darwin") == (OtherCard("Apple", "Apple M2", "cpu"),)
    choice = choose(GpuReport(others=detect_others("darwin")), system="darwin")
    assert (choice.build, choice.reason) == ("cpu", "Apple M2") and "never run" in choice.warnings[0]
    monkeypatch.setattr(other_cards.platform, "machine", lambda: "x86_64")
    assert detect_others("darwin") == ()


@pytest.mark.parametrize("card", [AMD, ARC])
def test_the_build_is_chosen_by_the_card_installed_and_recognized(machine: Machine, card: OtherCard) -> None:
    choice = choose(GpuReport(others=(card,)), system="linux")
    assert (choice.wanted, choice.index) == (f"{TORCH}+{card.build}", INDEX + card.build)
    assert "never run" in choice.warnings[0] and "--doctor" in choice.warnings[0]
    machine.offered = {"": ["2.13.0"], choice.index: [choice.wanted]}
    run_steps(job_for(machine, choice), APP_STEPS)
    assert installed_torch(machine.layout) == (choice.wanted, card.build)
    assert machine.ran("selfcheck")[0].endswith(" card") and machine.ran("install .*bitsandbytes")
    assert not machine.ran("xformers"), "it has kernels for NVIDIA's cards only"
    assert fits(card.build, choice, "linux") and fits(card.build, choose(GpuReport()), "linux")
    assert not fits(card.build, choose(GpuReport(), force_cpu=True), "linux")
    assert not fits("cu130", choice, "linux") and not fits("cpu", choice, "linux")


def test_a_card_that_torch_does_not_find_is_a_failure_with_its_makers_remedy(machine: Machine) -> None:
    choice = choose(GpuReport(others=(AMD,)), system="linux")
    machine.offered = {"": [choice.wanted]}
    machine.self_check = Outcome(1, "RuntimeError: PyTorch 2.13.0+rocm7.2 sees no card\n")
    with pytest.raises(InstallError) as caught:
        run_steps(job_for(machine, choice), APP_STEPS)
    assert "AMD's newest driver" in caught.value.fix and "--cpu" in caught.value.fix


def test_an_nvidia_driver_that_does_not_answer_has_its_remedy() -> None:
    choice = choose(GpuReport(problem="nvidia-smi answered: Driver/library version mismatch"), system="linux")
    assert "mismatch. Restart the computer; if that does not help" in choice.warnings[0]


def test_a_card_without_a_build_is_said_with_the_reason() -> None:
    old = OtherCard("AMD", "AMD gfx803", "", why_not="PyTorch's ROCm build is not compiled for gfx803")
    choice = choose(GpuReport(others=(old,)), system="linux")
    assert choice.build == "cpu" and "AMD gfx803 will not be used: PyTorch's ROCm build is not" in choice.warnings[0]


def test_the_doctor_lists_the_cards_that_are_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "detect_gpus", lambda: GpuReport((RTX,), others=(AMD, NO_BUILD)))
    text, _ = doctor.report(root)
    assert "AMD gfx1100, 24 GB, driver 6.12, not used" in text and "! AMD" not in text


def test_the_doctor_writes_one_block_without_the_users_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = OtherCard("AMD", "AMD gfx803", "", why_not="PyTorch's ROCm build is not compiled for gfx803")
    monkeypatch.setattr(doctor, "detect_gpus", lambda: GpuReport(others=(AMD, old)))
    monkeypatch.setattr(doctor.Path, "home", lambda: tmp_path)
    text, well = doctor.report(root)
    first, *_, last = text.splitlines()
    assert (first, last) == (doctor.BEGIN, doctor.END) and not well
    assert "AMD card         AMD gfx1100, 24 GB, driver 6.12" in text and "not compiled for gfx803" in text
    assert str(tmp_path) not in text and "~/app" in text
    for path in (r"C:\Users\Jane Doe\app", "/home/jane/app", "/Users/jane/app"):
        assert "ane" not in doctor.without_user(path) and doctor.without_user(path).endswith("app")
