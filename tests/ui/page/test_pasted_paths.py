"""Every box and every option takes a path as people paste it: with quotation marks, spaces or marks around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli import main as cli
from engine.config import ValidationConfig, parse
from engine.data.before_import import describe_source
from engine.errors import UserError
from engine.evaluation import probes
from engine.export.deliver import models_folder, program
from engine.export.imported_run import import_as_run
from engine.families.files import bases_in
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
    assert "1 found" in describe_source(pasted(folder))
    assert bases_in(pasted(folder)) == [str(folder / "net.safetensors")]
    assert parse_arguments(["--workspace", pasted(folder)]).workspace == folder
    options = cli.parse_arguments(["--workspace", pasted(folder), "sample", "run", "--control", pasted(folder)])
    assert options.workspace == options.control == folder
    with pytest.raises(UserError) as refused:
        import_as_run(workspace, pasted(folder / "net.safetensors"), "demo", "canny", "mine")
    assert "not found" not in refused.value.what and "net.safetensors" in str(refused.value)
    without_images = ValidationConfig(pictures_folder=pasted(folder / "ComfyUI"))
    assert probes.own(without_images, None, None, []) == []  # type: ignore[arg-type]
