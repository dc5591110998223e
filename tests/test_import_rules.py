"""app -> ui -> engine, never back; tabs know nothing of one another; the light modules stay light."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIGHT = (
    "engine.config",
    "engine.config.presets",
    "engine.workspace.paths",
    "engine.errors",
    "engine.jobs.runner",
    "engine.jobs.snapshot",
    "engine.conditions.registry",
    "engine.install.cli",
    "engine.runs.run",
    "engine.hub.download",
    "engine.bases.download",
    "engine.bases.found_bases",
    "engine.demo.sets",
    "engine.data.scan",
    "engine.data.dataset",
    "engine.machine.hardware",
    "engine.machine.environment",
    "engine.cli.main",
    "engine.training.job",
    "engine.training.cautions",
    "engine.training.start_facts",
    "engine.evaluation.grid",
    "engine.evaluation.votes",
    "engine.evaluation.grid_sheet",
    "engine.evaluation.timelapse",
    "engine.export",
    "engine.families.facts",
    "engine.families.files",
    "engine.estimate.memory",
)


HEAVY = ("torch", "diffusers", "transformers", "gradio")


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources("engine"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_engine_imports_neither_the_window_nor_gradio(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"ui", "app", "gradio", "tests"}


@pytest.mark.parametrize("path", sources("ui"), ids=lambda path: path.name)
def test_the_window_does_not_import_the_app(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"app", "tests"}


@pytest.mark.parametrize("path", sorted((ROOT / "ui").rglob("*_tab.py")), ids=lambda path: path.name)
def test_a_tab_imports_no_other_tab_and_stays_short(path: Path) -> None:
    assert [name for name in imported(path) if name.split(".")[0] == "ui" and "_tab" in name] == []
    assert len(path.read_text(encoding="utf-8").splitlines()) < 200


LONGEST = 300
"""Lines of a module of the program. One that grows past this holds two subjects: split it along them, not by length."""


def too_long(paths: list[Path]) -> dict[str, int]:
    """Paths of the modules with more than ``LONGEST`` lines, and how many they have."""
    lines = {path.as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    return {path: count for path, count in lines.items() if count > LONGEST}


def without_first_line(path: Path) -> bool:
    """Whether a module does not say in its first line what it is for."""
    return not (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0].strip()


def test_modules_are_short_and_say_what_they_are_for() -> None:
    paths = [ROOT / "app.py", *sources("engine"), *sources("ui")]
    assert len(paths) > 300
    assert too_long(paths) == {}
    assert [path for path in paths if without_first_line(path)] == []


def test_a_planted_long_module_without_a_docstring_is_found(tmp_path: Path) -> None:
    planted = tmp_path / "long.py"
    planted.write_text("x = 1\n" * (LONGEST + 1), encoding="utf-8")
    assert too_long([planted]) == {planted.as_posix(): LONGEST + 1} and without_first_line(planted)
    planted.write_text('"""A subject."""\n' + "x = 1\n" * (LONGEST - 1), encoding="utf-8")
    assert too_long([planted]) == {} and not without_first_line(planted)


@pytest.fixture(scope="module")
def heavy_after() -> dict[str, list[str]]:
    """Light module -> the heavy ones that are loaded after its import. One process imports all, one after the other."""
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for name in {LIGHT}:\n"
        "    importlib.import_module(name)\n"
        f"    found[name] = [heavy for heavy in {HEAVY} if heavy in sys.modules]\n"
        "print(json.dumps(found))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_neither_torch_nor_gradio(module: str, heavy_after: dict[str, list[str]]) -> None:
    assert heavy_after[module] == []


@pytest.mark.slow
def test_the_whole_window_is_built_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from engine.workspace.paths import Workspace; from ui.page.context import AppContext;"
        "from ui.app import build_app;"
        f"context = AppContext(Workspace({str(tmp_path)!r})); build_app(context); context.view();"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def family_marks() -> tuple[str, ...]:
    """Words by which code would show that it knows a family: names, marks of files, layers, entries of configs."""
    from engine.families.facts import FACTS

    found = {"addition_embed", "cross_attention_dim", "text_time", "CrossAttn", "transformer_blocks", "input_blocks"}
    found |= {"middle_block", "zero_convs", "time_ids", "text_embeds", "hidden_states", "unet", "pooled"}
    found |= {"t5_", "_t5", "AutoencoderKL", "CLIPTokenizer", "CLIPTextModel", "added_cond_kwargs"}
    for facts in FACTS:
        files = facts.control_files
        found |= {files.trigger, files.config_mark, *files.own_entries, *files.same_as_base, *files.union_marks}
        layers = facts.layers
        modules = (*layers.quantized, *layers.copied, *layers.after_control, *layers.outer_outputs)
        found |= {facts.name, facts.file_tag, facts.pipeline, facts.denoiser_class, layers.control_encoder}
        found |= {mark for mark in facts.version_marks if len(mark) > 3}  # "xl" and "2.1" are in many words
        found |= {module.rstrip(".").removesuffix("s") for module in modules}
    return tuple(sorted(found - {"", "layer", "dim"}))  # the last two are in many words


TEXT_ENTRIES = ("hidden", "pooled")
"""Names of tensors in an encoded text. ``Family.text_length`` and its neighbours read them for everyone else."""


SETTINGS = ("t5_dropout",)
"""Settings with the name by which users know them. What they do is the family's."""


