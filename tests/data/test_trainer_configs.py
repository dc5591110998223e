"""Dataset configs of other trainers: what they name is read as they mean it, and what is not used is told."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from engine.data.before_import import describe_source, question
from engine.data.dataset import Dataset
from engine.data.importing import import_source
from engine.data.layouts.trainer_configs.files import load
from engine.data.scan import ScanReport, scan_folder
from engine.errors import UserError
from engine.workspace.paths import Workspace
from tests.data.test_found_in_the_wild import adds_up, drawn, pairs, photo, rows, write

KOHYA = """
[general]
shuffle_caption = true
caption_extension = '.txt'

[[datasets]]
resolution = 512
batch_size = 4

  [[datasets.subsets]]
  image_dir = '{dogs}'
  conditioning_data_dir = '{maps}'
  num_repeats = 10
  class_tokens = 'a dog'

  [[datasets.subsets]]
  is_reg = true
  image_dir = '{reg}'
  class_tokens = 'animal'
"""


def images_and_maps(root: Path, names: str = "12", images: str = "dogs", maps: str = "edges") -> None:
    """Names that say nothing of what the folders hold."""
    for name in names:
        photo(root / images / f"{name}.png")
        drawn(root / maps / f"{name}.png")


def said(report: ScanReport) -> str:
    """All that the page tells of an import."""
    assert report.file_usage is not None
    problems = [f"{problem.what} {problem.why} {problem.try_this}" for problem in report.problems]
    return " ".join([*report.file_usage.sentences(), *report.notes, *report.doubts, *problems])


def wrong(path: Path) -> str:
    """The whole message of the error that reading a path raises."""
    with pytest.raises(UserError) as caught:
        scan_folder(path)
    return f"{caught.value.what} {caught.value.why} {caught.value.try_this}"


def kohya_tree(root: Path) -> Path:
    images_and_maps(root, images="a/dogs", maps="b")
    photo(root / "reg" / "9.png")
    write(root / "a" / "dogs" / "1.txt", "c1")
    write(root / "a" / "dogs" / "1.caption", "another")
    write(root / "dataset.toml", KOHYA.format(dogs="a/dogs", maps="b", reg="reg"))
    return root / "dataset.toml"


def test_kohya(tmp_path: Path) -> None:
    report = scan_folder(kohya_tree(tmp_path))
    assert pairs(report) == {"1.png": ("c1", "1.png"), "2.png": ("a dog", "2.png")}
    assert report.layout == "trainer_config" and report.source == tmp_path and adds_up(report)
    assert not report.problems and not report.doubts
    for words in ("num_repeats", "counts once", "resolution", "shuffle_caption", "regularization images", "reg/9.png"):
        assert words in said(report)


def test_kohya_as_json_says_the_same(tmp_path: Path) -> None:
    images_and_maps(tmp_path)
    subset = {"image_dir": "dogs", "conditioning_data_dir": "edges"}
    write(tmp_path / "dataset.json", {"datasets": [{"resolution": [512, 512], "subsets": [subset, subset]}]})
    report = scan_folder(tmp_path / "dataset.json")
    assert len(report.samples) == 2 and report.paired and adds_up(report)
    assert "2 images are named more than once" in said(report)


def test_kohya_metadata_named_by_a_config_and_given_alone(tmp_path: Path) -> None:
    for name in "123":
        photo(tmp_path / "img" / f"{name}.png")
    listed = {"1": {"caption": "c1", "tags": "sky, sea"}, "/old/place/img/2.png": {"tags": "c2"}}
    write(tmp_path / "meta_lat.json", listed)
    write(
        tmp_path / "dataset.toml",
        "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'img'\nmetadata_file = 'meta_lat.json'",
    )
    for source in ("dataset.toml", "meta_lat.json"):
        report = scan_folder(tmp_path / source)
        assert pairs(report) == {"1.png": ("c1, sky, sea", ""), "2.png": ("c2", "")}
        assert adds_up(report) and "3.png" in said(report)


def concepts(*entries: dict[str, Any]) -> list[dict[str, Any]]:
    usual = {
        "__version": 1,
        "image": {"__version": 0, "enable_random_flip": True, "enable_crop_jitter": False},
        "text": {"__version": 0, "prompt_source": "sample", "prompt_path": ""},
        "enabled": True,
        "include_subdirectories": False,
        "image_variations": 1,
        "balancing": 1.0,
        "balancing_strategy": "REPEATS",
        "loss_weight": 1.0,
    }
    return [{**usual, **entry} for entry in entries]


def test_onetrainer(tmp_path: Path) -> None:
    for name in "12":
        photo(tmp_path / "dogs" / f"{name}.png")
        drawn(tmp_path / "dogs" / f"{name}-condlabel.png", tmp_path / "dogs" / f"{name}-masklabel.png")
        write(tmp_path / "dogs" / f"{name}.txt", f"c{name}")
    photo(tmp_path / "cats" / "a_cat.png", tmp_path / "cats" / "deeper" / "no.png", tmp_path / "off" / "x.png")
    drawn(tmp_path / "cats" / "a_cat-condlabel.png")
    for name in "34":
        photo(tmp_path / "birds" / "in" / f"{name}.png")
        drawn(tmp_path / "birds" / "in" / f"{name}-condlabel.png")
    write(tmp_path / "birds.txt", "a bird\na flying bird\n")
    write(
        tmp_path / "concepts.json",
        concepts(
            {"name": "dogs", "path": str(tmp_path / "dogs"), "balancing": 4.0},
            {"name": "cats", "path": str(tmp_path / "cats"), "text": {"prompt_source": "filename"}},
            {
                "name": "birds",
                "path": str(tmp_path / "birds"),
                "include_subdirectories": True,
                "text": {"prompt_source": "concept", "prompt_path": str(tmp_path / "birds.txt")},
            },
            {"name": "off", "path": str(tmp_path / "off"), "enabled": False},
        ),
    )
    report = scan_folder(tmp_path / "concepts.json")
    assert pairs(report) == {
        "1.png": ("c1", "1-condlabel.png"),
        "2.png": ("c2", "2-condlabel.png"),
        "a_cat.png": ("a_cat", "a_cat-condlabel.png"),
        "3.png": ("a bird", "3-condlabel.png"),
        "4.png": ("a flying bird", "4-condlabel.png"),
    }
    assert adds_up(report) and not report.problems
    for words in ("balancing", "enable_random_flip", "off is disabled", "masks", "birds.txt (2)", "cats/deeper/no.png"):
        assert words in said(report)


def test_simpletuner(tmp_path: Path) -> None:
    data = tmp_path / "datasets"
    images_and_maps(data, images="antelope-data", maps="antelope-conditioning")
    photo(data / "birds" / "a_red_bird.png", data / "off" / "x.png")
    drawn(data / "bird-maps" / "a_red_bird.png")
    base = {"type": "local", "resolution": 1024, "crop": True, "cache_dir_vae": "cache/vae", "repeats": 5}
    image = {**base, "dataset_type": "image"}
    maps = {**base, "dataset_type": "conditioning"}
    write(
        tmp_path / "config" / "multidatabackend.json",
        [
            {
                **image,
                "id": "antelope",
                "instance_data_dir": "datasets/antelope-data",
                "conditioning_data": "antelope-maps",
                "caption_strategy": "instanceprompt",
                "instance_prompt": "an antelope",
            },
            {**maps, "id": "antelope-maps", "instance_data_dir": "datasets/antelope-conditioning"},
            {
                **image,
                "id": "birds",
                "instance_data_dir": "datasets/birds",
                "conditioning_data": ["bird-maps", "antelope-maps"],
                "caption_strategy": "filename",
            },
            {**maps, "id": "bird-maps", "instance_data_dir": "datasets/bird-maps"},
            {**image, "id": "off", "instance_data_dir": "datasets/off", "disabled": True},
            {"id": "clouds", "type": "aws", "aws_bucket_name": "clouds"},
            {"id": "text", "type": "local", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache/text"},
        ],
    )
    report = scan_folder(tmp_path / "config" / "multidatabackend.json")
    assert pairs(report) == {
        "1.png": ("an antelope", "1.png"),
        "2.png": ("an antelope", "2.png"),
        "a_red_bird.png": ("a red bird", "a_red_bird.png"),
    }
    assert report.source == data and adds_up(report) and not report.problems
    for words in ("repeats", "crop", "off is disabled", "aws", "several kinds of maps", "off/x.png"):
        assert words in said(report)


def test_simpletuner_captions_in_a_table(tmp_path: Path) -> None:
    photo(tmp_path / "img" / "1.png", tmp_path / "img" / "2.png")
    rows(tmp_path / "captions.jsonl", {"file": "1.png", "words": "c1"}, {"file": "2.png", "words": "c2"})
    table = {"path": "captions.jsonl", "filename_column": "file", "caption_column": "words"}
    backend = {"id": "a", "type": "local", "instance_data_dir": "img", "caption_strategy": "parquet", "parquet": table}
    write(tmp_path / "multidatabackend.json", [backend])
    assert pairs(scan_folder(tmp_path / "multidatabackend.json")) == {"1.png": ("c1", ""), "2.png": ("c2", "")}


def test_musubi(tmp_path: Path) -> None:
    images_and_maps(tmp_path, images="after", maps="first")
    images_and_maps(tmp_path, "34", images="more/after", maps="more/first")
    (tmp_path / "first" / "2.png").rename(tmp_path / "first" / "2_0000.png")
    write(tmp_path / "after" / "1.tags", "c1")
    rows(
        tmp_path / "more" / "list.jsonl",
        {"image_path": "after/3.png", "control_path": "first/3.png", "caption": "c3"},
        {"image_path": "/old/more/after/4.png", "control_path_0": "/old/more/first/4.png", "caption": "c4"},
    )
    write(
        tmp_path / "musubi.toml",
        "[general]\nresolution = [960, 544]\ncaption_extension = '.tags'\n"
        "[[datasets]]\nimage_directory = 'after'\ncontrol_directory = 'first'\ncache_directory = 'cache'\n"
        "[[datasets]]\nimage_jsonl_file = 'more/list.jsonl'\nnum_repeats = 2\n"
        "[[datasets]]\nvideo_directory = 'clips'\n",
    )
    report = scan_folder(tmp_path / "musubi.toml")
    assert pairs(report) == {
        "1.png": ("c1", "1.png"),
        "2.png": ("", "2_0000.png"),
        "3.png": ("c3", "3.png"),
        "4.png": ("c4", "4.png"),
    }
    assert [s.condition.parent.name for s in report.samples if s.condition] == ["first"] * 4
    assert adds_up(report) and "clips contains videos" in said(report) and "num_repeats" in said(report)


AI_TOOLKIT = """
job: extension
config:
  name: my_first_lora
  process:
    - type: sd_trainer
      trigger_word: p3r5on
      network: {{type: lora, linear: 16}}
      datasets:
        - folder_path: "{images}"
          control_path:
            - "{maps}"
          mask_path: masks
          caption_ext: txt
          default_caption: a photo
          resolution: [512, 768]
          flip_x: true
