"""``python -m engine.install``, which install.sh and install.bat call."""

from __future__ import annotations

import sys

from engine.install.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
