"""Archives, parquet files with images, and saved or streamed Hugging Face datasets."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.data.before_import import describe_source, suggest_name
from engine.data.dataset import Dataset
from engine.data.import_config import ImportConfig
from engine.data.importing import import_source
from engine.data.sources.hub import explain, hub_id
from engine.data.sources.tars import safe_member
from engine.errors import UserError
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace
from tests.data.sources.server import Server, serving
from tests.data.sources.test_urls import png
from tests.test_hostile_files import bomb


def archive(path: Path, files: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for info in others:
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def shard(photo: np.ndarray, first: int, count: int) -> dict[str, bytes]:
    files = {}
    for number in range(first, first + count):
        facts = {"key": f"{number:09}", "status": "success", "url": f"http://localhost/{number}.jpg", "caption": "x"}
        files |= {
            f"{number:09}.png": png(photo, (64 + number, 64)),
            f"{number:09}.txt": f"coffee {number}".encode(),
            f"{number:09}.json": json.dumps(facts).encode(),
        }
    return files


def test_webdataset_archives_of_img2dataset(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    source = tmp_path / "laion"
    source.mkdir()
    for number in range(2):
        archive(source / f"{number:05}.tar", shard(photos["coffee"], 10 * number, 3))
        (source / f"{number:05}.parquet").write_bytes(b"what img2dataset notes beside each archive")
    assert "webdataset" in describe_source(str(source))
    result = import_source(workspace, str(source))
    assert (result.name, result.layout) == ("laion", "img2dataset")
    assert (result.pictures, result.captioned, result.new) == (6, 6, 6)
    sample = Dataset.open(result.folder).sample("00001/000000010.png")
    assert (sample.caption, sample.source) == ("coffee 10", "http://localhost/10.jpg")
    again = import_source(workspace, str(source))
    assert (again.new, again.present, again.pictures) == (0, 6, 6)
    few = import_source(workspace, str(source), "few", ImportConfig(max_pictures=2))
    assert (few.pictures, few.captioned) == (2, 2)


@pytest.mark.parametrize("packed", [True, False], ids=["archive", "folder"])
def test_images_outside_the_size_limits_are_skipped_reported_and_restored(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray], packed: bool
) -> None:
    sizes = {"right": (90, 80), "narrow": (60, 80), "low": (90, 40), "long": (200, 80)}
    files = {f"{name}.png": png(photos["coffee"], size) for name, size in sizes.items()}
    source = tmp_path / "source"
    source.mkdir()
    if packed:
        archive(source / "all.tar", files)
    else:
        for name, content in files.items():
            (source / name).write_bytes(content)
    wanted = ImportConfig(min_width=64, min_height=64, max_aspect=2.0)
    result = import_source(workspace, str(source), config=wanted)
    dataset = Dataset.open(result.folder)
    assert [Path(sample.key).name for sample in dataset.samples()] == ["right.png"] and result.problems == 3
    reasons = {problem.path.name: problem.why for problem in dataset.problems(0, 9)}
    assert "60 x 80" in reasons["narrow.png"] and "64 x 64" in reasons["low.png"] and "2 : 1" in reasons["long.png"]
    everything = import_source(workspace, str(source))
    assert (everything.pictures, everything.problems) == (4, 0)


def test_archive_members_cannot_leave_the_folder(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    good, outside = png(photos["coffee"]), tmp_path / "outside.png"
    names = [
        "../../../../outside.png",
        str(outside),
        "a/../../b.png",
        "C:\\x.png",
        "..\\..\\c.png",
        "con.png",
        "x:y.png",
    ]
    links = [
        special("link", tarfile.SYMTYPE, str(tmp_path)),
        special("hard.png", tarfile.LNKTYPE, "/etc/passwd"),
        special("device.png", tarfile.CHRTYPE),
        special("pipe.png", tarfile.FIFOTYPE),
    ]
    files = dict.fromkeys(names, good) | {"link/through.png": good, "fine.png": good, "fine.png/deeper.png": good}
    files |= {"x" * 300 + ".png": good, "program.exe": b"MZ", "large.png": good + b"\0" * 1_100_000}
    path = archive(tmp_path / "set.tar", files, *links)
    before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(workspace.root)}
    result = import_source(workspace, str(path), config=ImportConfig(max_megabytes=1))
    assert {s.key for s in Dataset.open(result.folder).samples()} == {"set/fine.png", "set/link/through.png"}
    assert {p for p in tmp_path.rglob("*") if not p.is_relative_to(workspace.root)} == before
    assert not any(p.is_symlink() for p in Path(result.folder).rglob("*"))
    notes = " ".join(result.notes)
    assert f"{len(names) + len(links)} skipped: entries that are not regular files" in notes
    assert "1 skipped: larger" in notes and "2 skipped: entries whose names" in notes
    assert safe_member(tarfile.TarInfo("./00/1.png")) is not None


def test_a_truncated_archive_yields_its_complete_members_and_an_import_can_be_cancelled(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    path = archive(tmp_path / "set.tar", shard(photos["rocket"], 0, 4))
    whole = path.read_bytes()
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):
        import_source(workspace, str(path), token=control.token)
    path.write_bytes(whole[: len(whole) // 2])
    result = import_source(workspace, str(path))
    assert 1 <= result.pictures < 4 and any("not be read completely" in note for note in result.notes)
    path.write_bytes(whole)
    assert import_source(workspace, str(path)).pictures == 4
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match="set.tar cannot be read"):
        import_source(workspace, str(path), "other")


def test_parquet_files_with_images(workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]) -> None:
    import pyarrow
    from pyarrow import parquet

    one, two = png(photos["coffee"]), png(photos["rocket"])
    plain = pyarrow.table({"key": ["0", "1", "2"], "caption": ["a", "b", "c"], "jpg": [one, two, b"damaged"]})
    parquet.write_table(plain, tmp_path / "00000.parquet")
    result = import_source(workspace, str(tmp_path / "00000.parquet"), "files")
    assert (result.pictures, result.captioned, result.paired) == (2, 2, False)
    assert result.notes[0] == "Used images from the column jpg, captions from caption."
    assert "1 skipped: It is not an image" in " ".join(result.notes)

    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    pairs = {"image": [{"bytes": one, "path": None}] * 2, "conditioning_image": [{"bytes": two, "path": "x"}, None]}
    parquet.write_table(pyarrow.table({**pairs, "text": ["a", "b"]}), folder / "train-00000-of-00001.parquet")
    result = import_source(workspace, str(folder.parent))
    assert (result.name, result.pictures, result.paired) == ("hub", 1, True)
    assert "condition maps from conditioning_image" in result.notes[0]

    parquet.write_table(pyarrow.table({"number": [1]}), tmp_path / "numbers.parquet")
    with pytest.raises(UserError, match="neither images nor web addresses"):
        import_source(workspace, str(tmp_path / "numbers.parquet"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="bad.parquet cannot be read"):
        import_source(workspace, str(tmp_path / "bad.parquet"))


@pytest.fixture
def pairs(tmp_path: Path, photos: dict[str, np.ndarray]) -> Path:
    """A folder for the imagefolder builder of the datasets library."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = []
    for name, photo in photos.items():
        for kind in ("picture", "map"):
            Image.fromarray(photo).resize((64, 64)).save(folder / f"{name}-{kind}.png")
        rows.append(
            {
                "file_name": f"{name}-picture.png",
                "conditioning_image_file_name": f"{name}-map.png",
                "text": [f"the {name}", "another"],
            }
        )
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def test_a_dataset_saved_by_the_datasets_library(workspace: Workspace, tmp_path: Path, pairs: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(pairs), split="train", cache_dir=str(tmp_path / "hf"))
    datasets.DatasetDict({"train": loaded}).save_to_disk(str(tmp_path / "saved"))
    assert "saved" in describe_source(str(tmp_path / "saved"))
    result = import_source(workspace, str(tmp_path / "saved"), config=ImportConfig(max_pictures=3))
    assert (result.pictures, result.captioned, result.paired, result.new) == (3, 3, True, 3)
    sample = Dataset.open(result.folder).samples()[0]
    assert sample.caption.startswith("the ") and sample.condition is not None
    again = import_source(workspace, str(tmp_path / "saved"))
    assert (again.pictures, again.new, again.present) == (4, 1, 3)
    with pytest.raises(UserError, match="no split test"):
        import_source(workspace, str(tmp_path / "saved"), "other", ImportConfig(split="test"))


