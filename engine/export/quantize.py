"""ONNX graphs in int8: weights only of linear layers (dynamic), or weights and activations of all layers (static)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engine.families.onnx_graphs import KEPT_LAYERS

BIG = 1_500_000_000
"""Bytes from which weights lie in a file of their own: protobuf ends at 2 GB."""


def to_int8(source: Path, target: Path, batches: Iterable[Mapping[str, np.ndarray]] | None) -> None:
    """Write a graph in int8.

    Args:
        source: a graph in fp32.
        batches: inputs by name, on which the ranges of the activations are measured; None: they are measured while the
            graph computes, which works for linear layers alone.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static

    kept = kept_nodes(onnx.load(str(source), load_external_data=False).graph)
    external = sum(file.stat().st_size for file in source.parent.glob(f"{source.name}*")) > BIG
    common: dict[str, Any] = {
        "nodes_to_exclude": kept,
        "per_channel": True,
        "weight_type": QuantType.QInt8,
        "use_external_data_format": external,
    }
    with _without_advice():
        if batches is None:
            quantize_dynamic(str(source), str(target), op_types_to_quantize=["MatMul", "Gemm"], **common)
            return
        quantize_static(
            str(source),
            str(target),
            _reader(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
            **common,
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep ONNX Runtime's advice to prepare the graph, which torch's exporter has optimized, from the terminal."""

    def keep(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def kept_nodes(graph: Any) -> list[str]:
    """Names of the nodes of layers that stay in floating point, and of products of two activations (attention).

    The exporter notes in each node from which modules it comes; after its optimizations some nodes only show it by the
    name of their weight.
    """
    constants = {one.name for one in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        scopes = next((one.value for one in node.metadata_props if one.key == "pkg.torch.onnx.name_scopes"), "")
        named = [scopes, *(name for name in node.input if name in constants)]
        of_kept_layer = any(layer in name for layer in KEPT_LAYERS for name in named)
        if of_kept_layer or node.input[1] not in constants:
            kept.append(node.name)
    return kept


def _reader(batches: Iterable[Mapping[str, np.ndarray]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self, rows: Iterator[Mapping[str, np.ndarray]]) -> None:
            self.rows = rows

        def get_next(self) -> Any:
            return next(self.rows, None)

    return Reader(iter(batches))
