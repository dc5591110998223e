"""Every setting of a run, written once: title, unit, bounds and help travel with the field.

Forms, the command line, presets, docs and run.json are made from these models. Unknown keys are errors.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engine.errors import UserError

CONFIG_VERSION = 1


def setting(default: Any, title: str, help: str, *, unit: str = "", advanced: bool = False, **bounds: Any) -> Any:
    """A pydantic field that also knows how to present itself."""
    extra: dict[str, Any] = {"unit": unit, "advanced": advanced}
    return Field(default, title=title, description=help, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, frozen=True)


class ModelConfig(Section):
    """Which weights the run starts from."""

    base: str = setting(
        "demo",
        "Base model",
        "What your ControlNet is made for: 'demo' (the tiny base that comes with the app), a Stable Diffusion 1.x, 2.x "
        "or XL model as one file (.safetensors, .ckpt) or as a folder in diffusers layout, or a Hugging Face id.",
    )
    controlnet: str = setting(
        "",
        "Start from a ControlNet",
        "Empty: start from a copy of the base, as the ControlNet paper does. Or the file or folder of a ControlNet to "
        "go on from: .safetensors, .pth, .ckpt, a Control-LoRA, a diffusers folder, or a checkpoint of another run.",
        advanced=True,
    )
    control_lora_rank: int = setting(
        0,
        "Control-LoRA rank",
        "0: the whole ControlNet learns. 32 to 256: a Control-LoRA, the lighter way: the copied layers stay the base's "
        "own, and thin matrices of this rank learn what to add. Needs much less memory and makes a small file; learns "
        "a little less. Wants a learning rate about ten times as high, 1e-4. For tiny bases such as 'demo' take 4 to "
        "16.",
        advanced=True,
        ge=0,
        le=256,
    )
    hint_start: Literal["he", "default"] = setting(
        "he",
        "Start of the hint encoder",
        "The part of a new ControlNet that reads the condition map starts from random numbers. 'he' scales them so "
        "that the map comes through from the first step, and the net listens sooner; 'default' does as the original "
        "scripts do.",
        advanced=True,
    )


class DataConfig(Section):
    """Which pictures, and how they are cut."""

    dataset: str = setting("", "Dataset", "Name of a dataset of this workspace, with its condition maps made.")
    resolution: int = setting(
        512,
        "Resolution",
        "Side of the square that the net sees. SD 1.5 was made for 512; the demo base for 128.",
        unit="px",
        ge=64,
        le=2048,
        multiple_of=64,
    )
    crop: Literal["centre", "random", "smart"] = setting(
        "centre",
        "Crop",
        "Which part of a picture is kept where its shape does not fit. centre: the middle. random: several places, "
        "another in each round. smart: where most happens, for subjects that are seldom in the middle.",
    )
    crop_variants: int = setting(
        4,
        "Crops of each picture",
        "With random crops: how many places are prepared, the middle among them. Each needs its disk space and "
        "preparation once.",
        unit="crops",
        ge=1,
        le=32,
        advanced=True,
    )
    buckets: bool = setting(
        False,
        "Keep the pictures' shapes",
        "Sorts wide and tall pictures into sizes of their own (multiples of 64 px with about the same area), so that "
        "little is cut off. Each batch has one shape.",
    )
    held_out: int = setting(
        16,
        "Held-out pictures",
        "Pairs that are never trained on; the score is measured on them.",
        unit="pictures",
        ge=1,
        le=1024,
    )
    held_out_choice: Literal["diverse", "random"] = setting(
        "diverse",
        "Which are held out",
        "diverse: few pairs that differ much, so that they stand for the whole set. random: as they come; the score is "
        "then that of an average picture, if there are enough of them.",
        advanced=True,
    )


class ObjectiveConfig(Section):
    """What the net is asked to learn at each step."""

    prompt_dropout: float = setting(
        0.1,
        "Prompt dropout",
        "Share of steps at which the caption is hidden, so that the net learns to read the picture itself. Drawn "
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
        "the noisy ones, in which a picture's layout is decided (T2I-Adapter, Mou et al. 2023): the net obeys sooner, "
        "and learns less about fine detail.",
        advanced=True,
    )
    offset_noise: float = setting(
        0.0,
        "Offset noise",
        "Shifts the noise of each picture up or down as a whole, so that very dark and very bright ones are learnt; "
        "0.05 is usual, 0 switches it off. Bases that predict velocity with zero terminal SNR can do so anyway.",
        ge=0,
        le=1,
        advanced=True,
    )
    sd_locked: bool = setting(
        True,
        "Keep the base as it is",
        "Off: the base's second half learns, too, for pictures far from what it knows. Needs twice the memory, a small "
        "learning rate, and thousands of pictures; Try it uses what was learnt, but exports hold only the ControlNet.",
        advanced=True,
    )
    only_mid_control: bool = setting(
        False,
        "Control only in the middle",
        "The net speaks to the base only at its coarsest layer: it steers the subject, hardly the outlines. Of use for "
        "maps that are themselves coarse.",
        advanced=True,
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
        "Keeps a running average of the weights, which draws calmer pictures. 0 switches it off; 0.999 averages about "
        "1,000 steps.",
        ge=0,
        lt=1,
        advanced=True,
    )
    ema_device: Literal["same", "cpu"] = setting(
        "same",
        "EMA kept on",
        "same: with the net. cpu: in the computer's memory, which spares 1.35 GB of a card with SD 1.5 and takes a "
        "little longer at each step.",
        advanced=True,
    )


class TrainConfig(Section):
    """How long, how large, how precise."""

    steps: int = setting(
        4000, "Steps", "Corrections of the weights in the whole run.", unit="steps", ge=1, le=10_000_000
    )
    batch_size: int = setting(
        4,
        "Batch size",
        "Pictures looked at together; more is steadier and needs more memory.",
        unit="pictures",
        ge=1,
        le=512,
    )
    accumulation: int = setting(
        1,
        "Gradient accumulation",
        "Batches added up before each correction: batch size 1 with accumulation 4 learns like batch size 4, slower, "
        "in less memory.",
        unit="batches",
        ge=1,
        le=1024,
        advanced=True,
    )
    precision: Literal["fp32", "fp16", "bf16"] = setting(
        "fp16",
        "Precision",
        "Half precision halves memory and doubles speed; the weights that learn stay in fp32. bf16 needs an RTX 30 "
        "card or newer.",
        advanced=True,
    )
    gradient_checkpointing: Literal["none", "controlnet", "both"] = setting(
        "none",
        "Gradient checkpointing",
        "Computes some things twice to save memory: in the net that learns (8 % more work), or in the base's half that "
        "follows it, too (26 % more).",
        advanced=True,
    )
    seed: int = setting(0, "Seed", "The same seed repeats the same run.", ge=0, le=2**31 - 1, advanced=True)
    checkpoint_every: int = setting(
        500, "Checkpoint every", "How often the run is saved by itself.", unit="steps", ge=1
    )
    keep_checkpoints: int = setting(
        3,
        "Checkpoints kept",
        "Older ones are removed, never the best; 0 keeps all.",
        unit="checkpoints",
        ge=0,
        advanced=True,
    )

    @field_validator("gradient_checkpointing", mode="before")
    @classmethod
    def _was_a_switch(cls, value: Any) -> Any:
        """Runs and presets of earlier versions say true or false."""
        return {True: "controlnet", False: "none"}.get(value, value) if isinstance(value, bool) else value


class ValidationConfig(Section):
    """Pictures and scores while training."""

    every: int = setting(500, "Pictures every", "How often pictures are made and scored; 0: never.", unit="steps", ge=0)
    pictures: int = setting(4, "Pictures", "How many held-out pairs are drawn each time.", unit="pictures", ge=1, le=64)
    sampling_steps: int = setting(20, "Sampling steps", "Denoising steps for each picture.", unit="steps", ge=1, le=200)
    guidance_scale: float = setting(
        7.5, "Guidance scale", "How strictly pictures follow the prompt.", ge=1, le=30, advanced=True
    )
    strength: float = setting(
        1.0, "Control strength", "How strictly pictures follow the control picture.", ge=0, le=2, advanced=True
    )
    check_every: int = setting(
        50,
        "Check every",
        "How often is measured, without drawing anything, whether the net listens to its map and does as well on "
        "held-out pairs. Done more seldom where it would take over 3 % of the time; 0: never, and no verdict.",
        unit="steps",
        ge=0,
        advanced=True,
    )
    check_pairs: int = setting(
        8,
        "Pairs checked",
        "How many held-out pairs, and as many training pairs, each check measures.",
        unit="pairs",
        ge=2,
        le=64,
        advanced=True,
    )
    listens_by: int = setting(
        40_000,
        "Patience",
        "A net begins to listen suddenly. After this many pictures without that, something is taken to be wrong.",
        unit="pictures",
        ge=100,
        advanced=True,
    )
    stop_when_flat: bool = setting(
        False,
        "Stop when it no longer improves",
        "Ends the run by itself (saved, to be resumed if you like) when neither the held-out loss nor the control gain "
        "has moved for a long while.",
        advanced=True,
    )


class RunConfig(Section):
    """The whole of a run."""

    version: int = CONFIG_VERSION
    name: str = setting("", "Run name", "What the run's folder and the exported file are called.", max_length=80)
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    validation: ValidationConfig = ValidationConfig()

    @model_validator(mode="after")
    def _warmup_fits(self) -> RunConfig:
        if self.optim.warmup_steps >= self.train.steps and self.optim.warmup_steps > 0:
            raise ValueError("the warm-up is as long as the whole run: lower optim.warmup_steps or raise train.steps")
        return self

    @model_validator(mode="after")
    def _average_of_a_locked_base(self) -> RunConfig:
        if not self.objective.sd_locked and self.optim.ema_decay > 0:
            raise ValueError(
                "the average holds only the ControlNet: set optim.ema_decay to 0 where the base learns, too "
                "(objective.sd_locked is off)"
            )
        return self

    @property
    def images_per_step(self) -> int:
        """Pictures per correction of the weights (the effective batch of one process)."""
        return self.train.batch_size * self.train.accumulation


SECTIONS: tuple[str, ...] = ("model", "data", "objective", "optim", "train", "validation")


def fields(section: str) -> dict[str, Any]:
    """Name -> pydantic FieldInfo of one section, in order."""
    kind: Any = RunConfig.model_fields[section].annotation
    return dict(kind.model_fields)


def parse(values: dict[str, Any], source: str = "these settings") -> RunConfig:
    """A checked RunConfig from nested plain values.

    Raises:
        UserError: every unknown key and every value out of bounds at once, in words.
    """
    version = values.get("version", CONFIG_VERSION)
    if version != CONFIG_VERSION:
        raise UserError(
            f"{source} cannot be read.",
            f"They are of version {version}; this app writes version {CONFIG_VERSION}.",
            "Update the app, or start a new run with the same dataset.",
        )
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(
            f"{source} cannot be used.", describe(error), "Correct these values and start again."
        ) from error


def describe(error: ValidationError) -> str:
    """Every problem of a validation error, one sentence each, with the field's dotted name."""
    sentences = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "the settings"
        if problem["type"] == "extra_forbidden":
            sentences.append(f"{where} is not a setting.")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            sentences.append(f"{where}: {message[0].lower()}{message[1:]} (given: {problem['input']!r:.60}).")
    return " ".join(sentences)