def test_a_hub_dataset_is_streamed_up_to_the_limit(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    real = datasets.load_dataset
    asked: dict[str, Any] = {}
    rows = [
        {"image": {"bytes": png(photo), "path": None}, "conditioning_image": {"bytes": png(photo), "path": None}}
        for photo in photos.values()
    ]
    local = datasets.Dataset.from_list(rows)
    for name in rows[0]:
        local = local.cast_column(name, datasets.Image())
    local.to_parquet(str(tmp_path / "train.parquet"))

    def from_here(name: str, subset: str | None, **options: Any) -> Any:
        asked.update(options, name=name)
        return real("parquet", data_files=str(tmp_path / "train.parquet"), split="train", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", from_here)
    result = import_source(workspace, "https://huggingface.co/datasets/owner/set", config=ImportConfig(max_pictures=2))
    assert asked == {"name": "owner/set", "split": "train", "streaming": True}, "no code of the set's is asked to run"
    assert (result.name, result.pictures, result.paired) == ("set", 2, True)
    assert Dataset.open(result.folder).origin == "owner/set on Hugging Face"


def hub_file(hub: Server, name: str, content: bytes) -> str:
    """A file of owner/set on a server that responds like the Hub; returns its path."""
    listed = [{"type": "file", "path": name, "size": len(content), "oid": "0" * 40}]
    about = {"id": "owner/set", "sha": "0" * 40, "siblings": [], "private": False}
    api, kind = "/api/datasets/owner/set", {"Content_Type": "application/json"}
    folder = name.rpartition("/")[0]
    hub.page(f"{api}/revision/main", json.dumps(about).encode(), **kind)
    hub.page(f"{api}/tree/main/{folder}?recursive=false&expand=false", json.dumps(listed).encode(), **kind)
    hub.page(f"/datasets/owner/set/resolve/main/{name}", content)
    return f"hf://datasets/owner/set@main/{name}"


def test_only_files_on_the_hub_are_streamed_unchanged(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row may contain a path instead of an image, and the dataset's author chooses that path."""
    datasets = pytest.importorskip("datasets")
    photo, private, packed = png(photos["coffee"]), tmp_path / "private.png", io.BytesIO()
    private.write_bytes(photo)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inside.png", png(photos["rocket"]))
    with serving() as hub:
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)
        inner = hub.page("/of the own network.png", photo)
        paths = [
            hub_file(hub, "train/coffee.png", photo),
            f"zip://inside.png::{hub_file(hub, 'packed/all.zip', packed.getvalue())}",
            f"zip://not inside.png::{hub_file(hub, 'packed/all.zip', packed.getvalue())}",
            hub_file(hub, "evil/bomb.png", bomb(tmp_path / "bomb.png", 60_000, 60_000).read_bytes()),
            str(private),
            private.as_uri(),
            f"local://{private}",
            inner,
            f"zip://a::{private.as_uri()}",
            f"file://{private}::hf://datasets/owner/set@main/train/coffee.png",
        ]
        rows = datasets.Dataset.from_list([{"image": {"bytes": None, "path": path}} for path in paths])
        stream = rows.cast_column("image", datasets.Image(decode=False)).to_iterable_dataset()
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
        result = import_source(workspace, "owner/set")
        assert not hub.asked["/of%20the%20own%20network.png"] and not hub.asked["/of the own network.png"]
    notes = " ".join(result.notes)
    assert result.new == 2 and "rows without an image" in notes and "million pixels" in notes, notes
    kept = {sample.image.read_bytes() for sample in Dataset.open(result.folder).samples()}
    assert kept == {photo, png(photos["rocket"])}, "byte for byte"


@pytest.mark.answers("Do I have to write a dataset script?")
def test_a_dataset_with_a_loading_script_is_refused_with_an_alternative() -> None:
    error = explain("fusing/fill50k", RuntimeError("Dataset scripts are no longer supported, but found fill50k.py"))
    assert "script" in error.what and "parquet" in error.try_this
    assert "not accessible" in explain("a/b", type("DatasetNotFoundError", (Exception,), {})("x")).what
    assert "connection" in explain("a/b", ConnectionError("offline")).try_this


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("owner/name", "owner/name"),
        ("https://huggingface.co/datasets/owner/name/", "owner/name"),
        ("hf:owner/name", "owner/name"),
        ("https://huggingface.co/datasets/owner/name/tree/main/data", "owner/name"),
        ("huggingface.co/datasets/owner/name/viewer/default/train?row=3", "owner/name"),
        ("git@hf.co:datasets/owner/name.git", "owner/name"),
        ("https://huggingface.co/owner/name", ""),
        ("/a/folder", ""),
        ("./a/b", ""),
        ("a\\b", ""),
        ("name", ""),
        ("a/b/c", ""),
        ("~/b", ""),
        ("../b", ""),
    ],
)
def test_only_ids_and_hub_urls_are_hub_paths(place: str, name: str) -> None:
    assert hub_id(place) == name


