"""Datasets: from any folder to samples, captions, crops, condition maps and the cache of a run."""
