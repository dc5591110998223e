"""Base model families: what each needs, and how it works."""
