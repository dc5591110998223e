"""Condition types: their declaration, the registry, their metrics, and the weights that they need."""
