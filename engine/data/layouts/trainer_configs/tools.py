"""The dataset configs of other trainers: which folders they name, what lies in them, where the captions are.

To add one: a function that returns subsets, a line in ``TOOLS``, a test, a row in docs/datasets.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from engine.data.layouts.trainer_configs.files import as_tables, load, texts_of
from engine.data.layouts.trainer_configs.lists import Entry, kohya_metadata, rows_of_jsonl
from engine.data.layouts.trainer_configs.model import Config, Subset
from engine.data.layouts.trainer_configs.simpletuner import is_simpletuner, simpletuner
from engine.disk.text import read_text
from engine.errors import UserError

_LARGEST_PROMPTS = 16 << 20  # bytes
_MAPS = "control_path control_path_1 control_path_2 control_path_3"
_NO_MAPS = ("mask_path", "inpaint_path", "unconditional_path", "clip_image_path")
"""Entries of ai-toolkit that name folders of maps, and of other images that go with the images."""
_LOOKED_AT = 200
"""Entries of a list that say where its images are."""


def _kohya(content: dict[str, Any], config: Config) -> Iterator[Subset]:
    general = next(config.tables(content, "general"), {})
    for dataset in config.tables(content, "datasets"):
        for number, own in enumerate(config.tables(dataset, "subsets"), 1):
            entry = {**general, **dataset, **own}
            config.not_used(
                entry, "image_dir conditioning_data_dir metadata_file caption_extension class_tokens is_reg"
            )
            listing = config.text(entry, "metadata_file")
            (images, maps, there), missing = config.folders(
                config.text(entry, "image_dir"), config.text(entry, "conditioning_data_dir"), listing
            )
            entries = kohya_metadata(load(there)) if there else None
            if there and entries is None:
                raise UserError(
                    f"{there.name}, the metadata_file of {config.path.name}, contains no captions.",
                    "It should be {image: {caption, tags}}.",
                    "Correct it, or choose the folder with the images instead.",
                )
            yield Subset(
                config.text(entry, "image_dir") or listing or f"subset {number}",
                images or (_folder_of(entries or (), there) if there else None),
                maps,
                extension=_dotted(config.text(entry, "caption_extension")),
                otherwise=config.text(entry, "class_tokens"),
                entries=entries,
                only_listed=entries is not None,
                deep=entries is not None,
                lists=(there,) if there else (),
                why_not="contains regularization images" if entry.get("is_reg") else "",
                missing=missing,
            )


def metadata(content: dict[str, Any], config: Config) -> Iterator[Subset]:
    entries = kohya_metadata(content)
    folder = _folder_of(entries or (), config.path)
    yield Subset(config.path.name, folder, entries=entries, only_listed=True, deep=True, lists=(config.path,))


def _musubi(content: dict[str, Any], config: Config) -> Iterator[Subset]:
    general = next(config.tables(content, "general"), {})
    for number, own in enumerate(config.tables(content, "datasets"), 1):
        entry = {**general, **own}
        config.not_used(
            entry,
            "image_directory control_directory image_jsonl_file caption_extension video_directory video_jsonl_file",
        )
        listing = config.text(entry, "image_jsonl_file")
        directory = config.text(entry, "image_directory")
        video = config.text(entry, "video_directory") or config.text(entry, "video_jsonl_file")
        (images, maps, there), missing = config.folders(directory, config.text(entry, "control_directory"), listing)
        entries = tuple(rows_of_jsonl(there)) if there else None
        if entries is not None and there is not None:
            images = _folder_of(entries, there)
        yield Subset(
            directory or listing or video or f"dataset {number}",
            images,
            maps,
            extension=_dotted(config.text(entry, "caption_extension")),
            entries=entries,
            only_listed=entries is not None,
            deep=entries is not None,
            lists=(there,) if there else (),
            why_not="contains videos" if video and not directory and not listing else "",
            missing=missing if directory or listing else (),
        )


def _folder_of(entries: tuple[Entry, ...], listing: Path) -> Path:
    """The folder that holds what a list names: its own, or else the one that is named in full."""
    places = [
        place
        for entry in islice(entries, _LOOKED_AT)
        for name in (entry.name, entry.map)
        if name and (place := Path(name)).is_absolute() and listing.parent not in place.parents and place.is_file()
    ]
    return Path(*_common(places)) if places else listing.parent


def _common(places: list[Path]) -> list[str]:
    """The parts that the folders of files have in common."""
    together = []
    for parts in zip(*(place.parent.parts for place in places), strict=False):
        if len(set(parts)) > 1:
            break
        together.append(parts[0])
    return together


def _onetrainer(content: Any, config: Config) -> Iterator[Subset]:
    concepts = content["concepts"] if isinstance(content, dict) else content
    for number, entry in enumerate(as_tables(concepts, "concepts", config.path), 1):
        written = config.text(entry, "path")
        title = config.text(entry, "name") or written or f"concept {number}"
        prompts = entry.get("text") if isinstance(entry.get("text"), dict) else {}
        looks = entry.get("image") if isinstance(entry.get("image"), dict) else {}
        assert isinstance(prompts, dict) and isinstance(looks, dict)
        config.not_used(entry, "path enabled include_subdirectories validation_concept balancing_strategy loss_weight")
        config.unused |= {key for key, value in {**looks, **prompts}.items() if value is True}
        source = config.text(prompts, "prompt_source") or "sample"
        one_file = config.text(prompts, "prompt_path") if source == "concept" else ""
        (images, listing), missing = config.folders(written, one_file)
        kind = str(entry.get("type", "")).upper()
        lines = _lines(listing) if listing else ()
        if len(lines) > 1:
            config.notes.append(
                f"{title}: the lines of {one_file} ({len(lines):,}) were assigned to its images in turn."
            )
        yield Subset(
            title,
            images,
            deep=bool(entry.get("include_subdirectories")),
            map_ending="-condlabel",
            mask_ending="-masklabel",
            extension=".txt" if source == "sample" else "",
            captions=lines,
            weight=config.weight(entry, "loss_weight"),
            from_names=str if source == "filename" else None,
            lists=(listing,) if listing else (),
            why_not="is disabled"
            if entry.get("enabled") is False or entry.get("ignore_concept") is True
            else "is kept for validation"
            if entry.get("validation_concept") or kind == "VALIDATION"
            else "contains regularization images"
            if kind == "PRIOR_PREDICTION"
            else "",
            missing=missing,
        )


def _lines(path: Path) -> tuple[str, ...]:
    try:
        if path.stat().st_size > _LARGEST_PROMPTS:
            raise OSError("it is too large for a file of captions")
        return tuple(line.strip() for line in read_text(path).text.split("\n") if line.strip())
    except OSError as error:
        raise UserError(
            f"{path.name}, which contains the captions, cannot be read.",
            f"The system says: {error.strerror or error}.",
            "Check that it is a text file and that you have permission to open it.",
        ) from error


def _ai_toolkit(content: dict[str, Any], config: Config) -> Iterator[Subset]:
    for process in config.tables(content["config"], "process"):
        if process.get("trigger_word"):
            config.unused.add("trigger_word")
        for number, entry in enumerate(config.tables(process, "datasets"), 1):
            key = "folder_path" if entry.get("folder_path") else "dataset_path"
            used = f"folder_path dataset_path caption_ext caption_type default_caption is_reg loss_multiplier {_MAPS}"
            config.not_used(entry, used)
            written = config.text(entry, key)
            title = written or f"dataset {number}"
            paths = config.several(entry, _MAPS, title)
            (images, maps), missing = config.folders(written, paths[0] if paths else "")
            further = [path for key in _NO_MAPS for path in texts_of(entry, key, config.path)]
            if entry.get("controls") and not paths:
                config.notes.append(f"{title}: ai-toolkit makes its maps itself. Make them here on the Conditions tab.")
            yield Subset(
                title,
                images,
                maps,
                config.present(*paths[1:], *further),
                deep=True,
                extension=_dotted(config.text(entry, "caption_ext") or config.text(entry, "caption_type")),
                otherwise=config.text(entry, "default_caption"),
                weight=config.weight(entry, "loss_multiplier"),
                why_not="contains regularization images" if entry.get("is_reg") else "",
                missing=missing,
            )


def _diffusion_pipe(content: dict[str, Any], config: Config) -> Iterator[Subset]:
    config.not_used(content, "directory enable_ar_bucket min_ar max_ar num_ar_buckets")
    for number, entry in enumerate(config.tables(content, "directory"), 1):
        config.not_used(entry, "path mask_path control_path")
        written = config.text(entry, "path")
        (images, maps), missing = config.folders(written, config.text(entry, "control_path"))
        yield Subset(
            written or f"directory {number}",
            images,
            maps,
            config.present(config.text(entry, "mask_path")),
            extension=".txt",
            missing=missing,
        )


def _dotted(ending: str) -> str:
    return f".{ending.lstrip('.')}" if ending else ""


def _entries(content: Any, key: str) -> list[Any]:
    value = content.get(key) if isinstance(content, dict) else None
    return [value] if isinstance(value, dict) else value if isinstance(value, list) else []


def _is_kohya(content: Any) -> bool:
    return any(isinstance(entry, dict) and "subsets" in entry for entry in _entries(content, "datasets"))


def _is_musubi(content: Any) -> bool:
    keys = {"image_directory", "image_jsonl_file", "video_directory", "video_jsonl_file"}
    return any(isinstance(entry, dict) and keys & entry.keys() for entry in _entries(content, "datasets"))


def _is_ai_toolkit(content: Any) -> bool:
    processes = _entries(content.get("config"), "process") if isinstance(content, dict) else []
    return any(isinstance(process, dict) and "datasets" in process for process in processes)


def _is_diffusion_pipe(content: Any) -> bool:
    return any(isinstance(entry, dict) and "path" in entry for entry in _entries(content, "directory"))


def _is_onetrainer(content: Any) -> bool:
    marks = {"include_subdirectories", "image_variations", "text_variations", "validation_concept"}
    concepts = content if isinstance(content, list) else _entries(content, "concepts")
    return any(
        isinstance(entry, dict) and "path" in entry and (isinstance(entry.get("text"), dict) or marks & entry.keys())
        for entry in concepts
    )


def _is_kohya_metadata(content: Any) -> bool:
    return kohya_metadata(content) is not None


TOOLS: tuple[tuple[str, Callable[[Any], bool], Callable[[Any, Config], Iterator[Subset]]], ...] = (
    ("kohya's sd-scripts", _is_kohya, _kohya),
    ("musubi-tuner", _is_musubi, _musubi),
    ("ai-toolkit", _is_ai_toolkit, _ai_toolkit),
    ("diffusion-pipe", _is_diffusion_pipe, _diffusion_pipe),
    ("OneTrainer", _is_onetrainer, _onetrainer),
    ("SimpleTuner", is_simpletuner, simpletuner),
    ("kohya's sd-scripts", _is_kohya_metadata, metadata),  # the least specific one last
)
