"""The preprocessor of ComfyUI and AUTOMATIC1111 that is most similar to each condition type of this app.

ComfyUI's are nodes of comfyui_controlnet_aux; AUTOMATIC1111's are names in the ControlNet panel's list. A type with
``NOTHING`` needs ready maps: the app makes them, and the programs use them unchanged. Every registered type is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

NODE_PACK, NODE_PACK_SOURCE = "comfyui_controlnet_aux", "Fannovel16/comfyui_controlnet_aux"
Parameters = Mapping[str, Any]
Values = dict[str, Any]


UNION_TYPES = (
    "openpose",
    "depth",
    "hed/pidi/scribble/ted",
    "canny/lineart/anime_lineart/mlsd",
    "normal",
    "segment",
    "tile",
    "repaint",
)
"""Values of ComfyUI's *SetUnionControlNetType* by the mode that they set (``comfy/cldm/control_types.py``), named after
the modes of a union net for XL; in nets for other bases a number means another kind of control images."""


@dataclass(frozen=True)
class Preprocessor:
    """A way to make a control image outside of this app."""

    node: str = ""
    """Class name of a ComfyUI node whose first input is "image"; empty: none is similar."""
    widgets: Callable[[Parameters], Values] = lambda _: {}
    """The node's other inputs except the resolution, in its order, from the condition's parameters."""
    a1111: str = "none"
    """The name in the preprocessor list."""
    exact: Callable[[Parameters], bool] = lambda _: False
    """Whether it makes the same maps with these parameters, not just similar ones."""


def _byte(value: Any, default: int) -> int:
    return max(1, min(255, int(value if value is not None else default)))


NOTHING = Preprocessor()
PREPROCESSORS: dict[str, Preprocessor] = {
    "canny": Preprocessor(
        "CannyEdgePreprocessor",
        lambda p: {"low_threshold": _byte(p.get("low"), 100), "high_threshold": _byte(p.get("high"), 200)},
        "canny",
        exact=lambda p: p.get("edges") == "colour" and not p.get("blur"),
    ),
    "lineart": Preprocessor(
        "LineartStandardPreprocessor",
        lambda p: {"guassian_sigma": 6.0, "intensity_threshold": 8},  # the node's spelling
        "lineart_standard (from white bg & black line)",
    ),
    "lineart_net": Preprocessor("LineArtPreprocessor", lambda _: {"coarse": "disable"}, "lineart_realistic"),
    "lines": Preprocessor("M-LSDPreprocessor", lambda _: {"score_threshold": 0.1, "dist_threshold": 0.1}, "mlsd"),
    "grey": Preprocessor("ImageLuminanceDetector", lambda _: {"gamma_correction": 1.0}, "recolor_luminance"),
    "tile": Preprocessor("TilePreprocessor", lambda _: {"pyrUp_iters": 3}, "tile_resample"),
    "colour_grid": Preprocessor("ColorPreprocessor", a1111="t2ia_color_grid"),
    "depth": Preprocessor(
        "DepthAnythingV2Preprocessor", lambda _: {"ckpt_name": "depth_anything_v2_vits.pth"}, "depth_anything_v2"
    ),
    "normal": Preprocessor("BAE-NormalMapPreprocessor", a1111="normal_bae"),
    "soft_edge": Preprocessor("HEDPreprocessor", lambda _: {"safe": "enable"}, "softedge_hed"),
    "scribble": Preprocessor("FakeScribblePreprocessor", lambda _: {"safe": "enable"}, "scribble_hed"),
    "pose": Preprocessor(
        "OpenposePreprocessor",
        lambda _: {"detect_hand": "disable", "detect_body": "enable", "detect_face": "disable"},
        "openpose",
    ),
    "segmentation": Preprocessor("OneFormer-ADE20K-SemSegPreprocessor", a1111="seg_ofade20k"),
    "anime_lineart": Preprocessor("AnimeLineArtPreprocessor", a1111="lineart_anime"),
    "shuffle": Preprocessor(a1111="shuffle"),  # the inputs of ComfyUI's node are in another order
    "face": NOTHING,  # theirs draw the parts in other colours
    "light_dark": NOTHING,  # theirs have two levels, ours two to many
    "qr_like": NOTHING,
    "luminance": NOTHING,  # theirs keep every line, ours only where it is light
    "inpaint": NOTHING,  # there the hole is painted by hand, in any colour
    "own": NOTHING,
    "external": NOTHING,
}


def preprocessor(condition_type: str) -> Preprocessor:
    """The preprocessor for a type; ``NOTHING`` for an unknown one."""
    return PREPROCESSORS.get(condition_type, NOTHING)
