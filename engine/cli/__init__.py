"""The command line, `python -m engine.cli`: everything that the window does, without the window."""
