"""The same engine without a window: `python -m engine.cli`."""
