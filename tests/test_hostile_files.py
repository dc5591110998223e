"""Malicious files: code in weights, decompression bombs, archive members outside the folder. All are refused."""

from __future__ import annotations

import ast
import functools
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.conditions import weights
from engine.data import map_files
from engine.data.import_config import ImportConfig
from engine.data.scan import scan_folder
from engine.data.sources.image_store import ImageStore, Refused
from engine.data.sources.parquet import PARQUET
from engine.data.sources.tars import TARS
from engine.disk.images import MAX_PIXELS, inspect, load_array, load_rgb, thumbnail
from engine.errors import UserError
from engine.families.files import shapes_of
from engine.families.registry import detect
from engine.inference.image_info import read_settings
from engine.jobs.control import Control
from engine.nets.reading import read_net_file, read_pickle

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path for name in ("engine", "ui") for path in sorted((ROOT / name).rglob("*.py"))] + [ROOT / "app.py"]


class Executes:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def write_plain(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))  # torch's own


def write_old(path: Path, value: Any) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def write_gadget(path: Path, value: Any) -> None:
    """A zip in torch's layout whose data.pkl is an opcode stream that calls os.system."""
    mark = next(v.mark for v in value.values() if isinstance(v, Executes))
    code = b"cposix\nsystem\n(V" + f"touch {mark}".encode() + b"\ntR."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize("ending", [".ckpt", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize("write", [write_plain, lambda path, value: torch.save(value, path), write_old, write_gadget])
def test_code_in_weights_is_not_run(tmp_path: Path, write: Callable[[Path, Any], None], ending: str) -> None:
    mark, path = tmp_path / "executed", tmp_path / f"net{ending}"
    write(path, {"control_model.input_hint_block.0.weight": torch.zeros(2), "more": Executes(mark)})
    for read in (read_net_file, read_pickle, lambda p: detect(str(p)), weights.tensors):
        with pytest.raises((UserError, pickle.UnpicklingError, RuntimeError)) as caught:
            read(path)  # type: ignore[operator]
        if isinstance(caught.value, UserError):
            assert path.name in str(caught.value.what) + str(caught.value.why)
        assert not mark.exists()


def test_code_in_a_folder_of_weights_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    about = {"cross_attention_dim": 8, "block_out_channels": [8], "conditioning_embedding_out_channels": [8]}
    (tmp_path / "config.json").write_text(json.dumps(about | {"_class_name": "ControlNetModel"}), encoding="utf-8")
    torch.save({"conv_in.weight": Executes(mark)}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="more than numbers|not opened"):
        read_net_file(tmp_path)
    assert not mark.exists()


@functools.cache
def calls() -> list[tuple[str, ast.Call]]:
    return [
        (f"{path.relative_to(ROOT).as_posix()}:{node.lineno}", node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def keyword(call: ast.Call, name: str) -> Any:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name and k.value is not None), None)


def test_weights_are_read_without_code_everywhere() -> None:
    loads = [
        (where, call) for where, call in calls() if ast.unparse(call.func) in ("torch.load", "load_state_dict_file")
    ]
    assert len(loads) >= 4
    assert [where for where, call in loads if keyword(call, "weights_only") is not True] == []


def test_nothing_that_runs_foreign_code_is_called() -> None:
    forbidden = {
        "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.hub.load", "torch.jit.load", "joblib.load", "eval",
        "exec", "marshal.load", "marshal.loads", "shelve.open", "yaml.load", "os.system", "shutil.unpack_archive",
    }  # fmt: skip
    assert [where for where, call in calls() if ast.unparse(call.func) in forbidden] == []
    ends = ("extractall", "extract_member")
    assert [where for where, call in calls() if ast.unparse(call.func).endswith(ends)] == []
    assert [
        where for where, call in calls() if keyword_true(call, ("allow_pickle", "trust_remote_code", "shell"))
    ] == []


def keyword_true(call: ast.Call, names: tuple[str, ...]) -> bool:
    return any(k.arg in names and ast.unparse(k.value) != "False" for k in call.keywords)


def test_models_of_any_kind_are_told_to_bring_no_code() -> None:
    """``Auto...`` classes choose the class from the model's own config, which may name a Python file beside it."""
    auto = [
        (where, call)
        for where, call in calls()
        if ast.unparse(call.func).endswith(".from_pretrained")
        and (ast.unparse(call.func).startswith("Auto") or "getattr" in ast.unparse(call.func))
        and not ast.unparse(call.func).startswith("AutoencoderKL")
    ]
    assert len(auto) >= 5
    assert [where for where, call in auto if keyword(call, "trust_remote_code") is not False] == []


def test_images_are_opened_in_one_place() -> None:
    """The only modules that open images: they check size, format and end. The exception reads the app's own files."""
    opens = [where for where, call in calls() if ast.unparse(call.func) == "Image.open"]
    places = {where.split(":")[0] for where in opens}
    made_here = {"engine/conditions/types/external_child.py"}
    assert places <= {"engine/disk/image_formats.py"} | made_here


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes with a huge declared size: one row of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(3 * width + 1))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (60_000, 60_000), (2**31 - 1, 2)])
def test_an_image_bomb_is_refused_in_words_wherever_it_is_opened(tmp_path: Path, width: int, height: int) -> None:
    path = bomb(tmp_path / "bomb.png", min(width, 100_000), height * max(1, width // 100_000))
    ways: tuple[Callable[[Path], Any], ...] = (
        load_rgb,
        load_array,
        inspect,
        map_files.made_by,
        lambda p: thumbnail(p, tmp_path / "small"),
        read_settings,
    )
    for way in ways:
        with pytest.raises(UserError) as caught:
            way(path)
        assert "far too large" in caught.value.what and f"{MAX_PIXELS // 10**6} million pixels" in caught.value.why
    with ImageStore(tmp_path / "store") as store, pytest.raises(Refused, match="million pixels"):
        store.put_image("abcdef", path.read_bytes())


def write_table(path: Path, cells: list[bytes], maps: list[bytes] | None = None) -> Path:
    import pyarrow as arrow
    from pyarrow import parquet

    columns = {"image": cells, "caption": ["words"] * len(cells)} | ({"conditioning_image": maps} if maps else {})
    parquet.write_table(arrow.table(columns), path, compression="zstd")
    return path


@pytest.mark.parametrize("column", ["image", "conditioning_image"])
def test_an_image_bomb_in_a_parquet_cell_is_left_out_in_words(
    tmp_path: Path, photos: dict[str, Any], column: str
) -> None:
    good, evil = image_bytes(photos), bomb(tmp_path / "bomb.png", 60_000, 60_000).read_bytes()
    cells = {"image": [good, good], "conditioning_image": [good, good]}
    cells[column][1] = evil
    table = write_table(tmp_path / "set.parquet", cells["image"], cells["conditioning_image"])
    fetched = PARQUET.fetch(str(table), tmp_path / "out", ImportConfig(), lambda *_: None, Control().token)
    assert fetched.new == 1
    assert [reason for reason in fetched.skipped if f"{MAX_PIXELS // 10**6} million pixels" in reason]


def test_a_parquet_file_that_unpacks_to_far_more_than_it_holds_is_not_opened(
    tmp_path: Path, photos: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.data.sources.parquet.FREE_BYTES", 100_000)
    table = write_table(tmp_path / "set.parquet", [bytes(20_000_000), image_bytes(photos)])
    with pytest.raises(UserError, match=r"set\.parquet was not opened"):
        PARQUET.fetch(str(table), tmp_path / "out", ImportConfig(), lambda *_: None, Control().token)


def test_a_cell_larger_than_the_limit_is_left_out(tmp_path: Path, photos: dict[str, Any]) -> None:
    large = image_bytes(photos) + os.urandom(2_000_000)
    table = write_table(tmp_path / "set.parquet", [large, image_bytes(photos)])
    config = ImportConfig(max_megabytes=1)
    fetched = PARQUET.fetch(str(table), tmp_path / "out", config, lambda *_: None, Control().token)
    assert fetched.new == 1 and "larger than the limit" in fetched.skipped


def test_an_image_bomb_in_an_archive_is_named_when_it_is_read(tmp_path: Path, photos: dict[str, Any]) -> None:
    evil = bomb(tmp_path / "bomb.png", 60_000, 60_000).read_bytes()
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        add(tar, "good.png", image_bytes(photos))
        add(tar, "evil.png", evil)
    unpack(tmp_path / "set.tar", tmp_path / "out")
    found = scan_folder(tmp_path / "out")
    assert [sample.image.name for sample in found.samples] == ["good.png"]
    assert any("far too large" in f"{problem}" and "evil.png" in f"{problem}" for problem in found.problems)


def unpack(place: Path, folder: Path) -> Any:
    return TARS.fetch(str(place), folder, ImportConfig(), lambda *_: None, Control().token)


def image_bytes(photos: dict[str, Any]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(photos["coffee"]).resize((64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


def test_members_that_lead_elsewhere_are_left_out(tmp_path: Path, photos: dict[str, Any]) -> None:
    good, outside = image_bytes(photos), tmp_path / "outside.png"
    evil = (
        "../outside.png", "../../outside.png", str(outside), "a/../../outside.png", "..\\outside.png",
        "C:\\outside.png", "C:outside.png", "\\\\host\\share\\x.png", "//host/share/x.png", "x.png:stream.png",
        "con.png", "nul/x.png", "trailing. /x.png", ".hidden/x.png", "~/../x.png",
    )  # fmt: skip
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name in evil:
            add(tar, name, good)
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            add(tar, f"link{kind!r}.png", type=kind, linkname=str(outside))
            add(tar, f"folder{kind!r}", type=kind, linkname=str(tmp_path))
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            add(tar, f"device{kind!r}.png", type=kind)
        add(tar, "link/through.png", good)
        add(tar, "good.png", good)
    before = set(tmp_path.iterdir())
    fetched = unpack(tmp_path / "set.tar", tmp_path / "unpacked")
    found = {path.relative_to(tmp_path / "unpacked").as_posix() for path in (tmp_path / "unpacked").rglob("*.png")}
    assert found == {"set/good.png", "set/link/through.png"} and fetched.new == 2
    assert set(tmp_path.iterdir()) - before == {tmp_path / "unpacked"}
    assert not any(path.is_symlink() for path in (tmp_path / "unpacked").rglob("*"))


def test_a_link_that_lies_in_the_folder_is_not_written_through(tmp_path: Path, photos: dict[str, Any]) -> None:
    target = tmp_path / "mine.png"
    target.write_bytes(b"mine")
    (tmp_path / "unpacked" / "set").mkdir(parents=True)
    try:
        (tmp_path / "unpacked" / "set" / "a.png").symlink_to(target)
    except OSError:
        pytest.skip("links are not allowed here")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        add(tar, "a.png", image_bytes(photos))
    unpack(tmp_path / "set.tar", tmp_path / "unpacked")
    assert target.read_bytes() == b"mine"


def test_an_archive_that_unpacks_to_far_more_than_it_holds_ends_early(
    tmp_path: Path, photos: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.data.sources.tars.FREE_BYTES", 4_000_000)
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz", compresslevel=9) as tar:
        add(tar, "good.png", image_bytes(photos))
        for number in range(100):
            add(tar, f"{number}.bmp", bytes(1_000_000))
    fetched = unpack(tmp_path / "set.tar.gz", tmp_path / "unpacked")
    assert any("200 times its size" in note for note in fetched.notes)
    assert sum(path.stat().st_size for path in (tmp_path / "unpacked").rglob("*") if path.is_file()) < 20_000_000


def test_an_archive_of_endless_entries_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.sources.tars.MOST_MEMBERS", 50)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for number in range(80):
            add(tar, f"{number}.png", b"x")
    assert any("more than 50 entries" in note for note in unpack(tmp_path / "set.tar", tmp_path / "out").notes)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_does_not_fill_the_memory(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("note")
    member.type, member.size = kind, 8 * 2**30
    with gzip.open(tmp_path / "set.tar.gz", "wb") as file:
        file.write(member.tobuf())
        file.write(bytes(4_000_000))
    with pytest.raises(UserError, match="cannot be read"):
        unpack(tmp_path / "set.tar.gz", tmp_path / "out")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 10**9) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": 1} ',
        struct.pack("<Q", 20_000) + b"[" * 20_000,
        struct.pack("<Q", 26) + b'{"a": {"shape": ["x", 1]}}',
    ],
)
def test_a_header_of_weights_that_lies_is_reported(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(data)
    for read in (shapes_of, read_net_file):
        with pytest.raises(UserError, match=r"net\.safetensors"):
            read(path)  # type: ignore[operator]


def test_a_pickle_that_unpacks_to_more_than_any_net_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    monkeypatch.setattr("engine.nets.reading.MAX_PICKLE_BYTES", 1000)
    with pytest.raises(UserError, match="unpacks to"):
        read_pickle(path)
