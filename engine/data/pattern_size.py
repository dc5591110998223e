"""Keeps a user's regular expression from filling the memory, or blocking the app, while it is compiled."""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache

from engine.errors import UserError

COMPILE_SECONDS = 10.0
PATTERN_LENGTH = 1000
_COMPILE_BYTES = 1_000_000_000
_COMPILE = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
except (ImportError, ValueError, OSError):
    pass  # not on this system: the time limit alone counts
import regex
try:
    regex.compile(sys.stdin.buffer.read().decode("utf-8", "surrogatepass"), int(sys.argv[1]))
except MemoryError:
    sys.exit(3)
except regex.error:
    pass  # an invalid expression: the app says so itself
"""


@lru_cache(maxsize=32)
def check_size(search: str, pattern: str, flags: int) -> None:
    """Raises UserError for a regular expression that is too long, or whose compilation takes too much time or memory.

    (a{999}){999} is short and fills the memory. Compiling one cannot be interrupted, so it is tried in a separate
    process first.
    """
    if len(search) > PATTERN_LENGTH:
        raise UserError(
            f"The regular expression {search[:60]!r} … is too long.",
            f"It has {len(search):,} characters; up to {PATTERN_LENGTH:,} are allowed.",
            "Shorten it, or search in several steps.",
        )
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _COMPILE, str(flags), str(_COMPILE_BYTES)],
            input=pattern.encode("utf-8", "surrogatepass"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=COMPILE_SECONDS,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired:
        large = True
    else:
        large = done.returncode != 0
    if large:
        raise UserError(
            f"The search for {search[:60]!r}{' …' if len(search) > 60 else ''} was stopped.",
            "Reading the regular expression takes too much time or memory.",
            "Use smaller numbers of repetitions, as in a{1,20}, and no repetitions inside others. Nothing was changed.",
        )
