"""Where datasets, runs, caches and models are stored. No other module knows these paths."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from engine.disk.space import free_bytes
from engine.disk.typed_path import typed_path
from engine.errors import UserError, choose_from
from engine.hub.address import named_by
from engine.workspace.base_reference import Ingredient, split
from engine.workspace.merged_bases import Recipe, recipe

APP_FOLDER = Path(__file__).resolve().parents[2]
DEMO_BASE = APP_FOLDER / "engine" / "demo" / "base"
DEMO_TRANSFORMER = APP_FOLDER / "engine" / "demo" / "transformer"
RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))}


def bundled_bases() -> dict[str, Path]:
    """Folders of the tiny bases that come with the app, by their names in the settings."""
    return {"demo": DEMO_BASE, "demo-transformer": DEMO_TRANSFORMER}


class Workspace:
    """The folder with everything that the user makes with the app.

    Raises:
        UserError: the folder cannot be created or written.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root or os.environ.get("CONTROLNET_STUDIO_WORKSPACE") or APP_FOLDER / "workspace").resolve()
        try:
            for folder in (self.datasets, self.cache, self.runs, self.models, self.thumbnails, self.outputs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The workspace {self.root} cannot be used.",
                f"{error.strerror or error}.",
                "Choose another folder with --workspace.",
            ) from error

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def presets(self) -> Path:
        """The user's own presets. The folder is made with the first of them."""
        return self.root / "presets"

    @property
    def thumbnails(self) -> Path:
        return self.root / "thumbnails"

    @property
    def outputs(self) -> Path:
        """Images drawn on the Try it tab."""
        return self.root / "outputs"

    @property
    def serving(self) -> Path:
        """Requests to the HTTP API and their images, a folder for each port. It may not exist."""
        return self.root / "serving"

    @property
    def temporary(self) -> Path:
        """Uploads, and copies of images that the page shows."""
        return self.root / "temporary"

    def dataset_folder(self, name: str) -> Path:
        """Folder of the dataset with this name, which may not exist. The name is made safe for file systems."""
        return self.datasets / safe_name(name)

    def partial_dataset(self, name: str) -> Path:
        """Folder of the files that are downloaded for a dataset, until the dataset is made. It may not exist."""
        return self.datasets / f".{safe_name(name)}.partial"

    def dataset_names(self) -> list[str]:
        """Names of the datasets, sorted."""
        return sorted(p.parent.name for p in self.datasets.glob("*/dataset.json"))

    def new_run(self, name: str) -> Path:
        """Create a new folder runs/DATE_NAME, with a number if that exists."""
        stem = f"{time.strftime('%Y-%m-%d')}_{safe_name(name or 'run')}"
        for number in range(1, 10_000):
            folder = self.runs / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
        raise AssertionError("ten thousand runs with the same name in one day")

    def run_folders(self) -> list[Path]:
        """Folders of all runs, newest first."""
        return sorted((p.parent for p in self.runs.glob("*/run.json")), key=lambda p: p.stat().st_mtime, reverse=True)

    def run_folder(self, name: str) -> Path:
        """The folder of a run by its name.

        Raises:
            UserError: there is none.
        """
        for folder in self.run_folders():
            if folder.name == name:
                return folder
        names = [folder.name for folder in self.run_folders()]
        raise UserError(
            f"There is no run called {name}.",
            f"The folder {self.runs} {'does not contain it' if names else 'is empty'}.",
            choose_from(names, name) or "Train one first.",
        )

    def existing_dataset(self, name: str) -> Path:
        """The folder of a dataset that has been made.

        Raises:
            UserError: there is none of this name.
        """
        folder, names = self.dataset_folder(name), self.dataset_names()
        if not folder.exists():
            raise UserError(
                f"There is no dataset called {name}.",
                f"The folder {self.datasets} {'does not contain it' if names else 'is empty'}.",
                choose_from(names, name) or "Read a folder of images first, on the Dataset tab.",
            )
        return folder

    def downloaded_base(self, hub_id: str) -> Path:
        """Folder of a base that was downloaded from the hub, whose id is owner/name. It may not exist."""
        return self.models / hub_id.replace("/", "--")

    def partial_base(self, hub_id: str) -> Path:
        """Folder of a base's download that is not complete. It may not exist."""
        return self.models / f".{hub_id.replace('/', '--')}.partial"

    def locate_base(self, base: str) -> str:
        """The path of a base model: a bundled one, a file or folder of the user's; or its Hugging Face id, unchanged.

        For a base with ingredients (``base_reference.py``): where the merged base is, once it has been made.

        Raises:
            UserError: there is no such base model, or no such ingredient.
        """
        if (merged := self.merged_base(base)) is not None:
            return str(merged.folder)
        base = _typed_base(_split(base)[0])
        if bundled := bundled_bases().get(base):
            if not (bundled / "model_index.json").exists():
                raise UserError(
                    "The demo base is missing.",
                    f"{bundled} is not complete.",
                    "Reinstall the app.",
                )
            return str(bundled)
        for candidate in (Path(base).expanduser(), self.models / base):
            if base and candidate.exists():
                return str(in_hub_cache(candidate).resolve())
        if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not base.startswith("."):
            downloaded = self.downloaded_base(base)
            return str(downloaded.resolve()) if (downloaded / "model_index.json").is_file() else base
        raise UserError(
            f"The base model {base or '(none given)'} was not found.",
            f"It is not a folder, a name in {self.models}, or a Hugging Face id such as owner/name.",
            "Put the model's folder there, enter its full path, or download one: Get a base model, on the Train tab.",
        )

    def merged_base(self, reference: str) -> Recipe | None:
        """What a base with ingredients is made of, and where it is; None for a base without.

        Raises:
            UserError: the base or an ingredient is not there, or a weight is not a number.
        """
        base, ingredients = _split(reference)
        if not ingredients:
            return None
        return recipe(self.cache / "bases", self.models, self.locate_base(base), ingredients)

    def free_bytes(self) -> int:
        """Free space on the workspace's disk, in bytes."""
        return free_bytes(self.root)


