"""Exports in ONNX: both graphs compute what torch does at any size, Try it draws with them, and faults are refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.errors import UserError
from engine.export import export
from engine.export.quantization_check import QuantizationCheck
from engine.export.quantization_loss import Interval, QuantizationLoss, keep_loss
from engine.export.quantize import to_int8
from engine.families.fingerprint import denoiser_fingerprint
from engine.families.onnx_graphs import example, predict, residual_names
from engine.families.registry import detect
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.machine.onnx_packages import DESCRIPTION, TO_EXPORT, provider_of
from engine.nets.onnx_net import (
    FILES,
    OnnxNet,
    export_of,
    input_names,
    read_description,
    require_base,
    require_ingredients,
    session,
    write_description,
)
from engine.workspace.paths import Workspace
from tests.checkpoint_folder import write_checkpoint
from tests.tiny_bases import write_loud_controlnet


@pytest.fixture
def described(loud_controlnet: Path, tiny_base: Path, tmp_path: Path) -> Path:
    """A run folder with a checkpoint, and what looks like its export in ONNX."""
    run = tmp_path / "run"
    write_checkpoint(run / "checkpoints" / "step-000010", loud_controlnet, step=10, has_ema=False)
    folder = run / "exports" / "mine_sd15_onnx"
    folder.mkdir(parents=True)
    for name in FILES.values():
        (folder / name).write_bytes(b"no graph")
    config = json.loads((loud_controlnet / "config.json").read_text(encoding="utf-8"))
    names = ("sd1", tiny_base.name, "step-000010", "run", "plain", "fp32")
    write_description(folder, OnnxNet(*names, config, config, {}, {}))
    return run


def refused(workspace: Workspace, request: TryRequest) -> str:
    with pytest.raises(UserError) as raised:
        TrySession(workspace, "cpu").generate([request])
    return f"{raised.value.what} {raised.value.why} {raised.value.try_this}"


def test_what_is_no_export_of_this_net_is_refused_in_words(
    workspace: Workspace, described: Path, tiny_base: Path, tiny_sd2: Path, edges: Image.Image, tmp_path: Path
) -> None:
    folder, net = described / "exports" / "mine_sd15_onnx", described / "checkpoints" / "step-000010" / "controlnet"
    first = TryRequest(base=str(tiny_base), controlnet=net, prompt="a", control=edges, engine="onnx")
    assert export_of(described / "exports", "step-000010") == folder
    assert export_of(described / "exports", "step-000020") is None
    if importlib.util.find_spec("onnxruntime"):
        assert "controlnet.onnx cannot be read. ONNX Runtime says" in refused(workspace, first)
        assert "cannot draw with DmlExecutionProvider" in refused(workspace, replace(first, engine="onnx-directml"))
    assert f"It holds the denoiser of {tiny_base.name}" in refused(workspace, replace(first, base=str(tiny_sd2)))
    (folder / FILES["denoiser"]).write_bytes(b"another net")
    assert "denoiser.onnx is another file than the one that was exported" in refused(workspace, first)
    assert "another file than" in refused(workspace, replace(first, engine="torch", controlnet=folder))
    alien = tmp_path / "alien" / "model.onnx"
    alien.parent.mkdir()
    alien.write_bytes(b"")
    assert "not an export of this app in ONNX" in refused(workspace, replace(first, controlnet=alien))
    shutil.rmtree(folder)
    assert "It has not been exported in ONNX" in refused(workspace, first)


def test_another_base_of_the_same_name_is_refused(described: Path, tiny_base: Path, tmp_path: Path) -> None:
    folder, family = described / "exports" / "mine_sd15_onnx", detect(str(tiny_base))
    old = read_description(folder)
    assert "by its name only" in require_base(folder, old, str(tiny_base), family, str(tiny_base))
    about = replace(old, base_fingerprint=denoiser_fingerprint(family, str(tiny_base)))
    renamed, other = (Path(shutil.copytree(tiny_base, tmp_path / name)) for name in ("renamed", f"x/{tiny_base.name}"))
    assert require_base(folder, about, str(renamed), family, str(renamed)) == ""
    file = other / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight + 0.01 for name, weight in load_file(file).items()}, file)
    with pytest.raises(UserError, match="does not fit the base") as raised:
        require_base(folder, about, str(other), family, str(other))
    assert f"It holds the denoiser of another base, also called {tiny_base.name}." in raised.value.why


def test_other_lora_files_in_the_base_are_refused(described: Path) -> None:
    folder = described / "exports" / "mine_sd15_onnx"
    style = {"file": "style.safetensors", "weight": 0.8, "sha256": "ab"}
    about = replace(read_description(folder), ingredients=[style])
    require_ingredients(folder, about, "mine", [{**style, "file": "/elsewhere/renamed.safetensors"}])
    for used in ([], [{**style, "sha256": "cd"}], [{**style, "weight": 1.0}]):
        with pytest.raises(UserError, match="does not fit the base mine") as raised:
            require_ingredients(folder, about, "mine", used)
        assert "with style.safetensors (weight 0.8)" in raised.value.why


def test_missing_packages_are_named_and_nothing_is_written(
    checkpoint: Path, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.machine.onnx_packages.missing_packages", lambda names: ["onnx", "onnxscript"])
    with pytest.raises(UserError, match="Nothing was exported in ONNX") as raised:
        export(checkpoint, "onnx", tmp_path / "out", "mine", "fp32", base=str(tiny_base))
    assert "needs onnx and onnxscript, which are not installed" in raised.value.why
    assert "requirements-onnx.txt" in raised.value.try_this
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="PyTorch|not installed|cannot be drawn"):
        provider_of("onnx")


def test_int8_that_is_known_to_lose_too_much_is_refused_before_anything_is_computed(
    checkpoint: Path, tmp_path: Path, tiny_base: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.machine.onnx_packages.missing_packages", lambda names: [])
    whole, written, gap = Interval(0.9, 0.85, 0.95), Interval(0.5, 0.4, 0.6), Interval(-0.4, -0.5, -0.3)
    keep_loss(tmp_path / "exports", QuantizationLoss(checkpoint.name, "ema", "int8_static", whole, written, gap, 24))
    run: Any = SimpleNamespace(exports=tmp_path / "exports")
    of: Any = SimpleNamespace(folder=checkpoint)
    how = QuantizationCheck(workspace, run, of)
    started: list[Any] = []
    monkeypatch.setattr("engine.export.onnx_folder.quantize_as_trained", lambda *what: started.append(what))
    with pytest.raises(UserError, match="would follow its control images less"):
        export(checkpoint, "onnx", tmp_path / "out", "x", "int8_static", base=str(tiny_base), quantization_check=how)
    assert not started and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def exported(loud_controlnet: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint, and its export in fp32."""
    run = tmp_path_factory.mktemp("onnx") / "run"
    for package in TO_EXPORT:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -r requirements-onnx.txt")
    facts: dict[str, Any] = {"step": 10, "has_ema": False, "base": str(tiny_base)}
    checkpoint = write_checkpoint(run / "checkpoints" / "step-000010", loud_controlnet, **facts)
    made = export(checkpoint, "onnx", run / "exports", "mine", "fp32", base=str(tiny_base))
    assert made.path == run / "exports" / "mine_sd15_onnx" and "predicts what torch does" in made.checked
    assert {one.name for one in made.path.iterdir()} == {*FILES.values(), DESCRIPTION, "README.md"}
    return run


