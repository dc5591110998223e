"""``python -m engine.cli``."""

from __future__ import annotations

import sys

from engine.cli.main import main
from engine.machine.environment import use_utf8

if __name__ == "__main__":
    use_utf8()
    sys.exit(main())
