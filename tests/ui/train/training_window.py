"""app.py that starts to train by itself, for tests of how it ends.

Trains the dataset $STUDIO_DATASET on the base $STUDIO_BASE; resumes the newest run where there is one.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "train": {"steps": 100_000, "batch_size": 2, "precision": "fp32", "checkpoint_every": 100_000},
    "validation": {"every": 0, "check_every": 0},
}


REST_SECONDS = 0.2
"""After each step: at full speed the run would take the processor from other tests, and these only wait."""


def begin(context: Any, loaded: threading.Event) -> None:
    """Replaces launch.warm_up: loads the libraries as it does, then starts or resumes a training."""
    from engine.config.presets import resolve
    from engine.training.job import resume_training, start_training
    from tests.slow_steps import rest_after_each_step

    rest_after_each_step(REST_SECONDS)
    WARM_UP(context, loaded)  # pages must not import the libraries at the same time as the training
    folders = context.workspace.run_folders()
    if folders:
        resume_training(context.runner, context.workspace, folders[0])
    else:
        data = {"dataset": os.environ["STUDIO_DATASET"], "resolution": 64, "held_out": 2}
        model = {"base": os.environ["STUDIO_BASE"]}
        config, origins = resolve(("test", {**SETTINGS, "data": data, "model": model}))
        start_training(context.runner, context.workspace, config, origins)
    context.training_started()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from ui import launch

    WARM_UP, launch.warm_up = launch.warm_up, begin
    sys.exit(launch.main(sys.argv[1:]))
