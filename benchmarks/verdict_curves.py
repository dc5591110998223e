"""Records the curves that the rules of the verdict are tested on, from real runs on the bundled base (docs/verdict.md).

    python -m benchmarks.verdict_curves OUT_FOLDER [NAME ...]

Each run has the demo's settings with the changes in RUNS, and a loss check every 10 steps. Each writes one JSON file,
as in tests/evaluation/curves. All of them together take about half an hour on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image, ImageEnhance, ImageOps

from benchmarks.curves import main, train
from engine.config.presets import resolve
from engine.data.dataset import Dataset
from engine.data.doctor.check import check
from engine.demo.sets import demo_preset, make_demo_set
from engine.jobs.events import Checked, PreviewMade
from engine.workspace.paths import Workspace

PAIRS = 800
ChangeMaps = Callable[[list[Image.Image]], list[Image.Image]]


def black(maps: list[Image.Image]) -> list[Image.Image]:
    """All maps are black."""
    return [Image.new("RGB", one.size) for one in maps]


def dim(maps: list[Image.Image]) -> list[Image.Image]:
    """Values from 0 to 1 instead of 0 to 255, like floats that were saved without scaling."""
    return [one.point(lambda value: round(value / 255)) for one in maps]


def inverted(maps: list[Image.Image]) -> list[Image.Image]:
    """All maps have black lines on white."""
    return [ImageOps.invert(one) for one in maps]


def quarter_inverted(maps: list[Image.Image]) -> list[Image.Image]:
    """Every fourth map has black lines on white, as in a dataset that was merged from two sources."""
    return [one if number % 4 else ImageOps.invert(one) for number, one in enumerate(maps)]


def half_black(maps: list[Image.Image]) -> list[Image.Image]:
    """Every other map is black."""
    return [one if number % 2 else Image.new("RGB", one.size) for number, one in enumerate(maps)]


def strangers(maps: list[Image.Image]) -> list[Image.Image]:
    """Each image has the map of another image, as after a mistake in sorting."""
    return [*maps[1:], maps[0]]


@dataclass(frozen=True)
class Planned:
    """One run to record."""

    until: int
    """The step at which it is stopped."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that replace the demo's."""
    change_maps: ChangeMaps | None = None
    """What is done to the condition maps."""
    images: int = 4
    """Preview images every 50 steps; 0: none."""
    pairs: int = PAIRS
    fade: bool = False
    """Training images lose most of their colour, held-out ones do not."""


SMALL: dict[str, Any] = {"data": {"resolution": 64}, "optim": {"schedule": "constant"}, "train": {"steps": 20_000}}
"""A quarter of the pixels, which is faster, and a learning rate that does not decay."""
IMPATIENT = {"validation": {"listens_by": 800}}


def small(**optim: Any) -> dict[str, Any]:
    return SMALL | {"optim": {"schedule": "constant", **optim}}


RUNS = {
    "circles": Planned(300),
    "blank": Planned(120, change_maps=black, images=0),
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
"""In this order: a normal run; black maps; maps in a wrong range; maps of other images; learning rates far too small
and far too large; 16 pairs; a long run; all maps inverted; every fourth map inverted; every second map black; a
learning rate that is usual for larger nets; 4 pairs; pale training images; a learning rate somewhat too large."""


def replace_maps(dataset: Dataset, change: ChangeMaps) -> None:
    """Replace the dataset's condition maps by changed ones."""
    paths = [dataset.condition_path(sample) for sample in dataset.samples()]
    maps = []
    for path in paths:
        with Image.open(path) as image:
            maps.append(image.convert("RGB"))
    for path, made in zip(paths, change(maps), strict=True):
        made.save(path)


def fade(dataset: Dataset, held_out: int) -> None:
    """Reduce the saturation of all but the held-out images to a fifth."""
    kept = {sample.key for sample in dataset.held_out(held_out).held_out}
    for sample in dataset.samples():
        if sample.key not in kept:
            with Image.open(sample.image) as image:
                pale = ImageEnhance.Color(image.convert("RGB")).enhance(0.2)
            pale.save(sample.image)


def record(workspace: Workspace, name: str, planned: Planned) -> dict[str, Any]:
    """Train one run and return its settings, checks, scores and figures, ready for JSON."""
    dataset = make_demo_set(workspace, "circles", planned.pairs)
    if planned.change_maps:
        replace_maps(dataset, planned.change_maps)
    settings = {
        "data": {"dataset": dataset.name},
        "train": {"steps": 300, "checkpoint_every": 1000},
        "validation": {"every": 50 if planned.images else 0, "pictures": planned.images or 1, "probes": 0},
    }
    layers = (("demo", demo_preset().values), ("benchmark", settings), (name, planned.settings))
    config = resolve(*layers)[0]
    if planned.fade:
        fade(dataset, config.data.held_out)
    found: dict[str, Any] = {"name": name, "settings": config.model_dump(mode="json")}
    found |= {"pairs": planned.pairs - config.data.held_out, "checks": [], "scores": [], "figures": []}
    if planned.change_maps:
        found["doctor"] = check(dataset, config.data.resolution).counts

    def watch(event: Any) -> None:
        if isinstance(event, Checked):
            found["checks"].append({k: float(f"{v:.6g}") for k, v in asdict(event).items() if v is not None})
            print(name, event, flush=True)
        elif isinstance(event, PreviewMade):
            found["scores"].append([event.step, event.scores])
            found["figures"].append([event.step, event.figures])
            print(name, event.step, event.scores, event.figures, flush=True)

    train(workspace, name, config, dataset, planned.until, watch, previews=planned.images > 0)
    return found


if __name__ == "__main__":
    main(__doc__, RUNS, record)
