"""What the net is asked to learn, and how its weights move."""

from __future__ import annotations

from typing import Literal

from engine.config.setting import Section, setting


class ObjectiveConfig(Section):
    """What the net is asked to learn at each step."""

    prompt_dropout: float = setting(
        0.1,
        "Prompt dropout",
        "Share of steps at which the caption is hidden, so that the net learns to read the image itself. Drawn "
        "afresh at each step. 0.5 makes a net that also works with an empty prompt.",
        ge=0,
        le=1,
    )
    min_snr_gamma: float = setting(
        0.0,
        "Min-SNR gamma",
        "Evens out easy and hard noise levels (Hang et al. 2023); 5 is usual, 0 switches it off.",
        ge=0,
        le=100,
        advanced=True,
    )
    timestep_sampling: Literal["uniform", "cubic"] = setting(
        "uniform",
        "Noise levels",
        "Which noise levels are trained: 'uniform' takes all alike, as the ControlNet paper does; 'cubic' takes mostly "
        "the noisy ones, in which an image's layout is decided (T2I-Adapter, Mou et al. 2023): the net obeys sooner, "
        "and learns less about fine detail.",
        advanced=True,
    )
    offset_noise: float = setting(
        0.0,
        "Offset noise",
        "Shifts the noise of each image up or down as a whole, so that very dark and very bright ones are learnt; "
        "0.05 is usual, 0 switches it off. Bases that predict velocity with zero terminal SNR can do so anyway.",
        ge=0,
        le=1,
        advanced=True,
    )
    sd_locked: bool = setting(
        True,
        "Keep the base as it is",
        "Off: the base's second half learns, too, for images far from what it knows. Needs twice the memory, a small "
        "learning rate, and thousands of images; Try it uses what was learnt, but exports hold only the ControlNet.",
        advanced=True,
        affects_speed=True,
    )
    only_mid_control: bool = setting(
        False,
        "Control only in the middle",
        "The net speaks to the base only at its coarsest layer: it steers the subject, hardly the outlines. Of use for "
        "maps that are themselves coarse.",
        advanced=True,
        affects_speed=True,
    )


class OptimConfig(Section):
    """How the weights move."""

    learning_rate: float = setting(
        1e-5,
        "Learning rate",
        "Size of each correction. Too small: hours with no effect; too large: colours break.",
        gt=0,
        le=0.1,
    )
    schedule: Literal["constant", "cosine", "linear"] = setting(
        "constant", "Learning rate schedule", "What happens to the learning rate after the warm-up.", advanced=True
    )
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit", "adafactor"] = setting(
        "adamw",
        "Optimizer",
        "The rule that moves the weights. adamw: the usual one. adamw8bit: the same in a quarter of its memory (needs "
        "the package bitsandbytes and a graphics card). paged_adamw8bit: that memory may move to the computer's RAM. "
        "adafactor: needs least, runs anywhere, learns a little less steadily.",
        advanced=True,
        affects_speed=True,
    )
    warmup_steps: int = setting(
        0, "Warm-up", "Steps over which the learning rate rises from zero.", unit="steps", ge=0, advanced=True
    )
    beta1: float = setting(0.9, "Adam beta 1", "Memory of the direction.", ge=0, lt=1, advanced=True)
    beta2: float = setting(0.999, "Adam beta 2", "Memory of the size.", ge=0, lt=1, advanced=True)
    weight_decay: float = setting(
        0.01, "Weight decay", "Pull towards zero; biases and norms are spared.", ge=0, le=1, advanced=True
    )
    max_grad_norm: float = setting(
        1.0, "Gradient clipping", "Corrections larger than this are shortened to it.", gt=0, advanced=True
    )
    ema_decay: float = setting(
        0.0,
        "EMA decay",
        "Keeps a running average of the weights, which draws calmer images. 0 switches it off; 0.999 averages about "
        "1,000 steps.",
        ge=0,
        lt=1,
        advanced=True,
        affects_speed="on or off",
    )
    ema_device: Literal["same", "cpu"] = setting(
        "same",
        "EMA kept on",
        "same: with the net. cpu: in the computer's memory, which spares 1.35 GB of a card with SD 1.5 and takes a "
        "little longer at each step.",
        advanced=True,
        affects_speed=True,
    )
    offload: bool = setting(
        False,
        "Keep what learns in RAM",
        "The weights that learn, their gradients and the optimizer stay in the computer's memory, and only a copy in "
        "the run's precision is on the card: 6 GB less with SD 1.5, 20 GB with XL, and slower steps. With the "
        "optimizers adamw and adafactor.",
        advanced=True,
        affects_speed=True,
    )
