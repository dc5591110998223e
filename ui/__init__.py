"""What the user sees. Imports the engine; the engine never imports this."""
