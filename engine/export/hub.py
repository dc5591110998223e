"""Uploads an export to the Hugging Face hub. The access token is passed with each call and never stored."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.export.formats import ExportResult
from engine.jobs.control import Cancelled, CancelToken, OnProgress
from engine.machine.units import MIB

ADDRESS = "https://huggingface.co"
NOT_UPLOADED = (".tmp",)


class Watched(io.BufferedReader):
    """A file that reports how much of it was read, and raises Cancelled when the job is cancelled."""

    def __init__(self, path: Path, read: Any, token: CancelToken | None) -> None:
        super().__init__(path.open("rb", buffering=0))  # type: ignore[arg-type]
        self._on_read, self._token = read, token

    def read(self, size: int | None = -1, /) -> bytes:
        if self._token:
            self._token.raise_if_cancelled()
        data = super().read(size)
        self._on_read(self.tell())
        return data


def files_of(made: ExportResult) -> list[tuple[str, Path]]:
    """The files of an export as (path in the repository, file): the net, and its card at the top level."""
    files = [] if made.path.is_dir() else [(made.path.name, made.path)]
    for folder in {made.path if made.path.is_dir() else made.card} - {None}:
        assert folder is not None
        files += [(p.relative_to(folder).as_posix(), p) for p in sorted(folder.rglob("*")) if p.is_file()]
    return [(name, path) for name, path in files if not name.endswith(NOT_UPLOADED)]


def upload(
    files: Sequence[tuple[str, Path]],
    repository: str,
    token: str,
    private: bool = True,
    endpoint: str | None = None,
    cancel: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> str:
    """Upload files to a model repository, created if it does not exist. Small files first, each complete or not at all.

    Args:
        repository: "owner/name".
        token: the user's, with write access. Kept in memory for this call only.
        private: of a repository that is created.
        endpoint: of the hub; default: the public one.
        cancel: the job's token.
        progress: called as progress(megabytes done, in all, label).

    Returns:
        The repository's address.

    Raises:
        UserError: the name or the token is rejected, or the hub cannot be reached.
        Cancelled: ``cancel`` is cancelled.
    """
    from huggingface_hub import HfApi

    repository = repository.strip()
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repository):
        raise UserError(
            f"{repository or 'An empty name'} is not a repository.",
            "It must be your name on the hub, a slash, and a name for the net.",
            "Enter for example anna/canny-birds.",
        )
    if not token.strip():
        raise UserError(
            "Nothing was uploaded.",
            "The hub needs a token with write permission.",
            f"Create one at {ADDRESS}/settings/tokens and paste it.",
        )
    api = HfApi(endpoint=endpoint, token=token.strip())
    ordered = sorted(files, key=lambda entry: entry[1].stat().st_size)
    total = sum(path.stat().st_size for _, path in ordered)
    done = 0

    def report(position: int) -> None:
        if progress:
            progress((done + position) // MIB, max(1, total // MIB), "Uploading, MB")

    try:
        api.create_repo(repository, private=private, exist_ok=True)
        for name, path in ordered:
            if cancel:
                cancel.raise_if_cancelled()
            with Watched(path, report, cancel) as file:
                api.upload_file(
                    path_or_fileobj=file, path_in_repo=name, repo_id=repository, commit_message=f"Add {name}"
                )
            done += path.stat().st_size
            report(0)
    except Exception as error:
        raise _as_user_error(error, repository) from error
    return f"{(endpoint or ADDRESS).rstrip('/')}/{repository}"


def _as_user_error(error: Exception, repository: str) -> Exception:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, Cancelled | UserError):
        return error
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HfHubHTTPError) and status in (401, 403):
        return UserError(
            f"The hub did not allow writing to {repository}.",
            f"It refused the token ({status}): it is wrong, lacks write permission, or is not valid for that name.",
            f"Create one with write permission at {ADDRESS}/settings/tokens.",
        )
    if isinstance(error, HfHubHTTPError):
        return UserError(f"The upload to {repository} failed.", f"The hub answered {status}.", "Try again later.")
    return UserError(
        f"The upload to {repository} failed.",
        f"{type(error).__name__}: the hub could not be reached, or a file could not be read.",
        "Check the connection and try again; what was already uploaded is kept.",
    )
