"""Captions are encoded once, whatever happens meanwhile, and never all in memory."""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.config import RunConfig
from engine.data import text_cache
from engine.data.text_cache import TextCache, encode_missing
from engine.data.text_quantization import dequantize, quantize
from engine.data.text_shards import RunCaptions
from engine.disk.durable import checksum
from engine.disk.space import DiskFull
from engine.disk.tensor_file import read_header
from engine.estimate.memory import predict_from
from engine.families.facts import TEXT_PARTS
from engine.families.files import LAYOUTS, part_files, read_configs
from engine.families.text import INT8_BYTES, USUAL_TEXT, TextOptions
from engine.jobs.control import Cancelled, Control
from tests.data.plain_encoder import BATCH, SHARD, PlainEncoder, captions
from tests.forked import Forks

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "SHARD", SHARD)
    monkeypatch.setattr(text_cache, "CAPTIONS_AT_ONCE", BATCH)


@pytest.fixture
def base(tmp_path: Path) -> str:
    (tmp_path / "base" / "text_encoder").mkdir(parents=True)
    (tmp_path / "base" / "text_encoder" / "config.json").write_text("{}", encoding="utf-8")
    return str(tmp_path / "base")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def encode(
    folder: Path,
    base: str,
    wanted: list[str],
    progress: Any = None,
    token: Any = None,
    options: TextOptions = USUAL_TEXT,
    family: Any = None,
) -> list[str]:
    """Completes the cache, checks that it is right, and returns the captions that were encoded."""
    family = family or PlainEncoder()
    run = RunCaptions(folder, family, base, wanted, options)
    encode_missing(run, CPU, token or Control().token, progress or (lambda *_: None))
    right = PlainEncoder().encode_long(None, None, wanted, max(run.chunks.values()), options.clip_skip)
    for opened in (run, RunCaptions(folder, family, base, wanted, options)):
        for name, rows in TextCache(opened).read(wanted).items():
            assert rows.dtype == torch.float32 and torch.equal(rows, right[name].half().float())
    return [caption for batch in family.encoded for caption in batch]


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("text-*"))


def test_each_caption_is_encoded_once(folder: Path, base: str) -> None:
    wanted, seen = captions(2 * SHARD + 3), []
    assert encode(folder, base, wanted, lambda *given: seen.append(given)) == wanted
    assert len(shards(folder)) == 6, "three shards, two files each"
    assert [given for given in seen if given[2] == "Encoding captions"] == [
        (done, 19, "Encoding captions") for done in (4, 8, 12, 16, 19)
    ]
    assert encode(folder, base, wanted) == []
    family: Any = PlainEncoder()
    with pytest.raises(KeyError):
        TextCache(RunCaptions(folder, family, base, wanted)).read(["another"])


def test_an_edited_caption_costs_one_encoding(folder: Path, base: str) -> None:
    wanted = captions(3 * SHARD)
    encode(folder, base, wanted)
    before = set(shards(folder))
    edited = ["edited" if caption == "caption 9" else caption for caption in wanted]
    seen: list[Any] = []
    assert encode(folder, base, edited, lambda *given: seen.append(given)) == ["edited"]
    assert seen[-1] == (24, 24, "Encoding captions"), "what was there counts as done"
    assert before < set(shards(folder)) and len(shards(folder)) == len(before) + 2
    assert encode(folder, base, wanted) == [], "undone: the old row is still there"


def test_rows_that_are_still_of_use_leave_a_shard_that_is_mostly_not(folder: Path, base: str) -> None:
    wanted = captions(2 * SHARD)
    encode(folder, base, wanted)
    edited = [*wanted[:3], *(f"edited {n}" for n in range(3, SHARD)), *wanted[SHARD:]]
    assert encode(folder, base, edited) == edited[3:SHARD], "three rows of eight were copied"
    assert len(shards(folder)) == 4
    only_new = [f"new {number}" for number in range(3)]
    assert encode(folder, base, only_new) == only_new
    assert len(shards(folder)) == 2, "what nobody needs is removed"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
@pytest.mark.parametrize("when", ["while encoding", "between the files"])
def test_a_killed_process_loses_less_than_a_shard(folder: Path, base: str, forks: Forks, when: str) -> None:
    wanted = captions(4 * SHARD)
    killed = forks.start("tests.data.plain_encoder", str(folder), base, str(len(wanted)), when)
    assert forks.wait(killed) == -9
    assert encode(folder, base, wanted) == wanted[2 * SHARD :]
    assert len(shards(folder)) == 8, "nothing is left behind"


def test_a_cancelled_encoding_goes_on_where_it_was(folder: Path, base: str) -> None:
    control = Control()

    def progress(done: int, total: int, label: str) -> None:
        if done == SHARD + BATCH:
            control.cancel()

    wanted = captions(3 * SHARD)
    with pytest.raises(Cancelled):
        encode(folder, base, wanted, progress, control.token)
    assert encode(folder, base, wanted) == wanted[SHARD:]