"""


def test_ai_toolkit(tmp_path: Path) -> None:
    images_and_maps(tmp_path, images="set/pics", maps="set/pics/lines")
    drawn(tmp_path / "masks" / "1.png")
    write(tmp_path / "set" / "pics" / "1.txt", "c1")
    write(tmp_path / "train.yaml", AI_TOOLKIT.format(images="set/pics", maps="set/pics/lines"))
    report = scan_folder(tmp_path / "train.yaml")
    assert pairs(report) == {"1.png": ("c1", "1.png"), "2.png": ("a photo", "2.png")}
    assert adds_up(report) and not report.problems
    for words in ("trigger_word", "flip_x", "resolution", "mask_path"):
        assert words in said(report)


def test_ai_toolkit_with_several_kinds_of_maps(tmp_path: Path) -> None:
    """None of them is taken for an image, though they lie in the folder of images."""
    for name in "12":
        photo(tmp_path / "pics" / f"{name}.png", tmp_path / "pics" / "holes" / f"{name}.png")
        drawn(tmp_path / "pics" / "pose" / f"{name}.png", tmp_path / "pics" / "depth" / f"{name}.png")
    entry = {"folder_path": "pics", "control_path_1": "pics/pose", "control_path_2": "pics/depth"}
    elsewhere = str(tmp_path.parent)
    more = {
        "inpaint_path": "pics/holes",
        "mask_path": "pics/gone",
        "clip_image_path": elsewhere,
        "control_path_3": None,
    }
    write(tmp_path / "job.json", {"config": {"process": [{"datasets": [{**entry, **more}]}]}})
    report = scan_folder(tmp_path / "job.json")
    assert [s.condition and s.condition.parent.name for s in report.samples] == ["pose", "pose"] and adds_up(report)
    assert report.source == tmp_path / "pics"
    assert "only the first, pics/pose" in said(report) and "pics/gone" not in said(report)
    assert "4 images that are masks or further maps" in said(report)


def test_diffusion_pipe(tmp_path: Path) -> None:
    images_and_maps(tmp_path)
    write(tmp_path / "dogs" / "1.txt", "c1")
    write(
        tmp_path / "dataset.toml",
        "resolutions = [512]\n[[directory]]\npath = 'dogs'\ncontrol_path = 'edges'\nnum_repeats = 5",
    )
    write(tmp_path / "main.toml", "output_dir = '/data/runs'\ndataset = 'dataset.toml'\nepochs = 10")
    report = scan_folder(tmp_path / "main.toml")
    assert pairs(report) == {"1.png": ("c1", "1.png"), "2.png": ("", "2.png")} and adds_up(report)
    assert "resolutions" in said(report) and "num_repeats" in said(report)


def test_one_image_with_several_maps_is_told(tmp_path: Path) -> None:
    images_and_maps(tmp_path)
    drawn(tmp_path / "edges" / "other.png")
    rows(
        tmp_path / "a.jsonl", *({"image_path": "dogs/1.png", "control_path": f"edges/{n}.png"} for n in ("1", "other"))
    )
    write(tmp_path / "c.toml", "[[datasets]]\nimage_jsonl_file = 'a.jsonl'")
    report = scan_folder(tmp_path / "c.toml")
    assert pairs(report) == {"1.png": ("", "1.png")} and adds_up(report)
    assert "names 1.png with several maps" in said(report) and "other.png is left out" in said(report)


def test_a_config_of_a_whole_training_leads_to_its_dataset(tmp_path: Path) -> None:
    config = kohya_tree(tmp_path)
    write(tmp_path / "train.toml", f"dataset_config = '{config}'\nlearning_rate = 1e-5")
    report = scan_folder(tmp_path / "train.toml")
    assert len(report.samples) == 2 and "train.toml names dataset.toml" in said(report)
    config.unlink()
    assert "dataset.toml was not found" in wrong(tmp_path / "train.toml")


def test_it_imports_as_a_dataset(workspace: Workspace, tmp_path: Path) -> None:
    config = kohya_tree(tmp_path / "set")
    assert "a dataset config of kohya's sd-scripts (dataset.toml), 2 images" in describe_source(str(config))
    assert question(str(config)) is None  # the roles are sure
    result = import_source(workspace, f'"{config}"', "dogs")
    assert (result.pictures, result.paired, result.layout) == (2, True, "trainer_config")
    assert [part.role for part in result.parts] == ["image", "map"]
    dataset = Dataset.open(result.folder)
    assert dataset.source == tmp_path / "set" and [s.key for s in dataset.index.samples()][0] == "a/dogs/1.png"
    again = import_source(workspace, str(tmp_path / "set"), "dogs")  # the folder that the config lies in
    assert (again.pictures, again.layout) == (2, "trainer_config")


def test_one_that_lies_in_the_folder_decides(tmp_path: Path) -> None:
    kohya_tree(tmp_path)
    report = scan_folder(tmp_path)
    assert pairs(report) == {"1.png": ("c1", "1.png"), "2.png": ("a dog", "2.png")} and adds_up(report)
    without = scan_folder(tmp_path, asked={"b": "ignored"})
    assert not without.paired and len(without.samples) == 2 and adds_up(without)
    other = scan_folder(tmp_path, asked={"b": "image"})
    assert other.layout != "trainer_config" and "dataset.toml was not used" in said(other)
    with pytest.raises(UserError, match="says that it contains the maps"):
        scan_folder(tmp_path / "dataset.toml", asked={"b": "image"})


def test_one_in_the_folder_that_names_other_places_is_told(tmp_path: Path) -> None:
    images_and_maps(tmp_path / "set", images="images", maps="canny")
    photo(tmp_path / "elsewhere" / "1.png")
    write(tmp_path / "set" / "far.toml", f"[[datasets]]\nimage_directory = '{tmp_path / 'elsewhere'}'")
    write(tmp_path / "set" / "gone.toml", "[[datasets]]\nimage_directory = '/no/such/place'")
    (tmp_path / "set" / "empty").mkdir()
    write(tmp_path / "set" / "vain.toml", "[[datasets]]\nimage_directory = 'images'\ncontrol_directory = 'empty'")
    write(tmp_path / "private.txt", "a secret")
    text = {"prompt_source": "concept", "prompt_path": "../private.txt"}
    write(tmp_path / "set" / "concepts.json", concepts({"path": "images", "text": text}))
    write(tmp_path / "set" / "broken.yaml", "a: [")
    write(tmp_path / "set" / "other.json", {"learning_rate": 1})
    report = scan_folder(tmp_path / "set")
    assert report.paired and report.layout == "paired" and adds_up(report)
    for name in ("far.toml is a dataset config", "concepts.json is a dataset config", "/no/such/place"):
        assert name in said(report)
    assert "broken.yaml was not used" in said(report) and "vain.toml was not used" in said(report)
    assert not any(sample.caption for sample in report.samples)


def test_paths_of_another_machine_are_looked_for_beside_the_config(tmp_path: Path) -> None:
    images_and_maps(tmp_path, images="data/dogs", maps="maps")
    write(tmp_path / "dataset.toml", KOHYA.format(dogs=r"D:\train\data\dogs", maps="/home/me/maps", reg="/gone/reg"))
    report = scan_folder(tmp_path / "dataset.toml")
    assert len(report.samples) == 2 and report.paired and adds_up(report)
    assert r"D:\train\data\dogs was not found; " in said(report)


def test_links_lead_to_the_folders(tmp_path: Path) -> None:
    """A search for images skips linked folders, but these are named."""
    real, linked = tmp_path / "disk" / "set", tmp_path / "linked"
    images_and_maps(real, images="pics", maps="lines")
    linked.mkdir()
    try:
        (linked / "dogs").symlink_to(real / "pics", target_is_directory=True)
        (linked / "edges").symlink_to(real / "lines", target_is_directory=True)
        (tmp_path / "way").symlink_to(real, target_is_directory=True)
    except OSError:
        pytest.skip("this user may not make links")
    for folder, names in ((linked, ("dogs", "edges")), (tmp_path / "way", ("pics", "lines"))):
        write(folder / "c.toml", "[[datasets]]\nimage_directory = '{}'\ncontrol_directory = '{}'".format(*names))
        report = scan_folder(folder / "c.toml")
        assert report.source == real and len(report.samples) == 2 and report.paired
    assert adds_up(report)
    chosen = scan_folder(tmp_path / "way")
    assert chosen.source == tmp_path / "way" and chosen.layout == "trainer_config" and adds_up(chosen)


def test_folders_without_a_common_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is read, and the rest is told. Only the folders that are named are searched."""
    images_and_maps(tmp_path / "a")
    photo(tmp_path / "a" / "private" / "x.png")
    write(tmp_path / "elsewhere" / "c.toml", KOHYA.format(dogs=tmp_path / "a/dogs", maps=tmp_path / "a/edges", reg=""))
    report = scan_folder(tmp_path / "elsewhere" / "c.toml")
    assert report.source == tmp_path / "a" and len(report.samples) == 2 and "private" not in said(report)

    from engine.data.layouts.trainer_configs import places

    photo(tmp_path / "b" / "5.png")
    write(
        tmp_path / "two.toml",
        "[[datasets]]\nimage_directory = 'a/dogs'\n[[datasets]]\nimage_directory = 'b'",
    )
    real = places.folder_in_common
    monkeypatch.setattr(
        places, "folder_in_common", lambda folders: None if real(folders) == tmp_path else real(folders)
    )
    report = scan_folder(tmp_path / "two.toml")
    assert len(report.samples) == 2 and f"{tmp_path / 'b'}: left out" in said(report)
    write(tmp_path / "one.toml", "[[datasets]]\nimage_directory = 'a/dogs'\ncontrol_directory = 'b'")
    assert "have no parent folder in common" in wrong(tmp_path / "one.toml")


