"""The training objective and the optimizer."""

from __future__ import annotations

from typing import Literal

from engine.config.setting import Section, setting


class ObjectiveConfig(Section):
    """What the net is trained to do at each step."""

    prompt_dropout: float = setting(
        0.1,
        "Prompt dropout",
        "Share of captions that are replaced by an empty one (kohya: caption dropout), picked at random at each "
        "step, so that the net learns to rely on the control image. Usual: 0.1. With 0.5 it also works without a "
        "prompt.",
        ge=0,
        le=1,
    )
    control_dropout: float = setting(
        0.0,
        "Control dropout",
        "Share of control images that are left out (zero latents), picked at random at each step, so that guidance "
        "without control and several ControlNets at once work. Usual: 0.1. Only for bases whose ControlNet reads "
        "latents, such as Stable Diffusion 3.",
        ge=0,
        le=1,
        advanced=True,
        only=("transformers", "controlnet"),
    )
    t5_dropout: float = setting(
        0.0,
        "T5 dropout",
        "Share of captions that the base reads without T5, its third text encoder, so that the net also works when "
        "T5 is left out to save memory. Usual: 0.1. Only for Stable Diffusion 3.",
        ge=0,
        le=1,
        advanced=True,
        only=("transformers",),
    )
    guidance: float = setting(
        0.0,
        "Guidance in training",
        "The guidance scale that a distilled base such as FLUX.1 reads as an input. 0, the usual choice: picked at "
        "random from 1 to 7 for each image, so that the net works at any scale. Otherwise the same for all images: 1, "
        "as in some trainers, or the scale that you draw with. Other bases have no such input.",
        ge=0,
        le=30,
        advanced=True,
        only=("transformers",),
    )
    hidden_captions: float = setting(
        0.0,
        "Captions hidden from the ControlNet",
        "Share of captions that only the base reads, not the ControlNet's own layers. In ComfyUI those layers never "
        "read the prompt, and this prepares the net for that. Usual: 0.3. Only for Z-Image.",
        ge=0,
        le=1,
        advanced=True,
        only=("transformers",),
    )
    min_snr_gamma: float = setting(
        0.0,
        "Min-SNR gamma",
        "Weights the loss so that easy and hard noise levels count equally (Hang et al. 2023). Usual: 5. 0 switches "
        "it off, which suits v-prediction bases with zero terminal SNR: with them, it takes weight away from the "
        "noisiest levels, which decide an image's layout.",
        ge=0,
        le=100,
        advanced=True,
    )
    timestep_sampling: Literal["uniform", "cubic", "logit_normal"] = setting(
        "uniform",
        "Timestep sampling",
        "uniform, the usual choice: all timesteps equally often, as in the ControlNet paper. cubic: mostly noisy "
        "ones, where an image's layout is decided (T2I-Adapter, Mou et al. 2023); the net follows its control image "
        "sooner but learns fine detail less well. logit_normal: the usual choice for bases trained by flow "
        "matching: mostly the middle, shifted towards the noisy end as the base needs it (Esser et al. 2024).",
        advanced=True,
    )
    offset_noise: float = setting(
        0.0,
        "Noise offset",
        "Shifts the noise of each image up or down as a whole, so that very dark and very bright images can be "
        "learned. Usual: 0.05. 0 switches it off. Not needed for v-prediction bases with zero terminal SNR.",
        ge=0,
        le=1,
        advanced=True,
    )
    input_perturbation: float = setting(
        0.0,
        "Input perturbation",
        "Extra noise in what the net sees, but not in its target, so that it learns to correct its own small errors "
        "(Ning et al. 2023). Usual: 0.1. 0 switches it off.",
        ge=0,
        le=1,
        advanced=True,
    )
    loss: Literal["mse", "huber"] = setting(
        "mse",
        "Loss",
        "mse, the usual choice: mean squared error. huber: errors far above Huber c count in proportion instead of "
        "squared, so that damaged or wrongly paired images have less influence (Khrapov et al. 2024). Loss checks "
        "always use mse.",
        advanced=True,
    )
    huber_c: float = setting(
        0.1,
        "Huber c",
        "With the huber loss: the error at which it changes from squared to proportional. Usual: 0.1.",
        gt=0,
        le=10,
        advanced=True,
    )
    image_weights: bool = setting(
        True,
        "Loss weights of images",
        "On, the usual choice: where the dataset's list has a column loss_weight, each image's loss is multiplied by "
        "its number; 2 makes the image count twice, 0.5 half. Without such a column, all images count alike.",
        advanced=True,
    )
    sd_locked: bool = setting(
        True,
        "Keep the base frozen",
        "On, the usual choice: only the ControlNet is trained. Off: the second half of the base (its decoder) is "
        "trained, too, for images unlike anything that the base knows. That takes twice the memory, a small "
        "learning rate and thousands of images. Try it uses the trained base, but exports contain only the "
        "ControlNet.",
        advanced=True,
        affects_speed=True,
        why_fixed="It decides which weights are trained, and so what the checkpoints contain.",
        only=("controlnet",),
    )
    only_mid_control: bool = setting(
        False,
        "Control only in the middle",
        "Connects the ControlNet only to the base's middle block: it steers the subject, but hardly the outlines. "
        "Useful for coarse control images.",
        advanced=True,
        affects_speed=True,
        only=("controlnet",),
    )


