"""``--update``: brings the app's folder to the newest version, and back if that does not pass its check.

The network is only asked here, when the person does it. Everything that this needs is imported before the first file is
exchanged: afterwards an import would read the other version.
"""

from __future__ import annotations

import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from engine.install import archive
from engine.install.clone import Clone, is_clone, listed
from engine.install.console import Console, InstallError, Outcome
from engine.install.edition import BAT_OR_SH, edition
from engine.install.exchange import (
    clear,
    exchange,
    keep_previous,
    kept_folder,
    new_folder,
    previous_folder,
    read_journal,
    undo,
    write_journal,
)
from engine.install.in_use import UPDATING, only_one, require_closed
from engine.install.layout import Layout, note, read_record, stamp

WITHIN_UPDATE = "STUDIO_WITHIN_UPDATE"
"""Tells the installer that an update runs it. It then leaves the journal alone."""
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
INSTALL_ONLY = "--install-only"
NEWEST = "this is already the newest version"


class Change(ABC):
    """One way of getting from the old files to the new ones, and back."""

    @abstractmethod
    def forward(self) -> str:
        """Put the new files in place, and return a note about them."""

    @abstractmethod
    def back(self) -> None:
        """Put the old files back, from any state in between."""

    @abstractmethod
    def keep(self) -> None:
        """The new version is good: end the update."""


@dataclass(frozen=True)
class FromGit(Change):
    """A fast-forward of a clone from one commit to another."""

    layout: Layout
    clone: Clone
    old: str
    new: str

    def forward(self) -> str:
        self.clone.forward(self.old, self.new)
        count = self.clone.count(self.old, self.new)
        return "1 commit" if count == 1 else f"{count} commits"

    def back(self) -> None:
        if self.clone.is_between(self.old, self.new):  # otherwise the user has worked with git since then
            self.clone.back(self.old, self.new)
        clear(self.layout)

    def keep(self) -> None:
        clear(self.layout)


@dataclass(frozen=True)
class FromArchive(Change):
    """An exchange of the entries ``names`` of the app's folder, of which ``added`` did not exist before.

    ``own``: files in them that the new version does not have.
    """

    layout: Layout
    names: tuple[str, ...]
    added: tuple[str, ...]
    own: tuple[str, ...] = ()

    def forward(self) -> str:
        write_journal(self.layout, kind="archive", names=self.names, added=self.added)
        exchange(self.layout, self.names)
        return ", ".join(self.names)

    def back(self) -> None:
        undo(self.layout, self.names, self.added)
        clear(self.layout)

    def keep(self) -> None:
        keep_previous(self.layout, self.own)


def update(layout: Layout, console: Console, environment: Mapping[str, str], wanted: str) -> int:
    """Update the app's folder. Returns 0, also if there is nothing newer.

    Args:
        wanted: an archive's path or address, or "" for the newest version from where the app came from.

    Raises:
        InstallError: it was not updated; the old version is in place.
    """
    if wanted and is_clone(layout.root):
        raise InstallError(
            "This folder is a git clone, which cannot be updated from an archive.", f"{BAT_OR_SH} --update"
        )
    require_closed(layout, console, environment)
    before = edition(layout.root)
    with only_one(layout, UPDATING):
        with only_one(layout):
            console.say(f"This is version {before}.")
            console.begin(1, 3, "Look for a newer version")
            try:
                change = _look(layout, console, environment, wanted)
            except BaseException as error:
                clear(layout)
                raise _stopped(error) from error
            console.end(NEWEST if change is None else "found")
        if change is None:
            clear(layout)
            return 0
        try:
            with only_one(layout):
                require_closed(layout, console, environment)  # the download may have taken long
                console.begin(2, 3, "Replace the files")
                console.end(change.forward())
            console.begin(3, 3, "Packages and self-check")
            outcome = _install(layout, console, environment)
            console.end("passed" if outcome.code == 0 else "FAILED")
        except BaseException as error:
            _go_back(layout, change)
            raise _stopped(error) from error
        if outcome.code:
            _give_up(layout, console, environment, change, outcome)
        change.keep()
    console.say(f"Updated from {before} to {edition(layout.root)}. Start the app as usual.")
    if previous_folder(layout).exists() and isinstance(change, FromArchive):
        console.say(f"The files of the previous version are kept in {previous_folder(layout)}.")
    return 0