def test_what_lacks_a_partner_is_told(tmp_path: Path) -> None:
    images_and_maps(tmp_path)
    photo(tmp_path / "dogs" / "7.png", tmp_path / "plain" / "8.png")
    drawn(tmp_path / "edges" / "9.png")
    write(
        tmp_path / "c.toml",
        "[[datasets]]\nimage_directory = 'dogs'\ncontrol_directory = 'edges'\n"
        "[[datasets]]\nimage_directory = 'plain'\n[[datasets]]\nimage_directory = 'gone'\n",
    )
    report = scan_folder(tmp_path / "c.toml")
    assert len(report.samples) == 2 and adds_up(report)
    assert {problem.path.name for problem in report.problems} == {"7.png", "9.png", "c.toml"}
    for words in ("names no maps", "plain/8.png", "gone in c.toml was left out"):
        assert words in said(report)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.toml", "", "It understands those of kohya's"),
        ("c.toml", "[train]\nlr = 1", "SimpleTuner"),
        ("c.json", "[]", "OneTrainer"),
        ("c.json", '{"a": 1}', "ai-toolkit"),
        ("c.yaml", "", "musubi-tuner"),
        ("c.toml", "[[datasets]\n", "TOML is broken"),
        ("c.toml", '[[datasets]]\nimage_directory = "C:\\pics"', "single quotes"),
        ("c.json", '[{"path": ', "JSON is broken"),
        ("c.yaml", "a: [1, 2\nb: }", "YAML is broken"),
        ("c.yaml", "a: !!python/object/apply:os.system ['true']", "YAML is broken"),
        ("c.json", "[" * 100_000, "nested too deeply"),
        ("c.toml", "datasets = [{subsets = 5}]", "subsets in c.toml is not a list of tables. It is 5"),
        ("c.toml", "[[datasets]]\nimage_directory = 3", "image_directory in c.toml is not a text. It is 3"),
        ("c.toml", "[[datasets]]\nimage_directory = ''", "It names no folder of images"),
        ("c.toml", "[[datasets]]\nimage_directory = '/gone/pics'", "Not found: /gone/pics."),
        ("c.toml", '[[datasets]]\nimage_directory = "a\\u0000b"', "Not found"),
        ("c.json", [{"id": "a", "type": "aws"}], "not on this machine (aws)"),
        ("c.json", [{"id": "a", "instance_data_dir": "here", "conditioning_data": "b"}], "the dataset b"),
        ("c.yaml", "config: {process: [{datasets: [{folder_path: here, control_path: [1]}]}]}", "list of texts"),
        ("c.toml", "[[datasets]]\nimage_directory = 'here'\ncontrol_directory = 'gone'", "Not found: gone."),
        ("c.toml", "[[datasets]]\nimage_directory = 'none'", "no images of none in none"),
        ("c.toml", "[[datasets]]\nimage_directory = 'c.toml'", "c.toml is a file, not a folder."),
        ("c.toml", "[[datasets]]\nimage_directory = 'here'\ncontrol_directory = './here/'", "It names here for the"),
        ("c.json", {"datasets": [{"subsets": [{"metadata_file": "c.json"}]}]}, "the metadata_file of c.json"),
        ("c.toml", "[[datasets]]\nimage_jsonl_file = 'c.toml'", "None of its lines is an object with an image_path"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_words(tmp_path: Path, name: str, content: object, words: str) -> None:
    photo(tmp_path / "here" / "1.png")
    (tmp_path / "none").mkdir()
    write(tmp_path / name, content)
    assert words in wrong(tmp_path / name)


def test_configs_in_other_encodings_and_too_large_ones(tmp_path: Path) -> None:
    photo(tmp_path / "日本" / "1.png")
    write(tmp_path / "c.toml", "[[datasets]]\nimage_directory = '日本'", encoding="utf-16")
    assert len(scan_folder(tmp_path / "c.toml").samples) == 1
    write(tmp_path / "large.yaml", "# " + "x" * (1 << 20))
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "large.yaml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders on Windows")
def test_a_list_without_an_end_is_not_read(tmp_path: Path) -> None:
    photo(tmp_path / "pics" / "1.png")
    os.mkfifo(tmp_path / "lines.txt")
    text = {"prompt_source": "concept", "prompt_path": "lines.txt"}
    write(tmp_path / "concepts.json", concepts({"path": "pics", "text": text}))
    assert "Not found: lines.txt" in wrong(tmp_path / "concepts.json")


