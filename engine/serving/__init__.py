"""The HTTP API: draws with one base and one ControlNet for other programs on this computer."""

PORT = 7870
WAITING = 16
"""Requests that may wait, unless the user says otherwise."""
