"""Everything that only a graphics card can show, in one command. It can be stopped at any time and continues later.

    python -m benchmarks.gpu --out OUT --work WORK --minutes 9          (on a card; repeat until it says "all done")
    python -m benchmarks.gpu --out OUT --work WORK --device cpu --tiny  (a rehearsal: the same code, tiny nets)

The bases have the shapes of the real models and random weights: time and memory do not depend on their values. Each
item runs in its own process and writes OUT/<item>.json; items that have a file are not measured again. The results are
written to OUT/table.md.

memory     peak memory of each preset and family, with the process limited to that card's size, next to the estimate
speed      images per second, alternating with diffusers' recipe; waiting for data; the cost of a checkpoint
ablation   our step with one technique added or left out
precision  the demo in fp32, bf16, fp16 and with a base in fp8: exact score, adherence and losses
resume     for each optimizer: does a paused and resumed run end with the same weights as an uninterrupted one?
ladder     a run that does not fit: which fallbacks it takes when memory really runs out
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_table import tables

FAMILIES, PRESETS = ("sd15", "sdxl", "sd21"), ("8gb", "12gb", "6gb", "16gb", "24gb")
SPEED = ("theirs", "ours", "ours/12gb", "ours/8gb")
ROUNDS = 3
ABLATIONS = (
    "gradient checkpointing in the ControlNet",
    "gradient checkpointing in both nets",
    "batch size 1, gradient accumulation 4",
    "VAE and text encoder at each step",
    "condition maps decoded at each step",
    "autocast with fp32 weights",
    "base in fp8",
    "trained weights in RAM",
    "Control-LoRA of rank 64",
    "channels last",
    "torch.compile",
    "torch.compile with CUDA graphs",
    "attention by xformers",
)
KINDS = ("fp32", "fp16", "bf16", "fp8", "fp16+fp8")
MODES = ("adamw8bit", "paged", "adamw", "adafactor", "offload", "fp8")
TIME_LIMITS = {"cuda": 240, "cpu": 1200}  # seconds for one item; a processor that rehearses may be busy


def items(tiny: bool) -> list[str]:
    """All items, the most important first."""
    if tiny:
        return [
            "memory/sd15/8gb",
            "memory/sdxl/8gb",
            "speed/theirs/1",
            "speed/ours/1",
            "ablation/channels last",
            "precision/fp32/1",
            "precision/fp16/1",
            "resume/adamw",
            "ladder/sd15/24gb",
        ]
    first = [f"memory/sd15/{preset}" for preset in PRESETS]
    rounds = [f"speed/{one}" if "/" in one else f"speed/{one}/{n + 1}" for n in range(ROUNDS) for one in SPEED]
    found = [*first, *rounds, *(f"memory/sdxl/{preset}" for preset in PRESETS), "ladder/sd15/24gb"]
    found += [f"resume/{mode}" for mode in MODES[:2]]
    found += [f"precision/{kind}/1" for kind in KINDS]
    found += [f"ablation/{name}" for name in ABLATIONS]
    found += [f"memory/sd21/{preset}" for preset in PRESETS]
    found += [f"precision/{kind}/{seed}" for seed in (2, 3) for kind in KINDS]
    found += [f"resume/{mode}" for mode in MODES[2:]] + ["ladder/sdxl/24gb"]
    return list(dict.fromkeys(found))


def file_of(out: Path, item: str) -> Path:
    return out / (item.replace("/", "-").replace(" ", "_").replace(",", "") + ".json")


def measured(out: Path, tiny: bool) -> dict[str, dict[str, Any]]:
    """The results in the folder, by item."""
    found = {}
    for item in items(tiny):
        path = file_of(out, item)
        if path.exists():
            found[item] = json.loads(path.read_text(encoding="utf-8"))
    return found


def take(item: str, options: argparse.Namespace, seconds: float) -> dict[str, Any] | None:
    """Measure an item in its own process.

    Returns:
        The result, or {"error": ...}. None if there were not enough ``seconds`` left.
    """
    command = [sys.executable, "-m", "benchmarks.gpu_parts", item, "--work", str(options.work)]
    command += ["--device", options.device, *(["--tiny"] if options.tiny else [])]
    limit = TIME_LIMITS[options.device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=min(limit, seconds))
    except subprocess.TimeoutExpired:
        return {"error": f"stopped after {limit} s"} if seconds > limit else None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if lines:
        return json.loads(lines[-1])
    return {"error": " ".join(done.stderr.strip().splitlines()[-1:])[:300] or f"ended with {done.returncode}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--work", type=Path, help="folder for bases and images, kept for the next call")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="rehearse with tiny nets")
    parser.add_argument("--minutes", type=float, default=0, help="stop after this time; 0: no limit")
    parser.add_argument("--parts", nargs="+", help="only items that start with one of these, e.g. memory/sd15 speed")
    parser.add_argument("--again", action="store_true", help="measure failed items again")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
    wanted = [item for item in items(options.tiny) if not options.parts or item.startswith(tuple(options.parts))]
    left: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        options.work = options.work or Path(scratch)
        for item in wanted:
            target = file_of(options.out, item)
            known = json.loads(target.read_text(encoding="utf-8")) if target.exists() else None
            if known is not None and not (options.again and "error" in known):
                continue
            found = take(item, options, end - time.monotonic()) if end - time.monotonic() > 10 else None
            if found is None:
                left.append(item)
                continue
            partial = target.with_suffix(".part")
            partial.write_text(json.dumps(found), encoding="utf-8")
            os.replace(partial, target)
            print(f"{item}: {found.get('error') or 'measured'} ({found.get('took', 0):.0f} s)", flush=True)
    text = tables(measured(options.out, options.tiny))
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"left: {', '.join(left)}" if left else "all done")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
