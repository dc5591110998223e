"""Output of the installer: the user sees one line per step, the log keeps everything."""

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
    """A step failed, with the cause and the fix as sentences for the user. ``code``: the exit status."""

    def __init__(self, cause: str, fix: str, code: int = 1) -> None:
        super().__init__(cause)
        self.cause = cause
        self.fix = fix
        self.code = code


@dataclass(frozen=True)
class Outcome:
    """The exit status of a child process and everything that it printed."""

    code: int
    output: str


@dataclass
class Console:
    """Prints the lines of the steps and writes the log. ``log=None`` writes no log (dry run)."""

    log: Path | None
    out: TextIO = field(default_factory=lambda: sys.stdout)
    inherited: tuple[int, ...] = ()
    """File descriptors that stay open in its children, and so a lock on them lasts until the last one has ended."""
    _line: str = ""
    _begun: float = 0.0
    _warned: list[str] = field(default_factory=list)

    def record(self, text: str) -> None:
        """Write a line to the log only. If it cannot be written (a full disk), that is said once, and there is none."""
        if self.log is None:
            return
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        except OSError as error:
            unwritable, self.log = self.log, None
            self.warn(f"The log {unwritable} cannot be written: {error.strerror or error}.")

    def say(self, text: str = "") -> None:
        """Print a separate line."""
        if text:
            self.record(text)
        self.out.write(text + "\n")
        self.out.flush()

    def warn(self, text: str) -> None:
        """Print a warning: at once, or below the line of the running step when that ends."""
        if self._line:
            self._warned.append(text)
        else:
            self.say(f"      ! {text}")

    def begin(self, number: int, total: int, title: str) -> None:
        """Start the line of a step."""
        self._line, self._begun = f"[{number}/{total}] {title} ... ", time.monotonic()
        self.out.write(self._line)
        self.out.flush()
        self.record(self._line)

    def tick(self, text: str) -> None:
        """Show what the running step is doing at the end of its line, if the output is a terminal."""
        if self._line and self.out.isatty():
            room = max(0, os.get_terminal_size(self.out.fileno()).columns - len(self._line) - 1)
            self.out.write(f"\r{self._line}{text[:room].ljust(room)}")
            self.out.flush()

    def end(self, note: str) -> None:
        """Finish the line of the step, with its duration if that was 2 s or more."""
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
        """Print the cause, the fix and the path of the log."""
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
        """Run a child process and write its output to the log, line by line.

        Args:
            on_line: returns what ``tick`` shows for a line of output, or None. If it starts with a tab, the line is not
                logged (progress bars).
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
            pass_fds=self.inherited,
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
