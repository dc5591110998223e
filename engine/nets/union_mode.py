"""The mode of a union ControlNet, which has one for each kind of control images. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.errors import UserError
from engine.families.control_files import MODE, ControlFiles

NOT_CHOSEN = -1
KINDS = "0 is canny, 1 tile, 2 depth, 3 blur, 4 pose, 5 gray, 6 low quality"
"""Of the published ones for FLUX.1: model card of Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro."""


def why_not_mode(modes: int, mode: int) -> str:
    """Why a net cannot be used in this mode, as a sentence; "" if it can.

    Args:
        modes: that it has; 0: it is no union net, and any mode is ignored.
    """
    if not modes or 0 <= mode < modes:
        return ""
    if mode == NOT_CHOSEN:
        return f"The ControlNet is a union net for {modes} kinds of control images; choose one by Union mode: {KINDS}."
    return f"The ControlNet is a union net with the modes 0 to {modes - 1}, not {mode}; {KINDS}."


def use_mode(net: Any, files: ControlFiles, mode: int) -> None:
    """Use a union net in one of its modes from now on; other nets stay as they are.

    A mode that the net's own config names, as that of an export does, counts where none is chosen.

    Raises:
        UserError: it has no such mode.
    """
    modes = files.modes(net.config)
    chosen = int(net.config.get(MODE, NOT_CHOSEN)) if mode == NOT_CHOSEN else mode
    if why := why_not_mode(modes, chosen):
        raise UserError("This ControlNet cannot be used so.", why, "Set Union mode.")
    if modes:
        net.register_to_config(**{MODE: chosen})


@contextmanager
def in_mode(net: Any, files: ControlFiles, mode: int) -> Iterator[str]:
    """Within the block a union net is used in this mode; otherwise in its own, or in 0 where it names none.

    Yields a note for people; "": nothing is to be said.
    """
    modes, before = files.modes(net.config), net.config.get(MODE)
    unknown = modes and before is None and mode == NOT_CHOSEN
    if not modes:
        yield "" if mode == NOT_CHOSEN else "Union mode has no meaning for this ControlNet."
        return
    use_mode(net, files, 0 if unknown else mode)
    try:
        yield f"This is a union net, and it draws in mode 0; {KINDS}. Set Union mode." if unknown else ""
    finally:
        net.register_to_config(**{MODE: before})