def test_lists_that_are_no_configs_are_read_as_before(tmp_path: Path) -> None:
    images_and_maps(tmp_path, images="images", maps="conditioning_images")
    listed = [
        {"path": f"images/{n}.png", "conditioning_image": f"conditioning_images/{n}.png", "text": n} for n in "12"
    ]
    write(tmp_path / "data.json", json.dumps(listed))
    report = scan_folder(tmp_path)
    assert report.layout == "listed" and report.paired and adds_up(report)


VALUES = [
    None,
    True,
    0,
    1.5,
    "",
    ".",
    "/",
    "maps",
    "gone",
    "\x00",
    "x" * 5000,
    [],
    {},
    ["maps"],
    [None],
    {"a": 1},
]


def changed(value: Any, chance: random.Random) -> Any:
    """The same config with about one value in eight replaced by another, perhaps of a wrong type."""
    if chance.random() < 0.08:
        return chance.choice(VALUES)
    if isinstance(value, dict):
        return {key: changed(one, chance) for key, one in value.items()}
    return [changed(one, chance) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_config_says_it_is_read_or_refused_in_words(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for folder in ("pics", "pics/in", "maps", "reg"):
        for name in "123":
            (drawn if folder == "maps" else photo)(tmp_path / folder / f"{name}.png")
    rows(tmp_path / "list.jsonl", {"image_path": "pics/1.png", "control_path": "maps/1.png"}, {"image_path": 5})
    kohya = {"image_dir": "pics", "conditioning_data_dir": "maps"}
    local = {"type": "local", "caption_strategy": "textfile"}
    usual: list[Any] = [
        {"general": {}, "datasets": [{"subsets": [kohya, {"image_dir": "reg", "is_reg": True}]}]},
        {"general": {}, "datasets": [{"image_directory": "pics", "control_directory": "maps"}]},
        {"datasets": [{"image_jsonl_file": "list.jsonl"}, {"image_directory": "reg"}]},
        {"config": {"process": [{"datasets": [{"folder_path": "pics", "control_path": ["maps", "reg"]}]}]}},
        {"directory": [{"path": "pics", "control_path": "maps", "mask_path": "reg"}]},
        concepts({"path": "pics", "include_subdirectories": True}, {"path": "reg"}),
        [
            {**local, "id": "a", "instance_data_dir": "pics", "conditioning_data": "b"},
            {**local, "id": "b", "instance_data_dir": "maps", "dataset_type": "conditioning"},
        ],
        {"1": {"caption": "c"}, "pics/2.png": {"tags": ["t"]}},
    ]
    for content in usual:
        write(tmp_path / "c.json", changed(content, chance))
        try:
            report = scan_folder(tmp_path / "c.json")
        except UserError as error:
            assert error.what and error.why and error.try_this
        else:
            assert adds_up(report) or tmp_path not in (report.source, *report.source.parents)
            assert not report.paired or not any("maps" in sample.key for sample in report.samples)


def test_maps_in_a_folder_for_each_image_and_numbered_ones(tmp_path: Path) -> None:
    for name in "12":
        photo(tmp_path / "target" / f"{name}.png")
        drawn(*(tmp_path / "reference" / name / f"{n}.png" for n in "12"))
        drawn(*(tmp_path / "control" / f"{name}_{n}.png" for n in "01"))
        write(tmp_path / "target" / f"{name}.txt", f"c{name}")
    subset = "image_dir = 'target'\nconditioning_data_dir = 'reference'\nconditioning_multi_reference = true"
    write(tmp_path / "kohya.toml", f"[[datasets]]\n[[datasets.subsets]]\ncaption_extension = '.txt'\n{subset}")
    write(tmp_path / "musubi.toml", "[[datasets]]\nimage_directory = 'target'\ncontrol_directory = 'control'")
    report = scan_folder(tmp_path / "kohya.toml")
    assert pairs(report) == {"1.png": ("c1", "1.png"), "2.png": ("c2", "1.png")} and adds_up(report)
    assert "masks or further maps: reference/1/2.png, reference/2/2.png" in said(report) and not report.problems
    report = scan_folder(tmp_path / "musubi.toml")
    assert {map for _, map in pairs(report).values()} == {"1_0.png", "2_0.png"} and adds_up(report)
    assert "masks or further maps: control/1_1.png, control/2_1.png" in said(report) and not report.problems


def test_json_with_comments_and_maps_without_their_type(tmp_path: Path) -> None:
    """SimpleTuner's guides show both."""
    images_and_maps(tmp_path)
    write(tmp_path / "dogs" / "1.txt", "c1 // no comment")
    write(
        tmp_path / "multidatabackend.json",
        """[
  // pairs
  {"id": "a", "type": "local", "instance_data_dir": "dogs", "conditioning_data": ["b"], "note": "a // b, ] /* c */"},
  /* their
     maps */
  {"id": "b", "type": "local", "instance_data_dir": "edges", "caption_strategy": null},  // comment
]""",
    )
    report = scan_folder(tmp_path / "multidatabackend.json")
    assert pairs(report) == {"1.png": ("c1 // no comment", "1.png"), "2.png": ("", "2.png")}
    assert adds_up(report) and not report.problems


def test_concepts_as_other_programs_write_them(tmp_path: Path) -> None:
    for name in ("images/1", "images/2", "off/3"):
        photo(tmp_path / f"{name}.png")
        drawn(tmp_path / f"{name}-masklabel.png")
        write(tmp_path / f"{name}.txt", f"c{name[-1]}")
    flat = {"type": "STANDARD", "prompt_source": "sample", "include_subdirectories": False, "image_variations": [{}]}
    one, other = {"name": "a", "path": "C:/somewhere/images"}, {"name": "b", "path": "off", "ignore_concept": True}
    write(tmp_path / "concept.json", [one | flat, other | flat])
    report = scan_folder(tmp_path / "concept.json")
    assert pairs(report) == {"1.png": ("c1", ""), "2.png": ("c2", "")} and adds_up(report)
    assert "b is disabled" in said(report) and "masks or further maps" in said(report)
    report = scan_folder(tmp_path / "images")
    assert report.paired and "OneTrainer uses this name for masks" in report.doubts[0]
    alone = scan_folder(tmp_path / "images", asked={"-masklabel": "ignored"})
    assert len(alone.samples) == 2 and not alone.paired and adds_up(alone)
