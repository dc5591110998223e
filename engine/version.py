"""The app's version."""

VERSION = "0.1.0"
COMMIT = "$Format:%h, %cs$"
"""Commit and date, which git writes here when it makes an archive. In a clone they are asked from git."""
