"""The optional packages of ONNX: which are missing, and on what ONNX Runtime can compute here."""

from __future__ import annotations

import importlib.util

from engine.errors import UserError

DESCRIPTION = "onnx.json"
"""Marks a folder as an export in ONNX."""
TO_EXPORT = ("onnx", "onnxscript", "onnxruntime")
TO_RUN = ("onnxruntime",)
TORCH = "torch"
PROVIDERS = {
    "onnx": "CPUExecutionProvider",
    "onnx-cuda": "CUDAExecutionProvider",
    "onnx-directml": "DmlExecutionProvider",
    "onnx-openvino": "OpenVINOExecutionProvider",
}
"""Engines of Try it, and the execution provider that each computes with."""


def missing_packages(names: tuple[str, ...]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def require_packages(names: tuple[str, ...], what: str) -> None:
    """Refuse what needs packages that are not installed. ``what``: a sentence that says what does not work.

    Raises:
        UserError: names the packages and how to install them.
    """
    missing = missing_packages(names)
    if missing:
        raise UserError(
            what,
            f"It needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            "Install them with: pip install -r requirements-onnx.txt",
        )


def provider_of(engine: str) -> str:
    """The execution provider of an engine.

    Raises:
        UserError: ONNX Runtime, or its build for this provider, is not installed.
    """
    require_packages(TO_RUN, "The image cannot be drawn with ONNX Runtime.")
    import onnxruntime

    wanted, here = PROVIDERS[engine], onnxruntime.get_available_providers()
    if wanted not in here:
        raise UserError(
            f"ONNX Runtime cannot draw with {wanted} on this computer.",
            f"The build that is installed has: {', '.join(here)}.",
            "Choose another engine, or install the build of ONNX Runtime that has this one (docs/export.md).",
        )
    return wanted