def test_names_are_suggested(tmp_path: Path) -> None:
    (tmp_path / "my list.parquet").write_bytes(b"")
    cases = {
        str(tmp_path / "my list.parquet"): "my-list",
        "owner/name": "name",
        "/x/Katzen und Hunde/": "Katzen-und-Hunde",
    }
    assert {place: suggest_name(place) for place in cases} == cases and suggest_name(" ") == ""


def test_two_sources_never_share_a_folder(workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]) -> None:
    (tmp_path / "two").mkdir()
    first = archive(tmp_path / "set.tar", shard(photos["coffee"], 0, 2))
    other = archive(tmp_path / "two" / "set.tar", shard(photos["rocket"], 5, 2))
    control = Control()

    def progress(done: int, total: int, label: str) -> None:
        control.cancel()

    with pytest.raises(Cancelled):
        import_source(workspace, str(first), progress=progress, token=control.token)
    with pytest.raises(UserError, match="unfinished"):
        import_source(workspace, str(other))
    import_source(workspace, str(first))
    with pytest.raises(UserError, match="already"):
        import_source(workspace, str(other))


def test_a_missing_package_is_named_with_the_command(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError) as caught:
        import_source(workspace, "owner/name")
    assert "not installed" in caught.value.what and "pip install datasets" in caught.value.try_this


