"""Bases distilled to draw in a few steps without guidance: Turbo, Lightning, Hyper, LCM, DMD2. No torch.

Twenty steps at a guidance scale of 7.5, which suit other bases, burn their images. They are trained for like any base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.families.files import configs_at
from engine.families.schedule_hints import words_of
from engine.machine.units import counted
from engine.workspace.paths import Workspace

STEPS = {"turbo": 4, "lightning": 4, "hyper": 8, "lcm": 6, "dmd": 4}
"""Words in a name, and the usual number of steps."""
AFTER_HYPER = frozenset({"sd", "sdxl", "xl", "lora"})
"""Words that make "hyper" the distillation: many names are of hyperrealistic bases."""
MOST_STEPS = 8
SCHEDULERS = {"LCMScheduler": "lcm", "TCDScheduler": "hyper"}


@dataclass(frozen=True)
class Distilled:
    """The kind of a distilled base, and its usual number of steps and guidance."""

    kind: str
    steps: int
    guidance: float = 1.0

    @property
    def words(self) -> str:
        """For people, after what else a base is."""
        return f"distilled ({self.kind}: {counted(self.steps, 'step')} at guidance {self.guidance:g})"


def recognize(located: str) -> Distilled | None:
    """Whether a base is distilled, by its scheduler's config or the words of its own name; None if it is not.

    Args:
        located: a folder, a single file, or a Hugging Face id.
    """
    path = Path(located)
    words = words_of(path.stem if path.is_file() else path.name)
    found = _by_name(words) or _by_scheduler(_scheduler(path))
    usual = configs_at(located).facts.turbo_steps if found else 0
    return replace(found, steps=usual) if found and usual and not _told(words) else found


def usual_settings(workspace: Workspace, base: str) -> list[tuple[str, dict[str, Any]]]:
    """The lowest layer for ``resolve``: how previews of a distilled base are drawn, or of one that reads the guidance
    scale as an input; [] for any other base."""
    try:
        located = workspace.locate_base(base)
        found = recognize(located)
    except UserError:
        return []  # a base that is missing is reported where it is used
    if found is not None:
        values = {"sampling_steps": found.steps, "guidance_scale": found.guidance}
        return [("distilled base", {"validation": values})]
    facts = configs_at(located).facts
    return [(facts.title, {"validation": {"guidance_scale": facts.usual_guidance}})] if facts.guidance_embedded else []


def _by_name(words: Sequence[str]) -> Distilled | None:
    """The first distillation that the words name; "4step" or "8steps" beside it is the number of steps."""
    told = _told(words)
    for number, word in enumerate(words):
        if word in STEPS and (word != "hyper" or told or AFTER_HYPER & set(words[number + 1 : number + 2])):
            title = word.title() if word in ("turbo", "lightning", "hyper") else word.upper()
            return Distilled(title, min(MOST_STEPS, max(1, told[0])) if told else STEPS[word])
    return None


def _told(words: Sequence[str]) -> list[int]:
    """The numbers of steps that a name gives."""
    return [int(n) for n, unit in zip(words, words[1:], strict=False) if unit in ("step", "steps") and n.isdecimal()]


def _by_scheduler(config: Mapping[str, Any]) -> Distilled | None:
    """LCM and TCD have schedulers of their own; Turbo's is an ancestral one that begins at the last timestep."""
    name = str(config.get("_class_name", ""))
    if name in SCHEDULERS:
        return _by_name((SCHEDULERS[name], "xl"))
    trailing = config.get("timestep_spacing") == "trailing" and not config.get("rescale_betas_zero_snr")
    return _by_name(("turbo",)) if name == "EulerAncestralDiscreteScheduler" and trailing else None


def _scheduler(path: Path) -> dict[str, Any]:
    """The scheduler's config in a base's own folder, or in the folder of configs beside a file."""
    folder = path.with_suffix("") if path.is_file() else path
    try:
        return dict(json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}  # a base that cannot be read is reported where it is used