def marks_in(source: str) -> list[tuple[int, Any]]:
    """Strings and names of a source text that hold a family's mark, with their lines.

    Docstrings may name anything. Texts for people may name the products (SDXL), so strings are compared with case.
    """
    tree = ast.parse(source)
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    marks, found = family_marks(), []
    for node in ast.walk(tree):
        words = []
        if isinstance(node, ast.Subscript):
            words = [node.slice.value] if isinstance(node.slice, ast.Constant) else []
            hit = words != [] and words[0] in TEXT_ENTRIES
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            hit = id(node) not in docstrings and any(mark in node.value for mark in marks)
            words = [node.value]
        else:
            fields = ("id", "attr", "arg", "name", "asname", "module")
            words = [word for word in (getattr(node, field, None) for field in fields) if isinstance(word, str)]
            hit = any(mark.lower() in word.lower() for word in words if word not in SETTINGS for mark in marks)
        if hit:
            found.append((getattr(node, "lineno", 0), words[0]))
    return found


def test_only_families_know_a_family() -> None:
    """No name of a family, no layer of its nets, no entry of its configs, no name in its files elsewhere."""
    # The second make the bundled bases, the third knows blocks of diffusers by their type, whatever net has them.
    apart = ("engine/families/", "engine/demo/build_", "engine/nets/frozen_blocks.py")
    found = []
    for path in (*sources("engine"), *sources("ui")):
        where = path.relative_to(ROOT).as_posix()
        if not where.startswith(apart):
            found += [f"{where}:{line}: {word}" for line, word in marks_in(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "planted",
    [
        'channels = net.config["in_channels"]',
        'union = "task_embedding" in names',
        'if about["kind"] == "sdxl": pass',
        'CLASSES = {"sd1": 1}',
        'wide = config.get("addition_embed_type") == "text_time"',
        "net.down_blocks[0].requires_grad_(False)",
        "def load(mid_block=None): pass",
        "from engine.families.sdxl import StableDiffusionXL",
        'name = f"{stem}_sd15"',
        "call(cross_attention_dim=768)",
        'length = len(text["hidden"])',
        "from diffusers import AutoencoderKL",
        "isinstance(denoiser, UNet2DConditionModel)",
        'net(noisy, added_cond_kwargs={"text_embeds": pooled_text})',
        'old = "sd14" in name',
        "text = family.without_t5(text)",
    ],
)
def test_a_planted_mark_of_a_family_is_found(planted: str) -> None:
    assert marks_in(f"import os\n{planted}\n") != []


def test_docstrings_and_product_names_are_no_marks() -> None:
    assert marks_in('"""As sdxl does."""\nhelp = "For SD 1.5, SD 2.1 and SDXL."\n') == []


ORDINARY = {"external", "face", "grey", "inpaint", "lines", "normal", "own", "pose", "shuffle", "tile"}
"""Names of conditions that are ordinary words, too: they count only where they are compared with a condition."""


def conditions_in(source: str) -> list[tuple[int, str]]:
    """Names of conditions in a source text, with their lines: as a string, or compared with a condition's type."""
    from engine.conditions import registry

    names, found = {one.name for one in registry.all()}, []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names - ORDINARY:
            found.append((node.lineno, node.value))
        elif isinstance(node, ast.Compare | ast.Match):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else [node.subject]
            of_condition = any("condition" in ast.unparse(side) or ".type" in ast.unparse(side) for side in sides)
            words = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            if of_condition and names & set(words):
                found.append((node.lineno, ast.unparse(node)))
    return found


def test_only_the_conditions_ask_which_condition_it_is() -> None:
    """Besides them one table names them: of what other programs call them; and the demo's sets are of certain ones."""
    apart = ("engine/conditions/", "engine/demo/", "engine/export/preprocessors.py")
    found = []
    for path in (*sources("engine"), *sources("ui")):
        where = path.relative_to(ROOT).as_posix()
        if not where.startswith(apart):
            found += [f"{where}:{line}: {word}" for line, word in conditions_in(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "planted",
    [
        'if condition == "canny": pass',
        'if spec.type == "own": pass',
        'if "lines" in run.condition["type"]: pass',
        'CATEGORICAL = ("segmentation",)',
        'match condition_type:\n    case "pose": pass',
    ],
)
def test_a_planted_condition_is_found(planted: str) -> None:
    assert conditions_in(planted) != []
    assert conditions_in('side = "normal" if own else "lines"') == []


CARDS = ("cuda", "xpu", "mps")
"""What only ``engine/machine/device.py`` may ask of torch: all else goes through it, so that every card is one."""


def card_calls(source: str) -> list[tuple[int, str]]:
    """Uses of one maker's part of torch in a source text, with their lines: ``torch.cuda``, an import of it, and a
    comparison with the type of a device."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in CARDS and ast.unparse(node.value).startswith("torch"):
            found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            whole = [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else names
            found += [(node.lineno, name) for name in whole if name.startswith(tuple(f"torch.{c}" for c in CARDS))]
        elif isinstance(node, ast.Compare) and ".type" in ast.unparse(node):
            sides = ast.walk(node)
            if any(isinstance(one, ast.Constant) and one.value in CARDS for one in sides):
                found.append((node.lineno, ast.unparse(node)))
    return found


def test_only_one_module_speaks_to_a_makers_cards() -> None:
    # Of NVIDIA's cards alone, products in 8 bits ask how new they are.
    apart = ("engine/machine/device.py", "engine/nets/low_precision_matmul.py")
    found = []
    for path in (*sources("engine"), *sources("ui")):
        where = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        if where not in apart and any(card in text for card in CARDS):
            found += [f"{where}:{line}: {word}" for line, word in card_calls(text)]
    assert found == []


def test_double_precision_is_asked_for_in_one_place() -> None:
    """Apple's cards have none, nor has Intel's Arc A series: a step would end in an error there."""
    apart = ("engine/machine/device.py", "engine/export/checkpoint_average.py")  # the latter computes on the processor
    found = [
        path.relative_to(ROOT).as_posix()
        for path in (*sources("engine"), *sources("ui"))
        if re.search(r"\.double\(|torch\.(?:float64|double)\b", path.read_text(encoding="utf-8"))
    ]
    assert sorted(set(found) - set(apart)) == []


@pytest.mark.parametrize(
    "planted",
    [
        "torch.cuda.empty_cache()",
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "from torch.cuda import is_available",
        "import torch.mps",
        'if state.device.type == "cuda": pass',
        'fused = device.type in ("cuda", "cpu")',
    ],
)
def test_a_planted_use_of_one_makers_cards_is_found(planted: str) -> None:
    assert card_calls(planted) != []
    assert card_calls("torch.accelerator.empty_cache(); x.is_cuda; names.type = 1") == []
