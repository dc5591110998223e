"""Build the state of a run: data from the cache, base, trainable, optimizer; resumed from the newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.disk.retry import DiskRetry
from engine.disk.watchdog import DiskWatchdog
from engine.distributed import group as processes
from engine.distributed.accelerator import accelerator_for
from engine.distributed.agreement import agree_on_precision, split_among, start_equal
from engine.estimate.memory import images_drawn_together
from engine.families.base import Family
from engine.families.registry import detect
from engine.jobs.control import Token
from engine.jobs.events import Message, PhaseChanged, Progress
from engine.jobs.runner import Emit
from engine.machine.device import is_card, torch_device
from engine.machine.hardware import why_unused
from engine.machine.memory import cap_allocator
from engine.machine.precision import DTYPES, usable_precision
from engine.nets.ema import build_ema
from engine.nets.frozen_blocks import use_frozen_blocks
from engine.nets.frozen_layers import quantize_base, use_frozen_convolutions
from engine.nets.low_precision_matmul import matmul_mode, use_matmul_mode
from engine.nets.starting_controlnet import trained_config
from engine.runs.checkpoints import Checkpoint
from engine.training import oom, speed
from engine.training.base_check import set_noise_process
from engine.training.batches import Batches
from engine.training.checkpoint import load_training_state
from engine.training.class_images import preservation_of
from engine.training.distillation import distillation_of
from engine.training.history import MetricsHistory
from engine.training.input_dropout import InputDropout
from engine.training.jax_backend import JaxPrediction, check_jax
from engine.training.loss_scale import LossScale
from engine.training.optim import build_optimizer
from engine.training.resume import open_run
from engine.training.run_data import prepare_data
from engine.training.state import TrainState
from engine.tuning.build import Inputs, base_dtype, build_trainable, initial_net
from engine.tuning.facts import WHY_WHOLE, facts_of, master_weights_of
from engine.tuning.trainable import Placement, Trainable


def set_up(
    run_folder: Path,
    config: RunConfig,
    base: str,
    dataset: Dataset,
    cache_folder: Path,
    token: Token,
    emit: Emit,
    about: dict[str, Any],
    configured_batch_size: int | None = None,
    held_out: Sequence[str] | None = None,
) -> TrainState:
    """The state of a run before its next step.

    Args:
        base: where the base is.
        about: what every checkpoint says of the run.
        configured_batch_size: before memory reduced it; it decides the order of the images. None: the config's.
        held_out: keys of the held-out pairs; None: chosen by number.

    Raises:
        UserError: the run cannot start with these settings, files, or this memory. Cancelled: by the user.
    """
    # This process's share of a step, and the base's family and noise process.
    group = processes.current()
    batch_size = configured_batch_size or config.train.batch_size
    config, split_words = split_among(config, group.world_size)
    history = MetricsHistory(run_folder, emit)
    family = detect(base)
    family = family.for_net(trained_config(run_folder, config.model.controlnet, family.facts.control_files))
    noise_process = family.noise_process(base).with_settings(config.model.prediction, config.model.zero_terminal_snr)
    objective = config.objective
    noise_process.check_objective(objective.timestep_sampling, objective.min_snr_gamma, objective.offset_noise)

    # The device and the precision.
    AcceleratorState._reset_state()  # an earlier run of this process may have used another precision
    device = torch_device()
    card = torch.device(group.card) if group.card and is_card(device) else device
    precision, remark = agree_on_precision(group, *usable_precision(config.train.precision, card))
    if unused := why_unused(device.type):
        emit(Message(unused, "warning"))
    if remark:
        emit(Message(remark, "warning"))
    if split_words:
        emit(Message(split_words))
    dtype = DTYPES[precision]
    accelerator, strategy = accelerator_for(config, dtype, device.type == "cpu", emit)
    device = accelerator.device
    if config.train.backend == "jax":
        check_jax(device, group.world_size)
    cap_allocator(device)

    # The data: training pairs, then held-out pairs; latents, text and maps in the cache.
    history(PhaseChanged("preparing"))
    retry, watchdog = DiskRetry(run_folder, token, history), DiskWatchdog(history)
    checkpoint = group.main_first(lambda: open_run(run_folder, history))
    data = prepare_data(config, dataset, held_out, cache_folder, family, base, device, group, retry, token, history)
    token.raise_if_cancelled()

    # The base and the trainable.
    history(Message("Loading the base model."))
    if message := facts_of(config).message:
        history(Message(message))

    if (kept := master_weights_of(config, precision, group.world_size)) != config.optim.master_weights:
        history(Message(f"The master weights are kept {kept}: {WHY_WHOLE}.", "warning"))
    if why := matmul_mode(config.train, dtype, device)[1]:
        history(Message(f"The products of the base are computed as usual: others are not possible, {why}.", "warning"))

    def decomposed(done: int, total: int) -> None:
        token.raise_if_cancelled()
        history(Progress(done, total, "Singular values of the base's weights"))

    def build(config: RunConfig) -> TrainState:
        accelerator.device_placement = not config.optim.offload
        kept = master_weights_of(config, precision, group.world_size)
        place = Placement(device, dtype, in_ram=config.optim.offload, sharded=strategy.sharded, master_weights=kept)
        denoiser, trainable = build_nets(run_folder, config, family, base, place, decomposed)
        state = TrainState(
            run_folder=run_folder,
            config=config,
            token=token,
            history=history,
            group=group,
            about=about,
            retry=retry,
            watchdog=watchdog,
            accelerator=accelerator,
            device=device,
            precision=precision,
            dtype=dtype,
            loss_scale=LossScale(precision),
            base=base,
            family=family,
            denoiser=denoiser,
            noise_process=noise_process,
            latent_space=family.latent_space(base),
            trainable=trainable,
            optimizer=build_optimizer(trainable.master, config.optim),
            ema=build_ema(trainable.averaged, config.optim) if group.main else None,
            dataset=dataset,
            samples=data.samples,
            held_out=data.held_out,
            plan=data.plan,
            cache=data.cache,
            images_at_once=images_drawn_together(config.data.resolution),
            strict=config.train.deterministic,
        )
        speed.set_attention_and_layout(state)
        if checkpoint is not None:
            resume_from(state, checkpoint)
        return state

    state = oom.build_that_fits(
        build,
        config,
        run_folder=run_folder,
        base=base,
        step=checkpoint.step if checkpoint is not None else 0,
        device=device,
        group=group,
        sharded=strategy.sharded,
        emit=history,
    )
    trainable = state.trainable
    start_equal(group, state.step, run_folder, trainable.parameters())
    trainable.weights.refresh()
    set_noise_process(state, new=checkpoint is None)

    preservation = preservation_of(state, data.preserved)

    # What a step calls, and the batches that it reads.
    state.connect(strategy(state, partial(oom.record_for_resume, state)))
    speed.compile_nets(state)
    if config.train.backend == "jax":
        state.nets.predict_with(JaxPrediction(family, state.denoiser, trainable.control_net, history))
    speed.compile_update(state)
    batches = Batches(
        dataset,
        data.samples,
        data.trained,
        data.cache,
        plan=data.plan,
        seed=config.train.seed,
        batch_size=batch_size,
        num_train_timesteps=state.noise_process.num_train_timesteps,
        perturbed=objective.input_perturbation > 0,
        weighted=objective.image_weights,
        classes=data.classes,
        prompt_dropout=objective.prompt_dropout,
        inputs=InputDropout(
            config.train.seed,
            objective.control_dropout,
            objective.t5_dropout,
            family.without_optional_text,
            objective.hidden_captions,
            family.hidden_from_net,
        ),
        maps=data.maps,
        with_maps=facts_of(config).needs_condition_maps,
        preservation=preservation,
        distillation=distillation_of(state),
        rank=group.rank,
        world=group.world_size,
        read_ahead=device.type != "cpu",
    )
    state.train_on(batches)
    return state


def build_nets(
    run_folder: Path,
    config: RunConfig,
    family: Family,
    base: str,
    place: Placement,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Any, Trainable]:
    """The base's denoiser and the trainable, each where it stays: all nets of a run that memory has to hold.

    Args:
        progress: see ``Inputs``.
    """
    denoiser: Any = family.load_denoiser(base, base_dtype(config, place.dtype))
    layers, train = family.layers, config.train
    quantized = train.base_storage != "same"
    few = {"kind": train.base_storage, "modulation": train.modulation_storage, "layers": layers}
    if not quantized:
        denoiser.to(place.device)
    inputs = Inputs(run_folder, config, family, base, denoiser, place, progress)
    net = initial_net(inputs)
    if quantized:  # after the net was made from the unquantized weights
        quantize_base(denoiser, **few, device=place.device)
        denoiser.to(place.device)
    trainable = build_trainable(inputs, net)
    use_frozen_convolutions(denoiser)
    use_frozen_blocks(denoiser)
    if quantized:  # LoRA layers that share the base's weights get their scales
        quantize_base(denoiser, trainable.master, *trainable.nets, **few)
    use_matmul_mode(denoiser, matmul_mode(train, place.dtype, place.device)[0])
    trainable.use_gradient_checkpointing(denoiser, train.gradient_checkpointing, layers)
    return denoiser, trainable


def resume_from(state: TrainState, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a new state.

    Raises:
        UserError: it is damaged, or of other settings.
    """
    optimizer: torch.optim.Optimizer | None = state.optimizer
    if checkpoint.about.get("optimizer", "adamw") != state.config.optim.optimizer:
        optimizer = None
        state.emit(Message("The optimizer has changed; its state is reset.", "warning"))
    scaling = load_training_state(checkpoint, state.trainable, state.ema, optimizer)
    state.loss_scale.load_state_dict(scaling)
    state.trainable.weights.refresh()
    state.start_at(checkpoint.step)
    state.emit(Message(f"Continuing from step {state.step:,}."))