@pytest.mark.parametrize(
    ("names", "image", "map", "caption"),
    [
        (("original_image", "edited_image", "edit_prompt"), "edited_image", "original_image", "edit_prompt"),
        (("image", "semantic_segmentation", "text"), "image", "semantic_segmentation", "text"),
        (("conditioning", "ground_truth_image", "caption"), "ground_truth_image", "conditioning", "caption"),
        (("image", "depth_map", "mask", "description"), "image", "depth_map", "description"),
        (("picture_a", "title_text"), "picture_a", "", "title_text"),
    ],
)
def test_columns_are_found_by_what_their_names_mean(
    workspace: Workspace,
    tmp_path: Path,
    photos: dict[str, np.ndarray],
    names: tuple[str, ...],
    image: str,
    map: str,
    caption: str,
) -> None:
    import pyarrow
    from pyarrow import parquet

    data = png(photos["coffee"])
    table = {name: [{"bytes": data, "path": None}] * 2 for name in names[:-1]} | {names[-1]: ["a", "b"]}
    parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    result = import_source(workspace, str(tmp_path / "t.parquet"))
    assert f"images from the column {image}, captions from {caption}" in result.notes[0]
    assert (f"condition maps from {map}" in result.notes[0]) == bool(map)
    left = set(names[:-1]) - {image, map}
    assert all(name in " ".join(result.notes[1:2]) for name in left)


def test_images_in_the_file_count_more_than_addresses_and_lists_of_images_are_read(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    import pyarrow
    from pyarrow import parquet

    data = png(photos["coffee"])
    table = {"key": ["0", "1"], "jpg": [data] * 2, "url": ["http://127.0.0.1:9/a.jpg"] * 2, "caption": ["a", "b"]}
    parquet.write_table(pyarrow.table(table), tmp_path / "00000.parquet")
    result = import_source(workspace, str(tmp_path / "00000.parquet"), "one")
    assert (result.pictures, result.captioned, result.found) == (2, 2, "images in parquet files")

    nested = {"images": [[{"bytes": data, "path": None}]] * 2, "text": ["a", "b"]}
    parquet.write_table(pyarrow.table(nested), tmp_path / "nested.parquet")
    assert import_source(workspace, str(tmp_path / "nested.parquet"), "two").pictures == 2


@pytest.mark.parametrize("kind", ["AVIF", "TIFF", "JPEG2000", "TGA", "PPM"])
def test_every_format_of_an_image_is_stored(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray], kind: str
) -> None:
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    Image.fromarray(photos["coffee"]).save(buffer, kind)
    parquet.write_table(pyarrow.table({"image": [buffer.getvalue()], "text": ["a"]}), tmp_path / "t.parquet")
    assert import_source(workspace, str(tmp_path / "t.parquet")).pictures == 1


