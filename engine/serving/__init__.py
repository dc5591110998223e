"""The HTTP API: draws with one base and one ControlNet for other programs on this computer."""