def test_two_processes_do_not_get_in_each_others_way(folder: Path, base: str) -> None:
    wanted, encoded = captions(2 * SHARD), []
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        begun.set()
        go_on.wait(10)

    first = threading.Thread(target=lambda: encoded.append(encode(folder, base, wanted, wait)))
    first.start()
    assert begun.wait(10)
    second = threading.Thread(target=lambda: encoded.append(encode(folder, base, wanted)))
    second.start()
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):  # who waits can be cancelled
        encode(folder, base, wanted, token=control.token)
    go_on.set()
    first.join(10)
    second.join(10)
    assert encoded == [wanted, []]


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "no description", "unreadable", "another encoder"])
def test_what_is_not_whole_is_encoded_again(folder: Path, base: str, harm: str) -> None:
    wanted = captions(3 * SHARD)
    encode(folder, base, wanted)
    description = sorted(folder.glob("text-*.json"))[0]
    tensors = description.with_suffix(".safetensors")
    lost = json.loads(description.read_text(encoding="utf-8"))["captions"]
    content = bytearray(tensors.read_bytes())
    if harm == "flipped":
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif harm == "cut":
        tensors.write_bytes(content[:-3])
    elif harm == "gone":
        tensors.unlink()
    elif harm == "no description":
        description.unlink()
    elif harm == "unreadable":
        description.write_text('{"captions"', encoding="utf-8")
    else:
        (Path(base) / "text_encoder" / "config.json").write_text('{"of": "another base"}', encoding="utf-8")
        lost = wanted
    assert sorted(encode(folder, base, wanted)) == sorted(lost)
    assert len(shards(folder)) == 6


def test_a_cache_of_an_earlier_version_is_used(folder: Path, base: str) -> None:
    old = captions(2 * SHARD)
    key = hashlib.blake2b(json.dumps([1, part_files(base, TEXT_PARTS), old]).encode(), digest_size=12).hexdigest()
    path = folder / f"text-{key}.safetensors"
    rows = PlainEncoder().encode_long(None, None, old, 1, 1)
    save_file({name: values.half().contiguous() for name, values in rows.items()}, path)
    about = {"captions": old, "made": "2025-01-01 12:00:00", "checksums": {path.name: checksum(path)}}
    path.with_suffix(".json").write_text(json.dumps(about), encoding="utf-8")
    assert encode(folder, base, old) == []
    assert encode(folder, base, [*old[1:], "new"]) == ["new"]
    assert path.exists() and len(shards(folder)) == 4
    (Path(base) / "text_encoder" / "config.json").write_text('{"of": "another base"}', encoding="utf-8")
    assert encode(folder, base, old) == old and not path.exists()


def test_no_more_than_a_shard_is_in_memory(folder: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, most = captions(12 * SHARD), 0
    real = text_cache.save_tensors

    def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        nonlocal most
        alive = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor) and thing.dtype == torch.half]
        most = max(most, sum(tensor.shape[0] for tensor in alive if tensor.shape[1:] == (7, 2)))
        real(path, tensors)

    monkeypatch.setattr(text_cache, "save_tensors", save)
    encode(folder, base, wanted)
    assert 0 < most <= SHARD + BATCH


