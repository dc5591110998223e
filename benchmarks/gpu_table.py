"""Formats the results of benchmarks/gpu.py as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.precision import table as precision_table

Found = Mapping[str, Mapping[str, Any]]


def tables(found: Found) -> str:
    """One table for each part that was measured, and one line for each item that failed."""
    parts = {
        "Memory, GiB": memory(_of(found, "memory")),
        "Speed (SD 1.5 at 512 px, effective batch size 4)": speed(_of(found, "speed")),
        "Ablation": ablation(_of(found, "ablation"), _of(found, "speed")),
        "Precision": precision(_of(found, "precision")),
        "Resume": resume(_of(found, "resume")),
        "Out of memory": out_of_memory(_of(found, "ladder")),
        "Failed": "\n".join(f"- {name}: {one['error']}" for name, one in found.items() if "error" in one),
    }
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items() if text) + "\n"


def _of(found: Found, part: str) -> dict[str, Mapping[str, Any]]:
    return {
        name.split("/", 1)[1]: one for name, one in found.items() if name.startswith(f"{part}/") and "error" not in one
    }


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def peak(one: Mapping[str, Any]) -> float | None:
    """Peak GiB of all phases: memory that the allocator reserved, and what CUDA itself takes."""
    reserved = [value for value in one["reserved"].values() if value is not None]
    return max(reserved) + (one["context"] or 0) if reserved else None


def memory(rows: Found) -> str:
    if not rows:
        return ""
    head = "| base, preset | measured | estimated | off by | preparing / training / images | estimated "
    head += "| RAM (estimated) | checkpoint (estimated) | s per step | time lost to saving | fallbacks |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|---|"]
    for name, one in rows.items():
        top = peak(one)
        off = f"{one['needs'] / top - 1:+.0%}" if top else ""
        phases = " / ".join(_number(value) for value in one["allocated"].values())
        estimated = " / ".join(_number(value) for value in one["foreseen"].values())
        lines.append(
            f"| {name.replace('/', ', ')} | {_number(top)} | {_number(one['needs'])} | {off} | {phases} | {estimated} "
            f"| {_number(one['ram'])} ({_number(one['ram_foreseen'])}) "
            f"| {_number(one['checkpoint'], 3)} ({_number(one['checkpoint_foreseen'], 3)}) "
            f"| {_number(one['seconds_per_step'])} | {one['stall']:.2%} | {'; '.join(one['rungs'])} |"
        )
    return "\n".join(lines)


def speed(rows: Found) -> str:
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for name, one in rows.items():
        variant, last = name.split("/")
        by_variant.setdefault(variant if last.isdigit() else f"{variant}, {last} preset", []).append(one)
    if not by_variant:
        return ""
    recipe = _median(by_variant.get("theirs", []), "images_per_second")
    lines = [
        "| | rounds | images/s (min to max) | x | peak reserved, GiB | waited for data | save, s | saving |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in by_variant.items():
        rate = _median(runs, "images_per_second")
        rates = [run["images_per_second"] for run in runs]
        times = _number(rate / recipe) if rate and recipe else ""
        save, step = _median(runs, "save"), _median(runs, "seconds_per_step")
        stall = f"{save / (save + 500 * step):.2%}" if save and step else ""
        waited = f"{_median(runs, 'waiting') or 0:.2%}" if name != "theirs" else ""
        lines.append(
            f"| {name} | {len(runs)} | {_number(rate)} ({min(rates):.2f} to {max(rates):.2f}) | {times} "
            f"| {_number(_median(runs, 'reserved'))} | {waited} | {_number(save, 1)} | {stall} |"
        )
    return "\n".join(lines)


def ablation(rows: Found, speeds: Found) -> str:
    if not rows:
        return ""
    plain = _median([one for name, one in speeds.items() if name.startswith("ours/") and name[5:].isdigit()])
    lines = ["| ours, with | images/s | of ours | peak reserved, GiB | warnings |", "|---|---|---|---|---|"]
    for name, one in rows.items():
        rate = one["images_per_second"]
        relative = f"{rate / plain:.0%}" if plain else ""
        lines.append(
            f"| {name} | {_number(rate)} | {relative} | {_number(one['reserved'])} | {' '.join(one.get('said', []))} |"
        )
    return "\n".join(lines)


def precision(rows: Found) -> str:
    return precision_table([dict(one) for one in rows.values()]) if rows else ""


def resume(rows: Found) -> str:
    lines = [
        f"- {name}: {one['outcome']}; {one['apart']} of {one['tensors']} tensors differ by up to {one['furthest']:.1g}"
        for name, one in rows.items()
    ]
    return "\n".join(lines)


def out_of_memory(rows: Found) -> str:
    lines = [
        f"- {name} in 6 GB: {one['outcome']} after {len(one['steps'])} steps of {one['images']:.0f} images "
        f"(effective batch size {one['wanted']}), fallbacks: {'; '.join(one['rungs']) or 'none'}; "
        f"peak {_number(one['reserved'])} GiB"
        for name, one in rows.items()
    ]
    return "\n".join(lines)


def _median(runs: list[Mapping[str, Any]], key: str = "images_per_second") -> float | None:
    values = [run[key] for run in runs if run.get(key) is not None]
    return statistics.median(values) if values else None
