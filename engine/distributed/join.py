"""Joining the processes that accelerate or torchrun has started, and leaving them.

What their launcher decides is how many there are and where. Everything that changes what is learnt comes from the
run's own settings, so what accelerate's configuration says of that is put aside, with words.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from engine.distributed import group as processes
from engine.errors import UserError

TENSOR_PATIENCE = timedelta(minutes=30)
"""Of gradients on their way; nobody draws or saves while they are, so more is a broken line."""

ELSEWHERE_DECIDED = {
    "ACCELERATE_MIXED_PRECISION": ("no",),  # the run's precision
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1",),  # it would shorten every gradient
    "ACCELERATE_DYNAMO_BACKEND": ("no", "NO"),
}
FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
SPLITS = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}


def join() -> list[str]:
    """Meet the others, if there are any; sentences about what of their launcher's configuration is not used.

    Raises:
        UserError: there are more processes than cards, or they are set up for what this app cannot do. Lost: they do
            not find one another.
    """
    sentences = _put_aside()
    if processes.started() == 1:
        return sentences
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    on_card = torch.cuda.is_available()
    here, cards = int(os.environ.get("LOCAL_WORLD_SIZE") or 1), torch.cuda.device_count()
    if on_card and here > cards:
        raise UserError(
            "There are more processes than graphics cards.",
            f"{here} were started on this machine, which has {cards}.",
            f"Start {cards} (--processes, or --num_processes of accelerate; for each machine).",
        )
    # Words and numbers over the processors, also where cards have a line of their own. Windows has no NCCL.
    options = {"backend": "cuda:nccl,cpu:gloo" if dist.is_nccl_available() else "gloo"} if on_card else {}
    try:
        with _without(DEEPSPEED):  # it takes the lines that are there, and would make its own with other settings
            state = PartialState(cpu=not on_card, timeout=TENSOR_PATIENCE, **options)
        words = dist.new_group(backend="gloo", timeout=processes.PATIENCE)
    except RuntimeError as error:
        raise processes.Lost(
            "The processes do not find one another.",
            f"{str(error).splitlines()[0][:300]}",
            "Check the address and port of the first machine, its firewall, and that all machines start the same "
            "command (docs/several-cards.md).",
        ) from error
    processes.enter(processes.Processes(dist.get_rank(), dist.get_world_size(), words, str(state.device)))
    return sentences


def leave() -> None:
    """Close the lines; nothing where there is one process."""
    group = processes.current()
    processes.enter(processes.ALONE)
    if group.count > 1:
        import torch.distributed as dist

        dist.destroy_process_group()


@contextmanager
def _without(switch: str) -> Iterator[None]:
    """Within the block the environment has no such switch."""
    value = os.environ.pop(switch, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[switch] = value


def asked_for(switch: str) -> bool:
    """Whether accelerate's configuration, which comes by the environment, has this switch on."""
    return os.environ.get(switch, "").lower() in ("1", "true", "yes")


def _look_at_division(sentences: list[str]) -> None:
    """To divide a net is accelerate's and the trainer's business, if it can be done and there are others.

    Raises:
        UserError: it is FSDP's first version, or DeepSpeed, which is not installed.
    """
    for switch, title in ((FSDP, "FSDP"), (DEEPSPEED, "DeepSpeed")):
        if asked_for(switch) and processes.started() == 1:
            os.environ.pop(switch)
            sentences.append(f"accelerate is set up for {title}, but there is one process and nothing to divide.")
    if asked_for(FSDP) and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError(
            "accelerate is set up for the first version of FSDP.",
            "This app divides a net by the second one only.",
            "Write fsdp_version: 2 into accelerate's configuration (see docs/fsdp.yaml), or --fsdp_version 2.",
        )
    if asked_for(DEEPSPEED) and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "accelerate is set up for DeepSpeed, which is not installed.",
            "It is no part of this app: it only serves to divide a net among several cards, and FSDP does that, too.",
            "Start with docs/fsdp.yaml, or install DeepSpeed into the app's environment "
            "(.venv/bin/pip install deepspeed; it is made for Linux).",
        )


def _put_aside() -> list[str]:
    """Take out of the environment what is not used, and say so.

    Raises:
        UserError: several processes would train otherwise than they were asked to.
    """
    sentences: list[str] = []
    _look_at_division(sentences)
    split = [title for name, title in SPLITS.items() if asked_for(name)]
    for name in SPLITS:
        os.environ.pop(name, None)
    if split and processes.started() > 1:
        raise UserError(
            f"accelerate is set up for {' and '.join(split)}, by which this app cannot train.",
            "It trains a net that each card holds whole, or divides it by FSDP or DeepSpeed.",
            "Start with docs/two-cards.yaml, or with docs/fsdp.yaml to divide one net among the cards.",
        )
    if split:
        sentences.append(f"accelerate is set up for {' and '.join(split)}, but there is one process to train with.")
    ignored = []
    for name, neutral in ELSEWHERE_DECIDED.items():
        value = os.environ.pop(name, neutral[0])
        if value not in neutral:
            ignored.append(f"{name.removeprefix('ACCELERATE_').lower()} {value}")
    if ignored:
        sentences.append(
            f"Of accelerate's configuration this is not used, the run's settings are: {', '.join(ignored)}."
        )
    return sentences
