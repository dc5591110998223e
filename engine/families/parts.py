"""Loads one part of a base model, or one of its configs. Failures become errors that say what to do."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.disk.syntax import fault
from engine.disk.tensor_file import tensor_names, tensor_shapes
from engine.errors import UserError
from engine.families import single_file
from engine.families.weight_files import variant_of
from engine.hub.faults import Repository, explain
from engine.machine.errors import is_of_machine
from engine.machine.net_lock import NET_LOCK

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""diffusers' name for a model's weights. With ``.index.json`` behind it: the list of the files they are split into."""

# transformers warns at import that torchvision is missing; the app does not need it.
logging.getLogger("transformers").setLevel(logging.ERROR)


def read_component_config(base: str, subfolder: str, name: str) -> dict[str, Any]:
    """Read a JSON file of a base model: from its folder, from the layout of its single file, or from the hub.

    Raises:
        UserError: it cannot be read; says what is missing and where to put it.
    """
    path = Path(base) / subfolder / name
    try:
        if Path(base).is_file():
            return single_file.read_config(base, subfolder, name)
        if not Path(base).is_dir():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(base, f"{subfolder}/{name}" if subfolder else name))
        found = json.loads(path.read_text(encoding="utf-8"))
        if subfolder and not isinstance(found, dict):
            raise ValueError(f"its {name} holds no settings")
        return found  # type: ignore[no-any-return]
    except UserError:
        raise
    except Exception as error:
        raise cannot_load(base, subfolder, error) from error


def read_optional_config(base: str, subfolder: str, name: str) -> dict[str, Any]:
    """``read_component_config``, or an empty config if there is none.

    To recognize a base: a part that is missing is reported when it is loaded.
    """
    try:
        return read_component_config(base, subfolder, name)
    except UserError:
        return {}


def cannot_load(base: str, part: str, error: Exception) -> UserError:
    """The error for a base model, or a part of one, that does not load."""
    if Path(base).is_file():
        return UserError(
            f"The model {Path(base).name} cannot be loaded.",
            f"Its {part or 'weights'} cannot be read: {str(error)[:300] or repr(error)}.",
            "Check that the file is complete: download it again, or use the base as a folder in diffusers layout.",
        )
    if Path(base).exists():
        said = str(error).splitlines()[0][:300] if str(error) else repr(error)
        said = f"its JSON is broken, {fault(error)}" if isinstance(error, json.JSONDecodeError) else said
        why = f"{part or 'The model'} cannot be read: {said}."
        return UserError(
            f"The model {base} cannot be loaded.",
            why,
            "Check that the folder is complete (model_index.json, unet, vae, text_encoder, tokenizer, scheduler).",
        )
    if (told := _refused(base, error)) is not None:
        return told
    return UserError(
        f"The model {base} could not be downloaded.",
        f"The download from the Hugging Face hub failed: {type(error).__name__}.",
        "Check the name and the connection. For a download that continues where it stopped, run: python -m "
        f"engine.cli bases get {base}. Or put its folder in the workspace's models folder and choose it.",
    )


def _refused(base: str, error: BaseException | None) -> UserError | None:
    """What to do if the hub wants a token, or that a base's terms are accepted; None: it has refused nothing.

    The libraries' errors are wrapped in others.
    """
    from huggingface_hub.errors import GatedRepoError

    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, GatedRepoError) or status in (401, 403, 429):
            return explain(error, Repository(base), Path("models") / base.replace("/", "--"))
        error = error.__cause__ or error.__context__
    return None


def load_part(kind: Any, base: str, subfolder: str, dtype: torch.dtype | None) -> Any:
    """Call ``kind.from_pretrained``: safetensors first, and never code that comes with a model.

    Args:
        kind: a class of diffusers or transformers.
        subfolder: in the base; empty for the folder itself.
        dtype: of the weights; None for parts without weights.

    Raises:
        UserError: it does not load. Errors of the machine, such as a lack of memory, pass.
    """
    options: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    if dtype is not None:
        options["torch_dtype"] = dtype
    try:
        with NET_LOCK:
            if Path(base).is_file():
                return single_file.load(kind, base, subfolder, dtype)
            if dtype is not None and Path(base).is_dir() and (variant := variant_of(Path(base) / subfolder)):
                options["variant"] = variant
            return kind.from_pretrained(base, **options)
    except UserError:
        raise
    except Exception as error:
        if is_of_machine(error):
            raise
        raise cannot_load(base, subfolder, error) from error


