"""The curves that the verdict's rules are tested on, recorded from real runs on the bundled base.

    python -m benchmarks.verdict_curves OUT_FOLDER [NAME ...]

With the demo's settings but for what RUNS says of each, checked every 10 steps whatever it costs. One JSON file each,
as tests/evaluation/curves has. All of them together take about half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageEnhance, ImageOps

from engine.config.presets import resolve
from engine.data.dataset import Dataset
from engine.data.doctor.check import check
from engine.demo.sets import demo_preset, make_demo_set
from engine.jobs.control import Control
from engine.jobs.events import Checked, PreviewMade, StepDone
from engine.training.loss_checks import Schedule
from engine.training.previews import preview_during_training
from engine.training.trainer import Trainer
from engine.workspace.paths import DEMO_BASE, Workspace

EVERY, PAIRS = 10, 800
Spoil = Callable[[list[Image.Image]], list[Image.Image]]


def black(maps: list[Image.Image]) -> list[Image.Image]:
    """Nothing to listen to."""
    return [Image.new("RGB", one.size) for one in maps]


def dim(maps: list[Image.Image]) -> list[Image.Image]:
    """0 to 1 in place of 0 to 255, as a file of floats ends up that was never scaled."""
    return [one.point(lambda value: round(value / 255)) for one in maps]


def inverted(maps: list[Image.Image]) -> list[Image.Image]:
    """Black lines on white, all of them."""
    return [ImageOps.invert(one) for one in maps]


def quarter_inverted(maps: list[Image.Image]) -> list[Image.Image]:
    """Every fourth has black lines on white, as where two sources were put together."""
    return [one if number % 4 else ImageOps.invert(one) for number, one in enumerate(maps)]


def half_black(maps: list[Image.Image]) -> list[Image.Image]:
    """Every other one is empty."""
    return [one if number % 2 else Image.new("RGB", one.size) for number, one in enumerate(maps)]


def strangers(maps: list[Image.Image]) -> list[Image.Image]:
    """Each image has the map of another one, as after a sorting that went wrong."""
    return [*maps[1:], maps[0]]


@dataclass(frozen=True)
class Planned:
    """One run: what is done to its maps, its settings beside the demo's, and the step at which it ends."""

    until: int
    settings: dict[str, Any] = field(default_factory=dict)
    spoil: Spoil | None = None
    images: int = 4
    pairs: int = PAIRS
    fade: bool = False
    """The images that it trains on lose most of their colour, the held-out ones do not."""


SMALL: dict[str, Any] = {"data": {"resolution": 64}, "optim": {"schedule": "constant"}, "train": {"steps": 20_000}}
"""A quarter of the pixels, and as if there were no end: several runs in the time of one."""
IMPATIENT = {"validation": {"listens_by": 800}}


def small(**optim: Any) -> dict[str, Any]:
    return SMALL | {"optim": {"schedule": "constant", **optim}}


RUNS = {
    "circles": Planned(300),
    "blank": Planned(120, spoil=black, images=0),
    "dim": Planned(120, SMALL | IMPATIENT, dim, images=0),
    "strangers": Planned(120, SMALL | IMPATIENT, strangers, images=0),
    "slow": Planned(120, small(learning_rate=1e-7) | IMPATIENT, images=0),
    "hot": Planned(100, {"optim": {"learning_rate": 0.02, "schedule": "constant"}}),
    "few": Planned(
        400, SMALL | {"data": {"resolution": 64, "held_out": 16}, "train": {"steps": 400}}, images=0, pairs=32
    ),
    "rest": Planned(900, SMALL, images=0),
    "inverted": Planned(120, SMALL | IMPATIENT, inverted, images=0),
    "quarter": Planned(120, SMALL | IMPATIENT, quarter_inverted, images=0),
    "gaps": Planned(120, SMALL | IMPATIENT, half_black, images=0),
    "meek": Planned(120, small(learning_rate=1e-5) | IMPATIENT, images=0),
    "four": Planned(160, SMALL | IMPATIENT | {"data": {"resolution": 64, "held_out": 16}}, images=0, pairs=20),
    "faded": Planned(200, SMALL, pairs=400, fade=True),
    "warm": Planned(240, small(learning_rate=0.008)),
}
"""Learns; black maps; maps of a wrong range; others' maps; rates far too small and too large; 16 pairs; a long run; all
maps inverted; every fourth inverted; every second black; a rate that is usual for larger nets; 4 pairs;
pale training images; a rate somewhat too large."""


def spoilt(dataset: Dataset, spoil: Spoil) -> None:
    """Other maps in the place of the outlines that were drawn for this set."""
    paths = [dataset.condition_path(sample) for sample in dataset.samples()]
    maps = []
    for path in paths:
        with Image.open(path) as image:
            maps.append(image.convert("RGB"))
    for path, made in zip(paths, spoil(maps), strict=True):
        made.save(path)


def fade(dataset: Dataset, held_out: int) -> None:
    """A fifth of the colour for all but the held-out images, as if worse scans had been added to a set."""
    kept = {sample.key for sample in dataset.held_out(held_out).held_out}
    for sample in dataset.samples():
        if sample.key not in kept:
            with Image.open(sample.image) as image:
                pale = ImageEnhance.Color(image.convert("RGB")).enhance(0.2)
            pale.save(sample.image)


def record(workspace: Workspace, name: str, planned: Planned) -> dict[str, Any]:
    """Checks, scores and figures of a run of the demo's settings, ended at its step."""
    dataset = make_demo_set(workspace, "circles", planned.pairs)
    if planned.spoil:
        spoilt(dataset, planned.spoil)
    asked = {
        "data": {"dataset": dataset.name},
        "train": {"steps": 300, "checkpoint_every": 1000},
        "validation": {"every": 50 if planned.images else 0, "pictures": planned.images or 1, "probes": 0},
    }
    layers = (("demo", demo_preset().values), ("benchmark", asked), (name, planned.settings))
    config = resolve(*layers)[0]
    if planned.fade:
        fade(dataset, config.data.held_out)
    control = Control()
    found: dict[str, Any] = {"name": name, "settings": config.model_dump(mode="json")}
    found |= {"pairs": planned.pairs - config.data.held_out, "checks": [], "scores": [], "figures": []}
    if planned.spoil:
        found["doctor"] = check(dataset, config.data.resolution).counts

    def watch(event: Any) -> None:
        if isinstance(event, Checked):
            found["checks"].append({k: float(f"{v:.6g}") for k, v in asdict(event).items() if v is not None})
            print(name, event, flush=True)
        elif isinstance(event, PreviewMade):
            found["scores"].append([event.step, event.scores])
            found["figures"].append([event.step, event.figures])
            print(name, event.step, event.scores, event.figures, flush=True)
        elif isinstance(event, StepDone) and event.step == planned.until:
            control.stop()

    preview = preview_during_training if planned.images else None
    run = workspace.new_run(name)
    trainer = Trainer(run, config, str(DEMO_BASE), dataset, workspace.cache, control.token, watch, preview)
    trainer.hooks.loss_checks.schedule = Schedule(EVERY, budget=1.0)
    trainer.train()
    trainer.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RUNS)}; default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            found = record(Workspace(Path(folder)), name, RUNS[name])
        (options.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