def _look(layout: Layout, console: Console, environment: Mapping[str, str], wanted: str) -> Change | None:
    """Find and prepare the newer version without changing a file of the app. None if there is none."""
    if is_clone(layout.root):
        clone = Clone(layout, console, environment)
        found = clone.fetch()
        return FromGit(layout, clone, *found) if found else None
    clear(layout)
    names = archive.unpack(layout, archive.get(layout, console, wanted))
    if archive.is_same(layout, names):
        return None
    own = archive.own_files(layout, names)
    if own:
        console.warn(f"Not in the new version and therefore moved to {kept_folder(layout)}: {listed(own)}")
    added = tuple(name for name in names if not os.path.lexists(layout.root / name))
    return FromArchive(layout, tuple(names), added, tuple(own))


def _install(layout: Layout, console: Console, environment: Mapping[str, str]) -> Outcome:
    """Let the version that is in place install what it needs and check itself, in a process of its own."""
    task = "--dry-run"  # nothing is installed yet: only whether the installer starts
    if layout.python.exists():
        task = INSTALL_ONLY
        record = read_record(layout)
        # What pip may now change no longer counts as installed, whichever version is in place in the end.
        differ = {name: "" for name in REQUIREMENTS if name in record and record[name] != stamp(layout, name)}
        note(layout, checked="", **differ)
    command = [sys.executable, "-m", "engine.install", task]
    return console.run(command, {**environment, WITHIN_UPDATE: "1"}, layout.root, lambda line: line.strip() or None)


def _go_back(layout: Layout, change: Change) -> None:
    """Put the old files back. Raises InstallError if that has to wait for the next start."""
    try:
        with only_one(layout):
            change.back()
    except (InstallError, OSError) as error:
        raise InstallError(
            f"The previous version could not be restored yet: {error}",
            "Close programs that have files of the app's folder open, check that the disk has free space, and start "
            f"{BAT_OR_SH}: it continues.",
        ) from error


def _stopped(error: BaseException) -> BaseException:
    """The error to report after everything is back: the same, or what it means."""
    fix = "You can start the update again at any time."
    if isinstance(error, KeyboardInterrupt):
        return InstallError("Stopped. The previous version is in place.", fix, code=130)
    if isinstance(error, OSError):
        cause = f"The files could not be replaced: {error}. The previous version is in place."
        return InstallError(
            cause, "Close programs that have files of the app's folder open; check that the disk has free space."
        )
    return error


def _give_up(
    layout: Layout, console: Console, environment: Mapping[str, str], change: Change, outcome: Outcome
) -> None:
    """Go back to the old version, with its packages. Raises InstallError, always: why the new one was not kept."""
    causes = re.findall(r"^Cause: (.+)$", outcome.output, re.MULTILINE)
    lines = outcome.output.strip().splitlines()
    why = (causes or lines or ["it ended without output"])[-1].strip()[:300]
    _go_back(layout, change)
    console.say("Going back to the previous version ...")
    again = _install(layout, console, environment)
    cause = f"The new version did not pass its check: {why}"
    if again.code:
        raise InstallError(
            f"{cause}. The files of the previous version are back, but its packages are not complete.",
            f"Start {BAT_OR_SH} with an internet connection: it installs what is missing.",
        )
    raise InstallError(f"{cause}. The previous version is back and works.", "Please report it with the log.")


def repair(layout: Layout, console: Console, environment: Mapping[str, str]) -> None:
    """Go back to the old version after an update that was killed.

    Raises:
        InstallError: that update still runs, or git has refused.
    """
    with only_one(layout, UPDATING):
        with only_one(layout):  # an installation of the killed update may still run
            journal = read_journal(layout)
        if journal is None:
            return
        change: Change
        if journal["kind"] == "git":
            change = FromGit(layout, Clone(layout, console, environment), journal["old"], journal["new"])
        else:
            change = FromArchive(layout, tuple(journal["names"]), tuple(journal["added"]))
        _go_back(layout, change)
    console.say("An update was interrupted. The previous version is back.")


def plan(layout: Layout, wanted: str) -> str:
    """What `update` would do."""
    if is_clone(layout.root):
        return "would fetch the branch main with git, and fast-forward to it"
    source = wanted or archive.ADDRESS or "no address (none is known: name an archive)"
    return f"would unpack {source} to {new_folder(layout)} and replace the app's files"
