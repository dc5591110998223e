"""What went wrong with the Hugging Face hub, in words. Never a token, and no address with one."""

from __future__ import annotations

from pathlib import Path

from engine.errors import UserError
from engine.machine.errors import is_disk_full

LOG_IN = (
    "Log in once, in a terminal, with the Python in .venv: hf auth login (Windows: .venv\\Scripts\\hf, else "
    ".venv/bin/hf). The hub's own library keeps the token; this app never stores it."
)


def explain(error: BaseException, base: str, target: Path) -> UserError | None:
    """The error for people; None for one that is no fault of the hub, the connection or the disk.

    Args:
        base: its hub id.
        target: the folder where the app looks for it, for those who bring it by other means.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    what, page = f"{base} could not be downloaded.", _page(base)
    bring = (
        f"On a computer with a connection, download the folder from {page} and put it into {target}: model_index.json "
        "and the folders beside it."
    )
    if isinstance(error, UserError) or not isinstance(error, OSError | HTTPError):
        return None
    if isinstance(error, OfflineModeIsEnabled):
        return UserError(
            what, "HF_HUB_OFFLINE is set, so nothing is asked of the hub.", f"Unset it and try again. Or: {bring}"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) or (status == 403 and isinstance(error, HfHubHTTPError)):
        return UserError(
            what,
            f"Its owner shows it only to people who have accepted its terms ({status or 403}).",
            f"Accept them at {page} while you are logged in there. {LOG_IN}",
        )
    if status == 401 and not _is_missing(error):
        return UserError(what, "The hub refused the token (401): it is wrong, or no longer valid.", LOG_IN)
    if status in (401, 404):
        return UserError(
            what,
            f"The hub has no such model, or it is private ({status}).",
            f"Check the spelling at {page}. If it is yours and private: {LOG_IN}",
        )
    if status == 429:
        return UserError(
            what,
            "The hub has had too many requests from this connection (429).",
            "Wait some minutes and download it again: it goes on where it stopped. People who are logged in may ask "
            f"more often. {LOG_IN}",
        )
    if status is not None:
        return UserError(what, f"The hub answered {status}.", "Try again later: the download goes on where it stopped.")
    if is_disk_full(error):
        return UserError(
            what,
            f"The disk of {target.parent} became full.",
            "Free some space and download it again: it goes on where it stopped.",
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return UserError(
            what,
            f"{error.filename} cannot be written: {error.strerror or error}.",
            "Check that the workspace can be written.",
        )
    return UserError(
        what,
        f"The hub could not be reached, or the connection broke off ({type(error).__name__}).",
        "Check the connection and the proxy, and download it again: it goes on where it stopped. A mirror is used if "
        f"HF_ENDPOINT names one. Without a connection: {bring}",
    )


def no_room(base: str, folder: Path, needed: str, free: str) -> UserError:
    """The error for a disk that is too small for the rest of a download."""
    return UserError(
        f"{base} was not downloaded.",
        f"It needs {needed} and the disk of {folder} has {free} left.",
        "Free some space, or choose a workspace on another disk with --workspace.",
    )


def wrong_hash(base: str, name: str) -> UserError:
    """The error for a file that is not the one the hub has."""
    return UserError(
        f"{base} could not be downloaded.",
        f"{name} arrived damaged: its hash is not the one that the hub states. The file was thrown away.",
        "Download it again; the other files stay. If it happens again, something between this computer and the hub "
        "changes files, such as a proxy or a mirror (HF_ENDPOINT).",
    )


def _page(base: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{base}"


def _is_missing(error: BaseException) -> bool:
    """Whether a 401 means that there is no such model, which the hub answers to people without a token."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    return isinstance(error, RepositoryNotFoundError) and get_token() is None
