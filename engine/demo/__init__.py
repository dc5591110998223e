"""The demo: coloured shapes, their exact score, the bundled bases and the scripts that trained and measured them."""
