"""Files written before the code was reorganised still open, and paused runs still finish with the same bits.

``fixtures/before_layout/archive.tar.xz`` is a workspace written by commit 2bd9f1f. ``expected.json`` records what that
commit read in it and how its runs ended. See the README there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import shutil
import sys
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# All imports of app code are here. Everything else uses the command line or reads the files directly.
from engine.cli.main import main
from engine.conditions import places
from engine.conditions.types import external
from engine.data.dataset import Dataset
from engine.data.doctor.fix import states
from engine.estimate.trials import FORMER_NAME
from engine.estimate.trials import read as read_measured
from engine.evaluation.grid import read_grid
from engine.evaluation.report import reports
from engine.evaluation.votes import read_votes
from engine.export.checkpoint_average import averaged_checkpoints
from engine.export.size_table import read_table
from engine.inference.image_info import parse_a1111, read_settings
from engine.runs.run import Run
from engine.workspace.paths import Workspace
from engine.workspace.remembered import remembered
from ui.page.context import AppContext

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the archive holds paths of Linux")

FOLDER = Path(__file__).parent / "fixtures" / "before_layout"
ARCHIVE, EXPECTED, NUMBERS = "archive.tar.xz", "expected.json", "numbers.safetensors"

MACHINE = "a processor"  # the machine name that the trial was stored under
PROGRAM = "my_tool --from {input} --to {output}"
PRESET_COMMAND = ("train", "--preset", "Mine-slow", "--dataset", "circles", "--base", "tiny")
SAMPLE_OPTIONS = (
    "--prompt", "red circle, on blue", "--negative", "grey: “dull”", "--seed", "11", "--steps", "2", "--guidance", "3",
    "--strength", "0.8", "--end", "0.9", "--sampler", "ddim",
)  # fmt: skip
EXPORTS = (
    ("whole", "single_file", "fp16"),
    ("whole", "diffusers", "fp32"),
    ("lora", "control_lora", "fp16"),
    ("decoder", "pth", "fp16"),
    ("bf16", "ldm", "bf16"),
    ("eight-bit", "single_file", "fp32"),
)
PAUSED = ("whole", "lora", "decoder", "bf16", "eight-bit")
NOTES = ("/text.lock", "/verified.json")
"""Files that are added to an old cache."""
CLOCKED = ("seconds", "memory_gib")
NEAR = {"bf16": 1e-4}
"""Allowed difference of weights on a different CPU, for runs that need more than 1e-5."""


# -- reading (make.py runs these functions too, on the old commit) ----------------------------------------------------


def unpack(root: Path) -> Path:
    """Extract the archived workspace into ``root``."""
    with tarfile.open(FOLDER / ARCHIVE) as packed:
        packed.extractall(root, filter="data")
    return root


def command(root: Path, *words: str) -> str:
    """Run a command, check that it succeeds, and return its output."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(["--workspace", str(root), *words])
    assert code == 0, f"{words} ended with {code}: {output.getvalue()}"
    return output.getvalue()


