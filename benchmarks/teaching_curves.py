"""Records the curves that the verdict on runs which teach the base is tested on, from real runs on the bundled base.

    python -m benchmarks.teaching_curves OUT_FOLDER [NAME ...]

Each run teaches a plus sign (benchmarks/new_shape.py) with the changes in RUNS, and has a loss check every 10 steps.
Each writes one JSON file, as in tests/evaluation/teaching_curves. Each takes about a minute on one core.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from benchmarks.curves import main, train
from benchmarks.new_shape import SIDE, caption, write_set
from engine.config.presets import resolve
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.demo.shapes import SHAPES, random_colours
from engine.jobs.events import BaseChecked, PreviewMade
from engine.workspace.paths import Workspace

HELD_OUT = 16
RATE = 3e-3
"""Usual for a LoRA on the bundled base."""


def known_captions(seed: int) -> str:
    """Captions of the base's own shapes, one per line."""
    rng = np.random.default_rng(seed)
    return "\n".join(caption(*random_colours(rng), shape) for _ in range(2) for shape in SHAPES)


OTHERS, KNOWN = known_captions(5), known_captions(6)
"""Captions on which the drift is measured, and with which a run preserves what the base knows."""


@dataclass(frozen=True)
class Planned:
    """One run to record."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that replace the usual ones."""
    images: int = 64
    """Training images."""
    until: int = 160


RUNS = {
    "usual": Planned(),
    "kept": Planned({"tuning": {"preserve": "answers", "class_prompt": KNOWN}}, until=60),
    "hot": Planned({"optim": {"learning_rate": 10 * RATE}}, until=60),
    "slow": Planned({"optim": {"learning_rate": RATE / 10}}),
    "meek": Planned({"optim": {"learning_rate": RATE / 100}}, until=80),
    "few": Planned(images=8, until=240),
}
"""In this order: a normal run, in which nothing preserves what the base knew; the same with preservation by its own
answers; ten times the learning rate, a tenth and a hundredth of it; 8 images."""


def record(workspace: Workspace, name: str, planned: Planned) -> dict[str, Any]:
    """Train one run and return its settings, checks and figures, ready for JSON."""
    folder = write_set(workspace.root / "images", planned.images + HELD_OUT)
    dataset = Dataset.create(workspace, "plus", scan_folder(folder))
    usual = {
        "tuning": {"what": "lora", "rank": 8, "layers": "all"},
        "model": {"base": "demo"},
        "data": {"dataset": dataset.name, "resolution": SIDE, "held_out": HELD_OUT},
        "optim": {"learning_rate": RATE, "schedule": "constant"},
        "train": {"steps": 20_000, "batch_size": 8, "precision": "fp32", "checkpoint_every": 10_000},
        "validation": {
            "every": 50,
            "pictures": 8,
            "sampling_steps": 12,
            "guidance_scale": 3.0,
            "other_captions": OTHERS,
        },
    }
    config = resolve(("benchmark", usual), (name, planned.settings))[0]
    checks, figures = [], []

    def watch(event: Any) -> None:
        if isinstance(event, BaseChecked):
            whole = ("step", "images_seen")
            checks.append({k: v if k in whole else float(f"{v:.5g}") for k, v in asdict(event).items()})
            print(name, event, flush=True)
        elif isinstance(event, PreviewMade):
            figures.append([event.step, {key: round(value, 4) for key, value in event.figures.items()}])
            print(name, event.step, event.figures, flush=True)

    train(workspace, name, config, dataset, planned.until, watch)
    settings = config.model_dump(mode="json")
    return {"name": name, "images": planned.images, "settings": settings, "checks": checks, "figures": figures}


def as_text(found: dict[str, Any]) -> str:
    """JSON with one check a line."""
    rows = {
        name: ",\n".join(f"  {json.dumps(row)}" for row in found[name]) for name in ("checks", "figures") if found[name]
    }
    plain = json.dumps({name: value for name, value in found.items() if name not in rows}, indent=1)
    return (
        plain.removesuffix("\n}") + "".join(f',\n "{name}": [\n{lines}\n ]' for name, lines in rows.items()) + "\n}\n"
    )


if __name__ == "__main__":
    main(__doc__, RUNS, record, as_text)
