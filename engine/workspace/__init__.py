"""Where datasets, runs, caches and models live."""
