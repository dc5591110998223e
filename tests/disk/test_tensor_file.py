"""Rows of a file: what safetensors gives, without a mapping; a file that has changed is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.disk.tensor_file import DamagedFile, Rows, tensor_names


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = {
        "half": torch.arange(24, dtype=torch.float16).reshape(4, 3, 2),
        "bytes": torch.arange(20, dtype=torch.uint8).reshape(5, 4),
        "numbers": torch.tensor([[-1, 2**30]], dtype=torch.int32),
    }
    save_file(made, tmp_path / "file.safetensors", metadata={"made": "here"})
    return tmp_path / "file.safetensors"


def test_rows_are_those_of_the_file_in_the_order_asked_for(file: Path) -> None:
    assert tensor_names(file) == ["bytes", "half", "numbers"]
    half = Rows(file, "half")
    assert (len(half), half.shape) == (4, (4, 3, 2))
    assert np.array_equal(half.read([3, 0, 3]), np.arange(24, dtype=np.float16).reshape(4, 3, 2)[[3, 0, 3]])
    assert Rows(file, "bytes").read([4]).tolist() == [[16, 17, 18, 19]]
    assert Rows(file, "numbers").read([0]).tolist() == [[-1, 2**30]]
    with pytest.raises(IndexError):
        half.read([4])


def test_a_file_that_changed_is_reported(file: Path) -> None:
    rows = [Rows(file, name) for name in ("half", "bytes")]
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    with pytest.raises(DamagedFile, match="end of the file"):
        [one.read([len(one) - 1]) for one in rows]
    file.unlink()
    with pytest.raises(FileNotFoundError):
        rows[0].read([0])
    for damaged in (b"", b"\xff" * 200, whole[:8] + b"[1]" + whole[11:], whole.replace(b"F16", b"F99")):
        file.write_bytes(damaged)
        with pytest.raises(DamagedFile, match="damaged"):
            Rows(file, "half")
