"""Runs extract(image) of a user's Python file on some images. A program of its own, never imported. Usage:

external_child.py FILE INPUT OUTPUT [INPUT OUTPUT ...]
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main(file: str, *paths: str) -> None:
    """Passes images as uint8 RGB (h, w, 3). Accepts grey (h, w) arrays and floats in 0..1 as results, too."""
    path = Path(file).expanduser().resolve()
    sys.path.insert(0, str(path.parent))  # for imports of files next to it; -P keeps the app's own folder off the path
    spec = importlib.util.spec_from_file_location("own_condition", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "extract", None)):
        sys.exit(f"{file} has no function extract(image)")
    for source, target in zip(paths[::2], paths[1::2], strict=True):
        made = np.asarray(module.extract(np.asarray(Image.open(source))))
        if made.dtype == bool or (made.dtype.kind == "f" and made.max(initial=0) <= 1):
            made = made * 255.0
        if made.ndim not in (2, 3) or made.shape[2:] not in ((), (1,), (3,)):
            sys.exit(f"extract returned an array of shape {made.shape}; expected (h, w) or (h, w, 3)")
        made = np.clip(np.round(made), 0, 255).astype(np.uint8)
        Image.fromarray(made[..., 0] if made.shape[2:] == (1,) else made).save(target, compress_level=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
