"""Out of memory at any place: the run goes on with settings that need less, and ends as it would have."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.distributed.group import SharedOutOfMemory
from engine.errors import UserError
from engine.estimate.fallbacks import Machine, Shortage
from engine.families.registry import detect
from engine.jobs.events import CheckpointSaved, PreviewMade, StepDone
from engine.nets import ema
from engine.nets.lora import to_control_lora
from engine.nets.master_weights import MasterWeightSync
from engine.runs.changes import FALLBACKS
from engine.runs.run import Run
from engine.training import oom
from engine.training.oom import Fallback, ema_fallback
from engine.training.optim import updated_parameters
from engine.tuning.controlnet import ControlLora
from engine.tuning.trainable import Placement, Trainable
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint
from tests.short_runs import RunFactory, checked, train

LOADING_AGAIN = "Memory ran out while the models were being loaded. Some was freed, and loading is tried again."
COPYING_AGAIN = (
    "Memory ran out while making the copy of the weights of step 2. Some was freed, and this is tried again."
)


def failing(real: Callable[..., Any], times: int, after: int = 0) -> Callable[..., Any]:
    """``real``, but calls ``after`` to ``after + times`` say that memory ran out."""
    calls = {"count": 0}

    def sometimes(*arguments: Any, **named: Any) -> Any:
        calls["count"] += 1
        if after < calls["count"] <= after + times:
            raise torch.OutOfMemoryError("CUDA out of memory")  # 20 MiB, say, would be all that a tiny net has
        return real(*arguments, **named)

    return sometimes


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[-1].folder / "controlnet" / "diffusion_pytorch_model.safetensors")


def test_what_learns_moves_to_ram_and_learns_on_as_it_did(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.families.stable_diffusion import StableDiffusion

    settings = {"train.precision": "bf16", "model.control_lora_rank": 4, "optim.ema_decay": 0.9}
    settings |= {"objective.sd_locked": True, "validation.check_every": 0}
    calm, short = new_run(**settings), checked(new_run(**settings))
    train(ready_workspace, calm)
    monkeypatch.setattr(StableDiffusion, "predict", failing(StableDiffusion.predict, 2, 3))
    monkeypatch.setattr(
        oom, "next_fallback", lambda *given: Fallback({"optim.offload": True}, "what learns kept in RAM")
    )
    trained = train(ready_workspace, short)
    assert trained.outcome == "completed" and len(trained.warnings) == 2
    assert_same_checkpoint(calm.checkpoints()[-1].folder, short.checkpoints()[-1].folder)
    assert Run(short.folder).about["memory_ladder"][0]["settings"] == {"optim.offload": True}


def test_of_a_control_lora_what_learns_moves_and_the_bases_own_weights_stay(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = detect(str(tiny_base))
    unet = family.load_denoiser(str(tiny_base), torch.float32)
    net = family.new_controlnet(unet)
    to_control_lora(net, unet, 4, family.layers)
    moved: set[int] = set()
    plain = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: moved.add(tensor.data_ptr()) or plain(tensor))
    ControlLora(net, Placement(torch.device("cpu"), torch.float32)).move_to_ram()
    learning = {p.data_ptr() for p in net.parameters() if p.requires_grad}
    of_base = {p.data_ptr() for p in unet.parameters()}
    assert of_base & {p.data_ptr() for p in net.parameters()}, "some are shared"
    assert learning <= moved and not moved & of_base


@pytest.mark.parametrize(
    "settings",
    [
        {"train.base_storage": "fp8"},
        pytest.param({"optim.offload": True, "optim.optimizer": "adafactor"}, marks=pytest.mark.long),
    ],
)
def test_a_fallback_for_cards_is_taken_in_mid_run_and_a_resume_begins_with_it(
    settings: dict[str, Any], new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.families.stable_diffusion import StableDiffusion
    from engine.nets import frozen_layers, weight_quantization

    run, seen = checked(new_run(**{"train.steps": 4, "validation.check_every": 0})), []
    monkeypatch.setattr(oom, "next_fallback", lambda *given: Fallback(settings, "less on the card"))
    real = failing(StableDiffusion.predict, 2, 2)

    def predict(family: Any, unet: Any, net: Any, *rest: Any) -> Any:
        seen.append(sum(isinstance(module, frozen_layers.QuantizedConv2d) for module in unet.modules()))
        return real(family, unet, net, *rest)

    monkeypatch.setattr(StableDiffusion, "predict", predict)
    monkeypatch.setattr(
        weight_quantization, "quantize", failing(weight_quantization.quantize, 1, 3)
    )  # there is no room for the fallback itself
    monkeypatch.setattr(Trainable, "move_to_ram", failing(Trainable.move_to_ram, 1))
    assert train(ready_workspace, run, at_step={3: "pause"}).outcome == "paused"
    again = train(ready_workspace, Run(run.folder))
    assert again.outcome == "completed" and again.warnings == []
    assert [event.step for event in again.of(StepDone)] == [4]
    shrunk = "train.base_storage" in settings
    assert [count > 0 for count in seen] == [False, False, False, False, shrunk, shrunk]
    assert run.checkpoints()[-1].about["optimizer"] == settings.get("optim.optimizer", "adamw")


PLACES = {
    "forward": ("engine.families.stable_diffusion.StableDiffusion.predict", 2),
    "backward": ("accelerate.Accelerator.backward", 2),
    "optimizer": ("torch.optim.AdamW.step", 2),
}


@pytest.mark.answers("Out of memory")
@pytest.mark.parametrize("place", [pytest.param("forward", marks=pytest.mark.long), "backward", "optimizer"])
def test_a_step_that_does_not_fit_is_done_in_smaller_batches(
    place: str, new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train.steps": 4, "train.batch_size": 4, "validation.check_every": 0}  # the faults count calls
    calm, short = new_run(**settings), checked(new_run(**settings))
    train(ready_workspace, calm)
    target, after = PLACES[place]
    owner, name = target.rsplit(".", 1)
    module, kind = owner.rsplit(".", 1)
    cls = getattr(__import__(module, fromlist=[kind]), kind)
    monkeypatch.setattr(cls, name, failing(getattr(cls, name), 2, after))

    trained = train(ready_workspace, short)
    assert trained.outcome == "completed"
    assert [event.step for event in trained.of(StepDone)] == [1, 2, 3, 4]
    assert [event.images_seen for event in trained.of(StepDone)] == [4, 8, 12, 16]
    freed, smaller = trained.warnings
    assert freed == "Memory ran out at step 3 (step). Some was freed, and the step is tried again."
    assert "Memory ran out at step 3" in smaller and "2 at a time instead of 4" in smaller
    (fallback,) = Run(short.folder).about["memory_ladder"]
    assert fallback["settings"] == {"train.batch_size": 2, "train.accumulation": 2} and fallback["step"] == 2
    ours, wanted = weights(short), weights(calm)
    assert all(torch.allclose(ours[key], wanted[key], rtol=1e-4, atol=2e-5) for key in wanted)


def test_a_step_that_fits_once_memory_is_freed_takes_no_fallback(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.families.stable_diffusion import StableDiffusion

    calm, short = new_run(**{"train.steps": 2}), checked(new_run(**{"train.steps": 2}))
    train(ready_workspace, calm)
    monkeypatch.setattr(StableDiffusion, "predict", failing(StableDiffusion.predict, 1, 1))
    trained = train(ready_workspace, short)
    assert trained.warnings == ["Memory ran out at step 2 (step). Some was freed, and the step is tried again."]
    assert FALLBACKS not in Run(short.folder).about
    assert_same_checkpoint(calm.checkpoints()[-1].folder, short.checkpoints()[-1].folder)


def test_a_run_whose_images_do_not_fit_the_encoder_is_prepared_in_smaller_batches(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.families.stable_diffusion import StableDiffusion

    monkeypatch.setattr(StableDiffusion, "encode_images", failing(StableDiffusion.encode_images, 1, 1))
    trained = train(ready_workspace, new_run(**{"train.steps": 1, "validation.check_every": 0}))
    assert trained.outcome == "completed"
    assert trained.warnings == ["Memory ran out with 4 images at a time; continuing with 2."]


AVERAGED = {"train.steps": 3, "optim.ema_decay": 0.9, "validation.check_every": 0}


@pytest.mark.parametrize(("part", "to_ram"), [("the first", False), ("one in the middle", True)])
def test_an_average_that_does_not_fit_takes_each_weight_in_once(
    part: str, to_ram: bool, new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ema, "AT_ONCE", 20_000)
    calm, short = new_run(**AVERAGED), new_run(**AVERAGED)
    real, calls = torch._foreach_sub, []
    monkeypatch.setattr(torch, "_foreach_sub", lambda *given: calls.append(1) or real(*given))
    train(ready_workspace, calm)
    parts = len(calls) // 3
    assert parts > 4, "a step of the average has many parts"
    after = parts + (parts // 2 if part == "one in the middle" else 0)
    monkeypatch.setattr(torch, "_foreach_sub", failing(real, 1, after))
    if to_ram:
        monkeypatch.setattr(oom, "ema_fallback", lambda config, on_card: ema_fallback(config, True))

    trained = train(ready_workspace, short)
    assert trained.outcome == "completed"
    assert [event.step for event in trained.of(StepDone)] == [1, 2, 3]
    assert_same_checkpoint(calm.checkpoints()[-1].folder, short.checkpoints()[-1].folder)
    (warning,) = trained.warnings
    assert warning.startswith("Memory ran out while making the average of step 2. ")
    (fallback,) = Run(short.folder).about["memory_ladder"]
    assert fallback["settings"] == ({"optim.ema_device": "cpu"} if to_ram else {})
    assert ("in the computer's memory" in warning) == to_ram


def test_copies_that_could_not_be_made_do_not_move_the_weights_twice(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train.steps": 3, "optim.offload": True, "validation.check_every": 0}
    calm, short = new_run(**settings), new_run(**settings)
    train(ready_workspace, calm)
    monkeypatch.setattr(
        MasterWeightSync, "refresh", failing(MasterWeightSync.refresh, 1, 2)
    )  # one is made at the start
    trained = train(ready_workspace, short)
    assert trained.warnings == [COPYING_AGAIN]
    assert_same_checkpoint(calm.checkpoints()[-1].folder, short.checkpoints()[-1].folder)


def test_a_run_whose_average_never_fits_ends_in_words_and_resumes_as_if_nothing_had_been(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, short = (new_run(**AVERAGED, **{"train.checkpoint_every": 2}) for _ in range(2))
    train(ready_workspace, calm)
    with monkeypatch.context() as patched, pytest.raises(UserError, match="average of step 3 could not be made"):
        patched.setattr(torch, "_foreach_sub", failing(torch._foreach_sub, 2, 2))
        train(ready_workspace, short)
    assert [checkpoint.step for checkpoint in short.checkpoints()] == [2]
    assert train(ready_workspace, Run(short.folder)).outcome == "completed"
    assert_same_checkpoint(calm.checkpoints()[-1].folder, short.checkpoints()[-1].folder)


@pytest.mark.answers("Out of memory")
def test_all_fallbacks_are_taken_and_then_the_error_says_what_to_do(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.families.stable_diffusion import StableDiffusion

    run = new_run()
    monkeypatch.setattr(StableDiffusion, "predict", failing(StableDiffusion.predict, 10_000))
    with pytest.raises(UserError, match="lower resolution"):
        train(ready_workspace, run)
    taken = [sorted(fallback["settings"]) for fallback in Run(run.folder).about["memory_ladder"]]
    assert taken == [
        ["train.accumulation", "train.batch_size"],
        ["train.gradient_checkpointing"],
        ["optim.optimizer"],
    ]


def test_a_resumed_run_starts_at_the_fallback_that_was_reached(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.families.stable_diffusion import StableDiffusion

    run = checked(new_run(**{"train.batch_size": 1, "validation.check_every": 0}))
    with monkeypatch.context() as patched:
        patched.setattr(StableDiffusion, "predict", failing(StableDiffusion.predict, 2, 2))
        assert train(ready_workspace, run, at_step={4: "pause"}).outcome == "paused"
    again = train(ready_workspace, Run(run.folder))
    assert again.outcome == "completed"
    assert again.warnings == []
    assert run.checkpoints()[-1].about["optimizer"] == "adafactor"


PARTS = {
    "base": "engine.families.stable_diffusion.StableDiffusion.load_denoiser",
    "ControlNet": "engine.training.setup.initial_net",
    "average": "engine.training.setup.build_ema",
}


@pytest.mark.answers("Out of memory")
@pytest.mark.parametrize("part", ["base", pytest.param("ControlNet", marks=pytest.mark.long), "average"])
def test_nets_that_do_not_fit_are_built_anew_with_less(
    part: str, new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a card: there all these parts would be."""
    from engine.nets import frozen_layers

    run, chosen, seen = new_run(**{"train.steps": 2, "train.precision": "bf16"}), [], []
    real, machine = oom.next_fallback, Machine(on_card=True, eight_bit=False)
    monkeypatch.setattr(oom, "machine_of", lambda *given: machine)
    monkeypatch.setattr(oom, "next_fallback", lambda *given: chosen.append(real(*given)) or chosen[-1])
    owner, name = PARTS[part].rsplit(".", 1)
    holder = pkgutil.resolve_name(owner)
    with monkeypatch.context() as patched:
        patched.setattr(holder, name, failing(getattr(holder, name), 2))
        trained = train(ready_workspace, run, at_step={1: "pause"})
    assert trained.outcome == "paused"
    freed, less = trained.warnings
    assert freed == LOADING_AGAIN
    assert "8 bits" in less and "loaded" in less
    (fallback,) = Run(run.folder).about["memory_ladder"]
    assert (fallback["where"], fallback["step"]) == ("loading", 0)
    assert fallback["settings"] == chosen[0].settings == {"train.base_storage": "fp8"}
    assert chosen[0].saves_resident > 0

    def look(net: Any, *rest: Any, **named: Any) -> Any:
        seen.append(net)
        return quantize(net, *rest, **named)

    quantize = frozen_layers.quantize_base
    monkeypatch.setattr("engine.training.setup.quantize_base", look)
    again = train(ready_workspace, Run(run.folder))
    assert again.outcome == "completed" and again.warnings == [] and seen, "a resume builds them so at once"


