"""Writes the table of docs/memory.md that says which fallback each preset takes when memory runs out.

    python -m docs.make_fallback_table

engine/estimate/fallbacks.py chooses, for a card with bf16 and without bitsandbytes; with it for transformers, whose
base it stores in 4 bits. A test compares the page with the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.config.presets import all_presets, resolve
from engine.estimate.fallbacks import Fallback, Machine, Shortage, choose, options
from engine.estimate.memory import predict_from
from engine.families.files import LAYOUTS, read_configs
from engine.machine.units import GIB

PAGE = Path(__file__).with_name("memory.md")
BEGIN, END = "<!-- docs/make_fallback_table.py -->", "<!-- end -->"
SIDES = {"sd1": ("SD 1.5", 512), "sd2": ("SD 2.1", 768), "sdxl": ("XL", 1024)}
TRANSFORMERS = {"sd3": "SD 3.5 Medium", "zimage": "Z-Image", "flux": "FLUX.1"}
TRANSFORMER_ROWS = (("12gb", "sd3"), ("16gb", "sd3"), ("12gb", "zimage"), ("24gb", "zimage"), ("12gb", "flux"))
TRANSFORMER_ROWS += (("16gb", "flux"), ("24gb", "flux"))
SHORTAGES = (0.5, 1, 2, 4)
"""GiB."""
CARD = Machine(on_card=True, eight_bit=False, can_split=True, in_backward=True)
WITH_FOUR_BITS = replace(CARD, eight_bit=True)
SHORT = {
    "train.batch_size": lambda value: f"batches of {value}",
    "train.gradient_checkpointing": lambda value: f"checkpointing ({value})",
    "train.base_storage": lambda value: f"base in {value}",
    "train.modulation_storage": lambda value: f"modulation layers in {value}",
    "optim.optimizer": str,
    "optim.master_weights": lambda value: f"{value} master weights",
    "optim.in_backward": lambda value: "updates in the backward pass",
    "optim.ema_device": lambda value: "EMA in RAM",
    "optim.offload": lambda value: "offload",
}


def preset_settings() -> dict[tuple[str, str], RunConfig]:
    """(preset, family) -> its settings at the family's resolution, of all presets for cards."""
    presets = [preset for preset in all_presets() if preset.min_vram_gib]
    return {
        (preset.name, family): resolve(*preset.layers(family), ("size", {"data": {"resolution": side}}))[0]
        for family, (_, side) in SIDES.items()
        for preset in presets
    }


def transformer_settings() -> dict[tuple[str, str], RunConfig]:
    """(preset, family) -> its settings, of ``TRANSFORMER_ROWS``."""
    presets = {preset.name: preset for preset in all_presets()}
    return {(preset, family): resolve(*presets[preset].layers(family))[0] for preset, family in TRANSFORMER_ROWS}


def cell(fallback: Fallback | None, shortage: float) -> str:
    """A fallback in a few words, with what it saves and costs; with a star if it does not save enough."""
    if fallback is None:
        return "none"
    words = ", ".join(short(fallback.settings[name]) for name, short in SHORT.items() if name in fallback.settings)
    star = "" if fallback.saves >= shortage * GIB else "*"
    return f"{words} (-{fallback.saves / GIB:.1f} GB{star}, {fallback.cost:+.0f} %)"


def table(settings: Mapping[tuple[str, str], RunConfig] | None = None) -> str:
    """The table, in Markdown."""
    lines = ["| preset | base | a step takes | " + " | ".join(f"{size:g} GB short" for size in SHORTAGES) + " |"]
    lines.append("|---|---|---|" + "---|" * len(SHORTAGES))
    for (preset, family), config in (settings or (preset_settings() | transformer_settings())).items():
        base: Any = read_configs(LAYOUTS / family)
        machine, title = CARD, SIDES[family][0] if family in SIDES else TRANSFORMERS[family]
        if family in TRANSFORMERS:
            machine = WITH_FOUR_BITS
        now, found = predict_from(config, base), options(config, base, machine)
        cells = [cell(choose(found, now, Shortage(size * GIB)), size) for size in SHORTAGES]
        name = f"{preset.removesuffix('gb')} GB"
        lines.append(f"| {name} | {title} | {now.step / GIB:.1f} GB | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """The page with the table as it is now."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
