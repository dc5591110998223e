"""One module a condition type."""
