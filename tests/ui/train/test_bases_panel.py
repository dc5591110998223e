"""The panel with base models on the Train tab: what it lists, its two jobs, and that a base is chosen for the run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.bases import usual_places
from engine.bases.catalog import catalog_bases
from engine.errors import UserError
from engine.hub.download import RemoteFiles
from engine.hub.faults import Repository
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.train.bases_panel import KIND, about_base, choose_base, download_job, find_job, list_of_bases, render_result

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture
def context(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppContext:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(usual_places, "search_roots", lambda: [tmp_path / "home"])
    return AppContext(workspace)


def run(context: AppContext, job: Any) -> Any:
    context.start_job(KIND, "Getting a base", job)
    assert context.runner.wait(30)
    return context.runner.snapshot


def test_a_downloaded_base_is_listed_as_there_and_chosen(
    context: AppContext, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arrive(workspace: Workspace, wanted: RemoteFiles, token: object, progress: Any) -> Path:
        progress(40, 100, "Downloading, MB")
        shutil.copytree(tiny_base, workspace.downloaded_base(wanted.repository.id))
        return workspace.downloaded_base(wanted.repository.id)

    monkeypatch.setattr(
        "engine.bases.download.ask", lambda workspace, base, token: RemoteFiles(Repository(base), "main", ())
    )
    monkeypatch.setattr("engine.bases.download.download", arrive)
    assert "<b>Stable Diffusion 1.5</b>: not downloaded" in list_of_bases(context.workspace, catalog_bases())
    choose_base(context, "demo")
    number = context.draft.number
    assert run(context, download_job(context, SD15)).outcome == "completed"
    assert "<b>Stable Diffusion 1.5</b>: downloaded" in list_of_bases(context.workspace, catalog_bases())
    assert context.base_of(context.draft) == SD15 and context.draft.number > number, "the forms show it"
    assert context.workspace.locate_base(SD15) == str(context.workspace.downloaded_base(SD15))
    assert "is downloaded and selected" in context.results[KIND].note


def test_a_failed_download_changes_nothing(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UserError("It could not be downloaded.", "The hub answered 503.", "Try again.")

    monkeypatch.setattr("engine.bases.download.ask", refuse)
    choose_base(context, "demo")
    snapshot = run(context, download_job(context, SD15))
    assert snapshot.outcome == "failed" and snapshot.failure.why == "The hub answered 503."
    assert context.base_of(context.draft) == "demo" and KIND not in context.results


def test_found_bases_can_be_chosen_by_their_path(context: AppContext, tiny_sdxl: Path, tmp_path: Path) -> None:
    import json

    folder = tmp_path / "home/ComfyUI/models/diffusers/mine"
    shutil.copytree(tiny_sdxl, folder)
    config = folder / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attention_dim": 2048}), encoding="utf-8")
    assert run(context, find_job(context, "")).outcome == "completed"
    message, found = render_result(context.view())
    assert "1 base found." in message and found.visible
    assert found.choices == [("mine (Stable Diffusion XL, ComfyUI)", str(folder))]
    choose_base(context, str(folder))
    assert context.config_of(context.draft)[0].model.base == str(folder)
    snapshot = run(context, find_job(context, str(tmp_path / "gone")))
    assert snapshot.outcome == "failed" and "is not a folder" in snapshot.failure.what
    assert render_result(context.view())[0] == ""


def test_each_base_says_what_it_is_for_and_what_its_licence_means() -> None:
    for base in catalog_bases():
        text = about_base(base)
        assert base.licence_means in text and f"{base.resolution} px" in text


def test_a_folder_that_disappears_while_it_is_listed_is_a_sentence(context: AppContext, tmp_path: Path) -> None:
    folder = tmp_path / "bases"
    folder.mkdir()
    assert run(context, find_job(context, str(folder))).outcome == "completed"
    folder.rmdir()
    assert run(context, find_job(context, "")).outcome == "completed", "the other places are searched all the same"
    assert f"{folder} was not found." in render_result(context.view())[0]
    choose_base(context, str(folder / "mine"))
    assert "<b>Stable Diffusion 1.5</b>: not downloaded" in list_of_bases(context.workspace, catalog_bases())
    with pytest.raises(UserError, match="was not found"):
        context.workspace.locate_base(context.base_of(context.draft))
