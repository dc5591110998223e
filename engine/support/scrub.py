"""Taking what is private out of a text: folders, file names, captions, names of datasets, addresses.

Where it is in doubt, too much is taken out: a report is read by strangers.
"""

from __future__ import annotations

import getpass
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from engine.data.dataset import Dataset
from engine.workspace.paths import APP_FOLDER

SHORTEST = 3
"""Letters: a shorter name or caption would be found in every other word."""
HEAD = 24
"""So many letters of a caption are enough to know it by: messages may cut it short."""
PAGE = 2000
ENDINGS = "png jpe?g webp bmp tiff? gif txt caption json jsonl csv parquet safetensors ckpt pth pt bin zip tar gz 7z"
OWN_FILES = frozenset(
    (
        "run.json",
        "metrics.jsonl",
        "log.txt",
        "scores.json",
        "checkpoint.json",
        "state.json",
        "dataset.json",
        "cache.json",
    )
    + ("config.json", "model_index.json", "diffusion_pytorch_model.safetensors", "optimizer.safetensors")
)
"""Names that the app gives: every workspace has them."""
QUOTED = re.compile(r"""(["'])((?:[A-Za-z]:[\\/]|\\\\|/|~[\\/])[^"'\n]*)\1""")
BARE = re.compile(r"(?<![\w.<>/\\-])(?:[A-Za-z]:[\\/]|\\\\|/(?=\w|\.)|~[\\/])[^\n]*")
"""From where a path begins to the end of the line; ``_path_end`` says where it ends."""
FILE = re.compile(rf"[^\s\"'/\\<>()]+\.({'|'.join(ENDINGS.split())})\b", re.IGNORECASE)
ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)


def private_words(datasets: Iterable[Dataset], text: str) -> Iterator[tuple[str, str]]:
    """(what stands in the text, what to put there) for captions and file names of these datasets."""
    for dataset in datasets:
        total = dataset.index.count()
        for offset in range(0, total, PAGE):
            samples = dataset.index.samples(offset, PAGE)
            for sample in [*samples, *dataset.captions.overlay(samples)]:
                yield from _file_names(sample.key, text)
                yield from caption_in(sample.caption, text)


def _file_names(key: str, text: str) -> Iterator[tuple[str, str]]:
    path = Path(key)
    for name in (key, path.name, path.stem):
        if len(name) >= SHORTEST and not name.isdigit() and name in text:
            yield name, "<file>"


def caption_in(caption: str, text: str) -> Iterator[tuple[str, str]]:
    """The caption, or as much of its beginning as stands in the text, wherever it does."""
    caption = caption.strip()
    head = caption[:HEAD]
    start = text.find(head) if len(caption) >= SHORTEST else -1
    while start >= 0:
        length = len(head)
        while length < len(caption) and text[start + length : start + length + 1] == caption[length]:
            length += 1
        yield caption[:length], "<caption>"
        start = text.find(head, start + length)


def scrub(text: str, known: Iterable[tuple[str, str]] = ()) -> str:
    """The text without paths, file names, addresses and what is ``known`` to be private: (words, what to put there)."""
    text = _shorten_our_own(text)
    for words, instead in sorted(set(known), key=lambda pair: -len(pair[0])):
        if len(words) >= SHORTEST:
            text = re.sub(rf"(?<!\w){re.escape(words)}(?!\w)", instead, text)
    text = ADDRESS.sub("<address>", text)
    text = QUOTED.sub(lambda found: f"{found[1]}{_instead(found[2])}{found[1]}", text)
    text = BARE.sub(lambda found: _bare(found[0]), text)
    text = FILE.sub(lambda found: found[0] if found[0] in OWN_FILES else f"<file>.{found[1].lower()}", text)
    for name in {getpass_user(), Path.home().name}:
        if len(name) >= SHORTEST:
            text = re.sub(rf"\b{re.escape(name)}\b", "<user>", text)
    return text


def _shorten_our_own(text: str) -> str:
    """Files of the app and of Python's packages say nothing private, and a traceback is worth nothing without them."""
    for folder, short in (
        (sysconfig.get_path("purelib"), "site-packages"),
        (sysconfig.get_path("platlib"), "site-packages"),
        (sysconfig.get_path("stdlib"), "python"),
        (f"{APP_FOLDER / 'engine'}", "engine"),
        (f"{APP_FOLDER / 'ui'}", "ui"),
    ):
        text = re.sub(rf"{re.escape(folder)}[\\/]([\w\\/.-]+\.py)\b", rf"{short}/\1", text)
    return text


def _instead(path: str) -> str:
    """A path's stand-in: that it was one, and of what kind."""
    ending = re.search(r"\.\w{1,12}$", path)
    return f"<path>{ending[0].lower() if ending else ''}"


def _bare(rest: str) -> str:
    """``rest`` begins with a path that may hold spaces: it ends at the last file ending or the last slash's word."""
    folders = re.match(r".*[\\/]", rest)
    head = folders.end() if folders else 0
    tail = rest[head:]
    file = re.match(r"[^\n\"']*\.\w{1,12}\b|[^\s\"':,;)]*", tail)
    end = head + (file.end() if file else 0)
    return _instead(rest[:end].rstrip(".")) + rest[end:]


def getpass_user() -> str:
    """The name of the account; empty where the system does not say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
