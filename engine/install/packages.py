"""Names of the packages that the installer checks."""

from __future__ import annotations

PACKAGES = (
    "accelerate",
    "cv2",
    "diffusers",
    "gradio",
    "numpy",
    "PIL",
    "psutil",
    "pydantic",
    "safetensors",
    "transformers",
)
"""Import names of the packages that the app needs, in addition to torch."""
NVIDIA_ONLY = ("xformers",)
"""Of the optional packages: those without kernels for cards of other makers."""
OPTIONAL = {"bitsandbytes": "0.46", "xformers": "0.0.30"}
"""Memory savers for cards, with the oldest version that is of use. The app runs without them."""
