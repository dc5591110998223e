"""What the person sees (one line a step) and what the log keeps (everything)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO


class InstallError(Exception):
    """A step failed: the cause and the fix, in words for people. code: the exit status."""

    def __init__(self, cause: str, fix: str, code: int = 1) -> None:
        super().__init__(cause)
        self.cause = cause
        self.fix = fix
        self.code = code


@dataclass(frozen=True)
class Outcome:
    """How a child process ended: its exit status and all that it printed."""

    code: int
    output: str


@dataclass
class Console:
    """Prints the step lines and writes the log. log = None keeps no log (a dry run writes nothing)."""

    log: Path | None
    out: TextIO = field(default_factory=lambda: sys.stdout)
    _line: str = ""
    _begun: float = 0.0
    _warned: list[str] = field(default_factory=list)

    def record(self, text: str) -> None:
        """Into the log only."""
        if self.log is None:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def say(self, text: str = "") -> None:
        """A line of its own."""
        self.out.write(text + "\n")
        self.out.flush()
        if text:
            self.record(text)

    def warn(self, text: str) -> None:
        """A warning: at once, or under the step's line when one is being written."""
        if self._line:
            self._warned.append(text)
        else:
            self.say(f"      ! {text}")

    def begin(self, number: int, total: int, title: str) -> None:
        """Start a step's line."""
        self._line, self._begun = f"[{number}/{total}] {title} ... ", time.monotonic()
        self.out.write(self._line)
        self.out.flush()
        self.record(self._line)

    def tick(self, text: str) -> None:
        """What the running step is doing, at the end of its line; only where a terminal can overwrite it."""
        if self._line and self.out.isatty():
            room = max(0, os.get_terminal_size(self.out.fileno()).columns - len(self._line) - 1)
            self.out.write(f"\r{self._line}{text[:room].ljust(room)}")
            self.out.flush()

    def end(self, note: str) -> None:
        """Finish the step's line, with the time when it took long enough to matter."""
        seconds = time.monotonic() - self._begun
        if seconds >= 2:
            note += f" ({seconds:.0f} s)"
        if self.out.isatty():
            self.tick("")
            self.out.write(f"\r{self._line}")
        self.out.write(note + "\n")
        self.out.flush()
        self.record(f"  -> {note}")
        self._line, warned, self._warned = "", self._warned, []
        for text in warned:
            self.warn(text)

    def fail(self, error: InstallError) -> None:
        """The cause, the fix and where the log is."""
        if self._line:
            self.end("FAILED")
        self.say()
        self.say(f"Cause: {error.cause}")
        self.say(f"Fix:   {error.fix}")
        if self.log is not None:
            self.say(f"Log:   {self.log}")

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        environment: Mapping[str, str],
        cwd: Path,
        on_line: Callable[[str], str | None] | None = None,
    ) -> Outcome:
        """Run a child to its end, its output into the log line by line; ``on_line`` makes the tick's words of a line.

        A line for which ``on_line`` returns a string starting with a tab is shown but not logged (progress bars).
        """
        words = [os.fspath(word) for word in command]
        self.record("$ " + subprocess.list2cmdline(words))
        lines: list[str] = []
        with subprocess.Popen(
            words,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                shown = on_line(line.rstrip()) if on_line else None
                if shown:
                    self.tick(shown.lstrip("\t"))
                if not (shown and shown.startswith("\t")):
                    lines.append(line)
                    self.record("  " + line.rstrip())
        self.record(f"  exit status {child.returncode}")
        return Outcome(child.returncode, "".join(lines))
