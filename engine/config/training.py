"""Length, batch size, precision, memory saving and checkpoints of a run."""

from __future__ import annotations

from typing import Literal

from engine.config.setting import Section, setting


class TrainConfig(Section):
    """Length, batch size, precision, memory saving and checkpoints."""

    steps: int = setting(
        4000,
        "Steps",
        "Optimizer steps of the whole run. Usual: 4,000 to 20,000; for a LoRA 500 to 3,000.",
        unit="steps",
        ge=1,
        le=10_000_000,
        may_change="course",
    )
    batch_size: int = setting(
        4,
        "Batch size",
        "Images per batch. Larger batches make training steadier and need more memory. Usual: 4. Several cards "
        "share a batch, so their number changes how long a run takes, not what it learns.",
        unit="images",
        affects_speed=True,
        ge=1,
        le=512,
        may_change="memory",
    )
    accumulation: int = setting(
        1,
        "Gradient accumulation",
        "How many batches' gradients are added up for one optimizer step. Batch size 1 with accumulation 4 learns "
        "like batch size 4, more slowly and in less memory. Usual: 1. Several cards share these batches: with as "
        "many batches as cards, each card does one.",
        unit="batches",
        affects_speed=True,
        ge=1,
        le=1024,
        advanced=True,
        why_fixed="It follows from the batch size, so that each step keeps the same images.",
    )
    precision: Literal["fp32", "fp16", "bf16"] = setting(
        "fp16",
        "Precision",
        "fp16 and bf16 halve the memory and double the speed; the trained weights stay in fp32. bf16 is safer: in "
        "fp16 large values can overflow, and such steps are skipped. bf16 needs an RTX 30 card or newer; on older "
        "cards the run uses fp16. fp32 is for processors.",
        advanced=True,
        affects_speed=True,
        may_change="course",
    )
    base_storage: Literal["same", "int8", "fp8", "nf4"] = setting(
        "same",
        "Base model precision",
        "same: the run's precision. int8, fp8: keep the frozen base in 8 bits, which halves its memory (0.8 GB less "
        "with SD 1.5, 2.4 GB with SDXL). Training is a little slower, and during it the base draws very slightly "
        "different images, with int8 the least. nf4: 4 bits, a quarter of the memory; images differ more, and it "
        "needs the package bitsandbytes.",
        advanced=True,
        affects_speed=True,
        may_change="memory",
    )
    modulation_storage: Literal["same", "int8", "base"] = setting(
        "same",
        "Modulation layers",
        "For a transformer base in 8 or 4 bits: how to store the layers that scale the inputs of all others according "
        "to the noise level. same, the usual choice: in the run's precision. int8: in 8 bits, for small cards, because "
        "these layers are a third of SD 3.5 and a quarter of FLUX.1. base: like all other layers.",
        advanced=True,
        affects_speed="in a quantized base",
        may_change="memory",
        only=("transformers",),
    )
    base_products: Literal["same", "fp16_sums", "8bit"] = setting(
        "same",
        "Products of the base",
        "How the frozen base's linear layers multiply. same, the usual choice: in the run's precision. The others are "
        "experimental and not measured on graphics cards yet. fp16_sums: in fp16 runs, products are also added up in "
        "fp16, which GeForce cards do twice as fast; large sums may overflow. 8bit: in int8 (RTX 30 or newer) or fp8 "
        "(RTX 40 or newer), as the base is stored; faster but less exact. If a card cannot do it, the log says so.",
        advanced=True,
        affects_speed=True,
        may_change="memory",
    )
    gradient_checkpointing: Literal["none", "controlnet", "both"] = setting(
        "none",
        "Gradient checkpointing",
        "Saves memory: the backward pass computes activations again instead of keeping them. none: fastest. "
        "controlnet: in the ControlNet (8 % more computation). both: also in the base's decoder (26 % more).",
        advanced=True,
        affects_speed=True,
        may_change="memory",
    )
    attention: Literal["sdpa", "xformers"] = setting(
        "sdpa",
        "Attention",
        "sdpa, the usual choice: PyTorch's own, which picks the fastest kernel for the card. xformers: the xformers "
        "package, if it is installed and there is a graphics card; otherwise sdpa.",
        advanced=True,
        affects_speed=True,
    )
    channels_last: bool = setting(
        False,
        "Channels last",
        "Stores the channels of each pixel next to each other, which makes convolutions faster on graphics cards. "
        "It saves time only together with torch.compile, because PyTorch's own group norm changes the layout back "
        "each time. The result is the same except for rounding. Usual: off.",
        advanced=True,
        affects_speed=True,
    )
    compile: Literal["none", "blocks", "kernels", "graphs"] = setting(
        "none",
        "torch.compile",
        "kernels: joins small operations into larger ones, which takes minutes at the start and for each new image "
        "size. blocks: the same, but only in the attention blocks; many are alike, and each kind is compiled once. "
        "graphs: also replays whole steps as CUDA graphs, which needs more memory. If compiling fails, the run "
        "continues without it. Usual: none. Not measured on graphics cards yet: compare two trials.",
        advanced=True,
        affects_speed=True,
    )
    backend: Literal["torch", "jax"] = setting(
        "torch",
        "Backend",
        "What computes the nets of a step. torch, the usual choice. jax is experimental: it compiles the same nets "
        "with JAX, for processors and TPUs, and trains whole ControlNets only. It is not faster than torch. It needs "
        "the packages of requirements-jax.txt. Checkpoints are the same.",
        advanced=True,
        affects_speed=True,
        may_change="course",
    )
    allow_tf32: bool = setting(
        True,
        "TF32",
        "Only for fp32 on an RTX 30 card or newer: matrix products round their inputs to 10 bits of precision, as "
        "convolutions do anyway, and take a quarter to an eighth of the time. Sums stay in fp32. Usual: on.",
        advanced=True,
        affects_speed="in fp32",
    )
    cudnn_benchmark: bool = setting(
        False,
        "cuDNN benchmark",
        "Tries all of the card's kernels for each convolution and keeps the fastest. Worth it only if all images "
        "have the same size (no buckets). The trials take time and memory, and rounding may differ from one start "
        "to the next. Usual: off. Not measured on graphics cards yet: compare two trials.",
        advanced=True,
        affects_speed=True,
    )
    deterministic: bool = setting(
        False,
        "Deterministic",
        "On a graphics card, sums are added up in a fixed order as far as PyTorch can, so that repeating a run "
        "gives the same numbers, and so does resuming one. Costs about 10 to 20 % of the speed and turns cuDNN "
        "benchmark off. Without it the numbers are the same except for rounding; on a processor they are the same "
        "anyway.",
        advanced=True,
        affects_speed=True,
    )
    seed: int = setting(
        0,
        "Seed",
        "The same seed repeats the same run: on a processor bit for bit, on a graphics card except for rounding "
        "(see Deterministic).",
        ge=0,
        le=2**31 - 1,
        advanced=True,
        why_fixed="The order of the images and their noise depend on it: with another seed it would be another run.",
    )
    checkpoint_every: int = setting(
        500, "Checkpoint every", "How often a checkpoint is saved. Usual: 500.", unit="steps", ge=1
    )
    keep_checkpoints: int = setting(
        3,
        "Checkpoints kept",
        "How many of the newest checkpoints are kept. Older ones are deleted, except the best one and those "
        "with a star. 0: all are kept.",
        unit="checkpoints",
        ge=0,
        advanced=True,
    )
    keep_every: int = setting(
        0,
        "Keep every",
        "Checkpoints whose step is a multiple of this are never deleted. 0: no such rule.",
        unit="steps",
        ge=0,
        advanced=True,
    )
    keep_resumable: int = setting(
        0,
        "Resumable checkpoints",
        "How many of the newest checkpoints keep the optimizer's state, which is needed to resume. Older ones keep "
        "only their weights, a third of the size, and can still be tried and exported. 2 is safe. 0: all keep it.",
        unit="checkpoints",
        ge=0,
        advanced=True,
    )
