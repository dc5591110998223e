"""Brings a git clone to the newest commit of its branch main, by fast-forward only, and back."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from engine.install.console import Console, InstallError, Outcome
from engine.install.exchange import write_journal
from engine.install.layout import Layout

BRANCH = "main"
SHOWN = 8  # names of changed files in a message
NO_CONNECTION = re.compile(
    r"Could not resolve|unable to access|Failed to connect|Connection (?:refused|reset|timed out)|"
    r"Network is unreachable|Operation timed out|Could not read from remote|early EOF|hung up",
    re.IGNORECASE,
)


def is_clone(root: Path) -> bool:
    """Whether the folder itself is a git clone or worktree."""
    return (root / ".git").exists()


class Clone:
    """The app's folder as a git clone.

    Raises:
        InstallError: git is not installed.
    """

    def __init__(self, layout: Layout, console: Console, environment: Mapping[str, str]) -> None:
        git = shutil.which("git", path=environment.get("PATH"))
        if git is None:
            raise InstallError("This folder is a git clone, but git is not installed.", "Install git: git-scm.com")
        self._layout, self._console, self._git = layout, console, git
        # Git must mean this folder, answer in English, and fail instead of asking for a password.
        kept = {name: value for name, value in environment.items() if not name.startswith("GIT_DIR")}
        for name in ("GIT_WORK_TREE", "GIT_INDEX_FILE"):
            kept.pop(name, None)
        self._environment = {**kept, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_EDITOR": "true"}

    def fetch(self) -> tuple[str, str] | None:
        """Look for a newer commit. Changes no file of the app.

        Returns:
            The present and the newest commit, or None if there is nothing newer.

        Raises:
            InstallError: not on main, files were changed, no connection, or the histories have parted.
        """
        branch = self._run("symbolic-ref", "--short", "--quiet", "HEAD")
        name = branch.output.strip()
        if branch.code or name != BRANCH:
            where = f'the branch "{name}"' if name and not branch.code else "a single commit, not a branch"
            raise InstallError(
                f"The clone is on {where}; updates follow {BRANCH}. Nothing was changed.", f"git switch {BRANCH}"
            )
        changed = [line[3:] for line in self._ask("status", "--porcelain", "--untracked-files=no").splitlines()]
        if changed:
            raise InstallError(
                f"You have changed files of the app: {listed(changed)}. Nothing was changed.",
                "Commit them on your own branch, or set them aside with `git stash`. Then start the update again.",
            )
        remote = self._run("config", f"branch.{BRANCH}.remote").output.strip() or "origin"
        merged = self._run("config", f"branch.{BRANCH}.merge").output.strip() or f"refs/heads/{BRANCH}"
        fetched = self._run("fetch", "--no-tags", remote, merged)
        if fetched.code:
            raise _explain(fetched.output, remote)
        old, new = self._ask("rev-parse", "HEAD").strip(), self._ask("rev-parse", "FETCH_HEAD").strip()
        if self._run("merge-base", "--is-ancestor", new, old).code == 0:
            return None
        if self._run("merge-base", "--is-ancestor", old, new).code:
            raise InstallError(
                "The clone has its own commits, so it cannot be fast-forwarded. Nothing was changed.",
                f"Rebase them yourself: git pull --rebase {remote} {BRANCH}",
            )
        self._require_free(old, new)
        return old, new

    def _require_free(self, old: str, new: str) -> None:
        """Raise InstallError if the user's own files are where new files belong. `back` relies on it."""
        added = self._ask("diff", "--name-only", "--no-renames", "--diff-filter=A", "-z", old, new).split("\0")
        there = [name for name in added if name and os.path.lexists(self._layout.root / name)]
        if there:
            raise InstallError(
                f"Some of your own files have the same paths as files of the new version: {listed(there)}. Nothing "
                "was changed.",
                "Move them out of the app's folder, then start the update again.",
            )

    def forward(self, old: str, new: str) -> None:
        """Bring all files to ``new``. `back` is needed if that fails or is interrupted."""
        write_journal(self._layout, kind="git", old=old, new=new)
        self._ask("merge", "--ff-only", "--quiet", new)

    def back(self, old: str, new: str) -> None:
        """Bring all files back to ``old``, from any state between the two."""
        lock = self._layout.root / self._ask("rev-parse", "--git-path", "index.lock").strip()
        lock.unlink(missing_ok=True)  # left behind by a git that was killed
        # First to the new commit: files that only it has are known to git then, and are removed on the way back.
        self._ask("reset", "--hard", "--quiet", new)
        self._ask("reset", "--hard", "--quiet", old)

    def is_between(self, old: str, new: str) -> bool:
        """Whether the clone is still where an interrupted update has left it: on main, at one of the two commits."""
        branch = self._run("symbolic-ref", "--short", "--quiet", "HEAD").output.strip()
        return branch == BRANCH and self._run("rev-parse", "HEAD").output.strip() in (old, new)

    def count(self, old: str, new: str) -> int:
        """The number of commits between the two."""
        return int(self._ask("rev-list", "--count", f"{old}..{new}"))

    def _run(self, *arguments: str) -> Outcome:
        return self._console.run([self._git, *arguments], self._environment, self._layout.root)

    def _ask(self, *arguments: str) -> str:
        """Git's output. Raises InstallError with what git said if it fails."""
        outcome = self._run(*arguments)
        if outcome.code:
            raise _explain(outcome.output, "")
        return outcome.output


def listed(names: list[str]) -> str:
    """The first few names of files, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _explain(output: str, remote: str) -> InstallError:
    """The cause and the fix for a failure of git. ``remote``: name of what was asked; "" if nothing was."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "nothing")
    if re.search(r"No space left|Disk quota", output, re.IGNORECASE):
        return InstallError("The disk is full.", "Free some space, then start the update again.")
    if "dubious ownership" in output:
        return InstallError("The folder belongs to another user.", "Start the update as that user.")
    if re.search(r"Authentication failed|could not read Username|Permission denied \(publickey", output):
        return InstallError(f"The server of {remote} asked for a password: {said}", "Try `git pull` in this folder.")
    if remote and NO_CONNECTION.search(output):
        return InstallError(
            f"No connection to the server that the clone came from: {said}",
            "Check the internet connection and the proxy (`git remote -v` shows the address). Nothing was changed.",
        )
    return InstallError(f"git says: {said[:300]}", "See the log, or try `git status` in this folder.")
