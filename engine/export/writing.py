"""Writing an export: its name, room on the disk, permissions, and errors that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.disk.durable import move_into_place, replace_folder
from engine.disk.in_use import clear, is_in_use, remove
from engine.disk.space import free_bytes
from engine.errors import UserError
from engine.export.formats import ExportFormat
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.errors import as_os_error, is_disk_full, is_of_machine
from engine.machine.onnx_packages import DESCRIPTION
from engine.machine.units import format_bytes

TEMPORARY = ".exporting-"
CARD_ENDING = "_card"
FOLDER_MARKS = ("config.json", "model_index.json")
"""A folder with one of these is an export: of a net, or of a base."""
NO_PERMISSIONS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without permissions say, such as exFAT and some shares: all may read there anyway."""
SPARE_BYTES = 16 * 2**20
STAGES = 5


def give_ordinary_permissions(path: Path) -> None:
    """Give a file, or the files of a folder, the permissions of any new file: other accounts' programs may read it.

    The safetensors library writes files that only this account may read.
    """
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    probe = path.with_name(f"{path.name}.new")
    try:
        probe.touch()
        usual = probe.stat().st_mode
    finally:
        probe.unlink(missing_ok=True)
    for file in files:
        try:
            file.chmod(usual & 0o777)
        except OSError as error:
            if error.errno not in NO_PERMISSIONS:
                raise


def demand_free_name(target: Path, way: ExportFormat, overwrite: bool) -> None:
    """Refuse a name that is taken, unless it may be overwritten.

    Raises:
        UserError: says which file is in the way.
    """
    if not target.exists():
        return
    if not overwrite:
        raise UserError(
            f"{target.name} already exists.",
            f"It is from an earlier export to {target.parent}, and nothing is overwritten without your permission.",
            "Choose another name, or allow overwriting.",
        )
    # Overwrite only what this app could have written, never a folder with other files.
    ours = target.is_file() if way.ending else any((target / name).is_file() for name in (*FOLDER_MARKS, DESCRIPTION))
    if not ours:
        raise UserError(f"{target} cannot be overwritten.", "It is not an export of this app.", "Choose another name.")


def demand_space(target: Path, needed: int) -> None:
    """Make the folder of an export, and refuse one whose disk has not ``needed`` bytes and `SPARE_BYTES` free.

    Raises:
        UserError: the folder cannot be made, or the disk is too full.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = free_bytes(target.parent)
    except OSError as error:
        raise UserError(
            f"{target.parent} cannot be used.", f"{error.strerror or error}.", "Choose another folder."
        ) from error
    if free < needed + SPARE_BYTES:
        wanted = f"It needs {format_bytes(needed)} and {format_bytes(SPARE_BYTES)} to spare"
        raise _disk_full(target, f"{wanted}, and {format_bytes(free)} are free on the disk.")


def write_or_explain(write: Callable[[], None], target: Path) -> None:
    """Call ``write``; what goes wrong becomes an error for people. ``target``: the export's final name.

    Raises:
        UserError: the file could not be written. Errors of the machine pass.
    """
    from safetensors import SafetensorError

    try:
        write()
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save says RuntimeError
        if is_of_machine(error):
            raise
        if is_disk_full(as_os_error(error)):
            raise _disk_full(target, "The disk filled up while it was being written.") from error
        raise UserError(
            f"{target.name} could not be written.", f"The system says: {error}.", "Choose another folder."
        ) from error


def _disk_full(target: Path, why: str) -> UserError:
    return UserError(f"{target.name} was not exported.", why, "Free some space, or choose a folder on another disk.")


def not_named(target: Path, error: OSError) -> UserError:
    """The error for a finished export that cannot get its name."""
    what, why = f"{target.name} was not exported.", f"The system says: {error.strerror or error}."
    if not is_in_use(error):
        return UserError(what, why, "Choose another folder.")
    return UserError(
        what,
        f"Another program has a file of that name open; ComfyUI keeps files open that it has loaded. {why}",
        "Close that program, or choose another name.",
    )


def give_names(temporary: Path, target: Path, temporary_card: Path | None, card: Path) -> None:
    """Give a finished export and its model card their names. Older ones of that name are replaced.

    Args:
        temporary_card: None: the export is a folder, with the card inside.

    Raises:
        UserError: the system refuses it.
    """
    try:
        if temporary_card is None:
            replace_folder(temporary, target, target.with_name(f"{TEMPORARY}old-{target.name}"))
        else:
            replace_folder(temporary_card, card, card.with_name(f"{TEMPORARY}old-{card.name}"))
            move_into_place(temporary, target)
    except OSError as error:
        raise not_named(target, error) from error


@contextmanager
def temporary_names(*targets: Path) -> Iterator[tuple[Path, ...]]:
    """Names beside files or folders under which these are written. Whatever has them is removed, before and after."""
    temporary = tuple(target.with_name(f"{TEMPORARY}{target.name}") for target in targets)
    for path in temporary:
        remove(path)
    try:
        yield temporary
    finally:
        for path in temporary:
            clear(path)


def stages(token: CancelToken | None, progress: OnProgress | None) -> Callable[[int, str], None]:
    """Called as (stages done, label) before each stage of an export: cancels it, or tells how far it is."""

    def stage(done: int, label: str) -> None:
        if token:
            token.raise_if_cancelled()
        if progress:
            progress(done, STAGES, label)

    return stage