@pytest.fixture
def request_(exported: Path, tiny_base: Path, edges: Image.Image) -> TryRequest:
    net = exported / "checkpoints" / "step-000010" / "controlnet"
    size: dict[str, Any] = {"steps": 2, "width": 128, "height": 64}
    return TryRequest(base=str(tiny_base), controlnet=net, prompt="red circle", control=edges, seed=3, **size)


def drawn(session: TrySession, *requests: TryRequest) -> list[np.ndarray]:
    return [np.asarray(image).astype(int) for image in session.generate(requests)]


@pytest.mark.long
def test_onnx_draws_what_torch_draws(workspace: Workspace, request_: TryRequest) -> None:
    ways: list[dict[str, Any]] = [{}, {"sampler": "euler", "strength": 0.5, "prompt": " ".join(["red"] * 200)}]
    ways += [{"guess": True}, {"balance": "prompt", "without_control": True}, {"second": request_.controlnet}]
    requests = [replace(request_, **way) for way in ways]
    session = TrySession(workspace, "cpu")
    with_torch = drawn(session, *requests)
    with_onnx = drawn(session, *(replace(request, engine="onnx") for request in requests))
    for one, other in zip(with_torch, with_onnx, strict=True):
        assert np.abs(one - other).max() <= 2
    assert np.abs(with_torch[0] - with_torch[3]).mean() > 1  # the net does something