def plain(value: Any, root: Path) -> Any:
    """Convert to JSON types, with paths relative to the workspace."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), root)
    if isinstance(value, dict):
        return {str(key): plain(entry, root) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry, root) for entry in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, Path | str):
        return str(value).replace(str(root), "WORKSPACE")
    return value


def in_order(record: Any) -> list[Any]:
    """Values of a dataclass that is never stored: its field names may change."""
    return list(vars(record).values())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tensors_digest(tensors: dict[str, Any]) -> str:
    """Hash of names, dtypes, shapes and bits."""
    import torch

    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        state.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


@functools.cache
def computes() -> dict[str, str]:
    """Identify machines that compute the same bits.

    The torch version and CPU capability alone are not enough: MKL and oneDNN choose kernels by finer CPU features. So
    this also hashes the gradients of a few training steps. No app code takes part.
    """
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel

    found = {"torch": torch.__version__, "cpu capability": torch.backends.cpu.get_cpu_capability()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            cross_attention_dim=32,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=4,
            norm_num_groups=4,
        )
        net = ControlNetModel.from_unet(base, conditioning_embedding_out_channels=(8, 8, 8, 8))
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.1)  # the zero convolutions would hide everything before them
        for dtype in (torch.float32, torch.bfloat16):
            state = hashlib.sha256()
            base.to(dtype).zero_grad()
            net.to(dtype).zero_grad()
            for count in (1, 2, 4) * 2:
                noisy, words = torch.randn(count, 4, 8, 8).to(dtype), torch.randn(count, 32, 32).to(dtype)
                times, hint = torch.randint(0, 1000, (count,)), torch.rand(count, 3, 64, 64).to(dtype)
                down, middle = net(noisy, times, words, hint, return_dict=False)
                drawn = base(
                    noisy, times, words, down_block_additional_residuals=down, mid_block_additional_residual=middle
                )
                (drawn.sample.float() - torch.randn(noisy.shape)).square().mean().backward()
            learnt = [*base.parameters(), *net.parameters()]
            # bf16 rounding hides most differences between attention kernels, so use a large batch.
            for own, other, width in ((64, 64, 2), (64, 32, 2), (16, 32, 4)):
                asked, *read = (torch.randn(64, 4, n, width).to(dtype).requires_grad_() for n in (own, other, other))
                torch.nn.functional.scaled_dot_product_attention(asked, *read).float().square().mean().backward()
                learnt += [asked, *read]
            for tensor in learnt:
                state.update(tensor.grad.float().numpy().tobytes())
            found[f"a step in {str(dtype).removeprefix('torch.')}"] = state.hexdigest()
    return found


def opened(root: Path) -> dict[str, Any]:
    """Everything in the workspace, as the app reads it."""
    workspace = Workspace(root)
    places.use(workspace)
    external.require(PROGRAM)
    context = AppContext(workspace)
    view, presets = context.view(), context.user_presets
    own = [path.stem for path in sorted(workspace.presets.glob("*.toml")) if path.stem in presets.all]
    found = {
        "window": {
            "datasets": sorted(view.datasets),
            "runs": sorted(view.runs),
            "unfinished": sorted(in_order(run) for run in view.unfinished),
            "presets": {name: presets.all[name].title for name in own},
            "preset values": {name: presets.all[name].values for name in own},
            "broken presets": len(presets.problems),
            "remembered": remembered(workspace),
        },
        "datasets": {name: _dataset(workspace, name) for name in workspace.dataset_names()},
        "runs": {folder.name: _run(folder) for folder in sorted(workspace.run_folders())},
        "pictures": {path.name: read_settings(path) for path in sorted(workspace.outputs.glob("*.png"))},
    }
    lora = next(Run(folder) for folder in workspace.run_folders() if folder.name.endswith("_lora"))
    trial = asdict(read_measured(workspace, lora.config, MACHINE))
    found["trial"] = {FORMER_NAME if name == "fallbacks" else name: value for name, value in trial.items()}
    return plain(found, root)


def _dataset(workspace: Workspace, name: str) -> dict[str, Any]:
    dataset = Dataset.open(workspace.dataset_folder(name))
    return {
        "source": dataset.source,
        "origin": dataset.origin,
        "layout": dataset.layout,
        "fingerprint": dataset.fingerprint,
        "condition": dataset.condition,
        "count": dataset.count(),
        "with maps": dataset.count(ready=True),
        "problems": dataset.problems(),
        "findings": [[one.finding.name, one.open, one.excluded, one.corrected] for one in states(dataset)],
        "edits": [(one.what, one.changed) for one in dataset.captions.history()],
        "samples": [
            {
                "key": sample.key,
                "caption": sample.caption,
                "image": sample.image,
                "size": [sample.width, sample.height],
                "digest": sample.digest,
                "map": dataset.condition_path(sample),
                "map there": dataset.condition_path(sample).is_file() and sample.image.is_file(),
            }
            for sample in dataset.samples()
        ],
    }


def _run(folder: Path) -> dict[str, Any]:
    run = Run(folder)
    history = run.history()
    return {
        "config": run.begun_with.model_dump(mode="json"),
        "origins": run.origins,
        "condition": run.condition,
        "held out": run.held_out,
        "ending": run.ending,
        "completed": run.completed,
        "checkpoints": [
            {
                "step": c.step,
                "images": c.images_seen,
                "ema": c.has_ema,
                "resumable": c.resumable,
                "star": c.starred,
                "rank": c.trained_rank,
                "base": c.about.get("base"),
                "family": c.about.get("family"),
            }
            for c in run.checkpoints()
        ],
        "averages": [(c.folder.name, c.step, c.about["merged"]) for c in averaged_checkpoints(folder)],
        "metrics": run.metrics(),
        "log": run.log_tail(),
        "previews": [in_order(record) for record in run.previews()],
        "steps told": history.step,
        "checks": history.checks,
        "pauses": history.pauses,
        "reports": reports(folder / "evaluation"),
        "sizes": read_table(run.exports),
        "grid": read_grid(run),
        "votes": read_votes(folder),
    }


def written(root: Path, name: str, *words: str) -> Path:
    """Let a ``train`` command write its resolved settings to a TOML file."""
    path = root / name
    command(root, *words, "--write", str(path))
    return path


def file_command(root: Path) -> tuple[str, ...]:
    return ("train", str(root / "run.toml"), "--preset", "cpu")


def exported(root: Path, run: str, out: Path, format: str, precision: str) -> dict[str, Any]:
    """Export a run's newest checkpoint and describe the result."""
    import torch
    from safetensors import safe_open

    command(root, "export", run, "--format", format, "--precision", precision, "--out", str(out), "--name", "net")
    path = next(path for path in sorted(out.rglob("*")) if path.suffix in (".safetensors", ".pth"))
    header: dict[str, str] = {}
    if path.suffix == ".pth":
        tensors = torch.load(path, weights_only=True)
        tensors = tensors.get("state_dict", tensors)
    else:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
            header = dict(file.metadata() or {})
    header.pop("made_with", None)
    beside = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    return {"tensors": tensors_digest(tensors), "count": len(tensors), "header": header, "files": beside}


