"""Settings of a run that have changed since it began, as its run.json records them; which of them may be changed.

run.json keeps the settings with which the run began under "config". Two lists stand beside them: "changes", made by the
user at a resume, and "memory_ladder", the memory fallbacks that the run took by itself (engine/training/oom.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import RunConfig, changeable, field_of, parse
from engine.config.presets import flatten, unflatten
from engine.disk.durable import atomic_write_text
from engine.errors import UserError
from engine.machine.units import counted

CHANGES = "changes"
"""A list of {"step", "setting", "from", "to", "fallbacks"}. The last says how many fallbacks had been taken before."""
FALLBACKS = "memory_ladder"
"""A list of {"step", "where", "settings", "words"}."""


@dataclass(frozen=True)
class Change:
    """Settings that changed between two steps."""

    step: int
    """Steps that were done before."""
    settings: dict[str, Any]
    """The new values by dotted name."""
    words: str
    by_user: bool = True
    """Else it is a memory fallback."""


def changes_of(about: Mapping[str, Any]) -> list[Change]:
    """The changes that a run.json records, in the order in which they were made.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the record is damaged.
    """
    fallbacks, found, taken = list(about.get(FALLBACKS, [])), [], 0

    def take(count: int) -> None:
        nonlocal taken
        for fallback in fallbacks[taken:count]:
            if fallback["settings"]:  # else memory was only freed
                words = f"memory ran out: {fallback.get('words', '')}"
                found.append(Change(int(fallback.get("step", 0)), dict(fallback["settings"]), words, by_user=False))
        taken = max(taken, count)

    for change in about.get(CHANGES, []):
        take(int(change["fallbacks"]))
        dotted = str(change["setting"])
        words = in_words(dotted, change["from"], change["to"])
        found.append(Change(int(change["step"]), {dotted: change["to"]}, words))
    take(len(fallbacks))
    return found


def in_words(dotted: str, before: Any, after: Any) -> str:
    """For example "learning rate 1e-05 → 5e-06"."""
    field = field_of(dotted)
    title = field.title if field is not None else dotted
    return f"{title[:1].lower()}{title[1:]} {_short(before)} → {_short(after)}"


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_now(begun_with: RunConfig, about: Mapping[str, Any], source: str = "These settings") -> RunConfig:
    """The settings with which a run began, with the changes that its run.json records.

    Raises:
        UserError: the record is damaged.
    """
    try:
        changed = [change.settings for change in changes_of(about)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{source} cannot be read.",
            f"The record of their changes in run.json is damaged ({type(error).__name__}: {error}).",
            "Its checkpoints can still be exported; start a new run to continue training.",
        ) from error
    return with_settings(begun_with, *changed, source=source) if changed else begun_with


def with_settings(config: RunConfig, *changes: Mapping[str, Any], source: str = "These settings") -> RunConfig:
    """The settings with others in their place, by dotted name.

    Raises:
        UserError: a value is out of bounds, or does not go with the others.
    """
    merged = flatten(config.model_dump())
    for change in changes:
        merged |= change
    return parse(unflatten(merged), source)


def allowed_changes(
    run: str, begun_with: RunConfig, now: RunConfig, done: int, wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that a resume with these values changes, with what follows from them; values as now are left out.

    Args:
        run: its folder's name, for messages.
        begun_with: settings at the run's first step. now: those it has reached.
        done: steps of the checkpoint that it is resumed from.
        wanted: values by dotted name.

    Raises:
        UserError: a setting may not be changed, does not exist, or does not go with the others.
    """
    before, may = flatten(now.model_dump()), changeable()
    what = f"{run} cannot be resumed with these settings."
    if unknown := [dotted for dotted in wanted if dotted not in before]:
        why = " ".join(f"{dotted} is not a setting." for dotted in unknown)
        raise UserError(what, why, f"These may be changed: {', '.join(may)}.")
    after = flatten(with_settings(now, wanted, source=f"The new settings of {run}").model_dump())
    changed = {dotted: value for dotted, value in after.items() if value != before[dotted]}
    if fixed := [dotted for dotted in changed if dotted not in may]:
        again = " ".join(f"--set {dotted}={changed[dotted]}" for dotted in fixed)
        raise UserError(
            f"{run} cannot be resumed with another {_titles(fixed)}.",
            " ".join(dict.fromkeys(_why_fixed(dotted) for dotted in fixed)),
            f"Start a new run with it; python -m engine.cli train --from-run {run} {again} uses all other "
            "settings of this one.",
        )
    if changed.get("train.steps", done + 1) <= done:
        raise UserError(
            what,
            f"train.steps is {changed['train.steps']:,}, and {counted(done, 'step is', 'steps are')} already done.",
            f"Choose more than {counted(done, 'step')}. They are counted from the run's first step.",
        )
    if "train.batch_size" in changed:
        changed |= _batches(what, begun_with, changed["train.batch_size"])
        with_settings(now, changed)
    return changed


def _batches(what: str, begun_with: RunConfig, batch_size: int) -> dict[str, int]:
    """Batch size and accumulation with the same images in each step: batches are cut into equal parts."""
    begun = begun_with.train
    if begun.batch_size % batch_size:
        sizes = [str(size) for size in range(1, begun.batch_size + 1) if begun.batch_size % size == 0]
        raise UserError(
            what,
            f"The run began with batches of {counted(begun.batch_size, 'image')}. They can be split into equal "
            f"parts, so that each step keeps the same images, but not into parts of {batch_size}.",
            f"Choose one of these batch sizes: {', '.join(sizes)}. For others start a new run.",
        )
    parts = begun.batch_size // batch_size
    return {"train.batch_size": batch_size, "train.accumulation": begun.accumulation * parts}


def _titles(names: Sequence[str]) -> str:
    fields = ((dotted, field_of(dotted)) for dotted in names)
    return " and ".join(f"{field.title if field else dotted} ({dotted})" for dotted, field in fields)


def _why_fixed(dotted: str) -> str:
    field = field_of(dotted)
    extra = (field.json_schema_extra if field is not None else None) or {}
    return f"{dotted}: {extra.get('why_fixed', 'It defines the run.')}"


def record_changes(run_folder: Path, done: int, now: RunConfig, changed: Mapping[str, Any]) -> None:
    """Note in run.json that a run continues with other settings.

    Changes of the same setting at the same step become one: nothing was trained between them.

    Args:
        done: steps of the checkpoint that it is resumed from.
        now: the settings before. changed: new values by dotted name, as ``allowed_changes`` returns them.

    Raises:
        OSError: the disk did not take it; run.json is as it was.
    """
    path = run_folder / "run.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    before = flatten(now.model_dump(mode="json"))
    entries = [{**entry, "step": min(entry["step"], done)} for entry in about.get(CHANGES, [])]  # it may have gone back
    fallbacks = len(about.get(FALLBACKS, []))
    for dotted, value in changed.items():
        entry = {"step": done, "setting": dotted, "from": before[dotted], "to": value, "fallbacks": fallbacks}
        same = [e for e in entries if (e["step"], e["setting"], e["fallbacks"]) == (done, dotted, fallbacks)]
        if same:
            entries.remove(same[0])
            entry["from"] = same[0]["from"]
        if entry["from"] != entry["to"]:
            entries.append(entry)
    about[CHANGES] = entries
    atomic_write_text(path, json.dumps(about, indent=2, ensure_ascii=False))
