"""The models that Try it keeps in memory from one drawing to the next: a base, a ControlNet, and a second one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engine.bases.merging import ready_base
from engine.errors import UserError
from engine.families.registry import Family, detect
from engine.families.zero_controlnet import zero_controlnet_for
from engine.inference.memory_saving import MemorySaving
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.device import is_card, torch_device
from engine.machine.memory import cap_allocator, free_memory
from engine.machine.onnx_packages import DESCRIPTION, TORCH
from engine.nets.controlnet_files import check_finite, check_fits, locate_controlnet, read_config
from engine.nets.frozen_layers import quantize_as_trained
from engine.nets.onnx_net import (
    is_onnx,
    onnx_folder,
    open_nets,
    read_description,
    require_base,
    require_ingredients,
)
from engine.runs.adapters import is_adapter
from engine.runs.checkpoints import read_checkpoint, require_intact
from engine.runs.choice import choose_checkpoint
from engine.runs.known_bases import known_schedule
from engine.runs.run import Run
from engine.tuning.unlocked import load_trained_base
from engine.workspace.base_reference import JOIN
from engine.workspace.paths import Workspace

NetVersion = tuple[Path, int]
"""A net's folder or file and its time of change: a run may write the same step again."""


class LoadedModels:
    """Loads a base and a ControlNet, and a second one where a request asks for it, and keeps them.

    Args:
        device: default: the graphics card if there is one.
        dtype: default: fp16 on a card, fp32 without. Images are always decoded in fp32.
    """

    def __init__(
        self, workspace: Workspace, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self._workspace = workspace
        self._device = torch.device(device) if device else torch_device()
        self._dtype = dtype or (torch.float16 if is_card(self._device) else torch.float32)
        self._lock = threading.RLock()
        self.pipeline: Any = None
        """diffusers' ControlNet pipeline of the base, without text encoder and VAE; None: nothing is loaded."""
        self._vae: Any = None
        self._tokenizer: Any = None
        self._text_encoder: Any = None
        self._family: Family | None = None
        self._base, self._base_is_changed, self._engine = "", False, TORCH
        self._stored: Any = None
        """How the base is quantized; None: it is not."""
        self._controlnet: NetVersion | None = None
        self._second: tuple[NetVersion, Any] | None = None
        self.notes: tuple[str, ...] = ()
        """Sentences for the user about what is loaded."""
        self.memory_saving = MemorySaving(self._device)
        """Goes up a level by itself when memory runs out, and stays there."""

    @property
    def loaded(self) -> bool:
        return self.pipeline is not None

    def load(
        self,
        base: str,
        controlnet: Path,
        token: CancelToken | None = None,
        progress: OnProgress = lambda done, total, label: None,
        bare: bool = False,
        engine: str = TORCH,
    ) -> None:
        """Load this base and ControlNet, unless they are loaded. Both are checked before any weights are read.

        In place of a ControlNet, ``controlnet`` may be a LoRA or embedding file: it is merged into the base, which is
        then drawn with alone. ``bare`` leaves it out.

        A base with ingredients (``engine/workspace/base_reference.py``) is merged first, unless it has been: ``token``
        can cancel this, and ``progress`` reports it.

        ``engine``: what computes (``engines.py``). ONNX Runtime takes the newest export of a checkpoint in ONNX.

        Raises:
            UserError: one is missing or broken, or they do not fit each other.
        """
        with self._lock:
            if engine != TORCH or is_onnx(Path(controlnet)):
                self._load_onnx(base, Path(controlnet), engine, token, progress)
                return
            if self._engine != TORCH:
                self.free()
            if is_adapter(Path(controlnet)):
                self._load_adapter(base, Path(controlnet), token, progress, bare)
                return
            located = ready_base(self._workspace, base, token, progress)
            folder, wanted = _version(Path(controlnet))
            if self.loaded and (located, wanted) == (self._base, self._controlnet):
                return
            family = detect(located)
            self._check(family, located, base, folder, Path(controlnet))
            if located != self._base or self._base_is_changed:
                self.free()
            cap_allocator(self._device)
            whole = read_checkpoint(folder.parent) if folder.is_dir() else None
            about = whole.about if whole else {}
            if about.get("base_storage") != self._stored:
                self.free()
            net = self._open(family, folder, located, _display_name(Path(controlnet)))
            schedule = whole.noise_schedule if whole else known_schedule(self._workspace, located)
            self._use(family, located, net, schedule, about)
            if folder.is_dir():
                denoiser = family.denoiser_of(self.pipeline)
                self._base_is_changed = load_trained_base(folder.parent, denoiser, family.layers)
            self._controlnet = wanted

    def _load_adapter(self, base: str, file: Path, token: CancelToken | None, progress: OnProgress, bare: bool) -> None:
        """Load a base with a LoRA or word of a checkpoint, or of any file, without a ControlNet."""
        whole = read_checkpoint(file.parents[1])
        if whole is not None:
            require_intact(whole.folder, file.relative_to(whole.folder).as_posix())
        located = ready_base(self._workspace, base if bare else JOIN.join((base, str(file))), token, progress)
        version = (file, file.stat().st_mtime_ns)
        if self.loaded and (located, version) == (self._base, self._controlnet):
            return
        family = detect(located)
        if located != self._base or self._base_is_changed or self._stored:
            self.free()
        cap_allocator(self._device)
        schedule = whole.noise_schedule if whole else known_schedule(self._workspace, located)
        self._use(family, located, None, schedule, {})
        self._controlnet = version

    def _load_onnx(
        self, base: str, controlnet: Path, engine: str, token: CancelToken | None, progress: OnProgress
    ) -> None:
        """Load the graphs of an export in ONNX, and the other parts of its base."""
        if is_adapter(controlnet):
            raise UserError(
                "This cannot be drawn with ONNX Runtime.",
                "Only ControlNets are exported in ONNX.",
                "Choose PyTorch as the engine.",
            )
        folder = onnx_folder(controlnet)
        engine = "onnx" if engine == TORCH else engine
        merged = self._workspace.merged_base(base)
        located = str(merged.folder) if merged else self._workspace.locate_base(base)
        version = (folder, (folder / DESCRIPTION).stat().st_mtime_ns if (folder / DESCRIPTION).is_file() else 0)
        if self.loaded and (located, version, engine) == (self._base, self._controlnet, self._engine):
            return
        about = read_description(folder)
        require_ingredients(folder, about, base, merged.used if merged else ())
        family = detect(ready_base(self._workspace, base, token, progress))
        notes = require_base(folder, about, base, family, located)
        denoiser, net = open_nets(folder, about, family.denoiser_config(located), base, family.facts, engine)
        self.free()
        self._use(family, located, net.to(self._device), about.schedule, {}, denoiser.to(self._device))
        self._controlnet, self._engine, self.notes = version, engine, (notes,) if notes else ()

    def _check(self, family: Family, located: str, base: str, folder: Path, controlnet: Path) -> None:
        if folder.is_dir():  # a file is checked while it is read
            check_fits(
                read_config(folder), family.denoiser_config(located), _display_name(controlnet), base, family.facts
            )
            require_intact(folder.parent, f"{folder.name}/")

    def _open(self, family: Family, path: Path, base: str, name: str) -> Any:
        """Load a ControlNet from a folder or from a file of any export format."""
        if path.is_dir():
            opened: Any = family.load_controlnet(path, self._dtype)
        else:
            from engine.nets.importing import open_controlnet

            opened = open_controlnet(path, family, base, self._dtype)
        net = opened.to(self._device).eval().requires_grad_(False)
        check_finite(net, name)
        return net

    def _use(
        self,
        family: Family,
        located: str,
        net: Any,
        schedule: Mapping[str, Any],
        about: Mapping[str, Any],
        denoiser: Any = None,
    ) -> None:
        """Put the ControlNet into the pipeline; load the base first if there is no pipeline yet.

        Args:
            net: None: nothing controls the base.
            schedule: what the net's run took the base for; empty: what the base's config says.
            about: of its checkpoint. The base is stored as it was while the net was trained beside it.
            denoiser: None: the base's.
        """
        if self.pipeline is None:
            denoiser = self._denoiser(family, located, about) if denoiser is None else denoiser
            self._stored = about.get("base_storage")
            # Text encoder and VAE stay out of the pipeline: they may be in RAM while it samples.
            alone = {"denoiser": denoiser, "vae": None, "text_encoder": None, "tokenizer": None}
            net = net or zero_controlnet_for(denoiser)
            pipeline = family.pipeline(located, net, denoiser.dtype, schedule, **alone)
            encoder: Any = family.load_text_encoder(located, self._dtype)
            self._tokenizer, self._text_encoder = family.load_tokenizer(located), encoder.to(self._device)
            self._vae = family.load_vae(located).to(self._device)
            self.pipeline, self._family, self._base = pipeline, family, located
        else:
            net = net or zero_controlnet_for(family.denoiser_of(self.pipeline))
            scheduler = family.default_scheduler(located, schedule)
            self.pipeline.register_modules(controlnet=net, scheduler=scheduler)

    def _denoiser(self, family: Family, located: str, about: Mapping[str, Any]) -> Any:
        denoiser: Any = family.load_denoiser(located, self._dtype)
        return quantize_as_trained(denoiser, about, family.layers, self._device)

    def _second_net(self, path: Path, notes: list[str]) -> Any:
        """Return the second ControlNet; load it if it is another than before. ``notes``: gets sentences for the
        user."""
        assert self._family is not None, "the first one is loaded before it"
        if (path / "run.json").is_file():  # a run stands for its newest checkpoint
            newest, said = choose_checkpoint(Run(path))
            notes += said
            path = newest.controlnet
        folder, wanted = _version(path)
        if self._second is None or self._second[0] != wanted:
            self._second = None
            self._check(self._family, self._base, self._base, folder, path)
            self._second = (wanted, self._open(self._family, folder, self._base, _display_name(path)))
        return self._second[1]

    def free(self) -> None:
        """Unload everything and free its memory."""
        with self._lock:
            self.pipeline = self._vae = self._family = self._controlnet = self._second = None
            self._tokenizer = self._text_encoder = self._stored = None
            self._base, self._base_is_changed, self._engine, self.notes = "", False, TORCH, ()
            free_memory()


def _version(controlnet: Path) -> tuple[Path, NetVersion]:
    """Return a ControlNet's own folder or file, and its version."""
    folder = controlnet if controlnet.is_file() else locate_controlnet(controlnet)
    dated = folder if folder.is_file() else folder / "config.json"
    return folder, (folder, dated.stat().st_mtime_ns)


def _display_name(controlnet: Path) -> str:
    """Return the checkpoint's name, not that of the folder inside it."""
    return controlnet.parent.name if controlnet.name.startswith("controlnet") else controlnet.name
