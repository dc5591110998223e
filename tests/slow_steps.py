"""Makes training rest after each step, for tests of the window that need a run in progress, not one that gets on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def rest_after_each_step(seconds: float, while_there: Path | None = None) -> None:
    """Let AdamW sleep after each step: always, or while a file is there."""
    import torch

    step = torch.optim.AdamW.step

    def step_and_rest(*arguments: Any, **named: Any) -> Any:
        if while_there is None or while_there.exists():
            time.sleep(seconds)
        return step(*arguments, **named)

    torch.optim.AdamW.step = step_and_rest  # type: ignore[method-assign]


def rest_if_asked(seconds: float) -> None:
    """Let AdamW sleep after each step while the file is there that $STUDIO_SLOW names, if it names one."""
    if os.environ.get("STUDIO_SLOW"):
        rest_after_each_step(seconds, Path(os.environ["STUDIO_SLOW"]))
