"""The training loop and what it calls by name."""
