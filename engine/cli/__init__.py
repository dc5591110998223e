"""The command line, `python -m engine.cli`: everything the window does, without the window."""