@pytest.mark.long
@pytest.mark.parametrize("name", ["tiny_sd2", "tiny_sdxl"])
def test_other_families_draw_what_torch_draws(
    workspace: Workspace, edges: Image.Image, tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> None:
    base, run = request.getfixturevalue(name), tmp_path / "run"
    family = detect(str(base))
    facts: dict[str, Any] = {"step": 10, "has_ema": False, "base": str(base), "family": family.name}
    facts["noise_schedule"] = family.noise_process(str(base)).schedule
    net = write_loud_controlnet(base, tmp_path / "net")
    checkpoint = write_checkpoint(run / "checkpoints" / "step-000010", net, **facts)
    first = TryRequest(base=str(base), controlnet=checkpoint / "controlnet", prompt="red circle", control=edges, seed=3)
    first = replace(first, steps=3, width=128, height=64)
    requests = [first, replace(first, prompt=" ".join(["red"] * 200), strength=0.5), replace(first, strength=0)]
    with_torch = drawn(TrySession(workspace, "cpu"), *requests)
    assert np.abs(with_torch[0] - with_torch[2]).mean() > 1  # the net does something
    for precision, most in (("fp32", 2), ("fp16", 24)):
        made = export(checkpoint, "onnx", run / "exports", precision, precision, base=str(base))
        with_onnx = drawn(TrySession(workspace, "cpu"), *(replace(one, controlnet=made.path) for one in requests))
        for one, other in zip(with_torch, with_onnx, strict=True):
            assert np.abs(one - other).max() <= most, precision


@pytest.mark.long
def test_int8_is_smaller_and_keeps_both_ends(exported: Path, tmp_path: Path) -> None:
    import onnx

    folder = exported / "exports" / "mine_sd15_onnx"
    config = read_description(folder).denoiser
    inputs = example(config, 2, 8, 8, 77)
    nets = {name: session(folder / file, "CPUExecutionProvider") for name, file in FILES.items()}
    wanted = predict(nets["controlnet"], nets["denoiser"], inputs, config)
    names = residual_names(config)
    every = {**inputs, **dict(zip(names, nets["controlnet"](inputs), strict=True))}
    for kind, most in (("dynamic", 0.05), ("static", 0.3)):
        for name, file in FILES.items():
            (tmp_path / kind).mkdir(exist_ok=True)
            rows = [{key: every[key].numpy() for key in input_names(folder / file)}] if kind == "static" else None
            to_int8(folder / file, tmp_path / kind / file, rows)
            assert (tmp_path / kind / file).stat().st_size < (folder / file).stat().st_size, (kind, name)
        small = [session(tmp_path / kind / file, "CPUExecutionProvider") for file in FILES.values()]
        found = predict(*small, inputs, config)
        assert 0 < float((found - wanted).abs().max() / wanted.abs().max()) < most, kind
        graph = onnx.load(str(tmp_path / kind / FILES["denoiser"])).graph
        floats = [one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
        assert any("conv_in.weight" in name for name in floats), kind
