"""The demo: coloured shapes, their exact score, the bundled tiny base and the scripts that trained and measured it."""
