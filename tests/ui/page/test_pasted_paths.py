"""Every box and every option takes a path as people paste it: with quotation marks, spaces or marks around it."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.bases.found_bases import find_in
from engine.cli import main as cli
from engine.conditions import places
from engine.config import ValidationConfig, parse
from engine.data.before_import import describe_source
from engine.disk.typed_path import path_of
from engine.errors import UserError
from engine.evaluation import clip, probes
from engine.export.deliver import models_folder, program
from engine.export.imported_run import import_as_run
from engine.families.files import bases_in
from engine.inference.settings import declared
from engine.workspace.base_reference import parse_ingredients
from engine.workspace.paths import Workspace
from tests.data.test_found_in_the_wild import photo
from ui.launch import parse_arguments
from ui.page.context import AppContext
from ui.try_it.try_nets import pick_net


@pytest.mark.parametrize(("before", "after"), [('"', '"'), ("“", "” "), ("\u202a", ""), (" '", "'\n")])
def test_a_pasted_path_is_understood_everywhere(workspace: Workspace, tmp_path: Path, before: str, after: str) -> None:
    folder = tmp_path / "my folder"
    photo(folder / "1.png")
    (folder / "net.safetensors").write_bytes(b"no net")
    (folder / "ComfyUI" / "models" / "controlnet").mkdir(parents=True)

    def pasted(path: Path) -> str:
        return f"{before}{path}{after}"

    config = parse({"model": {"base": pasted(folder), "controlnet": pasted(folder)}})
    assert config.model.base == config.model.controlnet == str(folder)
    assert workspace.locate_base(pasted(folder)) == str(folder)
    assert pick_net(AppContext(workspace), None, None, pasted(folder / "net.safetensors")).name == "net"
    assert models_folder(pasted(folder / "ComfyUI"), program("comfyui")).is_dir()
    assert "1 image" in describe_source(pasted(folder))
    assert bases_in(pasted(folder)) == [str(folder / "net.safetensors")]
    assert parse_arguments(["--workspace", pasted(folder)]).workspace == folder
    options = cli.parse_arguments(["--workspace", pasted(folder), "sample", "run", "--control", pasted(folder)])
    assert options.workspace == options.control == folder
    assert cli.parse_arguments(["sample", "run", "--second", pasted(folder)]).second == folder
    assert declared()["second"].read(pasted(folder)) == folder and declared()["second"].read(" ") is None
    places.use(workspace)
    assert clip.find(pasted(folder)) == folder, "so are models of condition types"
    assert parse_ingredients(f"{pasted(folder / 'net.safetensors')}:0.8")[0].file == str(folder / "net.safetensors")
    with pytest.raises(UserError) as refused:
        import_as_run(workspace, pasted(folder / "net.safetensors"), "demo", "canny", "mine")
    assert "not found" not in refused.value.what and "net.safetensors" in str(refused.value)
    without_images = ValidationConfig(pictures_folder=pasted(folder / "ComfyUI"))
    assert probes.own(without_images, None, None, []) == []  # type: ignore[arg-type]


NAMES = """
    source folder files name dataset run job arguments base --name --type --format --merged --from-run --on --preset
    --dataset --base --auto --clip --ingredients --roles --image-column --caption-column --condition-column --subset
    --split --finding --replace --prefix --suffix --trigger --template --set --prompt --negative --steps --images
    --seeds --strengths --data-source --data-licence --people --known-faults
""".split()  # noqa: SIM905 - readable
"""Options that take text. Those that may also be paths (source, folder, files, base, --base, --auto, --clip,
--ingredients) are cleaned up where a path is told from a name, in typed_source, find_in, locate_base, load, clip.find
and parse_ingredients."""
BOXES = {
    "export/delivery_panel": {
        "deliver-{program.name}-folder": models_folder,
        "hub-repository": None,
        "hub-token": None,
    },
    "export/export_tab": {"export-name": None},
    "export/more_panels": {"import-path": import_as_run, "import-base": Workspace.locate_base, "import-name": None}
    | {
        "merged-base-base": Workspace.locate_base,
        "merged-base-files": parse_ingredients,
        "merged-base-name": None,
    },
    "export/serving_panel": {"serve-token": None},
    "export/sharing_panel": {"sharing-{one.name}": None},
    "page/form": {"": parse},
    "train/run_form": {"": None},
    "train/own_presets": {"own-preset-title": None},
    "train/bases_panel": {"bases-folder": find_in},
    "train/several_cards": {"several-cards-command": None},
    "train/transfer_panel": {"transfer-files": parse_ingredients},
    "try_it/compare_panel": dict.fromkeys(
        ("compare-seeds", "compare-strengths", "compare-prompts", "compare-negative"), None
    ),
    "try_it/try_panels": {"": declared, "try-own": pick_net, "try-bases-folder": bases_in},
    "dataset/captions_panel": {"captions-containing": None, "captions-{name}": None},
    "dataset/import_panel": {"dataset-folder": describe_source, "dataset-name": None},
}
"""Every text box of the window, by its module and element id, with what cleans up its path; None: it takes no path."""


def test_every_option_that_takes_a_path_cleans_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[argparse.ArgumentParser] = []

    def stop(self: argparse.ArgumentParser, *_: object) -> None:
        made.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    for parse_all in (cli.parse_arguments, parse_arguments):
        with pytest.raises(KeyboardInterrupt):
            parse_all([])
    texts = [one for parser in made for one in _options(parser) if one.type in (None, str) and not one.choices]
    assert {(one.option_strings or [one.dest])[0] for one in texts} <= {*NAMES, "--allow-host", "--password"}
    paths = [one for parser in made for one in _options(parser) if one.type is path_of]
    assert len(paths) > 12 and not [one for parser in made for one in _options(parser) if one.type is Path]


def _options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for one in parser._actions:
        if isinstance(one, argparse._SubParsersAction):
            for below in one.choices.values():
                yield from _options(below)
        elif one.nargs != 0 and not isinstance(one, argparse.BooleanOptionalAction):
            yield one


def test_every_text_box_is_known_to_take_a_path_or_not() -> None:
    found: dict[str, set[str]] = {}
    ui = Path(__file__).parents[3] / "ui"
    for file in ui.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "gr.Textbox":
                ids = [ast.unparse(key.value).lstrip("f").strip("\"'") for key in node.keywords if key.arg == "elem_id"]
                if ids or any(key.arg in ("label", None) for key in node.keywords):
                    found.setdefault(file.relative_to(ui).with_suffix("").as_posix(), set()).update(ids or [""])
    assert found == {module: set(boxes) for module, boxes in BOXES.items()}