def used(root: Path, run: str) -> dict[str, Any]:
    """Evaluate, compare, sample and re-import a finished run."""
    folder, compared = root / "runs" / run, root / "outputs" / "compared"
    report = json.loads(command(root, "evaluate", run, "--checkpoint", "8", "--pairs", "3", "--json"))
    before = {path.name for path in compared.iterdir()}
    command(root, "grid", run, "--steps", "4,8", "--pictures", "1-2", "--seeds", "3")
    drawn_again = sorted({path.name for path in compared.iterdir()} - before)
    grid = json.loads((folder / "comparisons" / "grid.json").read_text(encoding="utf-8"))
    command(root, "timelapse", run, "--picture", "1", "--out", str(root / "lapse.webp"))
    with Image.open(root / "lapse.webp") as lapse:
        frames = getattr(lapse, "n_frames", 1)
    command(root, "sample", run, *SAMPLE_OPTIONS, "--out", str(root / "drawn"))
    picture = next((root / "drawn").glob("*.png"))
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    exports = sorted(path for path in (folder / "exports").glob("*.safetensors"))
    command(root, "import-net", str(exports[0]), "--base", "tiny", "--name", "back")
    back = next(path for path in (root / "runs").iterdir() if path.name.endswith("_back"))
    return {
        "report": {name: report[name] for name in ("pairs", "measure", "obeys", "scores", "control_effect", "rows")},
        "drawn again": drawn_again,
        "columns": grid["columns"],
        "cells": grid["cells"],
        "frames": frames,
        "settings": read_settings(picture),
        "pixels": digest(pixels.tobytes()),
        "mean": [float(channel) for channel in pixels.mean(axis=(0, 1))],
        "files": [path.name for path in exports],
        "back": {path.name: digest(path.read_bytes()) for path in sorted(back.rglob("*.safetensors"))},
    }


