"""Maps made by the user's own program or Python file. It runs with the user's rights, like any program they start.

It never runs in the app's process or through a shell, and only after the user allowed it on this machine: a run.json
from elsewhere can name any program.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np

from engine.conditions import places
from engine.conditions.declaration import ConditionType, Parameter
from engine.disk.durable import atomic_write_text
from engine.disk.typed_path import typed_path
from engine.errors import UserError
from engine.jobs.control import CancelToken
from engine.jobs.program import run_program

EXTERNAL = ConditionType(
    name="external",
    title="My own program",
    teaches="Whatever your program draws. It runs with all your permissions: use only code that you trust.",
    parameters=(
        Parameter(
            "program",
            "Program",
            "text",
            "",
            hint="A Python file with a function extract(image) that returns an image (RGB arrays of bytes), or a "
            "command with {input} and {output}, the paths of the two images.",
        ),
        Parameter("seconds", "Time limit", "int", 60, 1, 3600, 1, hint="Seconds for each image."),
    ),
    extract="engine.conditions.types.external:external",
    batch="engine.conditions.types.external:external_batch",
    program="program",
)
ALLOWED = "allowed_programs.json"
_RUNNER = Path(__file__).with_name("external_child.py")
_QUOTED_LINES = 8  # of the program's output, in error messages


def external(image: np.ndarray, *, program: str, seconds: int, token: CancelToken | None = None) -> np.ndarray:
    """The map that the user's program makes. RGB uint8 (h, w, 3) in and out.

    Raises:
        UserError: the program failed; quotes its output. Cancelled: the token was cancelled; the program is stopped.
    """
    return external_batch([image], program=program, seconds=seconds, token=token)[0]


def external_batch(
    images: list[np.ndarray], *, program: str, seconds: int, token: CancelToken | None = None
) -> list[np.ndarray]:
    """``external`` for many images. A Python file is started once for all of them, with ``seconds`` for each."""
    from PIL import Image

    arguments = command_of(program)
    require(program)
    program = _as_meant(program)
    with tempfile.TemporaryDirectory(prefix="maps-") as folder:
        pairs = [(Path(folder) / f"{n}-in.png", Path(folder) / f"{n}-out.png") for n in range(len(images))]
        for image, (source, _) in zip(images, pairs, strict=True):
            Image.fromarray(image).save(source, compress_level=1)
        if arguments is None:
            paths = [str(path) for pair in pairs for path in pair]
            _run([sys.executable, "-P", str(_RUNNER), program, *paths], seconds * len(images), program, token)
        else:
            for source, target in pairs:
                given = [a.replace("{input}", str(source)).replace("{output}", str(target)) for a in arguments]
                _run(given, seconds, program, token)
        return [_read(target, image.shape[:2], program) for image, (_, target) in zip(images, pairs, strict=True)]


def command_of(program: str) -> list[str] | None:
    """The arguments of a command, or None for a Python file. Raises UserError if it is neither."""
    program = _as_meant(program)
    if not program:
        raise UserError(
            "No program was given.",
            "Maps of this type are drawn by your own program or Python file.",
            "Enter the path of a Python file with extract(image), or a command with {input} and {output}.",
        )
    if Path(program).suffix.lower() == ".py" and "{" not in program:
        if not Path(program).expanduser().is_file():
            raise UserError(
                f"{program} was not found.",
                "There is no such Python file.",
                "Enter its full path, or choose another file.",
            )
        return None
    if "{input}" not in program or "{output}" not in program:
        raise UserError(
            "The command does not say where the images are.",
            "It needs both {input} and {output}.",
            "For example: my_tool --from {input} --to {output}",
        )
    try:
        parts = shlex.split(program, posix=os.name != "nt")
    except ValueError as error:
        raise UserError(
            "The command cannot be read.",
            "A quotation mark has no partner.",
            "Put paths with spaces in double quotes.",
        ) from error
    return [part[1:-1] if len(part) > 1 and part[0] == part[-1] == '"' else part for part in parts]


def _as_meant(program: str) -> str:
    """A pasted path of a Python file without the quotation marks or other marks around it; a command as it is."""
    path = typed_path(program)
    return path if path.lower().endswith(".py") and "{" not in program else program


def allow(program: str) -> None:
    """Allows a program, or this content of a Python file, to run on this machine. Call it only if the user asks."""
    known = _allowed() | {_fingerprint(program)}
    atomic_write_text(places.workspace() / ALLOWED, json.dumps(sorted(known), indent=1))


def require(program: str) -> None:
    """Raises UserError unless the program, with its current content, was allowed on this machine."""
    if _fingerprint(program) not in _allowed():
        raise UserError(
            "This program has not been allowed on this machine.",
            f"The maps are made by running: {program}",
            "If you know and trust it, choose My own program on the Conditions tab, enter it there, and press "
            "Show the map.",
        )


def _fingerprint(program: str) -> str:
    """A hash of the command, and of the content of a Python file."""
    program = _as_meant(program)
    path = Path(program).expanduser()
    content = path.read_bytes() if path.suffix.lower() == ".py" and path.is_file() else b""
    return hashlib.blake2b(program.encode() + b"\0" + content, digest_size=16).hexdigest()


def _allowed() -> set[str]:
    try:
        return set(json.loads((places.workspace() / ALLOWED).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return set()
    except ValueError as error:
        raise UserError(
            f"{ALLOWED} is damaged.", f"It cannot be read ({error}).", "Delete it and allow your programs again."
        ) from error


def _run(arguments: list[str], seconds: int, program: str, token: CancelToken | None) -> None:
    name = Path(program).name if program.endswith(".py") else Path(arguments[0]).name
    try:
        ended = run_program(arguments, seconds, token)
    except OSError as error:
        raise UserError(
            f"{name} cannot be started.",
            f"The system says: {error.strerror or error}.",
            "Enter the program's full path.",
        ) from error
    if ended.code is None:
        raise UserError(
            f"{name} took too long.",
            f"It was stopped after {seconds} s.{_last_lines(ended.output)}",
            "Raise the time limit, or make the program faster.",
        )
    if ended.code:
        raise UserError(
            f"{name} failed.",
            f"It ended with exit code {ended.code}.{_last_lines(ended.output)}",
            "Run the program on a single image yourself to see what is wrong.",
        )


def _last_lines(printed: str) -> str:
    lines = printed.strip().splitlines()[-_QUOTED_LINES:]
    return f" It printed: {' / '.join(lines)}" if lines else ""


def _read(path: Path, shape: tuple[int, int], program: str) -> np.ndarray:
    from PIL import Image

    from engine.disk.images import load_rgb

    if not path.exists():
        raise UserError(
            "The program made no map.",
            f"{program} ended without an error, but did not write {{output}}.",
            "Change it so that it writes a PNG there.",
        )
    made = load_rgb(path)
    size = (shape[1], shape[0])
    if abs(made.width * shape[0] - made.height * shape[1]) > max(made.size) * max(shape) * 0.02:
        raise UserError(
            "The program's map has a different aspect ratio than the image.",
            f"The map has {made.width} x {made.height} pixels, the image {shape[1]} x {shape[0]}.",
            "Change it so that it keeps the image's size.",
        )
    return np.asarray(made if made.size == size else made.resize(size, Image.Resampling.NEAREST))
