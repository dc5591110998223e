"""Downloads a base from the Hugging Face hub into the workspace's models (engine/hub/download.py).

The base's folder appears when it has everything.
"""

from __future__ import annotations

from pathlib import Path

from engine.bases.catalog import is_complete, state_of
from engine.bases.wanted import wanted_files
from engine.disk.durable import move_into_place
from engine.disk.in_use import rename
from engine.errors import UserError
from engine.hub import download as hub
from engine.hub.download import RemoteFiles
from engine.hub.faults import Repository
from engine.jobs.control import CancelToken, OnProgress
from engine.workspace.paths import Workspace


def ask(workspace: Workspace, base: str, token: CancelToken | None = None, endpoint: str | None = None) -> RemoteFiles:
    """Ask the hub which files of a base would be downloaded, and how large they are.

    Args:
        base: owner/name.
        endpoint: of the hub; None: HF_ENDPOINT, else the public one.

    Raises:
        UserError: the hub cannot be reached or refuses, or the repository is no base. Cancelled.
    """
    target = workspace.downloaded_base(base)
    return hub.ask(Repository(base), lambda files: wanted_files(base, files), target, token, endpoint)


def download(
    workspace: Workspace,
    wanted: RemoteFiles,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    endpoint: str | None = None,
) -> Path:
    """Download a base. What an earlier call has fetched is not fetched again.

    Args:
        wanted: from ``ask``.
        token: cancels the download; what has been fetched is kept.
        progress: called as progress(megabytes done, in all, label).

    Returns:
        The base's folder. ``Workspace.locate_base`` finds it by the hub id, without a connection.

    Raises:
        UserError: with the cause. Cancelled.
    """
    base = wanted.repository.id
    state = state_of(workspace, base)
    if state.kind == "downloaded" and state.where is not None:
        return state.where
    partial, target = workspace.partial_base(base), workspace.downloaded_base(base)

    def begin() -> None:
        if target.is_dir() and not is_complete(target):
            _adopt(target, partial)

    def finish() -> None:
        move_into_place(partial, target)

    hub.fetch(wanted, partial, target, token, progress, endpoint, begin=begin, finish=finish)
    return target


def _adopt(folder: Path, partial: Path) -> None:
    """Use the files of an incomplete folder that a person has copied: those with the right hash are not fetched.

    Raises:
        UserError: it is a link. The files belong to another program.
    """
    if folder.is_symlink():
        raise UserError(
            f"{folder} is not complete.",
            "It is a link to a folder elsewhere, in which this app changes nothing.",
            "Remove the link and download it again, or complete that folder.",
        )
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        place = partial / path.relative_to(folder)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            rename(path, place)
    for rest in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        rest.rmdir()
    folder.rmdir()
