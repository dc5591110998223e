"""SimpleTuner's multidatabackend.json: datasets that name one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.data.layouts.trainer_configs.files import as_tables, texts_of
from engine.data.layouts.trainer_configs.lists import rows_of_table
from engine.data.layouts.trainer_configs.model import Config, Subset


def is_simpletuner(content: Any) -> bool:
    """Whether this is a list of SimpleTuner's datasets."""
    return isinstance(content, list) and any(
        isinstance(entry, dict)
        and ("instance_data_dir" in entry or {"id", "dataset_type"} <= entry.keys() or {"id", "type"} <= entry.keys())
        for entry in content
    )


def simpletuner(content: list[Any], config: Config) -> Iterator[Subset]:
    """The local datasets of images; maps are datasets of their own, which an image dataset names."""
    backends = list(as_tables(content, "the list", config.path))
    by_name = {config.text(entry, "id"): entry for entry in backends}
    maps_of = {config.text(entry, "source_dataset_id"): config.text(entry, "id") for entry in backends}
    of_others = {one for entry in backends for one in texts_of(entry, "conditioning_data", config.path)}
    used: set[str] = set()
    for number, entry in enumerate(backends, 1):
        kind = config.text(entry, "dataset_type") or "image"
        name = config.text(entry, "id") or f"dataset {number}"
        if kind not in ("image", "video") or (name in of_others and "dataset_type" not in entry):
            continue  # the maps of another one may lack their type
        config.not_used(
            entry,
            "instance_data_dir conditioning_data conditioning caption_strategy instance_prompt only_instance_prompt "
            "parquet disabled disable",
        )
        if entry.get("conditioning"):
            config.notes.append(f"{name}: SimpleTuner makes its maps itself. Make them here on the Conditions tab.")
        wanted, *more = config.several(entry, "conditioning_data", name) or [maps_of.get(name, "")]
        of_maps = by_name.get(wanted, {})
        used.update((wanted, *more))
        is_mask = config.text(of_maps, "conditioning_type") == "mask"
        (images, maps), missing = config.folders(
            config.text(entry, "instance_data_dir"), config.text(of_maps, "instance_data_dir")
        )
        masks = (maps,) if is_mask and maps else ()
        if wanted and not of_maps:
            missing += (f"the dataset {wanted}, which {name} names as conditioning_data",)
        yield Subset(
            name,
            images,
            None if is_mask else maps,
            (*masks, *config.present(*(config.text(by_name.get(one, {}), "instance_data_dir") for one in more))),
            deep=True,
            why_not=_why_not(entry, kind),
            missing=missing,
            **_captions(entry, name, config),
        )
    for name, entry in by_name.items():
        if entry.get("dataset_type") == "conditioning" and name not in used:
            (images,), missing = config.folders(config.text(entry, "instance_data_dir"))
            yield Subset(name, images, deep=True, why_not="contains maps that belong to none of its datasets")


def _why_not(entry: Mapping[str, Any], kind: str) -> str:
    if entry.get("disabled") or entry.get("disable"):
        return "is disabled"
    if kind == "video":
        return "contains videos"
    place = entry.get("type") or "local"
    return "" if place == "local" else f"is not on this machine ({place})"


def _captions(entry: Mapping[str, Any], name: str, config: Config) -> dict[str, Any]:
    strategy = config.text(entry, "caption_strategy") or "textfile"
    prompt = config.text(entry, "instance_prompt")
    if strategy == "instanceprompt" or entry.get("only_instance_prompt"):
        return {"caption": prompt}
    if strategy == "filename":
        return {"from_names": lambda stem: stem.replace("_", " ").strip()}
    if strategy == "parquet":
        about = next(config.tables(entry, "parquet"), {})
        (table,), missing = config.folders(config.text(about, "path"))
        if table is None:
            config.notes.append(
                f"{name}: its table of captions, {', '.join(missing) or 'which has no path'}, was not found."
            )
            return {}
        rows = rows_of_table(table, config.text(about, "filename_column"), config.text(about, "caption_column"))
        return {"entries": tuple(rows), "lists": (table,)}
    if strategy != "textfile":
        config.notes.append(f"{name}: captions made by {strategy} are not read; those next to the images are.")
    return {"extension": ".txt"}