def test_a_full_disk_is_noticed_before_the_rest_is_encoded(
    folder: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = 2 * (7 * 2 + 2)
    monkeypatch.setattr("engine.disk.space.free_bytes", lambda _: 20 * row)
    family: Any = PlainEncoder()
    with pytest.raises(DiskFull, match="The cache of captions was not written"):
        encode_missing(RunCaptions(folder, family, base, captions(3 * SHARD)), CPU, Control().token, lambda *_: None)
    assert len(family.encoded) == SHARD // BATCH


def test_long_captions_are_read_whole_and_short_ones_as_if_alone(folder: Path, base: str) -> None:
    short, two, three, more = captions(SHARD), "b" * 60, "c" * 110, "d" * 490
    wanted, whole = [*short, two], TextOptions(whole=True)
    family: Any = PlainEncoder()
    assert encode(folder, base, wanted, options=whole, family=family) == wanted and family.counted == wanted
    again: Any = PlainEncoder()
    assert encode(folder, base, wanted, options=whole, family=again) == [] and again.counted == []
    cache = TextCache(RunCaptions(folder, again, base, wanted, whole))
    assert cache.read([short[1], two])["hidden"].shape == (2, 14, 2)
    assert cache.read_one(short[1])["hidden"].shape == (1, 7, 2) and cache.read_one(two)["hidden"].shape == (1, 14, 2)

    assert encode(folder, base, [*wanted, three], options=whole) == [two, three], (
        "two has an empty chunk at its end now"
    )
    assert encode(folder, base, [*short, more], options=whole) == [more]
    cache = TextCache(RunCaptions(folder, again, base, [*short, more], whole))
    assert cache.read([""])["hidden"].shape == (1, 21, 2), "three chunks at most"
    assert encode(folder, base, [*short, more]) == [more], "where they are cut, only the long ones differ"


def test_tokens_are_counted_once(folder: Path, base: str) -> None:
    wanted, whole = [*captions(SHARD), "b" * 60], TextOptions(whole=True)
    encode(folder, base, wanted)
    first, second = PlainEncoder(), PlainEncoder()
    assert encode(folder, base, wanted, options=whole, family=first) == ["b" * 60]
    assert first.counted == wanted, "the shards of a run that cuts do not say"
    encode(folder, base, wanted, options=whole, family=second)
    assert second.counted == []


def test_another_clip_skip_is_another_text(folder: Path, base: str) -> None:
    wanted = captions(SHARD)
    assert encode(folder, base, wanted) == wanted
    assert encode(folder, base, wanted, options=TextOptions(clip_skip=2)) == wanted
    assert encode(folder, base, wanted, options=TextOptions(clip_skip=2)) == []


def test_captions_in_8_bits_take_half_the_room_and_change_by_less_than_a_percent(folder: Path, base: str) -> None:
    class Wide(PlainEncoder):
        def encode_long(self, *given: Any) -> dict[str, torch.Tensor]:
            made = super().encode_long(*given)
            return {**made, "hidden": made["hidden"].repeat(1, 1, 64) * torch.linspace(-1, 1, 128)}

    wanted, family = captions(SHARD + 3), Wide()
    encode_missing(RunCaptions(folder, family, base, wanted[:SHARD]), CPU, Control().token, lambda *_: None)
    family.encoded.clear()
    there = set(shards(folder))
    options, unused = TextOptions(stored="int8"), lambda *_: None
    run = RunCaptions(folder, family, base, wanted, options)
    encode_missing(run, CPU, Control().token, unused)
    assert family.encoded == [wanted[SHARD:]] and there < set(shards(folder)), "what is there in fp16 is used"
    kinds = {entry["dtype"] for path in folder.glob("*.safetensors") for entry in read_header(path)[0].values()}
    assert kinds == {"F16", "I8", "U8"}
    right = family.encode_long(None, None, wanted, 1, 1)
    for name, rows in TextCache(RunCaptions(folder, family, base, wanted, options)).read(wanted).items():
        assert rows.dtype == torch.float32 and (rows - right[name]).norm() < 0.01 * right[name].norm()
    half: Any = RunCaptions(folder, family, base, wanted)
    with pytest.raises(KeyError):  # a run that wants fp16 encodes again what is in 8 bits
        TextCache(half).read(wanted)

    noise = torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(0))
    states = (noise * torch.logspace(-2, 2, 15).view(3, 5, 1)).half()
    states[..., 7] *= 300  # as single channels of language models
    whole = {"hidden": states, "odd": states[..., :40], "real": torch.ones(3, 5).half()}
    quantized = quantize(whole)
    back = dequantize(quantized)
    taken = sum(tensor.nbytes for name, tensor in quantized.items() if name.startswith("hidden"))
    assert taken == INT8_BYTES * states.numel()
    assert back.keys() == whole.keys() and all(torch.equal(back[name], whole[name].float()) for name in ("odd", "real"))
    assert torch.equal(back["hidden"][..., 7], states[..., 7].float())
    for part in (slice(0, 7), slice(8, 64), slice(64, 128)):
        exact = states[..., part].float()
        assert ((back["hidden"][..., part] - exact).norm(dim=-1) < 0.015 * exact.norm(dim=-1)).all()
    again = quantize({"hidden": back["hidden"].half()})
    assert again["hidden"].equal(quantized["hidden"]), "rows may be copied any number of times"


def test_captions_are_in_8_bits_by_themselves_where_they_would_take_too_much() -> None:
    def in_int8(stored: Any, count: int) -> bool:
        return TextOptions(stored=stored).uses_int8(count, lambda: 512 * 4096)

    assert [in_int8(stored, 2000) for stored in ("auto", "half", "int8")] == [False, False, True]
    assert [in_int8(stored, 2100) for stored in ("auto", "half", "int8")] == [True, False, True]
    flux = read_configs(LAYOUTS / "flux")
    small, large = (predict_from(RunConfig(), flux, images).cache / images for images in (2000, 2100))
    latents = 3 * 2 * 16 * 64**2  # mean and log-variance, and the mean of the control image
    assert small == latents + 2 * 512 * 4096 and large == latents + INT8_BYTES * 512 * 4096