class FileTensors(Mapping[str, torch.Tensor]):
    """Tensors of one part of a base by diffusers name, in fp32, each read from its file when it is asked for.

    Raises:
        UserError: when a tensor is read: the file is damaged, or gone.
    """

    def __init__(self, base: str, subfolder: str, places: Mapping[str, tuple[Path, str]]) -> None:
        self._base, self._subfolder, self._places = base, subfolder, places

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.stored(name).float()

    def stored(self, name: str) -> torch.Tensor:
        """A tensor in the precision of its file."""
        path, in_file = self._places[name]
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(in_file)
        except (OSError, SafetensorError) as error:
            raise cannot_load(self._base, self._subfolder, error) from error

    def first_rows(self) -> Iterator[tuple[str, tuple[int, ...], torch.Tensor]]:
        """Name, shape, and the first entry of the first axis of each tensor, in the precision of its file.

        Raises:
            UserError: a file is damaged, or gone.
        """
        for path in sorted({path for path, _ in self._places.values()}):
            try:
                with safe_open(path, framework="pt") as file:
                    for name, (place, in_file) in self._places.items():
                        if place == path:
                            piece = file.get_slice(in_file)
                            yield name, tuple(piece.get_shape()), piece[:1]
            except (OSError, SafetensorError) as error:
                raise cannot_load(self._base, self._subfolder, error) from error

    def shapes(self) -> dict[str, torch.Size]:
        """The shapes of all tensors, from the files' headers."""
        headers = {path: tensor_shapes(path) for path in {path for path, _ in self._places.values()}}
        return {name: torch.Size(headers[path][in_file]) for name, (path, in_file) in self._places.items()}

    def renamed(self, new_name: Callable[[str], str]) -> FileTensors:
        """The same tensors under other names."""
        places = {new_name(name): place for name, place in self._places.items()}
        return FileTensors(self._base, self._subfolder, places)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def file_tensors(base: str, subfolder: str, prefixes: Sequence[str]) -> FileTensors | None:
    """The tensors of a part whose diffusers names begin with one of ``prefixes``, without loading the part.

    None: the weights are in a kind of file from which single tensors cannot be read.

    Raises:
        UserError: the file is damaged.
    """
    try:
        places = _tensor_places(base, subfolder)
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(base, subfolder, error) from error
    if places is None:
        return None
    return FileTensors(base, subfolder, {n: place for n, place in places.items() if n.startswith(tuple(prefixes))})


def _tensor_places(base: str, subfolder: str) -> dict[str, tuple[Path, str]] | None:
    """Where a part's tensors are, by diffusers name: the safetensors file, and the name in it. None: another kind."""
    if Path(base).is_file():
        return single_file.tensor_places(base, subfolder)
    variant = (variant_of(Path(base) / subfolder) or "") if Path(base).is_dir() else ""
    mark = f".{variant}" if variant else ""
    whole = WEIGHTS.replace(".safetensors", f"{mark}.safetensors")
    if (index := _file_of(base, subfolder, f"{WEIGHTS}.index{mark}.json")) is not None:
        shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: (index.parent / shard, name) for name, shard in shards.items()}
    if (path := _file_of(base, subfolder, whole)) is None:
        return None
    return {name: (path, name) for name in tensor_names(path)}


def _file_of(base: str, subfolder: str, name: str) -> Path | None:
    """A file of a base on this disk, or in the hub library's cache; None if it is not there."""
    if Path(base).is_dir():
        path = Path(base) / subfolder / name
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(base, f"{subfolder}/{name}")
    return Path(found) if isinstance(found, str) else None
