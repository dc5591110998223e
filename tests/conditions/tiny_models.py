"""Tiny random models in the layout of the real ones, loaded and run by the app's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.conditions import tiny_onnx


def seeded(make: Any) -> Any:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def write(model: Any, folder: Path, preprocessor: dict[str, Any]) -> Path:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return folder


def depth_anything(folder: Path) -> Path:
    import torch
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
        patch_size=14,
    )
    how = {"size": {"height": 56, "width": 56}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}
    model = seeded(lambda: DepthAnythingForDepthEstimation(config))
    with torch.no_grad():  # freshly initialized, it predicts the same for every pixel
        model.head.conv3.weight.normal_(0, 1, generator=torch.Generator().manual_seed(0))
        for name, value in model.named_parameters():
            if name.startswith(("neck", "head")) and value.ndim == 4:
                value.mul_(8)
        model.head.conv3.bias.fill_(1)
    return write(model, folder, how)


def segformer(folder: Path) -> Path:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_encoder_blocks=4,
        depths=[1] * 4,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        num_labels=150,
    )
    model = seeded(lambda: SegformerForSemanticSegmentation(config))
    return write(model, folder, {"size": {"height": 64, "width": 64}})


def vitpose(folder: Path) -> Path:
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    backbone = VitPoseBackboneConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, out_features=["stage1"]
    )
    config = VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=True)
    return write(seeded(lambda: VitPoseForPoseEstimation(config)), folder, {})


def detector(folder: Path) -> Path:
    """YOLOS, a DETR-like detector, that detects everything as a person."""
    import torch
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 64],
        num_detection_tokens=3,
        id2label={0: "cat", 1: "person"},
        label2id={"cat": 0, "person": 1},
    )
    model = seeded(lambda: YolosForObjectDetection(config))
    with torch.no_grad():
        last = model.class_labels_classifier.layers[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
    return write(model, folder, {"size": {"height": 64, "width": 64}})


def hed(path: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    from engine.conditions.types.soft_edge import build

    net = seeded(lambda: build((4, 4, 8, 8, 8), (2, 2, 3, 3, 3)))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict(), path)
    return path


def lineart(path: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    from engine.conditions.types.lineart_net import build

    net = seeded(lambda: build(4, 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), path) if path.suffix == ".safetensors" else torch.save(net.state_dict(), path)
    return path


def faces(folder: Path) -> Path:
    """A detector that finds a face in bright images, and a mesh whose points depend on the image's colours.

    One cell in the middle of the 16 x 16 grid detects; the mesh is a circle that grows with the brightness.
    """
    rng = np.random.default_rng(0)
    pool = tiny_onnx.node("AveragePool", ["view"], "pooled", kernel_shape=[128, 128])
    wanted = np.zeros((896, 16), np.float32)
    wanted[:, 2:4] = 40  # pixels wide and high
    wanted[:, 4:8] = (-10, -5, 10, -5)  # the eyes, level
    chosen = 2 * (16 * 8 + 8)  # the cell right of and below the middle
    light = np.full(896, -50, np.float32)
    light[chosen] = 0
    gain = np.zeros((896, 3, 1, 1), np.float32)
    gain[chosen] = 10
    tiny_onnx.save(
        folder / "face_detection_short_range.onnx",
        [
            pool,
            tiny_onnx.node("Conv", ["pooled", "w0", "b0"], "flat"),
            tiny_onnx.node("Conv", ["pooled", "w1", "b1"], "light"),
            tiny_onnx.node("Reshape", ["flat", "s0"], "regressors"),
            tiny_onnx.node("Reshape", ["light", "s1"], "classificators"),
            tiny_onnx.tensor("w0", np.zeros((896 * 16, 3, 1, 1), np.float32)),
            tiny_onnx.tensor("b0", wanted.ravel()),
            tiny_onnx.tensor("w1", gain),
            tiny_onnx.tensor("b1", light),
            tiny_onnx.tensor("s0", np.array([1, 896, 16])),
            tiny_onnx.tensor("s1", np.array([1, 896, 1])),
        ],
        ("view", (1, 3, 128, 128)),
        [("regressors", (1, 896, 16)), ("classificators", (1, 896, 1))],
    )
    turns = rng.uniform(0, 2 * np.pi, 468)
    points = np.stack([96 + 50 * np.cos(turns), 96 + 50 * np.sin(turns), turns], 1).astype(np.float32)
    points[33], points[263] = (76, 90, 0), (116, 90, 0)  # the outer corners of the eyes
    tiny_onnx.save(
        folder / "face_landmark.onnx",
        [
            tiny_onnx.node("AveragePool", ["view"], "pooled", kernel_shape=[192, 192]),
            tiny_onnx.node("Conv", ["pooled", "w0", "b0"], "conv2d_21"),
            tiny_onnx.node("Conv", ["pooled", "w1", "b1"], "conv2d_31"),
            tiny_onnx.tensor("w0", rng.normal(0, 0.1, (1404, 3, 1, 1)).astype(np.float32)),
            tiny_onnx.tensor("b0", points.ravel()),
            tiny_onnx.tensor("w1", np.full((1, 3, 1, 1), 4, np.float32)),
            tiny_onnx.tensor("b1", np.zeros(1, np.float32)),
        ],
        ("view", (1, 3, 192, 192)),
        [("conv2d_21", (1, 1404, 1, 1)), ("conv2d_31", (1, 1, 1, 1))],
    )
    return folder
