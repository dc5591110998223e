"""What can compute ControlNet and base: PyTorch, or ONNX Runtime with a provider. Light: neither is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    """One of them. ``name``: as on the command line; ONNX Runtime's are in ``onnx_packages.PROVIDERS``."""

    name: str
    title: str
    hint: str


ENGINES = (
    Engine("torch", "PyTorch", "The usual one. An export in ONNX is drawn with ONNX Runtime all the same."),
    Engine("onnx", "ONNX Runtime, processor", "Faster than PyTorch without a graphics card."),
    Engine("onnx-openvino", "ONNX Runtime, OpenVINO", "For Intel; needs the package onnxruntime-openvino."),
    Engine("onnx-directml", "ONNX Runtime, DirectML", "For any card on Windows; needs onnxruntime-directml."),
    Engine("onnx-cuda", "ONNX Runtime, CUDA", "For NVIDIA; needs the package onnxruntime-gpu."),
)
