"""Starts ControlNet Studio: `python app.py --help` lists the options."""

from __future__ import annotations

import sys

from ui.launch import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
