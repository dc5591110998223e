"""Averages the weights of several checkpoints of one net."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from engine.disk.durable import ChecksumPool, atomic_write_text, move_into_place
from engine.disk.in_use import clear
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.nets.controlnet_files import CONFIG, WEIGHTS, read_config
from engine.nets.reading import opened_safetensors
from engine.runs.checkpoints import (
    DESCRIPTION,
    TEMPORARY,
    Checkpoint,
    describe_files,
    description_checksum,
    read_checkpoint,
    require_intact,
)
from engine.runs.choice import require_controlnet
from engine.runs.run import Run
from engine.version import VERSION
from engine.workspace.paths import safe_name

Kind = Literal["equal", "ema"]
FOLDER = "merged"
"""Folder of a run for averages, beside its checkpoints."""


def equal_shares(checkpoints: Sequence[Checkpoint]) -> list[float]:
    """Equal weights for all checkpoints ("model soups", Wortsman et al. 2022, arXiv 2203.05482)."""
    return [1 / len(checkpoints)] * len(checkpoints)


def ema_shares(checkpoints: Sequence[Checkpoint], decay: float) -> list[float]:
    """The share that each would have in an exponential moving average kept during training.

    At the last step T the average weighs the weights of step s with (1 - d) d^(T - s). Each kept checkpoint stands for
    the steps since the one before it, whose weights then sum to d^(T - s_i) - d^(T - s_(i-1)); the first stands for all
    steps up to its own.

    Args:
        checkpoints: oldest first.
        decay: d, between 0 and 1, per step; 0.999 averages about 1,000 steps.
    """
    last = checkpoints[-1].step
    kept = [decay ** (last - checkpoint.step) for checkpoint in checkpoints]
    return [now - before for now, before in zip(kept, [0.0, *kept], strict=False)]


def average_checkpoints(
    checkpoints: Sequence[Checkpoint],
    out_folder: Path,
    name: str = "",
    kind: Kind = "equal",
    decay: float = 0.999,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> Path:
    """Write the average as a checkpoint of its own, which can be exported like any other.

    Args:
        checkpoints: at least two of one net. Their plain weights are averaged, not their EMA.
        out_folder: the folder for the new checkpoint.
        name: of the checkpoint; default: from the kind and the steps.
        progress: called as progress(weights averaged, in all, label).

    Returns:
        The new folder.

    Raises:
        UserError: too few, of different nets, not finite, or the name is taken. Nothing is left behind.
    """
    ordered = sorted(checkpoints, key=lambda checkpoint: checkpoint.step)
    _check(ordered, decay)
    shares = equal_shares(ordered) if kind == "equal" else ema_shares(ordered, decay)
    for checkpoint in ordered:
        require_intact(checkpoint.folder, "controlnet/")
    average = _average(ordered, shares, token, progress)
    newest = ordered[-1]
    target = out_folder / (safe_name(name) if name else f"{kind}-{ordered[0].step:06d}-{newest.step:06d}")
    if target.exists():
        raise UserError(
            f"{target.name} already exists.", f"{out_folder} contains an average of that name.", "Choose another name."
        )
    out_folder.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(TEMPORARY + target.name)
    clear(temporary)
    try:
        net = temporary / "controlnet"
        net.mkdir(parents=True)
        shutil.copyfile(newest.folder / "controlnet" / CONFIG, net / CONFIG)
        save_file(average, net / WEIGHTS, {"format": "pt"})
        with ChecksumPool() as pool:
            pool.add(net)
        about = {
            **newest.about,
            "has_ema": False,
            "app": VERSION,
            "merged": {"kind": kind, "steps": [c.step for c in ordered], "shares": [round(s, 6) for s in shares]},
            **describe_files(temporary, pool.checksums()),
        }
        atomic_write_text(temporary / DESCRIPTION, json.dumps(about | {"seal": description_checksum(about)}, indent=2))
        move_into_place(temporary, target)
    except OSError as error:
        raise _cannot(f"{error.strerror or error}", "Free some space and try again.") from error
    finally:
        clear(temporary)
    return target


def _average(
    checkpoints: Sequence[Checkpoint], shares: list[float], token: CancelToken | None, progress: OnProgress | None
) -> dict[str, torch.Tensor]:
    """The average of a net's weights, fp32. Sums are fp64, of one weight at a time: an XL net in fp64 has 10 GB."""
    average: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        files = [stack.enter_context(opened_safetensors(one.folder / "controlnet" / WEIGHTS)) for one in checkpoints]
        names = list(files[0].keys())
        for number, name in enumerate(names):
            if token:
                token.raise_if_cancelled()
            if progress:
                progress(number, len(names), "Averaging checkpoints")
            total = files[0].get_tensor(name).double() * shares[0]
            for file, share in zip(files[1:], shares[1:], strict=True):
                total += file.get_tensor(name).double() * share
            if not total.isfinite().all():
                raise _cannot(f"one of them is broken (first in {name})", "Leave that one out.")
            average[name] = total.float().contiguous()
    return average


def _check(checkpoints: Sequence[Checkpoint], decay: float) -> None:
    if len(checkpoints) < 2:
        raise _cannot("an average needs at least two", "Choose two or more checkpoints.")
    if not 0 < decay < 1:
        raise _cannot(f"{decay:g} is not a valid decay", "Choose a decay between 0 and 1, for example 0.999.")
    for checkpoint in checkpoints:
        require_controlnet(checkpoint)
    first = checkpoints[0]
    for other in checkpoints[1:]:
        same = [(c.about.get("family"), _shape(c)) for c in (first, other)]
        if same[0] != same[1]:
            raise _cannot(
                f"{first.folder.name} and {other.folder.name} are nets of different families or shapes",
                "Choose checkpoints of one run.",
            )


def _shape(checkpoint: Checkpoint) -> dict[str, object]:
    return {key: value for key, value in read_config(checkpoint.folder / "controlnet").items() if key[0] != "_"}


def _cannot(why: str, try_this: str) -> UserError:
    return UserError("The checkpoints were not averaged.", f"{why[0].upper()}{why[1:]}.", try_this)


def checkpoints_at(run: Run, steps: Sequence[int] | None) -> list[Checkpoint]:
    """The checkpoints of these steps of a run; None: all that are on the disk.

    Raises:
        UserError: there is none at one of the steps.
    """
    kept = run.checkpoints()
    if gone := sorted(set(steps or ()) - {one.step for one in kept}):
        raise UserError(
            f"{run.name} has no checkpoint at step {gone[0]:,}.",
            f"There are: {', '.join(f'{one.step:,}' for one in kept) or 'none'}.",
            "Choose some of these steps.",
        )
    return [one for one in kept if steps is None or one.step in steps]


def free_name(run: Run, kind: Kind, steps: Sequence[int]) -> str:
    """A name for an average of these steps that the run has no other average of."""
    stem = f"{kind}-{'-'.join(map(str, steps))}"
    taken = {checkpoint.folder.name for checkpoint in averaged_checkpoints(run.folder)}
    numbered = (f"{stem}-{number}" for number in range(2, 1000))
    return next(name for name in (stem, *numbered) if safe_name(name) not in taken)


def averaged_checkpoints(run_folder: Path) -> list[Checkpoint]:
    """The averages of a run, by name."""
    found = (read_checkpoint(folder) for folder in sorted((run_folder / FOLDER).glob("*")))
    return [checkpoint for checkpoint in found if checkpoint is not None]
