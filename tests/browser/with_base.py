"""app.py with another base in the place of the demo's: for tests, where that one need not be there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import engine.workspace
    from ui.launch import main

    engine.workspace.DEMO_BASE = Path(os.environ["STUDIO_DEMO_BASE"])
    sys.exit(main(sys.argv[1:]))
