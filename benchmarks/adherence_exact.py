"""Compares adherence with the exact score of the demo's circles, over the course of a training run.

    python -m benchmarks.adherence_exact OUT.json [--steps 400] [--every 50] [--pictures 24]

Trains once on the bundled base with the demo's settings and Canny maps. For each set of preview images it computes the
exact score (IoU of the disc with its true place), adherence with its interval, and the comparison of contours that is
used for types without a metric. Spearman's rank correlations, over the sets and over single images, are printed and
written to OUT.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.config.presets import resolve
from engine.data.crop_plan import CropPlan
from engine.data.make_maps import make_all
from engine.demo.sets import demo_preset, make_demo_set
from engine.evaluation.adherence import PairScores, contour_agreement, normalize
from engine.evaluation.pairs import read_pair
from engine.jobs.control import Control
from engine.jobs.events import Checked, PreviewMade
from engine.training.previews import DrawPreviews
from engine.training.trainer import Trainer
from engine.workspace.paths import DEMO_BASE, Workspace

PAIRS = 800


def spearman(first: Any, second: Any) -> float:
    """Spearman's rank correlation. Ties get their mean rank."""
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def rows_of(folder: Path, dataset: Any, plan: CropPlan) -> list[dict[str, float]]:
    """Scores of each image in a preview folder: exact IoU, adherence, and contour agreement.

    Contours are compared with the pair's own original and, as a baseline, with that of the next pair.
    """
    about = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    pairs = [read_pair(dataset.sample(one["key"]), dataset, plan) for one in about["samples"]]
    found = []
    for number, one in enumerate(about["samples"]):
        with Image.open(folder / one["picture"]) as image:
            drawn = np.asarray(image.convert("RGB"))
        own = contour_agreement(pairs[number].original, drawn)
        other = contour_agreement(pairs[(number + 1) % len(pairs)].original, drawn)
        scores = {"iou": one["scores"]["iou"], "adherence": one["scores"]["adherence"]}
        found.append(scores | {"likeness": own, "likeness_of_another": other})
    return found


def record(workspace: Workspace, steps: int, every: int, images: int) -> dict[str, Any]:
    """Train once and return the scores of all preview sets, ready for JSON."""
    dataset = make_demo_set(workspace, "circles", PAIRS)
    make_all(dataset, "canny", workers=1)
    settings = {
        "data": {"dataset": dataset.name},
        "train": {"steps": steps},
        "validation": {"every": every, "pictures": images, "probes": 0, "tensorboard": False},
    }
    config = resolve(("demo", demo_preset().values), ("benchmark", settings))[0]
    plan = CropPlan.of(config.data, config.train.seed)
    sets: list[dict[str, Any]] = []
    gains: list[list[float]] = []

    def watch(event: Any) -> None:
        if isinstance(event, Checked):
            gains.append([event.step, event.gain_share])
        if isinstance(event, PreviewMade):
            each = rows_of(event.folder, dataset, plan)
            contours = normalize([PairScores(r["likeness"], r["likeness_of_another"], 1.0) for r in each])
            sets.append(
                {
                    "step": event.step,
                    "iou": event.scores["iou"],
                    "adherence": event.scores["adherence"],
                    "obeys": event.scores.get("obeys"),
                    "low": event.figures.get("obeys_low"),
                    "high": event.figures.get("obeys_high"),
                    "stand_in": contours.value if contours else None,
                    "pictures": each,
                }
            )
            print({name: value for name, value in sets[-1].items() if name != "pictures"}, flush=True)

    run = workspace.new_run("exact")
    trainer = Trainer(run, config, str(DEMO_BASE), dataset, workspace.cache, Control().token, watch, DrawPreviews())
    trainer.train()
    trainer.close()
    each = [image for one in sets for image in one["pictures"]]
    found: dict[str, Any] = {"settings": config.model_dump(mode="json"), "sets": sets, "gains": gains}
    found["over_sets"] = {
        name: spearman([one[name] for one in sets], [one["iou"] for one in sets]) for name in ("obeys", "stand_in")
    }
    found["over_pictures"] = {
        name: spearman([p[name] for p in each], [p["iou"] for p in each]) for name in ("adherence", "likeness")
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--pictures", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = record(Workspace(Path(folder)), options.steps, options.every, options.pictures)
    text = json.dumps(found, indent=1, default=float)
    options.out.write_text(text + "\n", encoding="utf-8")
    print({name: found[name] for name in ("over_sets", "over_pictures")})


if __name__ == "__main__":
    main()
