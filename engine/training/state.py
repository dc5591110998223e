"""All that one training run holds between set-up and end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from engine.config import RunConfig
from engine.data.cache import TrainingCache
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.disk.retry import DiskRetry
from engine.disk.watchdog import DiskWatchdog
from engine.distributed.group import ProcessGroup
from engine.distributed.optimizer_in_backward import use_optimizer_in_backward
from engine.distributed.parallel import Parallel
from engine.errors import DataGone, UserError
from engine.families.base import Family
from engine.families.latents import LatentSpace
from engine.families.noise import NoiseProcess
from engine.jobs.control import Token
from engine.jobs.events import Event, Message
from engine.machine.capabilities import Capabilities, capabilities
from engine.machine.device import is_card
from engine.nets.ema import EMA, ema_parameters, ema_weights
from engine.training.batches import Batch, Batches
from engine.training.history import MetricsHistory
from engine.training.loss_scale import LossScale
from engine.training.optim import build_optimizer, set_learning_rate, updated_parameters
from engine.training.step_nets import StepNets
from engine.tuning.trainable import Trainable


@dataclass
class TrainState:
    """The state of one training run.

    Read it anywhere; change it through its methods only. ``setup.py`` builds one from a run's folder, and a test may
    build one by hand: a helper needs no more than the fields that it reads.

    There is one name for each form of a net:

    - ``trainable.master``: fp32 weights, which the optimizer updates
    - ``trainable.weights.compute``: the compute copy, in the run's precision; ``trainable.control_net`` is the same
      where a ControlNet learns
    - ``nets``: what a step calls, wrapped by accelerate and compiled by torch
    """

    # The run.
    run_folder: Path
    config: RunConfig
    token: Token
    history: MetricsHistory
    """Figures of the run so far; events pass through it."""
    group: ProcessGroup
    about: dict[str, Any]
    """What every checkpoint says of the run: condition, fingerprint of the dataset, name."""
    retry: DiskRetry
    """Waits while the disk does not answer."""
    watchdog: DiskWatchdog
    """Tells the user when the disk is slow."""

    # Where it computes, and in what precision.
    accelerator: Accelerator
    device: torch.device
    precision: str
    dtype: torch.dtype
    loss_scale: LossScale

    # The base model. The denoiser is frozen unless the trainable says otherwise.
    base: str
    """Where the base is; ``config.model.base`` is what the user typed."""
    family: Family
    denoiser: Any
    noise_process: NoiseProcess
    latent_space: LatentSpace

    # The trained weights.
    trainable: Trainable
    optimizer: torch.optim.Optimizer
    ema: EMA | None

    # The data.
    dataset: Dataset
    samples: list[Sample]
    """Those used for training, then the held-out ones."""
    held_out: Sequence[Sample]
    plan: CropPlan
    cache: TrainingCache
    images_at_once: int
    """Images that previews draw together."""
    strict: bool = False
    """Steps use only deterministic kernels (``train.deterministic``), until one turns out to be missing."""

    step: int = 0
    """Optimizer steps done so far."""
    parallel: Parallel = field(init=False)
    """How the processes share a step."""
    batches: Batches = field(init=False)
    nets: StepNets = field(default_factory=StepNets, init=False)
    """What a step calls."""
    updating_weights: bool = field(default=False, init=False)
    """The optimizer is in the middle of a step, or failed there: some weights may have been updated."""
    memory_freed_at: int | None = field(default=None, init=False)
    """The last step at which memory ran out and was freed without a change of settings."""
    _updated: set[nn.Parameter] = field(default_factory=set, init=False)
    """Weights that were updated by failed attempts at the current optimizer step."""

    def emit(self, event: Event) -> None:
        """Report an event: to the window, the logs and the history."""
        self.history(event)

    # Facts.

    @property
    def is_main(self) -> bool:
        """This process saves, checks and draws."""
        return self.group.main

    @property
    def on_card(self) -> bool:
        return is_card(self.device)

    @property
    def capabilities(self) -> Capabilities:
        """What the device can do beside computing."""
        return capabilities(self.device.type)

    @property
    def images_per_step(self) -> int:
        """The effective batch size, over all processes."""
        return self.config.images_per_step

    @property
    def micro_batches(self) -> int:
        """Micro-batches of this process in one step."""
        return self.config.train.accumulation // self.group.world_size

    @property
    def trained_samples(self) -> int:
        """How many samples are trained on."""
        return len(self.samples) - len(self.held_out)

    # Set-up.

    def connect(self, parallel: Parallel) -> None:
        """Wrap what a step calls, so that the processes share the step from now on."""
        self.parallel = parallel
        parallel.prepare()
        self.nets.use(*self.trainable.nets_of_step(parallel.net, self.denoiser))

    def train_on(self, batches: Batches) -> None:
        """Set the batches that steps are taken from."""
        self.batches = batches
        batches.split(self.config.train.batch_size, self.config.train.accumulation)

    # One step.

    def next_batch(self, micro: int) -> Batch:
        """Micro-batch ``micro`` of this step, on the CPU. Waits while the disk does not answer.

        Raises:
            DataGone: a file of the dataset is gone, or the user did not want to wait.
        """
        number = self.step * self.micro_batches + micro

        def read() -> Batch:
            with self.watchdog.watch("Reading the next images"):
                return self.batches.get(number)

        def give_up(problem: UserError) -> Batch:
            raise DataGone("The next images could not be read.", problem.why, problem.try_this)

        return self.retry.until_done(f"Step {self.step + 1:,}", read, give_up)

    @contextmanager
    def weights_update(self) -> Iterator[set[nn.Parameter]]:
        """Wraps the optimizer's step. If an earlier try failed in the middle, no weight is updated twice.

        It holds the weights that were updated then; those that have gradients already lose them here.

        That holds as well if a fallback has replaced the optimizer since. The new one has then seen only a part of the
        weights in its first step; its state is dropped, so that its step counts are the same for all weights.
        """
        if self.updating_weights:
            self._updated |= updated_parameters(self.optimizer)
            self.trainable.weights.leave_out(self._updated)
        self.updating_weights = True
        yield self._updated
        self.updating_weights = False
        if self._updated:
            self._updated.clear()
            if updated_parameters(self.optimizer):
                self.optimizer.state.clear()

    def update_ema(self) -> None:
        """Update the average of the weights."""
        assert self.ema is not None
        self.ema.step(ema_parameters(self.trainable.averaged), self.trainable.weights.read)

    def drop_gradients(self) -> None:
        """Drop all gradients of the current step, of the master weights and of the compute copy."""
        for parameter in self.parallel.parameters():
            parameter.grad = None
        self.trainable.weights.drop_gradients()

    def start_at(self, step: int) -> None:
        """Set the number of optimizer steps that were taken."""
        self.step = step

    def step_done(self) -> None:
        """Count one more optimizer step."""
        self.step += 1

    def set_learning_rate(self, rate: float) -> None:
        set_learning_rate(self.parallel.optimizer, rate)

    # Changes while it runs.

    def use_settings(self, config: RunConfig) -> None:
        """Continue with other settings; the images of a step, and their order, stay the same."""
        self.config = config
        self.batches.split(config.train.batch_size, config.train.accumulation)

    def new_optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """An optimizer with the run's settings for these weights. It is not in use yet."""
        return build_optimizer(net, self.config.optim)

    def replace_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Continue with another optimizer, at the present learning rate."""
        if self.updating_weights:
            self._updated |= updated_parameters(self.optimizer)
        set_learning_rate(optimizer, self.optimizer.param_groups[0]["lr"])
        self.optimizer = optimizer
        self.trainable.weights.use_compiled_adamw(None)  # it was made for the other one
        self.parallel.wrap_optimizer()

    def use_optimizer_in_backward(self) -> None:
        """Update the weights in the backward pass from the next step on."""
        self.trainable.weights.use_compiled_adamw(None)
        self.parallel = use_optimizer_in_backward(self.parallel)

    def keep_optimizer_in_ram(self) -> None:
        """Move the master weights to RAM; an optimizer that is made from now on stays there, too."""
        self.trainable.move_to_ram()
        self.accelerator.device_placement = False  # else accelerate would move the optimizer's state to the card

    def use_noise_process(self, process: NoiseProcess) -> None:
        """Set the noise process that the base was found to fit. Called before the first step."""
        self.noise_process = process

    def memory_was_freed(self) -> None:
        """Note that memory ran out at this step, and was freed without a change of settings."""
        self.memory_freed_at = self.step

    def draw_one_image_at_a_time(self) -> None:
        """Draw previews with the least memory from now on."""
        self.images_at_once = 1

    def go_on_without_strictness(self, error: str) -> None:
        """Let steps use kernels that are not deterministic from now on, where there is no other.

        Args:
            error: torch's words.
        """
        self.strict = False
        why = error.splitlines()[0].split(", but you")[0][:200]
        self.emit(Message(f"The run is deterministic except for rounding: {why}. It continues this way.", "warning"))

    # What others see of it.

    @contextmanager
    def exported_weights(self) -> Iterator[Any]:
        """Within the block: the control net that computes, with the weights that an export would have (EMA, if any)."""
        trainable = self.trainable
        if self.ema is None:
            with self.parallel.full_net() as net:
                yield net
        elif trainable.weights.separate:  # the master weights stay as they are
            averaged = ema_parameters(trainable.averaged)
            with trainable.weights.computing_weights(averaged, self.ema.shadow_params) as net:
                yield net
        else:
            with ema_weights(self.ema, trainable.averaged, self.device):
                yield trainable.control_net

    def close(self) -> None:
        """Free the memory of nets, optimizer and data."""
        self.batches.close()
        self.accelerator.free_memory()
        self.__dict__.clear()
