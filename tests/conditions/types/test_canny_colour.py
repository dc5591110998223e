"""Canny as other programs run it, and as maps of earlier versions were made."""

from __future__ import annotations

import cv2
import numpy as np

from engine.conditions import registry
from engine.conditions.types.canny import canny
from engine.data.description import specify
from engine.export.preprocessors import preprocessor


def test_it_equals_the_preprocessor_of_other_programs(photos: dict[str, np.ndarray]) -> None:
    """comfyui_controlnet_aux and sd-webui-controlnet call OpenCV's Canny with the RGB image."""
    parameters = registry.resolve_parameters("canny")
    assert preprocessor("canny").exact(parameters)
    for photo in photos.values():
        theirs = cv2.Canny(photo, 100, 200)
        assert np.array_equal(canny(photo, **parameters)[..., 0], theirs)  # type: ignore[arg-type]


def test_only_what_is_the_same_is_called_exact() -> None:
    for changed in ({"blur": 1.0}, {"edges": "grey"}):
        assert not preprocessor("canny").exact(registry.resolve_parameters("canny", changed))
    assert not preprocessor("canny").exact({"low": 100, "high": 200, "blur": 0.0}), "of an earlier version"
    kinds = [kind.name for kind in registry.all()]
    claimed = [name for name in kinds if preprocessor(name).exact(registry.resolve_parameters(name))]
    assert claimed == ["canny"], "each type that claims it needs a test like the first one"


def test_edges_between_colours_of_equal_brightness_are_seen() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32], image[:, 32:] = (200, 0, 0), (0, 102, 0)  # of the same grey
    assert canny(image, low=100, high=200, blur=0.0, edges="colour").any()
    assert not canny(image, low=100, high=200, blur=0.0, edges="grey").any()


def test_maps_of_an_earlier_version_stay_what_they_were(photos: dict[str, np.ndarray]) -> None:
    stored = registry.stored_parameters("canny", {"low": 50, "high": 150, "blur": 0.0})
    assert stored["edges"] == "grey"
    grey = cv2.cvtColor(photos["coffee"], cv2.COLOR_RGB2GRAY)
    assert np.array_equal(canny(photos["coffee"], **stored)[..., 0], cv2.Canny(grey, 50, 150))
    assert registry.stored_parameters("canny", {"edges": "colour"}) == {"edges": "colour"}
    new, old = (specify("canny", {"edges": edges}, False).fingerprint for edges in ("colour", "grey"))
    assert new != old == "97cf17c1e3215c7aeb48b01a363be898"