def test_where_the_nets_do_not_fit_in_one_process_all_build_them_anew(
    new_run: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They all take the fallback for the one that lacks most."""
    run, built, said = new_run(**{"train.precision": "bf16"}), [], []

    def all_ok(message: str) -> None:
        assert message == "", "this one has enough"
        if len(built) < 3:
            raise SharedOutOfMemory

    group: Any = SimpleNamespace(
        main=True,
        world_size=2,
        all_ok=all_ok,
        gather=lambda shortage: [shortage, Shortage(0, 10.0**9)],
        broadcast=lambda make: make(),
    )
    monkeypatch.setattr(oom, "machine_of", lambda *given: Machine(on_card=True, eight_bit=False, processes=2))
    state = oom.build_that_fits(
        lambda config: built.append(config) or config,  # type: ignore[arg-type, return-value, func-returns-value]
        run.config,
        run_folder=run.folder,
        base=run.config.model.base,
        step=0,
        device=torch.device("cpu"),
        group=group,
        sharded=False,
        emit=said.append,
    )
    assert built[0] == built[1] == run.config and state is built[2] == Run(run.folder).config
    assert built[2].train.base_storage == "fp8" and built[2].optim.offload, "all that helps"


def test_a_checkpoint_that_does_not_fit_at_first_is_not_taken_for_a_damaged_one(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.training import checkpoint

    run = new_run(**{"train.steps": 2})
    train(ready_workspace, run, at_step={1: "pause"})
    monkeypatch.setattr(checkpoint, "tensors_to_optimizer", failing(checkpoint.tensors_to_optimizer, 1))
    again = train(ready_workspace, Run(run.folder))
    assert again.outcome == "completed" and [event.step for event in again.of(StepDone)] == [2]
    assert again.warnings == [LOADING_AGAIN]


def test_images_that_do_not_fit_are_drawn_one_at_a_time(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.evaluation import pairs

    sizes = []

    def draw(*arguments: Any, seeds: Any, **more: Any) -> Any:
        sizes.append(len(seeds))
        if len(seeds) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments, seeds=seeds, **more)

    real = pairs.draw_latents
    monkeypatch.setattr(pairs, "draw_latents", draw)
    settings = {"validation.every": 2, "validation.pictures": 2, "validation.sampling_steps": 1, "train.steps": 2}
    settings |= {"validation.probes": 0}
    trained = train(ready_workspace, new_run(**settings, **{"optim.ema_decay": 0.9}))
    assert trained.outcome == "completed"
    assert [event.step for event in trained.of(PreviewMade)] == [0, 2]
    assert sizes == [2, 1, 1, 1, 1]
    assert any("one at a time" in text for text in trained.warnings)


@pytest.mark.parametrize(
    "place",
    [
        "engine.evaluation.previews.to_images",
        pytest.param("engine.evaluation.previews.score_pairs", marks=pytest.mark.long),
    ],
)
def test_images_are_made_again_wherever_memory_ran_out(
    place: str, new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While they are decoded, and while they are scored."""
    settings = {"validation.every": 1, "validation.pictures": 2, "validation.sampling_steps": 1, "train.steps": 1}
    settings |= {"validation.probes": 0, "validation.check_every": 0}
    monkeypatch.setattr(place, failing(pkgutil.resolve_name(place), 1))
    trained = train(ready_workspace, new_run(**settings))
    assert trained.outcome == "completed"
    assert [event.step for event in trained.of(PreviewMade)] == [0, 1]
    (warning,) = trained.warnings
    assert "one at a time" in warning


def test_a_checkpoint_that_does_not_fit_is_written_after_memory_was_freed(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.training import checkpointer

    run = new_run(**{"train.steps": 2})
    monkeypatch.setattr(checkpointer, "stage_checkpoint", failing(checkpointer.stage_checkpoint, 1))
    trained = train(ready_workspace, run)
    assert trained.outcome == "completed"
    assert [event.step for event in trained.of(CheckpointSaved)] == [2]
    assert any("checkpoint of step 2. Some was freed, and this is tried again" in text for text in trained.warnings)

    monkeypatch.setattr(checkpointer, "stage_checkpoint", failing(checkpointer.stage_checkpoint, 10))
    with pytest.raises(UserError, match="Memory ran out twice"):
        train(ready_workspace, new_run(**{"train.steps": 1}))


def test_parameters_that_were_updated_before_the_optimizer_failed_are_found() -> None:
    first, second = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = torch.optim.AdamW([first, second], lr=0.1)
    for parameter in (first, second):
        parameter.grad = torch.ones(3)
    optimizer.step()
    optimizer.state[first]["step"] += 1  # as if only the first had come to its second step
    assert updated_parameters(optimizer) == {first}
