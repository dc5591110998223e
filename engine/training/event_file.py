"""Writes scalars in TensorBoard's file format.

Why no library: if a log fails, training must neither block nor hide the failure. tensorboardX passes values to a thread
through a queue of ten. The thread dies at the first failed write, and training blocks forever once the queue is full
(tried with 2.6.5 and a disk that fills up). tensorboard's own writer also uses a thread, so it raises only at a later
call; besides, it brings a web server and gRPC, about 50 MB that only a reader of the files needs. Here a failed write
raises at once; engine/training/loggers.py reports it and drops the log.

A file is a sequence of records (TFRecord): length, checksum of the length, an Event message in protocol buffers,
checksum of the message. Format: tensorflow/core/util/event.proto and tensorflow/core/lib/io/record_writer.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from pathlib import Path

_MASK = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reversed


def _table() -> tuple[int, ...]:
    found = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        found.append(byte)
    return tuple(found)


_TABLE = _table()


def checksum(data: bytes) -> int:
    """CRC-32C, masked as in TFRecord: rotated right by 15 bits, plus a constant."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + _MASK) & 0xFFFFFFFF


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _field(number: int, data: bytes) -> bytes:
    """A field that holds bytes or a message (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _record(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", checksum(length)) + event + struct.pack("<I", checksum(event))


class EventFile:
    """One file in a folder. Each call appends a record and passes it to the operating system at once.

    Each start of a run begins a new file, as TensorBoard expects; where steps repeat, it shows the newer values.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"events.out.tfevents.{time.time_ns() // 1000:016d}.studio"
        folder.mkdir(parents=True, exist_ok=True)
        self._append(_field(3, b"brain.Event:2"))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Append the scalars of one step (0 or more). Raises OSError if they cannot be written."""
        each = (
            _field(1, _field(1, name.encode("utf-8")) + b"\x15" + struct.pack("<f", value))
            for name, value in values.items()
        )
        self._append(b"\x10" + _varint(step) + _field(5, b"".join(each)))

    def _append(self, event: bytes) -> None:
        stamped = b"\x09" + struct.pack("<d", time.time()) + event
        with self._path.open("ab") as file:
            file.write(_record(stamped))
