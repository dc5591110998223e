"""A text about this machine and what is wrong with it, for the command "doctor"."""

from __future__ import annotations

import platform
from importlib import metadata

from engine.machine.hardware import detect
from engine.machine.units import GIB, format_bytes, format_memory
from engine.version import VERSION
from engine.workspace.paths import Workspace, bundled_bases

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "gradio",
    "safetensors",
    "opencv-python-headless",
    "pillow",
)
OPTIONAL = {"bitsandbytes": "8-bit optimizers", "xformers": "attention; torch's own is used without it"}
LOW_DISK_BYTES = 10 * GIB


def versions() -> dict[str, str]:
    """Versions of the app, Python and packages by name; "not installed" for missing packages."""
    found = {"ControlNet Studio": VERSION, "Python": platform.python_version()}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def problems(workspace: Workspace) -> list[str]:
    """A sentence for each problem, with what to do about it."""
    found = []
    hardware = detect()
    if hardware.banner:
        found.append(hardware.banner)
    elif hardware.device == "cpu":
        found.append(
            "No usable graphics card was found: the demo can be trained on this computer, but Stable Diffusion 1.5 "
            "would take weeks."
        )
    if workspace.free_bytes() < LOW_DISK_BYTES:
        found.append(
            f"Only {format_bytes(workspace.free_bytes())} are free on the workspace's disk; training runs need more."
        )
    found += [
        f"The demo base is missing from {folder}: reinstall the app."
        for folder in bundled_bases().values()
        if not (folder / "model_index.json").exists()
    ]
    found += [
        f"{name} is not installed: run the installer again." for name in PACKAGES if versions()[name] == "not installed"
    ]
    return found


def report(workspace: Workspace) -> str:
    """The report as text."""
    hardware = detect()
    lines = [
        f"System      {platform.system()} {platform.release()}",
        f"Device      {hardware.sentence}",
        f"Memory      {format_memory(hardware.ram_gib)}",
        f"Workspace   {workspace.root}",
        f"Free disk   {format_bytes(workspace.free_bytes())}",
        "",
    ]
    for name, version in versions().items():
        note = f"  (optional: {OPTIONAL[name]})" if name in OPTIONAL else ""
        lines.append(f"{name:<24}{version}{note}")
    found = problems(workspace)
    lines += ["", *(f"! {sentence}" for sentence in found)] if found else ["", "No problems were found."]
    return "\n".join(lines)
