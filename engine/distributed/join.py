"""Join the processes that accelerate or torchrun has started, and leave them.

The launcher decides how many there are and where they run. Everything that changes what is learned comes from the run's
own settings; what accelerate's configuration says about that is ignored, and the user is told.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from engine.distributed import group as processes
from engine.errors import UserError

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Time-out of torch's collectives. No process draws or saves during one, so a longer wait means a broken connection."""

SET_BY_THE_RUN = {
    "ACCELERATE_MIXED_PRECISION": ("no",),  # the run's precision
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1",),  # it would scale down every gradient
    "ACCELERATE_DYNAMO_BACKEND": ("no", "NO"),
}
FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
UNSUPPORTED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}


def join() -> list[str]:
    """Join the other processes, if there are any. Returns sentences about ignored parts of accelerate's configuration.

    Raises:
        UserError: there are more processes than cards, or they are set up for what this app cannot do. ProcessLost:
            they do not find one another.
    """
    sentences = _ignore_settings()
    if processes.started() == 1:
        return sentences
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for cards
    import torch.distributed as dist
    from accelerate import PartialState

    from engine.machine.device import card_count, collective_backend, is_card, torch_device

    device = torch_device()
    on_card = is_card(device)
    here, cards = int(os.environ.get("LOCAL_WORLD_SIZE") or 1), card_count()
    if on_card and here > cards:
        raise UserError(
            "There are more processes than graphics cards.",
            f"{here} were started on this machine, which has {cards}.",
            f"Start {cards} (--processes, or --num_processes of accelerate; for each machine).",
        )
    options = {"backend": collective_backend(device)} if on_card else {}
    try:
        with _without(DEEPSPEED):  # it would make a process group of its own, with other settings
            state = PartialState(cpu=not on_card, timeout=COLLECTIVE_TIMEOUT, **options)
        status = dist.new_group(backend="gloo", timeout=processes.STATUS_TIMEOUT)
    except RuntimeError as error:
        raise processes.ProcessLost(
            "The processes cannot find each other.",
            f"{str(error).splitlines()[0][:300]}",
            "Check the address and port of the first machine, its firewall, and that all machines start the same "
            "command (docs/several-cards.md).",
        ) from error
    processes.enter(processes.ProcessGroup(dist.get_rank(), dist.get_world_size(), status, str(state.device)))
    return sentences


def leave() -> None:
    """Close the connections. Does nothing if there is one process."""
    group = processes.current()
    processes.enter(processes.ALONE)
    if group.world_size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()


@contextmanager
def _without(switch: str) -> Iterator[None]:
    """Remove a variable from the environment within the block."""
    value = os.environ.pop(switch, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[switch] = value


def asked_for(switch: str) -> bool:
    """Whether accelerate's configuration, which it passes in the environment, has this switch on."""
    return os.environ.get(switch, "").lower() in ("1", "true", "yes")


def _check_sharding(sentences: list[str]) -> None:
    """Check that the requested FSDP or DeepSpeed set-up works with this app and this machine.

    Raises:
        UserError: it asks for FSDP's first version, or for DeepSpeed, which is not installed.
    """
    for switch, title in ((FSDP, "FSDP"), (DEEPSPEED, "DeepSpeed")):
        if asked_for(switch) and processes.started() == 1:
            os.environ.pop(switch)
            sentences.append(f"accelerate is set up for {title}, but there is only one process, so nothing is sharded.")
    if asked_for(FSDP) and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError(
            "accelerate is set up for the first version of FSDP.",
            "This app supports only the second version.",
            "Write fsdp_version: 2 into accelerate's configuration (see docs/fsdp.yaml), or --fsdp_version 2.",
        )
    if asked_for(DEEPSPEED) and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "accelerate is set up for DeepSpeed, which is not installed.",
            "It is not part of this app. All it would do is shard a net among several cards, which FSDP also does.",
            "Start with docs/fsdp.yaml, or install DeepSpeed in the app's environment (.venv/bin/pip install "
            "deepspeed; it is made for Linux).",
        )


def _ignore_settings() -> list[str]:
    """Remove settings that are not used from the environment. Returns sentences about them.

    Raises:
        UserError: several processes would train in another way than they were asked to.
    """
    sentences: list[str] = []
    _check_sharding(sentences)
    split = [title for name, title in UNSUPPORTED.items() if asked_for(name)]
    for name in UNSUPPORTED:
        os.environ.pop(name, None)
    if split and processes.started() > 1:
        raise UserError(
            f"accelerate is set up for {' and '.join(split)}, which this app does not support.",
            "In this app each card holds the whole net, or FSDP or DeepSpeed shards it.",
            "Start with docs/two-cards.yaml, or with docs/fsdp.yaml to shard one net among the cards.",
        )
    if split:
        sentences.append(f"accelerate is set up for {' and '.join(split)}, but there is only one process.")
    ignored = []
    for name, neutral in SET_BY_THE_RUN.items():
        value = os.environ.pop(name, neutral[0])
        if value not in neutral:
            ignored.append(f"{name.removeprefix('ACCELERATE_').lower()} {value}")
    if ignored:
        sentences.append(
            f"accelerate's own settings for these are ignored and the run's are used: {', '.join(ignored)}."
        )
    return sentences
