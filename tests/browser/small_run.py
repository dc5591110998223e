"""app.py whose preset for a computer without a graphics card is a run of seconds on images of 64 px.

While the file $STUDIO_SLOW exists, training rests after each step, so that the clicks of a test find it in progress.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

STEPS = 4
REST_SECONDS = 3.0
SMALL: dict[str, Any] = {
    "data": {"resolution": 64, "held_out": 2},
    "optim": {"warmup_steps": 0},
    "train": {"steps": STEPS, "batch_size": 2, "checkpoint_every": STEPS},
    "validation": {"pictures": 1, "sampling_steps": 2, "probes": 0, "every": STEPS},
}

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from engine.config import presets
    from tests.slow_steps import rest_if_asked

    shipped = presets.all_presets

    def with_a_small_run(*folder: Path) -> list[presets.Preset]:
        """The presets, that of the name "cpu" with other values."""
        return [
            replace(one, values={**one.values, **{name: {**one.values.get(name, {}), **SMALL[name]} for name in SMALL}})
            if one.name == "cpu"
            else one
            for one in shipped(*folder)
        ]

    presets.all_presets = with_a_small_run
    rest_if_asked(REST_SECONDS)
    from ui import launch

    sys.exit(launch.main(sys.argv[1:]))