def _split(reference: str) -> tuple[str, tuple[Ingredient, ...]]:
    """``base_reference.split``.

    Raises:
        UserError: a weight is not a number.
    """
    try:
        return split(reference)
    except ValueError as error:
        raise UserError(
            f"The base model {reference} cannot be used.", f"In its list of ingredients, {error}.", "Correct it."
        ) from error


def _typed_base(base: str) -> str:
    """The path or Hugging Face id that was entered, perhaps as an address on the hub.

    Raises:
        UserError: it is an address of something else.
    """
    typed = typed_path(base)
    address = named_by(typed)
    if address is not None and address.kind == "model" and not address.file:
        return address.id
    if address is None and not re.match(r"https?://", typed, re.IGNORECASE):
        return typed
    what, do = "a web page or file", "Download the base's file, and enter its path here."
    if address is not None and address.file:
        what = f"a single file of {address.id} on the hub"
        do = f"Download it and enter its path, or choose the whole base by its id: {address.id}."
    elif address is not None:
        what, do = f"a {address.kind} on the hub, not a base model", "Choose a base model."
    raise UserError(f"The base model {typed} was not found.", f"It is the address of {what}.", do)


def in_hub_cache(folder: Path) -> Path:
    """The snapshot inside a folder of the Hugging Face cache (models--owner--name); any other folder unchanged.

    The snapshot that ``main`` names counts, else the newest one.
    """
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return folder
    main = folder / "refs" / "main"
    if main.is_file():
        named = snapshots / main.read_text(encoding="utf-8").strip()
        if named.is_dir():
            return named
    try:
        found = sorted((path for path in snapshots.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    except OSError:
        return folder  # removed at this moment
    return found[-1] if found else folder


def safe_name(name: str) -> str:
    """A file name that every system accepts, from what the user typed. Never empty, at most 60 characters."""
    cleaned = re.sub(r"[^\w.-]+", "-", name.strip(), flags=re.UNICODE).strip(". -")[:60].strip(". -")
    if not cleaned or cleaned.split(".")[0].lower() in RESERVED:
        cleaned = f"my-{cleaned}" if cleaned else "unnamed"
    return cleaned
