"""Starts ControlNet Studio: `python app.py --help` lists the options."""

from __future__ import annotations

import sys

from engine.machine.environment import use_utf8
from ui.launch import main

if __name__ == "__main__":
    use_utf8()
    sys.exit(main(sys.argv[1:]))
