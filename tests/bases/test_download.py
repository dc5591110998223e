"""Downloads of a base from a hub on this machine, with what can go wrong."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.bases.catalog import state_of
from engine.bases.download import ask, download
from engine.cli.main import main
from engine.errors import UserError
from engine.families.files import bases_in
from engine.hub import download as module
from engine.hub.faults import Repository
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace
from tests.bases.hub import BASE, NOT_NEEDED, LocalHub

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


def get(workspace: Workspace, **options: Any) -> Path:
    return download(workspace, ask(workspace, BASE), **options)


def test_a_base_arrives_with_what_training_needs_and_loads_without_the_hub(
    workspace: Workspace, hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from engine.families.registry import detect

    assert main(["--workspace", str(workspace.root), "bases", "get", BASE]) == 0
    folder = workspace.downloaded_base(BASE)
    assert str(folder) in capsys.readouterr().out
    got = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    replaced = {name.replace(".fp16", "") for name in hub.files if ".fp16." in name}
    assert got == {name: data for name, data in hub.files.items() if name not in {*replaced, *NOT_NEEDED}}
    assert not workspace.partial_base(BASE).exists()

    hub.http.shutdown()
    located = workspace.locate_base(BASE)
    assert located == str(folder) and state_of(workspace, BASE).kind == "downloaded"
    family = detect(located)
    assert family.facts.name == "sd1"
    assert family.load_denoiser(located, torch.float16).dtype == torch.float16
    family.load_text_encoder(located, torch.float32)
    before = len(hub.asked)
    assert main(["--workspace", str(workspace.root), "bases", "get", BASE]) == 0  # nothing is left to do
    assert len(hub.asked) == before and "already downloaded" in capsys.readouterr().out


def test_cut_connections_are_gone_on_with_at_the_byte(workspace: Workspace, hub: LocalHub) -> None:
    hub.cuts = [5_000, 3_000]
    get(workspace)
    ranges = [part for name in hub.files for part in hub.sent(name)]
    assert len([part for part in ranges if part]) == 2, "each cut is followed by the rest"
    assert state_of(workspace, BASE).kind == "downloaded"


def test_a_cancelled_download_goes_on_where_it_was(workspace: Workspace, hub: LocalHub) -> None:
    wanted, control, seen = ask(workspace, BASE), Control(), []
    hub.hang.clear()

    def progress(done: int, total: int, label: str) -> None:
        seen.append((done, total, label))
        if any(hub.sent(file.name) for file in wanted.files):
            control.cancel()

    with pytest.raises(Cancelled):
        download(workspace, wanted, control.token, progress)
    state = state_of(workspace, BASE)
    assert state.kind == "partly downloaded" and state.have > 0
    # The index comes last, but a folder that somebody has copied may have it.
    (workspace.partial_base(BASE) / "model_index.json").write_bytes(hub.files["model_index.json"])
    assert bases_in(workspace.models) == []
    assert not workspace.downloaded_base(BASE).exists() and workspace.locate_base(BASE) == BASE
    fetched = {name for name in hub.files if (workspace.partial_base(BASE) / name).is_file()}
    assert fetched and seen[-1][2] == "Downloading, MB"

    hub.hang.set()
    hub.asked.clear()
    download(workspace, wanted)
    again = {path.split(f"/resolve/{'c' * 40}/")[-1] for path, _, _ in hub.asked}
    assert not again & fetched, "whole files are not fetched again"
    assert state_of(workspace, BASE).kind == "downloaded"


def test_cancel_does_not_wait_for_a_server_that_says_nothing(workspace: Workspace, hub: LocalHub) -> None:
    hub.hang.clear()
    control = Control()
    timer = threading.Timer(0.3, control.cancel)
    timer.start()
    with pytest.raises(Cancelled):
        get(workspace, token=control.token)


def test_the_rest_of_another_file_is_thrown_away_and_a_wrong_hash_is_an_error(
    workspace: Workspace, hub: LocalHub
) -> None:
    wanted = ask(workspace, BASE)
    unet = next(file for file in wanted.files if file.name == UNET)
    part = workspace.partial_base(BASE) / f"{UNET}.{unet.sha256[:12]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"of something else")
    hub.damaged.add("vae/diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="vae/diffusion_pytorch_model.safetensors arrived damaged") as caught:
        download(workspace, wanted)
    assert "HF_ENDPOINT" in caught.value.try_this
    assert hub.sent(UNET) == ["bytes=17-", ""], "from the start, since the hash of the whole was wrong"
    assert (workspace.partial_base(BASE) / UNET).read_bytes() == hub.files[UNET]
    assert not list(workspace.partial_base(BASE).rglob("*.part")), "the damaged file is gone"
    hub.damaged.clear()
    download(workspace, wanted)
    assert len(hub.sent(UNET)) == 2 and state_of(workspace, BASE).kind == "downloaded"


def test_an_incomplete_folder_that_somebody_copied_is_completed(workspace: Workspace, hub: LocalHub) -> None:
    folder = workspace.downloaded_base(BASE)
    (folder / "unet").mkdir(parents=True)
    (folder / UNET).write_bytes(hub.files[UNET])
    (folder / "model_index.json").write_bytes(hub.files["model_index.json"])
    assert state_of(workspace, BASE).kind == "partly downloaded"
    get(workspace)
    assert hub.sent(UNET) == [] and state_of(workspace, BASE).kind == "downloaded"


def test_files_behind_a_link_are_left_alone(workspace: Workspace, hub: LocalHub, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "unet").mkdir(parents=True)
    (other / UNET).write_bytes(hub.files[UNET])
    workspace.downloaded_base(BASE).symlink_to(other)
    with pytest.raises(UserError, match="is a link to a folder elsewhere"):
        get(workspace)
    assert (other / UNET).is_file()


INVALID = {"X-Error-Message": "Invalid credentials in Authorization header"}


@pytest.mark.parametrize(
    ("where", "status", "headers", "token", "words"),
    [
        ("/api/models/", 401, INVALID, "hf_secret", ["refused the token", "hf auth login"]),
        ("/api/models/", 401, {"X-Error-Code": "RepoNotFound"}, "", ["no such model, or it is private (401)"]),
        ("/api/models/", 404, {"X-Error-Code": "RepoNotFound"}, "hf_secret", ["no such model", "spelling"]),
        ("/api/models/", 429, {}, "", ["too many requests", "continues where it stopped"]),
        ("/api/models/", 503, {}, "", ["answered 503"]),
        ("/resolve/", 401, {"X-Error-Code": "GatedRepo"}, "", ["accepted its terms", "hf auth login"]),
        ("/resolve/", 403, {"X-Error-Code": "GatedRepo"}, "hf_secret", ["accepted its terms", "Accept them at"]),
        ("/resolve/", 403, {}, "hf_secret", ["accepted its terms", "token has no permission", "/settings/tokens"]),
        ("/storage/", 404, {}, "", ["no such model"]),
        ("/storage/", 429, {}, "", ["too many requests"]),
    ],
)
def test_a_refusal_is_told_in_words_and_without_the_token(
    workspace: Workspace,
    hub: LocalHub,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    status: int,
    headers: dict[str, str],
    token: str,
    words: list[str],
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.refuse[where] = (status, headers)
    with pytest.raises(UserError) as caught:
        get(workspace)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "hf_secret" not in str(caught.value)
    assert not token or any(token in sent for _, _, sent in hub.asked), "the library's own token is sent"


def test_the_token_is_not_sent_to_the_storage_nor_written(
    workspace: Workspace, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get(workspace)
    sent = {authorization for path, _, authorization in hub.asked if path.startswith("/storage/")}
    assert sent == {""}, "the storage is another host"
    for path in workspace.root.rglob("*"):
        assert not path.is_file() or b"hf_secret" not in path.read_bytes()


def test_without_a_connection_it_says_how_to_bring_the_folder(workspace: Workspace, hub: LocalHub) -> None:
    from huggingface_hub.utils import close_session

    with pytest.raises(UserError, match="could not be reached") as caught:
        ask(workspace, BASE, endpoint="http://127.0.0.1:9")
    assert str(workspace.downloaded_base(BASE)) in caught.value.try_this
    close_session()


def test_offline_mode_is_named(workspace: Workspace, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        ask(workspace, BASE)


def test_room_on_the_disk_is_asked_for_first(
    workspace: Workspace, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ask(workspace, BASE)
    monkeypatch.setattr(module, "free_bytes", lambda folder: wanted.bytes - 1)
    hub.asked.clear()
    with pytest.raises(UserError, match="was not downloaded. It needs"):
        download(workspace, wanted)
    assert hub.asked == []


def test_a_disk_that_becomes_full_keeps_what_is_there(
    workspace: Workspace, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(done: int, total: int, label: str) -> None:
        if hub.sent(UNET):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="is full"):
        get(workspace, progress=full)
    assert state_of(workspace, BASE).kind == "partly downloaded"


def test_two_downloads_of_one_base_exclude_each_other(
    workspace: Workspace, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0)
    with (
        module.alone(workspace.partial_base(BASE), Repository(BASE)),
        pytest.raises(UserError, match="already being downloaded"),
    ):
        get(workspace)


def test_a_fault_of_the_program_is_not_called_one_of_the_hub(workspace: Workspace, hub: LocalHub) -> None:
    def broken(done: int, total: int, label: str) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        get(workspace, progress=broken)
