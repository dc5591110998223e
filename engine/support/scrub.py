"""Removes private data from a text: folders, file names, captions, names of datasets, addresses.

When in doubt, too much is removed: strangers read the report.
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
"""Characters. A shorter name or caption would be found inside other words."""
HEAD = 24
"""Characters of a caption that are enough to recognize it: messages may cut it short."""
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
"""File names that the app gives, the same in every workspace."""
QUOTED = re.compile(r"""(["'])((?:[A-Za-z]:[\\/]|\\\\|/|~[\\/])[^"'\n]*)\1""")
BARE = re.compile(r"(?<![\w.<>/\\-])(?:[A-Za-z]:[\\/]|\\\\|/(?=\w|\.)|~[\\/])[^\n]*")
"""From the beginning of a path to the end of the line; ``_replace_bare`` finds the end of the path."""
FILE = re.compile(rf"[^\s\"'/\\<>()]+\.({'|'.join(ENDINGS.split())})\b", re.IGNORECASE)
ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)


def private_words(datasets: Iterable[Dataset], text: str) -> Iterator[tuple[str, str]]:
    """Yield (string in the text, replacement) for captions and file names of these datasets."""
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
    """Yield (string in the text, replacement) for each place with the caption, or with its beginning."""
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
    """Return the text without paths, file names and addresses.

    Args:
        known: further private strings, as (string, replacement).
    """
    text = _shorten_code_paths(text)
    for string, replacement in sorted(set(known), key=lambda pair: -len(pair[0])):
        if len(string) >= SHORTEST:
            text = re.sub(rf"(?<!\w){re.escape(string)}(?!\w)", replacement, text)
    text = ADDRESS.sub("<address>", text)
    text = QUOTED.sub(lambda found: f"{found[1]}{_placeholder(found[2])}{found[1]}", text)
    text = BARE.sub(lambda found: _replace_bare(found[0]), text)
    text = FILE.sub(lambda found: found[0] if found[0] in OWN_FILES else f"<file>.{found[1].lower()}", text)
    for name in {account_name(), Path.home().name}:
        if len(name) >= SHORTEST:
            text = re.sub(rf"\b{re.escape(name)}\b", "<user>", text)
    return text


def _shorten_code_paths(text: str) -> str:
    """Shorten paths of the app's and Python's own files. They are not private, and a traceback needs them."""
    for folder, short in (
        (sysconfig.get_path("purelib"), "site-packages"),
        (sysconfig.get_path("platlib"), "site-packages"),
        (sysconfig.get_path("stdlib"), "python"),
        (f"{APP_FOLDER / 'engine'}", "engine"),
        (f"{APP_FOLDER / 'ui'}", "ui"),
    ):
        text = re.sub(rf"{re.escape(folder)}[\\/]([\w\\/.-]+\.py)\b", rf"{short}/\1", text)
    return text


def _placeholder(path: str) -> str:
    """The replacement of a path: "<path>" with the file ending."""
    ending = re.search(r"\.\w{1,12}$", path)
    return f"<path>{ending[0].lower() if ending else ''}"


def _replace_bare(rest: str) -> str:
    """Replace the path at the beginning of ``rest``. It may hold spaces: it ends with a file ending or a word."""
    folders = re.match(r".*[\\/]", rest)
    head = folders.end() if folders else 0
    tail = rest[head:]
    file = re.match(r"[^\n\"']*\.\w{1,12}\b|[^\s\"':,;)]*", tail)
    end = head + (file.end() if file else 0)
    return _placeholder(rest[:end].rstrip(".")) + rest[end:]


def account_name() -> str:
    """The name of the user's account. Empty if the system does not tell."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
