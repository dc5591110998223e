"""Every setting of a run, declared once with its title, unit, bounds and help.

Forms, the command line, presets, docs and run.json are made from these models. Unknown keys are errors.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError, model_validator

from engine.config.data import DataConfig
from engine.config.invalid import describe
from engine.config.learning import ObjectiveConfig, OptimConfig
from engine.config.migrate import migrated
from engine.config.model import ModelConfig
from engine.config.setting import MayChange, Section, setting
from engine.config.training import TrainConfig
from engine.config.tuning import TuningConfig
from engine.config.validation import ValidationConfig
from engine.errors import UserError
from engine.families.text import TextOptions

__all__ = [
    "CONFIG_VERSION",
    "SECTIONS",
    "DataConfig",
    "MayChange",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "RunConfig",
    "Section",
    "TrainConfig",
    "TuningConfig",
    "ValidationConfig",
    "changeable",
    "describe",
    "field_of",
    "fields",
    "parse",
    "setting",
    "speed_settings",
]

CONFIG_VERSION = 1


class RunConfig(Section):
    """All settings of one run."""

    version: int = CONFIG_VERSION
    name: str = setting("", "Run name", "Name of the run's folder and of exported files.", max_length=80)
    tuning: TuningConfig = TuningConfig()
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
    def _a_base_is_taught_without_a_controlnet(self) -> RunConfig:
        model, objective, what = self.model, self.objective, self.tuning.what
        if what == "lcm":
            if model.control_lora_rank or not objective.sd_locked:
                raise ValueError(
                    "an LCM-LoRA is trained beside a base and a ControlNet that stay as they are: set "
                    "model.control_lora_rank to 0 and switch objective.sd_locked on"
                )
            if self.tuning.guidance_low > self.tuning.guidance_high:
                raise ValueError("tuning.guidance_low is above tuning.guidance_high: enter the lower scale first")
            return self
        if what != "controlnet" and (model.control_lora_rank or model.controlnet or not objective.sd_locked):
            trained = {
                "lora": "a LoRA",
                "subject": "a subject",
                "base": "a whole base",
                "word": "a new word",
                "svdiff": "the spectrum of the base's weights (SVDiff)",
            }[what]
            raise ValueError(
                f"{trained} is trained without a ControlNet: leave model.controlnet empty, set "
                "model.control_lora_rank to 0 and switch objective.sd_locked on"
            )
        return self

    @model_validator(mode="after")
    def _preservation_is_possible(self) -> RunConfig:
        tuning = self.tuning
        if tuning.what == "base" and tuning.preserved_by == "answers":
            raise ValueError(
                "the untrained base would have to be in memory a second time for its answers: with a whole base set "
                "tuning.preserve to pictures, or to none"
            )
        if tuning.preserved_by == "pictures" and not tuning.class_prompts:
            raise ValueError(
                "class images need a class prompt: enter what the subject is, such as a mug, as tuning.class_prompt, "
                "or set tuning.preserve to answers"
            )
        if tuning.preserved_by == "pictures" and self.data.buckets:
            raise ValueError(
                "class images are square, and a batch has images of one size: switch data.buckets off, or set "
                "tuning.preserve to answers"
            )
        return self

    @model_validator(mode="after")
    def _ema_needs_a_frozen_base(self) -> RunConfig:
        if not self.objective.sd_locked and self.optim.ema_decay > 0:
            raise ValueError(
                "the EMA covers only the ControlNet: set optim.ema_decay to 0 if the base is trained, too "
                "(objective.sd_locked is off)"
            )
        return self

    @model_validator(mode="after")
    def _quantization_needs_a_frozen_base(self) -> RunConfig:
        kind = self.train.base_storage
        if kind != "same" and (self.tuning.what == "base" or not self.objective.sd_locked):
            raise ValueError(f"a base that is being trained cannot be kept in {kind}: set train.base_storage to same")
        return self

    @model_validator(mode="after")
    def _8bit_products_need_8bit_weights(self) -> RunConfig:
        if self.train.base_products == "8bit" and self.train.base_storage not in ("int8", "fp8"):
            raise ValueError(
                "products in 8 bits need a base in 8 bits: set train.base_storage to int8 or fp8, or "
                "train.base_products to same"
            )
        return self

    @model_validator(mode="after")
    def _offload_needs_an_optimizer_for_processors(self) -> RunConfig:
        if self.optim.offload and "8bit" in self.optim.optimizer:
            raise ValueError(
                "the 8-bit optimizers need their state on the card: with optim.offload choose adamw or adafactor"
            )
        return self

    @model_validator(mode="after")
    def _in_backward_needs_whole_gradients(self) -> RunConfig:
        if not self.optim.in_backward:
            return self
        if self.train.accumulation > 1:
            raise ValueError(
                "gradients that are added up over several batches cannot be used and freed during the backward "
                "pass: set train.accumulation to 1, or optim.in_backward to false"
            )
        if self.train.compile != "none":
            raise ValueError(
                "a compiled net returns all gradients at once, so updating during the backward pass saves nothing: "
                "set train.compile to none, or optim.in_backward to false"
            )
        return self

    @model_validator(mode="after")
    def _jax_trains_a_whole_controlnet(self) -> RunConfig:
        if self.train.backend != "jax":
            return self
        train, optim = self.train, self.optim
        alone = self.tuning.what == "controlnet" and self.objective.sd_locked and not self.model.control_lora_rank
        needed = {
            "tuning.what to controlnet, model.control_lora_rank to 0 and objective.sd_locked to true": alone,
            "train.precision to fp32": train.precision != "bf16",  # a processor trains in fp32 where fp16 is asked for
            "train.base_storage to same": train.base_storage == "same",
            "train.base_products to same": train.base_products == "same",
            "train.gradient_checkpointing to none": train.gradient_checkpointing == "none",
            "train.attention to sdpa": train.attention == "sdpa",
            "train.compile to none": train.compile == "none",
            "train.channels_last to false": not train.channels_last,
            "optim.offload to false": not optim.offload,
            "optim.in_backward to false": not optim.in_backward,
        }
        if wrong := [setting for setting, right in needed.items() if not right]:
            raise ValueError(
                f"JAX trains whole ControlNets without these ways of saving memory: set {', '.join(wrong)}; or "
                "train.backend to torch"
            )
        return self

    @model_validator(mode="after")
    def _balance_by_word_needs_words(self) -> RunConfig:
        if self.data.balance == "word" and not self.data.balance_words.replace(",", "").strip():
            raise ValueError("class balance by word needs the words: set data.balance_words, such as cat, dog")
        return self

    @model_validator(mode="after")
    def _zero_snr_needs_velocity(self) -> RunConfig:
        if self.model.prediction == "epsilon" and self.model.zero_terminal_snr == "on":
            raise ValueError(
                "a base that predicts noise learns nothing from pure noise: set model.zero_terminal_snr to off or "
                "auto, or model.prediction to v"
            )
        return self

    @property
    def text(self) -> TextOptions:
        """How captions are read."""
        return TextOptions(self.model.clip_skip, self.data.long_captions == "whole", self.data.text_cache)

    @property
    def images_per_step(self) -> int:
        """Images per optimizer step (the effective batch size), over all processes."""
        return self.train.batch_size * self.train.accumulation


SECTIONS: tuple[str, ...] = ("tuning", "model", "data", "objective", "optim", "train", "validation")


def fields(section: str) -> dict[str, Any]:
    """The pydantic FieldInfo of each setting in a section, in order."""
    kind: Any = RunConfig.model_fields[section].annotation
    return dict(kind.model_fields)


def speed_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that decide how long a step takes and what memory it needs, by dotted name.

    Two runs on one machine for which they are equal are equally fast. Which they are is declared in each setting.
    """
    found: dict[str, Any] = {}
    cases = ["in fp32" if config.train.precision == "fp32" else "in half precision"]
    cases += ["in a quantized base"] if config.train.base_storage != "same" else []
    for section in SECTIONS:
        for name, field in fields(section).items():
            mark = (field.json_schema_extra or {}).get("affects_speed")
            if mark and (not str(mark).startswith("in ") or mark in cases):
                value = getattr(getattr(config, section), name)
                found[f"{section}.{name}"] = bool(value) if mark == "on or off" else value
    return found


def changeable() -> dict[str, MayChange]:
    """The settings with which a run may be resumed, by dotted name in the order of the sections; see ``setting``."""
    found: dict[str, MayChange] = {}
    for section in SECTIONS:
        for name, field in fields(section).items():
            if may := (field.json_schema_extra or {}).get("may_change"):
                found[f"{section}.{name}"] = may
    return found


def field_of(dotted: str) -> Any | None:
    """The pydantic FieldInfo of a setting by its dotted name; None if there is none."""
    section, _, name = dotted.partition(".")
    if not name:
        return RunConfig.model_fields.get(section) if section not in SECTIONS else None
    return fields(section).get(name) if section in SECTIONS else None


def _dotted_names() -> list[str]:
    return ["name", *(f"{section}.{name}" for section in SECTIONS for name in fields(section))]


def parse(values: dict[str, Any], source: str = "These settings") -> RunConfig:
    """Return a validated RunConfig from nested plain values.

    Raises:
        UserError: names every unknown key and every value out of bounds.
    """
    values = migrated(values, source, CONFIG_VERSION)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(
            f"{source} cannot be used.", describe(error, _dotted_names()), "Correct these values and start again."
        ) from error