class OptimConfig(Section):
    """How the weights are updated."""

    learning_rate: float = setting(
        1e-5,
        "Learning rate",
        "Step size of the optimizer. Usual: 1e-5, or 1e-4 for a Control-LoRA. Too low: no effect for hours. Too "
        "high: distorted colours.",
        gt=0,
        le=0.1,
        may_change="course",
    )
    schedule: Literal["constant", "cosine", "linear"] = setting(
        "constant",
        "Learning rate scheduler",
        "How the learning rate changes after the warm-up. Usual: constant. cosine and linear end at zero.",
        advanced=True,
    )
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit", "adafactor"] = setting(
        "adamw",
        "Optimizer",
        "adamw: the usual choice. adamw8bit: keeps its state in 8 bits, a quarter of the memory; needs the package "
        "bitsandbytes and a graphics card. paged_adamw8bit: the same, and the state can move to the computer's RAM. "
        "adafactor: needs the least memory and no extra package; training is a little less stable.",
        advanced=True,
        affects_speed=True,
        may_change="memory",
    )
    warmup_steps: int = setting(
        0,
        "Warm-up",
        "Optimizer steps over which the learning rate rises from zero. Usual: 0, or a few hundred.",
        unit="steps",
        ge=0,
        advanced=True,
    )
    beta1: float = setting(
        0.9, "Adam beta 1", "Decay of the running mean of gradients. Usual: 0.9.", ge=0, lt=1, advanced=True
    )
    beta2: float = setting(
        0.999,
        "Adam beta 2",
        "Decay of the running mean of squared gradients. Usual: 0.999.",
        ge=0,
        lt=1,
        advanced=True,
    )
    weight_decay: float = setting(
        0.01,
        "Weight decay",
        "Pulls the weights towards zero at each step, except biases and norms. Usual: 0.01.",
        ge=0,
        le=1,
        advanced=True,
    )
    max_grad_norm: float = setting(
        1.0,
        "Gradient clipping",
        "Gradients whose total norm is above this are scaled down to it (max grad norm). Usual: 1.",
        gt=0,
        advanced=True,
    )
    ema_decay: float = setting(
        0.0,
        "EMA decay",
        "Keeps an exponential moving average of the weights, which often gives smoother images. 0 switches it off. "
        "Usual: 0.999, an average over about 1,000 steps; the decay rises to this value at the start of the run.",
        ge=0,
        lt=1,
        advanced=True,
        affects_speed="on or off",
        why_fixed="The average began with the run and covers all of its steps.",
    )
    ema_device: Literal["same", "cpu"] = setting(
        "same",
        "EMA device",
        "same: next to the trained weights. cpu: in the computer's RAM, which saves 1.35 GB of graphics memory with "
        "SD 1.5. Each update of the EMA then copies the trained weights to RAM, which takes a few tenths of a "
        "second; setting EMA every to 10 saves nine tenths of that.",
        advanced=True,
        affects_speed=True,
        may_change="memory",
    )
    ema_every: int = setting(
        1,
        "EMA every",
        "How often the EMA is updated. Each update applies the decay of all steps since the last one, so the "
        "average covers the same number of steps. Usual: 1, or 10 if the EMA is in the computer's RAM.",
        unit="steps",
        ge=1,
        le=100,
        advanced=True,
        affects_speed=True,
    )
    master_weights: Literal["whole", "split", "none"] = setting(
        "whole",
        "Master weights",
        "How the exact trained weights are kept next to the copy that is used for computing. whole, the usual "
        "choice: in fp32. split: only the bits that the copy lacks; the training is the same and needs 0.7 to 1.4 "
        "GB less with SD 1.5 (bf16 only). none: only the copy; updates are rounded at random so that they are right "
        "on average, which saves another 0.7 GB and makes training a little noisier.",
        advanced=True,
        affects_speed=True,
        may_change="memory",
    )
    half_gradients: bool = setting(
        True,
        "Gradients in half precision",
        "With fp16 and bf16, gradients stay in half precision until the weights are updated in fp32. The training "
        "is the same and needs up to 0.7 GB less with SD 1.5, or 2.3 GB less with a whole SDXL ControlNet. No "
        "effect when gradients are added up (gradient accumulation) or averaged (several cards). Usual: on.",
        advanced=True,
        affects_speed="in half precision",
        may_change="memory",
    )
    one_pass_update: bool = setting(
        False,
        "Update in one pass",
        "Compiles one kernel that clips, updates the weights with AdamW and rounds them for the next step, which "
        "reads and writes a third less memory. Compiling can take minutes at the start. Only for adamw in fp16 or bf16 "
        "with whole master weights on one card, without gradient accumulation; if it cannot be used, the log says so. "
        "Usual: off. Not measured on graphics cards yet: compare two trials.",
        advanced=True,
        affects_speed=True,
        may_change="memory",
    )
    in_backward: bool = setting(
        False,
        "Update in the backward pass",
        "Updates each weight as soon as its gradient is computed, then frees the gradient, so that the gradients of "
        "the whole net are never in memory at once. Saves up to 0.4 GB with SD 1.5 and 1.3 GB with a whole SDXL "
        "ControlNet, mostly when gradient checkpointing leaves few activations. Gradients are clipped one weight at "
        "a time. For fp32 and bf16 on one card, without gradient accumulation.",
        advanced=True,
        affects_speed=True,
        may_change="memory",
    )
    offload: bool = setting(
        False,
        "Offload to RAM",
        "The trained fp32 weights, their gradients and the optimizer's state stay in the computer's RAM; only a "
        "copy in the run's precision is on the graphics card. Saves 6 GB with SD 1.5 and 20 GB with SDXL, and makes "
        "steps slower. Only for the optimizers adamw and adafactor.",
        advanced=True,
        affects_speed=True,
        may_change="memory",
    )