def last_checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def ending_of(run: Path) -> dict[str, Any]:
    """How a run ended, read from its files."""
    last = last_checkpoint(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    about = json.loads((last / "checkpoint.json").read_text(encoding="utf-8"))
    checks = [line for line in lines if "control_gain" in line]
    log = (run / "log.txt").read_text(encoding="utf-8").splitlines()
    return {
        "files": {p.relative_to(last).as_posix(): digest(p.read_bytes()) for p in sorted(last.rglob("*.safetensors"))},
        "state": json.loads((last / "training_state" / "state.json").read_text(encoding="utf-8")),
        "checkpoint": {k: v for k, v in about.items() if k not in ("files", "checksums", "seal", "app")},
        "names": sorted(about["files"]),
        "kept": sorted(path.name for path in (run / "checkpoints").iterdir()),
        "losses": [[line["step"], line["loss"], line["learning_rate"]] for line in lines if "loss" in line],
        "turns": [[line["event"], line["step"]] for line in lines if "event" in line],
        "scores": {str(line["step"]): line["scores"] for line in lines if "scores" in line},
        "check": {name: value for name, value in checks[-1].items() if name not in CLOCKED} if checks else None,
        "previews": sorted(p.relative_to(run).as_posix() for p in (run / "previews").rglob("*") if p.is_file()),
        "run": json.loads((run / "run.json").read_text(encoding="utf-8")),
        "warnings": [line for line in log if line.startswith(("warning:", "error:"))],
    }


def some_numbers(run: Path) -> dict[str, Any]:
    """About 1,000 evenly spaced values of each weights file in the last checkpoint."""
    import torch
    from safetensors.torch import load_file

    last, found = last_checkpoint(run), {}
    for path in sorted(last.rglob("*.safetensors")):
        if path.parent.name != "training_state":
            flat = torch.cat([tensor.float().flatten() for _, tensor in sorted(load_file(path).items())])
            found[path.relative_to(last).as_posix()] = flat[:: max(1, len(flat) // 1024)].clone()
    return found


# -- comparing --------------------------------------------------------------------------------------------------------


def kept(before: Any, now: Any, where: str = "", near: float = 0.0) -> list[str]:
    """List what is missing or different in ``now``. Additional keys are allowed.

    Args:
        near: relative and absolute tolerance for floats.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        gone = [f"{where}.{name} is missing" for name in before if name not in now]
        inside = (kept(value, now[name], f"{where}.{name}", near) for name, value in before.items() if name in now)
        return gone + [fault for faults in inside for fault in faults]
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return [f"{where}: {len(now)} items instead of {len(before)}: {now} instead of {before}"]
        pairs = enumerate(zip(before, now, strict=True))
        return [fault for n, (one, two) in pairs for fault in kept(one, two, f"{where}[{n}]", near)]
    if isinstance(before, float) and isinstance(now, float | int):
        same = before == now or (math.isnan(before) and math.isnan(now))
        close = near > 0 and math.isclose(before, now, rel_tol=near, abs_tol=near)
        return [] if same or close else [f"{where}: {now!r} instead of {before!r}"]
    return [] if before == now else [f"{where}: {now!r} instead of {before!r}"]


@functools.cache
def _expected() -> dict[str, Any]:
    return json.loads((FOLDER / EXPECTED).read_text(encoding="utf-8"))


REWRITTEN = "decoder"
"""A run with Adafactor, whose update is the app's own by now: the same formula in another order. On some processors the
last bit differs from that of the version that made the fixture (1.5e-8): it may be compared with a tolerance."""


@functools.cache
def same_bits(run: str = "") -> bool:
    """Whether this machine computes the same bits as the one that made the fixture."""
    now, then = computes(), _expected()["made"]["computes"]
    decides = [name for name in then if run == "bf16" or "bfloat16" not in name]
    other = [name for name in decides if now[name] != then[name]]
    if other:
        warnings.warn(f"Compared with a tolerance: this machine differs in {', '.join(other)}.", stacklevel=2)
    return not other


def files_in(folder: Path) -> dict[str, tuple[int, str]]:
    """Modification time and hash of each file."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, digest(path.read_bytes()))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# -- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def on_the_processor() -> Iterator[None]:
    """The fixture was made on a CPU: ignore graphics cards."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
        yield


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("before") / "workspace")


@pytest.fixture
def moved(master: Path, tmp_path: Path) -> Path:
    """A fresh copy of the workspace, at a different path than the original."""
    return shutil.copytree(master, tmp_path / "workspace")


@pytest.fixture(scope="module")
def moved_once(master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared copy for tests that do not modify it."""
    return shutil.copytree(master, tmp_path_factory.mktemp("moved") / "workspace")


def test_everything_opens_as_before(moved: Path) -> None:
    before = _expected()["opened"]
    assert kept(before, opened(moved)) == []
    circles = before["datasets"]["circles"]
    left_out, corrected = (sum(finding[n] for finding in circles["findings"]) for n in (2, 3))
    assert (circles["count"], left_out, corrected) == (15, 1, 2)
    assert (len(circles["problems"]), len(circles["edits"])) == (1, 2)
    assert [run["ending"] for run in before["runs"].values()].count("paused") == 4
    assert all(sample["map there"] for dataset in before["datasets"].values() for sample in dataset["samples"])


@pytest.mark.parametrize("name", PAUSED)
def test_a_paused_run_finishes_with_the_same_bits(moved: Path, name: str) -> None:
    if name == "eight-bit":
        pytest.importorskip("bitsandbytes", minversion="0.50")
    from safetensors.torch import load_file

    folder, before = moved / "runs" / _expected()["runs"][name], _expected()["endings"][name]
    prepared, begun = files_in(moved / "cache"), json.loads((folder / "run.json").read_text(encoding="utf-8"))
    command(moved, "resume", folder.name)
    now = ending_of(folder)
    assert kept(begun, now["run"]) == [], "run.json keeps its old keys"
    caches = files_in(moved / "cache")
    assert {n: f for n, f in caches.items() if not n.endswith(NOTES)} == prepared, "the old cache is reused as it is"
    exact = ("names", "kept", "turns", "previews", "run", "warnings", "checkpoint")
    assert kept({part: before[part] for part in exact}, {part: now[part] for part in exact}) == []
    decided = ("losses", "scores", "check", "state")
    if same_bits(name) and (name != REWRITTEN or before["files"] == now["files"]):
        assert before["files"] == now["files"]
        assert kept({part: before[part] for part in decided}, {part: now[part] for part in decided}) == []
        return
    near = NEAR.get(name, 1e-5)
    assert before["files"].keys() == now["files"].keys()
    rates, rates_now = ([[step, rate] for step, _, rate in version["losses"]] for version in (before, now))
    assert kept(rates, rates_now, near=1e-12) == []
    assert kept(before["losses"], now["losses"], near=100 * near) == []
    numbers = some_numbers(folder)
    for path, wanted in load_file(FOLDER / NUMBERS).items():
        run, _, file = path.partition("/")
        if run == name:
            off = float((numbers[file] - wanted).abs().max())
            assert off <= near, f"{file} is off by {off}"


@pytest.mark.parametrize("case", EXPORTS, ids=" ".join)
def test_an_old_checkpoint_exports_the_same_tensors(
    moved_once: Path, tmp_path: Path, case: tuple[str, str, str]
) -> None:
    run = _expected()["runs"][case[0]]
    assert kept(_expected()["exports"][" ".join(case)], exported(moved_once, run, tmp_path / "out", *case[1:])) == []


def test_a_finished_run_gives_the_same_results(moved: Path) -> None:
    before, now = _expected()["used"], used(moved, _expected()["runs"]["finished"])
    drawn = ("report", "pixels", "mean")
    rest = [name for name in before if name not in drawn]
    assert before["drawn again"] == [], "the grid reuses the old pictures"
    assert kept({name: before[name] for name in rest}, {name: now[name] for name in rest}) == []
    if same_bits():
        assert kept({name: before[name] for name in drawn}, {name: now[name] for name in drawn}, near=1e-6) == []
    else:
        assert kept(before["mean"], now["mean"], near=1.0) == []


def test_presets_and_run_files_resolve_to_the_same_settings(moved_once: Path) -> None:
    import tomllib

    commands: Iterable[tuple[str, tuple[str, ...]]] = (("preset", PRESET_COMMAND), ("file", file_command(moved_once)))
    for name, words in commands:
        now = tomllib.loads(written(moved_once, f"{name}.toml", *words).read_text(encoding="utf-8"))
        assert kept(_expected()["written settings"][name], now) == [], name


def test_settings_are_read_back_from_a_png(moved_once: Path) -> None:
    path = next((moved_once / "outputs").glob("*.png"))
    settings = read_settings(path)
    assert (settings["prompt"], settings["negative"]) == ("red circle, on blue", "grey: “dull”")
    assert (settings["seed"], settings["steps"], settings["sampler"], settings["strength"]) == (11, 2, "ddim", 0.8)
    with Image.open(path) as picture:
        theirs = parse_a1111(picture.info["parameters"])
    shared = {name: settings[name] for name in theirs}
    assert shared == theirs and {"prompt", "negative", "seed", "steps", "sampler", "width"} <= theirs.keys()


def test_datasets_keep_maps_decisions_and_edits(moved: Path) -> None:
    """Later work on an old dataset reuses its maps and keeps its decisions, which can still be undone."""
    circles, disc = moved / "datasets" / "circles", "a disc, “drawn” by hand"
    before, maps = _expected()["opened"]["datasets"]["circles"], files_in(moved / "datasets" / "edges" / "conditions")
    check = ("check", "circles", "--resolution", "64")

    def captions() -> list[str]:
        return [sample.caption for sample in Dataset.open(circles).samples()]

    command(moved, "extract", "edges", "--type", "canny", "--set", "low=60", "--vary", "3")
    assert files_in(moved / "datasets" / "edges" / "conditions") == maps, "the old maps are reused"
    command(moved, *check)
    decided = [finding for finding in _dataset(Workspace(moved), "circles")["findings"] if any(finding[2:])]
    assert decided == [finding for finding in before["findings"] if any(finding[2:])]
    command(moved, "import", str(circles / "pictures"), "--name", "circles")
    assert Dataset.open(circles).fingerprint == before["fingerprint"]
    assert disc in captions() and len(captions()) == 15
    command(moved, "captions", "circles", "--undo")
    assert disc not in captions() and len(Dataset.open(circles).captions.history()) == 1
    command(moved, *check, "--fix", "undo", "--finding", "held_out_copy")
    assert len(captions()) == 16
