"""The jobs of the Export tab: results, remembered folders, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from engine.config import RunConfig
from engine.errors import UserError
from engine.jobs.control import Control
from engine.runs.checkpoints import list_checkpoints
from engine.runs.run import write_run
from engine.workspace.paths import Workspace
from engine.workspace.remembered import remembered
from tests.checkpoint_folder import write_checkpoint
from ui.export import export_jobs, export_tab
from ui.export.export_jobs import KIND, ExportOptions
from ui.page.choices import NEWEST, left_out_of, pick_checkpoint
from ui.page.context import AppContext
from ui.page.live import Live

RUN = "2026-01-01_birds"


@pytest.fixture
def context(workspace: Workspace, loud_controlnet: Path, tiny_base: Path) -> AppContext:
    """A workspace with a run of two checkpoints."""
    folder = workspace.runs / RUN
    config = RunConfig().model_dump(mode="json")
    config |= {"name": "birds"}
    config["model"] |= {"base": str(tiny_base)}
    config["data"] |= {"resolution": 64}
    for step in (10, 20):
        write_checkpoint(folder / "checkpoints" / f"step-{step:06d}", loud_controlnet, step=step)
    write_run(folder, {"config": config, "origins": {}, "condition": {"type": "canny", "parameters": {}}})
    return AppContext(workspace)


def do(work: Any) -> None:
    assert work(Control().token, lambda _event: None) == "completed"


def options(**changes: Any) -> ExportOptions:
    return ExportOptions(
        **{
            "format": "single_file",
            "precision": "fp16",
            "average": False,
            "rank": 128,
            "name": "",
            "overwrite": False,
            **changes,
        }
    )


def exported(context: AppContext) -> Path:
    do(export_jobs.export_job(context, RUN, list_checkpoints(context.workspace.runs / RUN)[-1], options()))
    return Path(context.results[KIND].where)


def test_the_result_of_an_export_names_the_file_and_the_checks(context: AppContext) -> None:
    file = exported(context)
    assert file == context.workspace.runs / RUN / "exports" / "birds_sd15.safetensors" and file.is_file()
    facts = context.results[KIND].facts
    checked = [value for key, value in facts if key == "Checked"]
    assert any("ComfyUI" in sentence for sentence in checked) and any("same image" in s for s in checked)
    assert ("From", f"{RUN}, step 20") in facts


def test_copying_remembers_the_folder_and_reports_problems_at_once(context: AppContext, tmp_path: Path) -> None:
    file = exported(context)
    home = tmp_path / "My ComfyUI"
    (home / "models" / "controlnet").mkdir(parents=True)
    with pytest.raises(UserError, match="does not look like"):
        export_jobs.copy_job(context, str(file), "comfyui", str(tmp_path / "workspace"), False)
    assert remembered(context.workspace) == {}
    do(export_jobs.copy_job(context, str(file), "comfyui", str(home), False))
    copied = home / "models" / "controlnet" / file.name
    assert copied.read_bytes() == file.read_bytes() and str(copied) in context.results["deliver"].note
    assert remembered(context.workspace) == {"comfyui": str(home)}
    with pytest.raises(UserError, match="already exists there"):
        do(export_jobs.copy_job(context, str(file), "comfyui", str(home), False))


def test_an_upload_keeps_the_repository_but_not_the_token(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    file = exported(context)
    sent: dict[str, Any] = {}

    def upload(files: Any, repository: str, token: str, *_: Any) -> str:
        sent.update(names=[name for name, _ in files], repository=repository, token=token)
        return "https://hub/anna/birds"

    monkeypatch.setattr("engine.export.hub.upload", upload)
    do(export_jobs.upload_job(context, str(file), "anna/birds", "hf_secret", True))
    assert sent["token"] == "hf_secret" and {file.name, "README.md"} <= set(sent["names"])
    assert remembered(context.workspace) == {"hub_repository": "anna/birds"}
    assert not any(b"hf_secret" in path.read_bytes() for path in context.workspace.root.rglob("*") if path.is_file())
    shutil.rmtree(file.parent)
    with pytest.raises(UserError, match="no longer there"):
        do(export_jobs.upload_job(context, str(file), "anna/birds", "hf_secret", True))


def test_an_average_is_kept_under_a_name_of_its_own_each_time(context: AppContext) -> None:
    checkpoints = list_checkpoints(context.workspace.runs / RUN)
    for name in ("first", "second"):
        do(export_jobs.average_job(context, RUN, checkpoints, "equal", 0.999, options(name=name)))
    names = sorted(p.name for p in (context.workspace.runs / RUN / "merged").iterdir())
    assert names == ["equal-10-20", "equal-10-20-2"]
    assert Path(context.results[KIND].where).name == "second-equal-10-20-2_sd15.safetensors"


def test_a_failed_copy_clears_the_result_of_the_last_one(context: AppContext, tmp_path: Path) -> None:
    file, folder = exported(context), tmp_path / "ComfyUI" / "models" / "controlnet"
    folder.mkdir(parents=True)
    do(export_jobs.copy_job(context, str(file), "comfyui", str(tmp_path / "ComfyUI"), False))
    assert "Copied to" in context.results["deliver"].note
    with pytest.raises(UserError, match="already exists there"):
        do(export_jobs.copy_job(context, str(file), "comfyui", str(tmp_path / "ComfyUI"), False))
    assert "deliver" not in context.results


def test_an_imported_file_becomes_a_run_and_is_shown(context: AppContext, tiny_base: Path) -> None:
    file = exported(context)
    do(export_jobs.import_job(context, f" {file} ", str(tiny_base), "", "again"))
    (run,) = (folder for folder in context.workspace.run_folders() if folder.name.endswith("again"))
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["imported_from"] == file.name
    assert run.name in context.results["import"].note and context.view().shown_run == run.name


def test_continuing_from_a_checkpoint_sets_up_the_next_run(context: AppContext, tiny_base: Path) -> None:
    checkpoint = list_checkpoints(context.workspace.runs / RUN)[0]
    number = context.draft.number
    assert "step 10" in export_jobs.continue_from(context, RUN, checkpoint)
    assert context.draft.changes["model"] == {"base": str(tiny_base), "controlnet": str(checkpoint.folder)}
    assert context.draft.number > number  # the pages' forms follow
    assert context.config_of(context.draft)[0].model.controlnet == str(checkpoint.folder)


def test_shrinking_reports_when_there_is_nothing_to_shrink(context: AppContext) -> None:
    assert "nothing to shrink" in export_jobs.shrink_checkpoints(context, RUN)


def test_the_newest_export_is_selected(context: AppContext) -> None:
    from ui.export.delivery_panel import list_of

    file = exported(context)
    checkpoint = list_checkpoints(context.workspace.runs / RUN)[-1]
    do(export_jobs.export_job(context, RUN, checkpoint, options(format="diffusers", name="folder")))
    folder = context.results[KIND].where
    assert list_of(file.parent).value == str(file)  # programs load files, not folders
    assert list_of(file.parent, folder).value == folder
    assert len(list_of(file.parent).choices) == 2


def damage_newest(context: AppContext) -> None:
    folder = context.workspace.runs / RUN / "checkpoints" / "step-000020"
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:5000])


def test_what_is_made_of_the_newest_checkpoint_says_which_damaged_one_was_left_out(context: AppContext) -> None:
    damage_newest(context)
    chosen = pick_checkpoint(context, RUN, NEWEST)
    notes = left_out_of(context, RUN, NEWEST, chosen)
    (told,) = notes
    assert told.startswith("step-000020 cannot be used: ") and told.endswith("Step 10 is used instead.")
    assert left_out_of(context, RUN, 10, chosen) == []
    do(export_jobs.export_job(context, RUN, chosen, options(), notes))
    assert ("From", f"{RUN}, step 10. {told}") in context.results[KIND].facts
    said: list[Any] = []
    with pytest.raises(UserError):  # the run has no dataset
        export_jobs.compare_job(context, RUN, chosen, False, notes)(Control().token, said.append)
    assert said[0].text == told
    with pytest.raises(UserError, match="no such checkpoint"):
        pick_checkpoint(context, RUN, 20)
    shutil.rmtree(context.workspace.runs / RUN / "checkpoints" / "step-000010")
    with pytest.raises(UserError) as none:
        pick_checkpoint(context, RUN, NEWEST)
    assert "step-000020 cannot be used" in none.value.why


def test_the_buttons_of_the_tab_pass_on_what_is_left_out(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    damage_newest(context)
    passed: list[list[str]] = []
    monkeypatch.setattr(export_jobs, "export_job", lambda *given: passed.append(given[-1]))
    monkeypatch.setattr(export_jobs, "compare_job", lambda *given: passed.append(given[-1]))
    monkeypatch.setattr(context, "start_job", lambda *given: None)
    with gr.Blocks() as page:
        live = Live(context, page)
        export_tab.build(context, live)
    handlers = {handler.__qualname__: handler for handler in live.events}
    raw = ["single_file", "fp16", "plain", 128, "", False]
    handlers["build.<locals>.start"](RUN, NEWEST, *raw)
    handlers["_build_comparison.<locals>.start"](RUN, NEWEST, "plain")
    said = handlers["_build_average.<locals>.continue_from"](RUN, NEWEST)
    for words in (*map(" ".join, passed), said):
        assert "step-000020 cannot be used" in words and "Step 10 is used instead." in words
    assert len(passed) == 2 and "starts from step 10" in said
