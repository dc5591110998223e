"""White, grey and black: where an image is light and where it is dark."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import cohen_kappa, fit

LIGHT_DARK = ConditionType(
    name="light_dark",
    title="Light and dark",
    teaches="Light and shadow: white areas become light and black areas dark, whatever they show.",
    parameters=(
        Parameter("levels", "Levels", "int", 3, 2, 3, 1, hint="2: white and black. 3: white, grey and black."),
        Parameter(
            "cuts",
            "Thresholds",
            "choice",
            "equal",
            choices=("equal", "fixed"),
            hint="equal: all levels cover the same area. fixed: the two thresholds below.",
        ),
        Parameter(
            "dark_below",
            "Dark below",
            "int",
            85,
            0,
            255,
            1,
            hint="Brightness 0 to 255. For fixed thresholds only.",
            vary=(65, 105),
            at_most="light_above",
        ),
        Parameter(
            "light_above",
            "Light from",
            "int",
            170,
            0,
            255,
            1,
            hint="With two levels, the threshold is halfway between the two.",
            vary=(150, 190),
        ),
        Parameter(
            "blur",
            "Blur first",
            "float",
            0.0,
            0.0,
            30.0,
            0.5,
            hint="Pixels. Larger values give simpler areas.",
            vary=(0.0, 6.0),
        ),
    ),
    categorical=True,
    extract="engine.conditions.types.light_dark:light_dark",
    metric="engine.conditions.types.light_dark:light_dark_adherence",
)


def light_dark(
    image: np.ndarray, *, levels: int, cuts: str, dark_below: int, light_above: int, blur: float
) -> np.ndarray:
    """Luminance (Rec. 601) in 2 or 3 levels, 0 / 128 / 255, without dithering. RGB uint8 (h, w, 3) in and out."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if blur > 0:
        grey = cv2.GaussianBlur(grey, (0, 0), blur)
    if cuts == "equal":
        at = np.quantile(grey, [1 / 2] if levels == 2 else [1 / 3, 2 / 3])
    else:
        low, high = sorted((dark_below, light_above))
        at = np.array([(low + high) / 2] if levels == 2 else [low, high], np.float64)
    greys = np.array([0, 255] if levels == 2 else [0, 128, 255], np.uint8)
    return cv2.cvtColor(greys[np.digitize(grey, at)], cv2.COLOR_GRAY2RGB)


def light_dark_adherence(
    wanted: np.ndarray, got_image: np.ndarray, *, levels: int, cuts: str, dark_below: int, light_above: int, blur: float
) -> float:
    """Cohen's kappa of the drawn image's levels and the map: 0 is chance, 1 perfect."""
    drawn = fit(got_image, wanted.shape[:2])
    got = light_dark(drawn, levels=levels, cuts=cuts, dark_below=dark_below, light_above=light_above, blur=blur)
    return cohen_kappa(_labels(wanted), _labels(got))


def _labels(levels: np.ndarray) -> np.ndarray:
    return np.digitize(levels[..., 0], [64, 192])
