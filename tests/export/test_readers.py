"""The readers' rules, written down by us, catch what the programs would pass over in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.export import export
from engine.export.readers import Misread, check, raw_shapes
from engine.export.self_check import check_readers
from engine.export.source import read_source, whole_checkpoint
from engine.families.facts import SD1, SDXL
from engine.nets.outputs import empty_net

Facts = tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], dict[str, Any]]


def facts(checkpoint: Path, tmp_path: Path, format: str) -> Facts:
    """Raw names and shapes, the net's, and its config."""
    source = read_source(whole_checkpoint(checkpoint), "fp16", "plain")
    net = {name: tuple(weight.shape) for name, weight in empty_net(source.config).state_dict().items()}
    return raw_shapes(export(checkpoint, format, tmp_path, "mine").path), net, source.config


@pytest.mark.parametrize(
    ("format", "kind"), [("single_file", "diffusers names"), ("ldm", "LDM names"), ("pth", "LDM names")]
)
def test_each_file_is_taken_for_what_it_is(checkpoint: Path, tmp_path: Path, format: str, kind: str) -> None:
    raw, net, config = facts(checkpoint, tmp_path, format)
    assert check(raw, net, config, "mine_sd15", SD1) == f"a ControlNet with {kind}"


def test_what_the_programs_would_pass_over(checkpoint: Path, tmp_path: Path) -> None:
    raw, net, config = facts(checkpoint, tmp_path, "ldm")
    zero, wide = "zero_convs.1.0.bias", "input_hint_block.0.weight"
    cases = {
        "lacks": {name: shape for name, shape in raw.items() if name != zero},
        "instead of": raw | {wide: (8, 4, 3, 3)},
        "adds? the base|add the base": raw | {"difference": (1,)},
        "neither recognizes": {name: shape for name, shape in raw.items() if not name.startswith("zero_convs")},
    }
    for words, damaged in cases.items():
        with pytest.raises(Misread, match=words):
            check(damaged, net, config, "mine_sd15", SD1)
    for name, family in (("mine_sdxl_2.1", SDXL), ("mine", SD1)):
        with pytest.raises(Misread, match="reads the version"):
            check(raw, net, config, name, family)


def test_factors_that_do_not_multiply_are_found(checkpoint: Path, tmp_path: Path) -> None:
    raw, net, config = facts(checkpoint, tmp_path, "ldm")
    name = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    out, inner = raw.pop(f"{name}.weight")
    marked = raw | {"lora_controlnet": (1,)}
    good = {f"{name}.up": (out, 2), f"{name}.down": (2, inner)}
    assert check(marked | good, net, config, "mine_sd15", SD1) == "a Control-LoRA"
    for bad, words in (
        ({f"{name}.up": (out, 2), f"{name}.down": (3, inner)}, "do not multiply"),
        ({f"{name}.up": (out, 2, 1, 1), f"{name}.down": (2, inner, 1, 1)}, "dimensions"),
        ({f"{name}.up": (out, 2)}, "do not multiply"),
    ):
        with pytest.raises(Misread, match=words):
            check(marked | bad, net, config, "mine_sd15", SD1)
    without_bias = {key: shape for key, shape in (marked | good).items() if key != "time_embed.0.bias"}
    with pytest.raises(Misread, match=r"lacks time_embedding.linear_1.bias"):
        check(without_bias, net, config, "mine_sd15", SD1)


def test_a_misread_file_is_not_kept(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.export.naming.export_stem", lambda name, tag: "mine_sdxl")
    with pytest.raises(UserError, match=r"failed its check.*reads the version sdxl"):
        export(checkpoint, "single_file", tmp_path / "out", "mine")
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_is_not_for_them(checkpoint: Path, tmp_path: Path) -> None:
    source = read_source(whole_checkpoint(checkpoint), "fp16", "plain")
    assert check_readers(tmp_path, source, "anything", SD1) == ""


@pytest.mark.parametrize("name", ["a/b\\c:d*?", "CON", "aux.safetensors", "..", "  ", "nul", "ünï code!"])
def test_names_that_no_system_takes_are_made_safe(checkpoint: Path, tmp_path: Path, name: str) -> None:
    made = export(checkpoint, "pth", tmp_path / "out", name).path
    assert made.parent == tmp_path / "out" and made.name.endswith("_sd15.pth")
    assert not set(made.name) & set('/\\:*?"<>| ') and made.stem.split(".")[0].lower() not in ("con", "aux", "nul")
