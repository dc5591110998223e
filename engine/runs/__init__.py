"""A run as its folder tells it: settings, metrics, checkpoints."""
