"""app.py without loading torch and diffusers, for quick tests of a page that never trains."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any


def stay_cold(context: Any, loaded: threading.Event) -> None:
    """Replaces launch.warm_up. Jobs would load what they need themselves.

    ``context.libraries_loaded`` stays unset: pages would look into the base then, and load torch for that.
    """
    loaded.set()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from ui import launch

    launch.warm_up = stay_cold
    sys.exit(launch.main(sys.argv[1:]))
