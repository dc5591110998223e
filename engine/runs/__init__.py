"""A training run as it is on disk: settings, metrics, checkpoints."""