def test_a_cloned_repository_is_its_data_not_its_preview(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    import pyarrow
    from pyarrow import parquet

    clone = tmp_path / "clone"
    (clone / "data").mkdir(parents=True)
    (clone / "preview.png").write_bytes(png(photos["rocket"]))
    (clone / "README.md").write_text("# A dataset", encoding="utf-8")
    rows = {"image": [{"bytes": png(photos["coffee"]), "path": None}] * 3, "text": ["a", "b", "c"]}
    parquet.write_table(pyarrow.table(rows), clone / "data" / "train-00000-of-00001.parquet")
    result = import_source(workspace, str(clone))
    assert (result.pictures, result.captioned) == (3, 3)
    assert result.file_usage[1:] == [
        "Besides what was unpacked or downloaded, 2 files were left out:",
        "1 image, which is treated as a preview: preview.png.",
        "1 other file: README.md.",
    ]
    assert Dataset.open(result.folder).file_usage is not None


def test_a_label_column_of_images_is_the_maps_and_pointers_are_named(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    import pyarrow
    from pyarrow import parquet

    cells = [{"bytes": png(photos[name]), "path": None} for name in ("coffee", "rocket")]
    parquet.write_table(pyarrow.table({"pixel_values": cells, "label": cells}), tmp_path / "t.parquet")
    assert import_source(workspace, str(tmp_path / "t.parquet")).paired
    for name in ("p.parquet", "p.zip", "p.tar"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
        with pytest.raises(UserError, match="Git LFS pointer"):
            import_source(workspace, str(tmp_path / name), name.replace(".", "-"))


def test_lists_beside_archives_are_used_and_other_files_told(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    place = tmp_path / "set"
    (place / "data").mkdir(parents=True)
    body = png(photos["coffee"])
    with tarfile.open(place / "data" / "00000.tar", "w") as archive:
        for number in range(3):
            member = tarfile.TarInfo(f"{number:04}.png")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    (place / "captions.csv").write_text(
        "file,caption\n0000.png,a cup\n0001.png,two cups\n0002.png,three\n", encoding="utf-8"
    )
    (place / "phone.heic").write_bytes(b"x")
    (place / "data" / "00000.parquet").write_bytes(b"x")
    result = import_source(workspace, str(place))
    assert [sample.caption for sample in Dataset.open(result.folder).samples()] == ["a cup", "two cups", "three"]
    assert result.file_usage[1:] == [
        "Besides what was unpacked or downloaded, 2 files were left out:",
        "1 archive or table, since the images were taken from .tar files: to use it, import the file by itself: "
        "data/00000.parquet.",
        "1 HEIC file, which this app cannot read (save the image as JPEG or PNG): phone.heic.",
    ]


def test_a_sample_of_an_archive_may_have_several_parts(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as archive:
        for number in range(2):
            parts = {"jpg": png(photos["coffee"]), "canny.png": png(photos["rocket"]), "cls": b"7"}
            parts["json"] = json.dumps({"caption": f"c{number}"}).encode()
            for ending, body in parts.items():
                member = tarfile.TarInfo(f"{number:04}.{ending}")
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
    result = import_source(workspace, str(tmp_path / "00000.tar"))
    assert (result.pictures, result.captioned, result.paired) == (2, 2, True)
    assert "2 skipped: entries that end in .cls." in result.notes


class OldNames(zipfile.ZipInfo):
    """A member whose name is in the code page of a country, as Windows packs it, and does not say so."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802
        return self.filename.encode(self.comment.decode()), self.flag_bits & ~0x800


@pytest.mark.parametrize(("code_page", "word"), [("cp932", "みかん"), ("gbk", "原图线稿")])
def test_names_in_a_zip_of_another_country_are_those_that_its_list_names(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray], code_page: str, word: str
) -> None:
    rows = "\n".join(f"{word}/{word}{n}.png,maps/{word}{n}.png,caption {n}" for n in "12")
    files = {f"{folder}/{word}{n}.png": png(photos["coffee"], (64, 64)) for folder in (word, "maps") for n in "12"}
    files["metadata.csv"] = f"file_name,conditioning_image,text\n{rows}".encode(code_page)
    source = tmp_path / "set.zip"
    with zipfile.ZipFile(source, "w") as packed:
        for name, content in files.items():
            info = OldNames(name)
            info.comment = code_page.encode()
            packed.writestr(info, content)
    made = import_source(workspace, str(source))
    assert (made.pictures, made.captioned, made.paired) == (2, 2, True)
    assert Dataset.open(made.folder).sample(f"{word}/{word}1.png").caption == "caption 1"


def test_of_a_damaged_archive_or_table_the_rest_is_read_and_told(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    image = png(photos["coffee"], (64, 64))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        for n in "12":
            packed.writestr(f"{n}.png", image)
    packed_bytes = bytearray((tmp_path / "set.zip").read_bytes())
    packed_bytes[300] ^= 255
    (tmp_path / "set.zip").write_bytes(packed_bytes)
    made = import_source(workspace, str(tmp_path / "set.zip"))
    assert made.pictures == 1 and "1 skipped: damaged inside set.zip." in made.notes

    (tmp_path / "tables").mkdir()
    parquet.write_table(arrow.Table.from_pylist([{"image": image, "text": "a"}]), tmp_path / "tables" / "a.parquet")
    (tmp_path / "tables" / "b.parquet").write_bytes(b"PAR1 and no end")
    made = import_source(workspace, str(tmp_path / "tables"))
    assert made.pictures == 1
    assert "b.parquet cannot be read. Its end is missing" in made.notes[0] and "The others were read" in made.notes[0]

    whole = archive(tmp_path / "00000.tar", {"1.png": image, "2.png": image, "3.txt": b"x" * 600}).read_bytes()
    (tmp_path / "00000.tar").write_bytes(whole[: whole.index(b"3.txt") + 100])  # within a header: the end of a stream
    made = import_source(workspace, str(tmp_path / "00000.tar"))
    assert made.pictures == 2 and "00000.tar could not be read completely. Its end is missing." in str(made.notes)

    for name, content, words in (
        ("a.zip", b"", "empty"), ("b.zip", b"<html>", "different kind"), ("c.zip", bytes(packed_bytes[:99]), "end"),
        ("a.tar", b"", "empty"), ("b.tar", b"x" * 2048, "no tar archive"), ("c.tar.gz", b"\x1f\x8b\x08\0", "damaged"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as refused:
            import_source(workspace, str(tmp_path / name), f"refused-{name}")
        assert words in refused.value.why and "Error" not in refused.value.why, (name, refused.value.why)


def test_a_set_in_the_hub_cache_is_read_once_and_images_beside_an_archive_are_asked_about(
    workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    cache = tmp_path / "datasets--me--drawings"
    snapshot = cache / "snapshots" / "abc"
    for folder in ("blobs", "refs", "snapshots/abc/images", "snapshots/abc/cond"):
        (cache / folder).mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc", encoding="utf-8")
    for n in "12":
        for place in ("images", "cond"):
            (cache / "blobs" / f"{place}{n}").write_bytes(png(photos["coffee"], (64, 64)))
            (snapshot / place / f"{n}.png").symlink_to(f"../../../blobs/{place}{n}")
    for place in (cache, snapshot):
        made = import_source(workspace, str(place))
        assert (made.name, made.pictures, made.paired) == ("drawings", 2, True)

    (tmp_path / "beside" / "canny").mkdir(parents=True)
    for n in range(6):
        (tmp_path / "beside" / "canny" / f"{n}.png").write_bytes(png(photos["coffee"], (64, 64)))
    (tmp_path / "beside" / "images.zip").write_bytes(b"PK\3\4")
    made = import_source(workspace, str(tmp_path / "beside"))
    assert "images.zip was not unpacked: if it contains the images, unpack it next to them" in made.doubts[0]


def test_a_tree_in_a_tar_keeps_its_lists(workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]) -> None:
    image = png(photos["coffee"], (64, 64))
    rows = b"file_name,conditioning_image,text\nimages/1.png,cond/1.png,caption"
    files = {"set/images/1.png": image, "set/cond/1.png": image, "set/metadata.csv": rows}
    plain = archive(tmp_path / "plain.tar", files).read_bytes()
    for name, pack in (("a.tar", bytes), ("b.tar.bz2", bz2.compress), ("c.txz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(plain))
        made = import_source(workspace, str(tmp_path / name))
        assert (made.pictures, made.captioned, made.paired) == (1, 1, True), name
