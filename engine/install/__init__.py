"""The installer: standard library only, so that a bare Python can run it. Of the engine it imports pasted paths."""
