"""What went wrong with the Hugging Face hub, in words. Never a token, and no address with one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import UserError
from engine.machine.errors import is_disk_full

LOG_IN = (
    "Log in once, in a terminal, with the Python in .venv: hf auth login (Windows: .venv\\Scripts\\hf, else "
    ".venv/bin/hf). The hub's own library keeps the token; this app never stores it."
)


@dataclass(frozen=True)
class Repository:
    """A repository on the hub."""

    id: str
    """owner/name."""
    kind: Literal["model", "dataset"] = "model"

    @property
    def page(self) -> str:
        """Its address, for people."""
        return f"{_endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"

    def bring(self, target: Path) -> str:
        """How to get it here without a connection."""
        if self.kind == "dataset":
            return (
                f"On a computer with a connection, download its files from {self.page}, copy them into a folder "
                "on this one, and read that folder as your images."
            )
        return (
            f"On a computer with a connection, download the folder from {self.page} and copy it to {target}: "
            "model_index.json and the folders next to it."
        )


def explain(error: BaseException, there: Repository, target: Path) -> UserError | None:
    """The error for people; None if neither the hub, the connection nor the disk is the cause.

    Args:
        target: the folder where the app looks for a base, for people who copy it there themselves.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    what, page, bring = f"{there.id} could not be downloaded.", there.page, there.bring(target)
    if isinstance(error, UserError) or not isinstance(error, OSError | HTTPError):
        return None
    if isinstance(error, OfflineModeIsEnabled):
        return UserError(
            what, "HF_HUB_OFFLINE is set, so the hub is not contacted.", f"Unset it and try again. Or: {bring}"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) or (status == 403 and isinstance(error, HfHubHTTPError)):
        shown = f"Its owner gives access only to people who have accepted its terms ({status or 403})"
        accept = f"Accept them at {page} while you are logged in there."
        if _has_token():
            rights = (
                f"If you have, give the token permission to read gated repositories: {_endpoint()}/settings/tokens."
            )
            return UserError(
                what, f"{shown}, or the token has no permission to read this {there.kind}.", f"{accept} {rights}"
            )
        return UserError(what, f"{shown}.", f"{accept} {LOG_IN}")
    if status == 401 and not _is_missing(error):
        return UserError(what, "The hub refused the token (401): it is wrong or no longer valid.", LOG_IN)
    if status in (401, 404):
        return UserError(
            what,
            f"The hub has no such {there.kind}, or it is private ({status}).",
            f"Check the spelling at {page}. If it is yours and private: {LOG_IN}",
        )
    if status == 429:
        return UserError(
            what,
            "The hub received too many requests from this connection (429).",
            "Wait a few minutes and download it again: it continues where it stopped. Logged-in users have a "
            f"higher limit. {LOG_IN}",
        )
    if status is not None:
        return UserError(
            what, f"The hub answered {status}.", "Try again later: the download continues where it stopped."
        )
    if is_disk_full(error):
        return UserError(
            what,
            f"The disk that holds {target.parent} is full.",
            "Free some space and download it again: it continues where it stopped.",
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return UserError(
            what,
            f"{error.filename} cannot be written: {error.strerror or error}.",
            "Check that you have permission to write to the workspace.",
        )
    return UserError(
        what,
        f"The hub could not be reached, or the connection broke off ({type(error).__name__}).",
        "Check the connection and the proxy, and download it again: it continues where it stopped. A mirror is "
        f"used if HF_ENDPOINT names one. Without a connection: {bring}",
    )


def no_room(there: Repository, folder: Path, needed: str, free: str) -> UserError:
    """The error for a disk that is too small for the rest of a download."""
    return UserError(
        f"{there.id} was not downloaded.",
        f"It needs {needed}, and {free} are free on the disk that holds {folder}.",
        "Free some space, or choose a workspace on another disk with --workspace.",
    )


def wrong_hash(there: Repository, name: str) -> UserError:
    """The error for a file that is not the one the hub has."""
    return UserError(
        f"{there.id} could not be downloaded.",
        f"{name} arrived damaged: its hash differs from the one on the hub. The file was deleted.",
        "Download it again; the other files stay. If it happens again, something between this computer and the "
        "hub, such as a proxy or a mirror (HF_ENDPOINT), changes files.",
    )


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _is_missing(error: BaseException) -> bool:
    """Whether a 401 means that there is no such model, which the hub answers to people without a token."""
    from huggingface_hub.errors import RepositoryNotFoundError

    return isinstance(error, RepositoryNotFoundError) and not _has_token()
