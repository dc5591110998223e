"""What a LoRA or a new word needs of settings and base, as far as files tell it. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from engine.config import RunConfig
from engine.families.family_facts import FamilyFacts
from engine.tuning.facts import facts_of

LCM_SAMPLER = "LCMScheduler"


def why_not_tuned(config: RunConfig, family: FamilyFacts, base: str) -> list[str]:
    """Sentences on why a run cannot train what its settings ask for; empty if it can, or trains a ControlNet.

    Args:
        family: of the base.
        base: where it is.
    """
    learned, tuning = facts_of(config).learned, config.tuning
    if learned.text and learned.base == "factors" and not family.text_can_learn:
        return [f"The text encoders of {family.title} cannot be trained; set their learning rate to 0."]
    possible = family.layers.adapted if learned.base == "factors" else family.text_can_learn
    if not learned.control and not possible:
        trained = facts_of(config).trains.removeprefix("a ").removeprefix("the ")
        return [
            f"No {trained} can be trained for {family.title}: only Stable Diffusion 1.x, 2.x and XL have it so far. "
            "Choose such a base, or train a ControlNet or a LoRA."
        ]
    if facts_of(config).distilled and LCM_SAMPLER not in family.samplers:
        return [
            f"No LCM-LoRA can be trained for {family.title}: it has no noise schedule that the LCM sampler knows. "
            "Choose a base of Stable Diffusion 1.x, 2.x or XL."
        ]
    if tuning.what == "subject":
        return _why_no_subject(config, base)
    if tuning.what != "word":
        return []
    found = []
    if not tuning.word:
        found.append("The new word has no name: enter one that the base does not know, such as my-mug, as New word.")
    if not re.search(r"[^\W_]", tuning.begun_as):  # a letter or digit
        found.append(
            "The new word has nothing to begin as: enter a word that the base knows and that comes close, such as mug, "
            "as Begins as."
        )
    return [*found, *_known_word(tuning.word, base)]


def tokens_of(text: str) -> tuple[str, ...]:
    """The words, digits and punctuation marks of a text, each of which CLIP reads as a token if it knows it.

    As CLIP's tokenizer splits text before it looks for tokens (Radford et al. 2021, simple_tokenizer.py).
    """
    return tuple(re.findall(r"[^\W\d_]+|\d|[^\s\w]+|_", text.lower()))


def unknown_tokens(tokens: Sequence[str], base: str) -> frozenset[str]:
    """Those that a base in a folder reads in pieces; of other bases none: their vocabulary is not looked up."""
    known = _vocabulary(base)
    return frozenset(token for token in tokens if known and f"{token}</w>" not in known)


def _why_no_subject(config: RunConfig, base: str) -> list[str]:
    tuning = config.tuning
    if not tuning.word:
        return ["The subject has no word: enter one that the base does not know, such as zrpmug, as New word."]
    return _known_word(tuning.word, base)


def _known_word(word: str, base: str) -> list[str]:
    if not word or f"{word}</w>" not in _vocabulary(base):
        return []
    return [
        f"{word} is a word of the base already, which would lose its meaning: choose another New word, such as "
        f"my-{word}."
    ]


def _vocabulary(base: str) -> frozenset[str]:
    """The tokens of a base in a folder; of others none: they are looked up when the run starts."""
    for name in ("vocab.json", "tokenizer.json"):
        path = Path(base) / "tokenizer" / name
        if path.is_file():
            return _tokens(path, path.stat().st_mtime_ns)
    return frozenset()


@lru_cache(maxsize=4)
def _tokens(path: Path, changed: int) -> frozenset[str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return frozenset(found if path.name == "vocab.json" else found["model"]["vocab"])
    except (ValueError, KeyError, TypeError):
        return frozenset()  # damaged: the run says so when it loads the tokenizer
