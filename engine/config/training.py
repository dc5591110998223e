"""Length, batch size, precision, memory saving and checkpoints of a run."""

from __future__ import annotations

from typing import Literal

from engine.config.setting import Section, setting


class TrainConfig(Section):
    """Length, batch size, precision, memory saving and checkpoints."""

    steps: int = setting(
        4000,
        "Steps",
        "Optimizer steps of the whole run. Usual: 4,000 to 20,000.",
        unit="steps",
        ge=1,
        le=10_000_000,
        may_change="course",
    )
    batch_size: int = setting(
        4,
        "Batch size",
        "Images per batch. Larger batches are steadier and need more memory. Usual: 4. Several cards share a batch: "
        "their number changes how long a run takes, not what it learns.",
        unit="images",
        affects_speed=True,
        ge=1,
        le=512,
        may_change="memory",
    )
    accumulation: int = setting(
        1,
        "Gradient accumulation",
        "Batches whose gradients are added up for one optimizer step: batch size 1 with accumulation 4 learns like "
        "batch size 4, slower and in less memory. Usual: 1. Several cards share them: with as many batches as cards, "
        "each does one.",
        unit="batches",
        affects_speed=True,
        ge=1,
        le=1024,
        advanced=True,
        why_fixed="It follows from the batch size, so that the images of a step stay the same.",
    )
    precision: Literal["fp32", "fp16", "bf16"] = setting(
        "fp16",
        "Precision",
        "fp16 and bf16 halve the memory and double the speed; the trained weights stay in fp32. bf16 is the safer "
        "one: in fp16 large values overflow, and single steps are skipped. It needs an RTX 30 card or newer; on older "
        "ones the run uses fp16. fp32 is for processors.",
        advanced=True,
        affects_speed=True,
        may_change="course",
    )
    base_storage: Literal["same", "fp8"] = setting(
        "same",
        "Base model precision",
        "same: the run's precision. fp8: the frozen base in 8 bits, half the memory (0.8 GB less with SD 1.5, 2.4 GB "
        "with SDXL); a little slower, and the base draws very slightly different images while training.",
        advanced=True,
        affects_speed=True,
        may_change="memory",
    )
    gradient_checkpointing: Literal["none", "controlnet", "both"] = setting(
        "none",
        "Gradient checkpointing",
        "Saves memory: the backward pass computes activations again instead of keeping them. none: the fastest. "
        "controlnet: in the ControlNet (8 % more work). both: also in the base's decoder (26 % more).",
        advanced=True,
        affects_speed=True,
        may_change="memory",
    )
    attention: Literal["sdpa", "xformers"] = setting(
        "sdpa",
        "Attention",
        "sdpa, the usual choice: PyTorch's own, which picks the fastest kernel of the card. xformers: that package, if "
        "it is installed and there is a graphics card; otherwise sdpa.",
        advanced=True,
        affects_speed=True,
    )
    channels_last: bool = setting(
        False,
        "Channels last",
        "A memory layout with the channels of a pixel side by side, in which cards convolve faster. On a card it saves "
        "time only together with torch.compile: PyTorch's own group norm turns the layout back each time. The result "
        "is the same but for rounding. Usual: off.",
        advanced=True,
        affects_speed=True,
    )
    compile: Literal["none", "blocks", "kernels", "graphs"] = setting(
        "none",
        "torch.compile",
        "kernels: joins small operations into larger ones; that takes minutes at the start and at each new image size. "
        "blocks: the same within the attention blocks alone, which are alike, so that each kind is compiled once. "
        "graphs: also replays whole steps as CUDA graphs, which needs more memory. If it fails, the run goes on "
        "without. Usual: none. Not measured on cards yet: compare two trials.",
        advanced=True,
        affects_speed=True,
    )
    allow_tf32: bool = setting(
        True,
        "TF32",
        "Only for fp32 on an RTX 30 card or newer: matrix products round their inputs to 10 bits, as convolutions do "
        "anyway, and take a quarter to an eighth of the time. Sums stay in fp32. Usual: on.",
        advanced=True,
        affects_speed="in fp32",
    )
    cudnn_benchmark: bool = setting(
        False,
        "cuDNN benchmark",
        "Tries all of a card's kernels for each shape of convolution and keeps the fastest. It pays only if all images "
        "have one size (no buckets); the trials take time and memory, and their choice may change the rounding from "
        "one start to the next. Usual: off. Not measured on cards yet: compare two trials.",
        advanced=True,
        affects_speed=True,
    )
    deterministic: bool = setting(
        False,
        "Deterministic",
        "On a graphics card, sums are added in one order as far as PyTorch can, so that the same run gives the same "
        "numbers, and a resumed run those of an uninterrupted one. Costs about 10 to 20 % of the speed. Without it "
        "they are the same but for rounding. On a processor they are the same anyway. cuDNN benchmark is then off.",
        advanced=True,
        affects_speed=True,
    )
    seed: int = setting(
        0,
        "Seed",
        "The same seed repeats the same run: on a processor bit for bit, on a graphics card but for rounding (see "
        "Deterministic).",
        ge=0,
        le=2**31 - 1,
        advanced=True,
        why_fixed="The order of the images and their noise come from it: another one would be another run.",
    )
    checkpoint_every: int = setting(
        500, "Checkpoint every", "How often a checkpoint is saved. Usual: 500.", unit="steps", ge=1
    )
    keep_checkpoints: int = setting(
        3,
        "Checkpoints kept",
        "Older checkpoints are removed, except the best one and those with a star. 0: all are kept.",
        unit="checkpoints",
        ge=0,
        advanced=True,
    )
    keep_every: int = setting(
        0,
        "Keep every",
        "Checkpoints whose step is a multiple of this are never removed. 0: none.",
        unit="steps",
        ge=0,
        advanced=True,
    )
    keep_resumable: int = setting(
        0,
        "Resumable checkpoints",
        "Only this many of the newest checkpoints keep the optimizer's state, which a resume needs. Older ones keep "
        "their weights, a third of the size, and can be tried and exported as before. 2 is safe. 0: all keep it.",
        unit="checkpoints",
        ge=0,
        advanced=True,
    )
