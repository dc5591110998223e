"""Writes ONNX files of a few nodes without the onnx package, for tests of models that OpenCV runs.

The format is protobuf: a field is its number and kind, then a number, or a length and bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FLOAT, INT64, INTS_ATTRIBUTE = 1, 7, 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def tensor(name: str, values: np.ndarray) -> bytes:
    """An initializer."""
    kind = INT64 if values.dtype == np.int64 else FLOAT
    dims = b"".join(_field(1, size) for size in values.shape)
    return _field(5, dims + _field(2, kind) + _field(8, name) + _field(9, values.tobytes()))


def node(operation: str, inputs: list[str], output: str, **attributes: list[int]) -> bytes:
    body = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(3, output) + _field(4, operation)
    for name, values in attributes.items():
        ints = b"".join(_field(8, value) for value in values)
        body += _field(5, _field(1, name) + ints + _field(20, INTS_ATTRIBUTE))
    return _field(1, body)


def _shaped(number: int, name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(number, _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims))))


def save(
    path: Path, parts: list[bytes], input: tuple[str, tuple[int, ...]], outputs: list[tuple[str, tuple[int, ...]]]
) -> None:
    """Encodes a graph. ``parts``: nodes and tensors. Inputs and outputs have names and shapes."""
    graph = b"".join(parts) + _field(2, "tiny") + _shaped(11, *input)
    graph += b"".join(_shaped(12, *output) for output in outputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(2, 13)))
