"""app.py with another base in place of the demo's (STUDIO_DEMO_BASE), its sockets watched, or its steps slowed down.

With $STUDIO_CALLS every address outside this computer that any library asks for is written there, and refused.
While the file $STUDIO_SLOW exists, training rests after each step: the clicks of a test find it still in progress,
however fast the machine is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

REST_SECONDS = 0.5

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    if os.environ.get("STUDIO_CALLS"):
        from tests.ui.page.watched import watch

        sys.addaudithook(watch)
    import engine.workspace.paths
    from tests.slow_steps import rest_if_asked
    from ui import launch

    rest_if_asked(REST_SECONDS)
    if os.environ.get("STUDIO_DEMO_BASE"):
        engine.workspace.paths.DEMO_BASE = Path(os.environ["STUDIO_DEMO_BASE"])
    sys.exit(launch.main(sys.argv[1:]))
