"""The settings of a drawing besides prompt and control image, on tiny random bases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import UserError
from engine.families.facts import SD1, SD3
from engine.families.registry import detect
from engine.inference import samplers
from engine.inference.memory_saving import OFFLOADED, MemorySaving
from engine.inference.request import TryRequest, prepare
from engine.inference.session import TrySession
from engine.workspace.paths import Workspace
from tests.checkpoint_folder import write_checkpoint


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> TrySession:
    """One for all tests, so that the models are loaded once."""
    return TrySession(Workspace(tmp_path_factory.mktemp("options") / "workspace"), device="cpu")


@pytest.fixture
def request_(tiny_base: Path, loud_controlnet: Path, edges: Image.Image) -> TryRequest:
    return TryRequest(
        base=str(tiny_base),
        controlnet=loud_controlnet,
        prompt="red circle",
        control=edges,
        steps=4,
        width=64,
        height=64,
        seed=3,
    )


@pytest.fixture
def photo(photos: dict[str, np.ndarray]) -> Image.Image:
    return Image.fromarray(photos["astronaut"]).resize((64, 64))


def far(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean())


def test_every_sampler_draws_its_own_image_and_leaves_no_trace(session: TrySession, request_: TryRequest) -> None:
    names = [one.name for one in samplers.suiting(SD1)]
    drawn = session.generate([replace(request_, sampler=name) for name in names])
    again = session.generate([replace(request_, sampler=name) for name in reversed(names)])[::-1]
    assert all(np.array_equal(one, other) for one, other in zip(drawn, again, strict=True))
    ddim, euler = drawn[names.index("ddim")], drawn[names.index("euler")]
    assert far(ddim, euler) < 1  # without added noise they are the same integration
    assert len({one.tobytes() for one in drawn if one is not euler}) == len(names) - 1


def test_samplers_are_offered_by_what_the_base_was_trained_on() -> None:
    assert [one.name for one in samplers.suiting(SD3)] == ["unipc", "euler", "heun", "dpmpp_2m_karras"]
    assert "heun" not in [one.name for one in samplers.suiting(SD1)]
    for facts in (SD1, SD3):
        near = {samplers.suited(one.name, facts).name for one in samplers.SAMPLERS}
        assert near == {one.name for one in samplers.suiting(facts)}, "each is drawn as itself or as the nearest"
    assert samplers.suited("DDIM", SD3).name == samplers.suited("heun", SD1).name == "euler"
    assert samplers.suited(samplers.DEFAULT, SD3).name == samplers.DEFAULT, "previews are drawn with it"


@pytest.mark.parametrize("name", [one.name for one in samplers.suiting(SD1)])
def test_samplers_keep_what_the_base_predicts(name: str, tiny_sd2: Path) -> None:
    """Velocity, and noise alone at the last step, stay so under every sampler."""
    family = detect(str(tiny_sd2))
    made = samplers.build(family, name, family.noise_process(str(tiny_sd2)).scheduler.config, 20)
    made.set_timesteps(20)
    assert type(made).__name__ == samplers.sampler(name).scheduler
    assert made.config.prediction_type == "v_prediction"
    assert torch.isfinite(torch.as_tensor(made.timesteps, dtype=torch.float32)).all()
    assert made.timesteps[0] == 999, "the only timestep that is pure noise"


def test_a_sampler_of_sigmas_on_a_base_with_no_signal_at_the_end_draws(
    session: TrySession, tiny_sd2: Path, edges: Image.Image, tmp_path: Path
) -> None:
    family = detect(str(tiny_sd2))
    family.new_controlnet(family.load_denoiser(str(tiny_sd2), torch.float32)).save_pretrained(tmp_path / "net")
    request = TryRequest(
        base=str(tiny_sd2),
        controlnet=tmp_path / "net",
        prompt="red circle",
        control=edges,
        steps=3,
        width=64,
        height=64,
    )
    names = ("euler", "dpmpp_2m_karras", "ddim")
    for image in session.generate([replace(request, sampler=name) for name in names]):
        assert np.asarray(image).std() > 1


def test_soft_weights_are_those_that_were_published() -> None:
    weights = samplers.soft_weights(13)
    assert weights[12] == 1 and weights[0] == pytest.approx(0.825**12)
    assert weights == [0.825 ** float(12 - i) for i in range(13)]


def test_the_control_modes_and_guess_mode_differ_and_strength_zero_switches_them_all_off(
    session: TrySession, request_: TryRequest
) -> None:
    ways: list[dict[str, Any]] = [{"balance": one.name} for one in samplers.BALANCES] + [{"guess": True}]
    drawn = session.generate([replace(request_, **way) for way in ways])
    assert all(far(one, other) > 0.5 for n, one in enumerate(drawn) for other in drawn[:n])
    silent = session.generate([replace(request_, **way, without_control=True) for way in ways])
    assert all(np.array_equal(silent[0], one) for one in silent[1:])
    assert far(drawn[1], silent[0]) < far(drawn[0], silent[0])  # weakened is nearer to none
    assert not any("is the same as" in note for note in session.warnings)
    modes = [replace(request_, balance=name, guidance=1.0, steps=1) for name in ("balanced", "control", "prompt")]
    balanced, control, prompt = session.generate(modes)
    assert np.array_equal(balanced, control) and not np.array_equal(balanced, prompt)
    assert any("is the same as “Balanced” here" in note for note in session.warnings), "without guidance"


@pytest.mark.answers("Drop captions? Guess mode?")
@pytest.mark.parametrize(
    "changes",
    [{"negative": "a green star"}, {"guidance": 3.0}, {"strength": 0.4}, {"steps": 2}, {"prompt": "a blue star"}],
    ids=lambda changes: next(iter(changes)),
)
def test_every_plain_setting_reaches_the_image(
    session: TrySession, request_: TryRequest, changes: dict[str, Any]
) -> None:
    plain, changed = session.generate([request_, replace(request_, **changes)])
    assert not np.array_equal(plain, changed)


def test_the_control_acts_between_start_and_end_only(session: TrySession, request_: TryRequest) -> None:
    whole, early, late, plain = session.generate(
        [request_, replace(request_, end=0.5), replace(request_, start=0.5), replace(request_, without_control=True)]
    )
    assert len({one.tobytes() for one in (whole, early, late, plain)}) == 4
    with pytest.raises(UserError, match="Control start must be below control end"):
        prepare(replace(request_, start=0.5, end=0.5))


def test_a_low_denoising_strength_does_only_the_last_steps(
    session: TrySession, request_: TryRequest, photo: Image.Image
) -> None:
    seen: list[int] = []
    little, much = session.generate(
        [replace(request_, image=photo, change=change) for change in (0.25, 1.0)],
        progress=lambda done, total, _: seen.append(total),
    )
    assert set(seen) == {1 + 4}  # of four steps only the last one, then all
    assert far(little, much) > 1


def test_outside_of_the_mask_the_image_stays(session: TrySession, request_: TryRequest, photo: Image.Image) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    (drawn,) = session.generate([replace(request_, image=photo, mask=mask, change=1.0)])
    before, after = np.asarray(photo).astype(int), np.asarray(drawn).astype(int)
    assert np.abs(before - after)[:, :20].max() == 0
    assert np.abs(before - after)[:, 44:].mean() > 5
    with pytest.raises(UserError, match="mask needs an image"):
        prepare(replace(request_, mask=mask))


@pytest.mark.parametrize("sampler", ["euler_a", "lcm"])
def test_images_are_drawn_over_with_any_sampler(
    session: TrySession, request_: TryRequest, photo: Image.Image, sampler: str
) -> None:
    one, again = session.generate([replace(request_, image=photo, sampler=sampler)] * 2)
    assert np.array_equal(one, again)


def test_a_second_controlnet_acts_only_where_it_is_asked_for(
    session: TrySession, request_: TryRequest, loud_controlnet: Path, checkpoint: Path, blank: Image.Image
) -> None:
    both = replace(request_, second=loud_controlnet, second_control=blank)
    run = checkpoint.parents[1]
    (run / "run.json").write_text('{"config": {}}', encoding="utf-8")
    of_checkpoint, of_run = (replace(both, second=path) for path in (checkpoint, run))
    alone, together, silent, after, drawn, drawn_too = session.generate(
        [request_, both, replace(both, second_strength=0.0), request_, of_checkpoint, of_run],
        on_preview=lambda _: None,
    )
    assert np.array_equal(drawn, drawn_too), "a run stands for its newest checkpoint"
    newer = write_checkpoint(checkpoint.with_name("step-000600"), loud_controlnet, step=600)
    (newer / "checkpoint.json").write_text("{", encoding="utf-8")
    (again,) = session.generate([of_run], on_preview=lambda _: None)
    told = [words for words in session.warnings if "step-000600 cannot be used" in words]
    assert np.array_equal(again, drawn) and told and told[0].endswith("Step 500 is used instead.")
    assert far(alone, together) > 0.5
    assert far(alone, silent) <= 1
    assert np.array_equal(alone, after)


def test_sdxl_draws_over_an_image_with_two_nets_and_a_long_prompt(
    session: TrySession, tiny_sdxl: Path, edges: Image.Image, photo: Image.Image, tmp_path: Path
) -> None:
    family = detect(str(tiny_sdxl))
    family.new_controlnet(family.load_denoiser(str(tiny_sdxl), torch.float32)).save_pretrained(tmp_path / "net")
    request = TryRequest(
        base=str(tiny_sdxl),
        controlnet=tmp_path / "net",
        prompt="red circle with blue background " * 12,
        control=edges,
        steps=2,
        width=64,
        height=64,
        image=photo,
        second=tmp_path / "net",
        balance="prompt",
        sampler="euler",
    )
    (image,) = session.generate([request])
    assert image.size == (64, 64) and any("chunks" in words for words in session.warnings)


def test_a_prompt_in_one_chunk_has_the_plain_embedding(tiny_base: Path) -> None:
    """Of two chunks, the first has the plain embedding of its words."""
    family = detect(str(tiny_base))
    tokenizer, encoder = family.load_tokenizer(str(tiny_base)), family.load_text_encoder(str(tiny_base), torch.float32)
    with torch.no_grad():
        plain = family.encode_text(tokenizer, encoder, ["red circle"])["hidden"]
        long = family.encode_long(tokenizer, encoder, ["red circle"], 2)["hidden"]
    assert long.shape[1] == 2 * plain.shape[1]
    assert torch.allclose(long[:, : plain.shape[1]], plain, atol=1e-5)
    assert family.count_chunks(tokenizer, ["red circle", "", "red circle " * 40]) > 1
    assert family.count_chunks(tokenizer, [""]) == 1


def test_live_previews_do_not_change_the_image(session: TrySession, request_: TryRequest) -> None:
    seen: list[Image.Image] = []
    plain = session.generate([request_])[0]
    looked_at = session.generate([request_], on_preview=seen.append)[0]
    assert seen and seen[0].size == (64, 64)
    assert np.array_equal(plain, looked_at)


def test_out_of_memory_saves_step_by_step_and_then_says_so(
    request_: TryRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.inference import session as module

    session = TrySession(Workspace(tmp_path / "workspace"), device="cpu")
    session.memory_saving = MemorySaving(torch.device("cpu"), OFFLOADED)
    needed, asked = [0], []
    decode = module.decode

    def short(family: Any, vae: Any, latents: torch.Tensor, token: Any = None) -> Any:
        asked.append((session.memory_saving.level, len(latents), vae.use_tiling))
        if session.memory_saving.level < needed[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return decode(family, vae, latents, token)

    monkeypatch.setattr(module, "decode", short)
    two = [request_, replace(request_, seed=4)]
    plain = session.generate(two)
    needed[0] = OFFLOADED
    saved = session.generate(two)
    assert asked == [(0, 2, False), (0, 2, False), (1, 1, True), (2, 1, True), (2, 1, True)]
    assert all(far(one, other) <= 1 for one, other in zip(plain, saved, strict=True))
    assert ["tiles" in words for words in session.warnings] == [True, False]
    assert "computer's memory" in session.warnings[1]
    needed[0] = OFFLOADED + 1
    with pytest.raises(UserError, match="not enough memory.*smaller size"):
        session.generate(two)
