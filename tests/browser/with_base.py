"""app.py with another base in place of the demo's (STUDIO_DEMO_BASE), or with its sockets watched (STUDIO_CALLS).

With $STUDIO_CALLS every address outside this computer that any library asks for is written there, and refused.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    if os.environ.get("STUDIO_CALLS"):
        from tests.ui.page.watched import watch

        sys.addaudithook(watch)
    import engine.workspace.paths
    from ui.launch import main

    if os.environ.get("STUDIO_DEMO_BASE"):
        engine.workspace.paths.DEMO_BASE = Path(os.environ["STUDIO_DEMO_BASE"])
    sys.exit(main(sys.argv[1:]))
