"""The window. It imports the engine; the engine never imports the window."""
