"""How long a run is, how large its batches, how precise."""

from __future__ import annotations

from typing import Literal

from engine.config.setting import Section, setting


class TrainConfig(Section):
    """How long, how large, how precise."""

    steps: int = setting(
        4000, "Steps", "Corrections of the weights in the whole run.", unit="steps", ge=1, le=10_000_000
    )
    batch_size: int = setting(
        4,
        "Batch size",
        "Images looked at together; more is steadier and needs more memory. Several cards share them: their number "
        "changes how long a run takes, not what it learns.",
        unit="images",
        ge=1,
        le=512,
        affects_speed=True,
    )
    accumulation: int = setting(
        1,
        "Gradient accumulation",
        "Batches added up before each correction: batch size 1 with accumulation 4 learns like batch size 4, slower, "
        "in less memory. Several cards share them: with as many batches as cards, each does one.",
        unit="batches",
        ge=1,
        le=1024,
        advanced=True,
        affects_speed=True,
    )
    precision: Literal["fp32", "fp16", "bf16"] = setting(
        "fp16",
        "Precision",
        "Half precision halves memory and doubles speed; the weights that learn stay in fp32. bf16 needs an RTX 30 "
        "card or newer.",
        advanced=True,
        affects_speed=True,
    )
    base_storage: Literal["same", "fp8"] = setting(
        "same",
        "Base kept in",
        "same: in the run's precision. fp8: the frozen base in eight bits, half of the memory (0.8 GB less with SD "
        "1.5, 2.4 GB with XL); a little slower, and the base draws very slightly otherwise while training.",
        advanced=True,
        affects_speed=True,
    )
    gradient_checkpointing: Literal["none", "controlnet", "both"] = setting(
        "none",
        "Gradient checkpointing",
        "Computes some things twice to save memory: in the net that learns (8 % more work), or in the base's half that "
        "follows it, too (26 % more).",
        advanced=True,
        affects_speed=True,
    )
    attention: Literal["sdpa", "xformers"] = setting(
        "sdpa",
        "Attention",
        "How the nets compute attention. sdpa: PyTorch's own, which picks the fastest way that the card has. xformers: "
        "the package of that name, where it is installed and there is a graphics card; else sdpa.",
        advanced=True,
        affects_speed=True,
    )
    channels_last: bool = setting(
        False,
        "Channels last",
        "Keeps images in memory with a pixel's channels side by side, which some cards convolve faster. It learns "
        "the same, but for rounding. Not measured on cards yet: compare the seconds a step of two trials.",
        advanced=True,
        affects_speed=True,
    )
    compile: Literal["none", "kernels", "graphs"] = setting(
        "none",
        "Compile",
        "kernels: PyTorch joins small operations into larger ones, which takes minutes at the start and at each change "
        "of size. graphs: the card also replays whole steps by itself (CUDA graphs), which needs more memory. Where it "
        "does not work the run goes on without. Not measured on cards yet: compare two trials.",
        advanced=True,
        affects_speed=True,
    )
    seed: int = setting(0, "Seed", "The same seed repeats the same run.", ge=0, le=2**31 - 1, advanced=True)
    checkpoint_every: int = setting(
        500, "Checkpoint every", "How often the run is saved by itself.", unit="steps", ge=1
    )
    keep_checkpoints: int = setting(
        3,
        "Checkpoints kept",
        "Older ones are removed, never the best and those with a star; 0 keeps all.",
        unit="checkpoints",
        ge=0,
        advanced=True,
    )
    keep_every: int = setting(
        0,
        "Keep every",
        "Checkpoints whose step is a multiple of this are never removed, to look back at later; 0: none.",
        unit="steps",
        ge=0,
        advanced=True,
    )
    keep_resumable: int = setting(
        0,
        "Resumable ones",
        "Only so many of the newest checkpoints keep what a resume needs; older ones keep their weights, a third of "
        "the size, and can be tried and exported as before. 2 is safe; 0: all keep it.",
        unit="checkpoints",
        ge=0,
        advanced=True,
    )
