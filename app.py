"""Starts ControlNet Studio: `python app.py --help` lists the options."""

from __future__ import annotations

import os
import sys
import traceback

from engine.machine.environment import use_utf8

try:
    from ui.launch import main
except (ImportError, SyntaxError):  # a package that is missing or half written; the self-check wants to see it
    if __name__ != "__main__":
        raise
    traceback.print_exc()
    command = "install.bat --repair" if os.name == "nt" else "./install.sh --repair"
    sys.exit(f"\nCause: a package of the app is missing or damaged (see above).\nFix:   {command}")

if __name__ == "__main__":
    use_utf8()
    sys.exit(main(sys.argv[1:]))
