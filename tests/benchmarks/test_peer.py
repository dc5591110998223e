"""The comparison with a training script: what it is called with, and how its steps are timed."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pytest
from accelerate import Accelerator

from benchmarks import peer

SCRIPT = """
import argparse, json, time
from pathlib import Path
from accelerate import Accelerator

parser = argparse.ArgumentParser()
parser.add_argument("--train_data_dir", type=Path)
parser.add_argument("--max_train_steps", type=int)
parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
options, _ = parser.parse_known_args()
rows = [json.loads(line) for line in (options.train_data_dir / "metadata.jsonl").read_text().splitlines()]
for row in rows:
    assert (options.train_data_dir / row["file_name"]).is_file() and row["text"]
    assert (options.train_data_dir / row["conditioning_image_file_name"]).is_file()
accelerator = Accelerator(gradient_accumulation_steps=options.gradient_accumulation_steps, cpu=True)
step = 0
while step < options.max_train_steps:
    with accelerator.accumulate():
        time.sleep(0.02)
    step += accelerator.sync_gradients
    accelerator.log({"loss": 1.0}, step=step)
"""


@pytest.mark.parametrize(("variant", "micro_batches"), [(peer.SCRIPT, 1), (peer.SMALL_CARD, 4)])
def test_a_scripts_optimizer_steps_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, micro_batches: int
) -> None:
    script = tmp_path / "train_controlnet.py"
    script.write_text(SCRIPT, encoding="utf-8")
    monkeypatch.setattr(Accelerator, "log", Accelerator.log)  # put back afterwards
    monkeypatch.setattr("sys.argv", ["peer"])
    options = argparse.Namespace(script=script, shapes="tiny", precision="fp32", warm_up=2, steps=3)
    began = time.perf_counter()
    seconds = peer.measure(options, tmp_path, tmp_path / "base", variant)
    assert len(seconds) == 3 and all(found >= 0.02 * micro_batches for found in seconds)
    assert sum(seconds) < time.perf_counter() - began


def test_the_table_has_the_middle_and_the_range_of_the_rounds() -> None:
    assert peer.row(2, "the script", [2.0, 3.0, 4.0], [1.0, 2.0, 2.0]) == (
        "| 2 | the script | 3.000 | 2.000 | 2.00 (1.50 to 2.00) |"
    )
