"""One training run: setup, and the loop on one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from engine.config import RunConfig
from engine.data import map_cache
from engine.data.cache import open_or_build
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.held_out import split as split_of
from engine.distributed import group
from engine.distributed.accelerator import accelerator_for
from engine.distributed.ddp import align, dealt
from engine.errors import UserError
from engine.estimate.memory import images_drawn_together, images_encoded_together
from engine.families.registry import detect
from engine.jobs.control import Token
from engine.jobs.events import Message, PhaseChanged, Progress, RunOpened, StepDone
from engine.jobs.runner import Emit
from engine.jobs.snapshot import Outcome
from engine.machine.clock import awake
from engine.machine.memory import trim_heap
from engine.machine.precision import DTYPES, usable_precision
from engine.nets.ema import build_average
from engine.nets.fp8 import keep_less, shrink
from engine.nets.initial import starting_controlnet
from engine.nets.master_weights import WorkingNets
from engine.nets.trainable import checkpoint_gradients, decoder_of, keep_only_middle, learning_decoder, what_learns
from engine.runs.checkpoints import Checkpoint
from engine.training import oom, speed
from engine.training.batches import Batches
from engine.training.checkpoint import load_training_state
from engine.training.hooks import Promises
from engine.training.loss_checks import Checks, Heard
from engine.training.optim import build_optimizer, learning_rate, set_learning_rate
from engine.training.precision import LossScale
from engine.training.resume import open_run
from engine.training.step import Trouble, give_up_after, take_step

READ_EVERY_ON_GPU = 10  # reading the loss makes the GPU wait, so it is done for several steps at once

Preview = Callable[["Trainer", int], None]


class Trainer:
    """Holds what a run needs between setup and end. ``train`` is the only thing to call."""

    def __init__(
        self,
        run_folder: Path,
        config: RunConfig,
        base: str,
        dataset: Dataset,
        cache_folder: Path,
        token: Token,
        emit: Emit,
        preview: Preview | None = None,
        about: dict[str, Any] | None = None,
        whole_batch: int | None = None,
        held_out: Sequence[str] | None = None,
    ) -> None:
        self.processes = group.current()
        self.run_folder, self.base, self.dataset = run_folder, base, dataset
        self.config, shares = dealt(config, self.processes.count)
        self.token, self.preview = token, preview
        self.emit = self.heard = Heard(run_folder, emit)
        self.about = about or {}
        self.whole_batch = whole_batch or config.train.batch_size  # before a lack of memory split it
        self.family = detect(base)
        AcceleratorState._reset_state()  # an earlier run of this process may have used another precision
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision, remark = usable_precision(config.train.precision, device)
        if remark:
            emit(Message(remark, "warning"))
        if shares:
            emit(Message(shares))
        dtype, on_processor = DTYPES[precision], device.type == "cpu"
        self.accelerator, self._way_to_share = accelerator_for(self.config, dtype, on_processor, emit)
        self.device, self.dtype, self.precision = self.accelerator.device, dtype, precision
        self.loss_scale = LossScale(precision)
        oom.cap_allocator(self.device)
        self.images_per_step = config.images_per_step
        self._prepare(cache_folder, held_out)

    def _prepare(self, cache_folder: Path, held_out: Sequence[str] | None) -> None:
        train = self.config.train
        self.emit(PhaseChanged("preparing"))
        self.promises = Promises(self)
        checkpoint = self.processes.main_first(lambda: open_run(self.run_folder, self.emit))
        split = split_of(self.dataset, self.config.data.held_out, held_out)
        self.held_out = split.held_out
        samples = self.samples = [*split.train, *split.held_out]
        if not split.train:
            raise UserError(
                "Training cannot start.",
                f"{self.dataset.name} has {len(samples)} pairs; at least 2 are needed (one is held out for the score).",
                "Add images, or make their condition maps on the Conditions tab.",
            )
        self.plan = CropPlan.of(self.config.data, train.seed)
        self.cache = self.promises.build_cache(
            lambda: open_or_build(
                cache_folder, self.family, self.base, samples, self.plan, self.device, self.token,
                lambda done, total, label: self.emit(Progress(done, total, label)),
                batch=images_encoded_together(self.config.data.resolution), among=self.processes,
                tell=lambda words: self.emit(Message(words, "warning")),
            )
        )  # fmt: skip
        self.maps = self.processes.main_first(lambda: map_cache.open_or_build(
            self.cache, self.dataset, samples, self.plan, self.token,
            lambda done, total, label: self.emit(Progress(done, total, label)),
        ))  # fmt: skip
        if self.maps is None:
            self.emit(Message("The disk has no room for prepared condition maps; their files are read.", "warning"))
        self.token.raise_if_cancelled()
        self.emit(Message("Loading the base model."))
        self._build_nets()
        self.step = 0
        self.images_at_once = images_drawn_together(self.config.data.resolution)
        self._broke_off = False  # whether the optimizer ran out of memory in mid-step
        if checkpoint is not None:
            self._resume(checkpoint)
        align(self)
        self.sharing = self._way_to_share(self)
        self.model, self.prepared_optimizer = self.sharing.prepare()
        self.stepping_unet = self.unet
        speed.compile_nets(self)
        self.batches = Batches(
            self.dataset, samples, range(len(split.train)), self.cache,
            plan=self.plan, seed=train.seed, batch_size=self.whole_batch,
            timesteps=self.noise_process.timesteps, prompt_dropout=self.config.objective.prompt_dropout,
            maps=self.maps,
            rank=self.processes.rank, world=self.processes.count,
        )  # fmt: skip
        self.batches.split(train.batch_size, train.accumulation)
        self.checks = Checks(self)

    def _build_nets(self) -> None:
        """Base, ControlNet, optimizer and average, each where it stays; all of a run that memory has to hold."""
        locked = self.config.objective.sd_locked
        if not locked:
            self.emit(Message("The base learns, too: Try it uses what it learnt; exports hold only the ControlNet."))
        self.unet: Any = self.family.load_denoiser(self.base, self.dtype if locked else torch.float32)
        small = self.config.train.base_storage == "fp8"
        if not small:
            self.unet.to(self.device)
        controlnet = starting_controlnet(self.run_folder, self.config, self.family, self.base, self.unet, self.device)
        if small:  # the net above is of the wide weights
            shrink(self.unet, device=self.device)
            self.unet.to(self.device)
        divided = self._way_to_share.divided
        at_home = self.config.optim.offload or divided
        self.controlnet: Any = (controlnet if at_home else controlnet.to(self.device)).train()
        if self.config.objective.only_mid_control:
            keep_only_middle(self.controlnet)
        self.decoder = None if locked else learning_decoder(self.unet, self.dtype, self.config.optim.offload)
        if not locked:
            torch.nn.Module.to(self.unet, self.dtype)  # diffusers' own warns of nets that keep some parts in fp32
        computes_on = self.device if self.config.optim.offload else None
        self.nets = WorkingNets(self.controlnet, torch.float32 if divided else self.dtype, computes_on)
        if self.decoder is not None:
            self.nets.couple(decoder_of(self.unet), self.decoder)
        keep_less(self.unet)
        if small:
            shrink(self.unet, self.controlnet, self.nets.controlnet)  # their shares of it
        checkpoint_gradients(self.nets.controlnet, self.unet, self.config.train.gradient_checkpointing)
        speed.lay_out(self)
        self.noise_process = self.family.noise_process(self.base)
        self.latent_space = self.family.latent_space(self.base)
        self.learning = what_learns(self.controlnet, self.decoder)
        self.optimizer = build_optimizer(self.learning, self.config.optim)
        self.ema = build_average(self.controlnet, self.config.optim) if self.processes.main else None

    def _resume(self, checkpoint: Checkpoint) -> None:
        optimizer: Any = self.optimizer
        if checkpoint.about.get("optimizer", "adamw") != self.config.optim.optimizer:
            optimizer = None
            self.emit(Message("The optimizer is another one than before; its memory starts afresh.", "warning"))
        scaling = load_training_state(checkpoint, self.controlnet, self.ema, optimizer, self.decoder)
        self.loss_scale.load_state_dict(scaling)
        self.nets.refresh()
        self.step = checkpoint.step
        self.emit(Message(f"Going on from step {self.step:,}."))

    def train(self) -> Outcome:
        """Train to the last step, or until the owner asks for a pause or stop. Returns how it ended."""
        config, total = self.config, self.config.train.steps
        self.emit(RunOpened(self.run_folder, config.name, self.step, total, self.images_per_step))
        self.emit(PhaseChanged("running"))
        unread: list[tuple[int, float, float, torch.Tensor]] = []
        skipped = 0
        self.sharing.attend(self.promises.begin)
        while self.step < total and self.processes.may_go_on(self.token, self.checks.enough):
            began = awake()
            rate = learning_rate(config.optim, self.step, total)
            set_learning_rate(self.optimizer, rate)
            loss = take_step(self)
            if loss is Trouble.MEMORY:  # the same step again, with settings that need less
                oom.recover(self, "step")
                continue
            if loss is Trouble.OVERFLOW:  # the same step again, in fp16 with a smaller loss scale; nothing has moved
                skipped += 1
                give_up_after(self, skipped)
                continue
            skipped = 0
            self.step += 1
            unread.append((self.step, rate, awake() - began, loss))
            if self.device.type == "cpu" or len(unread) >= READ_EVERY_ON_GPU or self.step == total:
                self._report(unread)
            self.sharing.attend(self.promises.keep)
        self._report(unread)
        self.save()
        if self.step == total:
            return "completed"
        return "stopped" if self.token.stop is None else self.token.stop_outcome

    def _report(self, unread: list[tuple[int, float, float, torch.Tensor]]) -> None:
        for step, rate, seconds, loss in unread:
            self.emit(StepDone(step, step * self.images_per_step, float(loss), rate, seconds))
        unread.clear()

    def save(self) -> Checkpoint | None:
        """Write a checkpoint of this step, now; see ``Saving.now``."""
        return self.sharing.attend(self.promises.saving.now)

    def close(self) -> None:
        """Give the memory back."""
        if hasattr(self, "batches"):
            self.batches.close()
        self.promises.close()
        nets = ["unet", "stepping_unet", "controlnet", "nets", "learning", "decoder", "sharing", "model"]
        for name in [*nets, "optimizer", "prepared_optimizer", "ema", "cache", "maps", "checks"]:
            self.__dict__.pop(name, None)
        self.accelerator.free_memory()
        trim_heap()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
