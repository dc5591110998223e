"""Rules about a run that teaches the base and is about to start. Pure functions; docs/training.md lists them."""

from __future__ import annotations

from engine.config import RunConfig
from engine.config.tuning import MOST_VECTORS
from engine.machine.units import counted, plural
from engine.training.caution import Caution, Remedy, StartFacts
from engine.tuning.facts import facts_of

FEW_TO_TEACH = 5
"""Training images below which a style or subject is taught from very few."""
FEW_UNPRESERVED = 30
"""Training images up to which a subject or a whole base is taught with preservation (Ruiz et al. 2023 use 3 to 5)."""


def images_to_teach(config: RunConfig, facts: StartFacts) -> Caution | None:
    """Whether there are as many images as usual for a subject or style: a caution below ``FEW_TO_TEACH``."""
    what = facts_of(config)
    if not facts.images or what.needs_condition_maps or what.distilled:
        return None
    trained = _trained_on(config, facts)
    if trained >= FEW_TO_TEACH:
        usual = "15 to 100 are usual for a style or a shape, 5 to 30 for one subject."
        return Caution("note", f"{counted(facts.images, 'image')}.", usual, "Images that differ teach more than many.")
    return Caution(
        "yellow",
        f"{counted(trained, 'image is', 'images are')} trained on, and {facts.images - trained:,} held out.",
        "So few are soon learned by heart, with their backgrounds and poses.",
        "Add images, or hold out fewer.",
        look="dataset",
    )


def nothing_preserved(config: RunConfig, facts: StartFacts) -> Caution | None:
    """A subject or a whole base is taught from up to ``FEW_UNPRESERVED`` images, and nothing is preserved."""
    tuning, trained = config.tuning, _trained_on(config, facts)
    whole = facts_of(config).learned.base == "everything"
    if tuning.preserved_by == "answers" and not tuning.class_prompts and 0 < facts.listed == facts.without_caption:
        return Caution(
            "yellow",
            "Only what the base draws without a prompt is preserved.",
            "The dataset has no captions, and there are no class prompts.",
            "Enter what the subject is, such as a mug, as Class prompts.",
        )
    if not 0 < trained <= FEW_UNPRESERVED or tuning.preserved_by != "none" or not (whole or tuning.what == "subject"):
        return None
    by = "pictures" if whole else "answers"
    can = bool(tuning.class_prompts) or not whole
    return Caution(
        "yellow",
        f"Nothing is preserved, with {counted(trained, 'image')} to train on.",
        "From so few images the base forgets other things of the same kind: all mugs become your mug.",
        f"Preserve what the base knows by {by}{'' if can else ', and enter class prompts'}.",
        Remedy(f"Preserve by {by}", {"tuning.preserve": by}) if can else None,
    )


def missing_word(config: RunConfig, facts: StartFacts) -> Caution | None:
    """Captions lack the word that the run gives a meaning to; it is put in front of them."""
    if not facts.without_word:
        return None
    word, count = config.tuning.caption_word, facts.without_word
    what = f"{count:,} of {counted(facts.listed, 'caption')} {plural(count, 'lacks', 'lack')} the word {word}."
    why = f"It is put in front of them for training: {word}, a photo on a table."
    return Caution("note", what, why, "To have it elsewhere, write it into the captions.", look="captions")


def begins_as(config: RunConfig, facts: StartFacts) -> Caution | None:
    """The words that a new word begins as are more tokens than it has vectors, or are not words that the base knows."""
    tuning = config.tuning
    if tuning.what != "word" or not facts.begun_tokens:
        return None
    if unknown := [token for token in facts.begun_tokens if token in facts.begun_unknown]:
        return Caution(
            "yellow",
            f"The base does not know {unknown[0]} as a word.",
            f"It reads it in pieces, and {tuning.word} begins as the first of them.",
            "As Begins as, enter a word that the base knows, such as mug.",
        )
    count = len(facts.begun_tokens)
    if count <= tuning.vectors:
        return None
    taken = " ".join(facts.begun_tokens[: tuning.vectors])
    enough = count <= MOST_VECTORS
    return Caution(
        "yellow",
        f"{tuning.word} begins as {taken} alone.",
        f"{tuning.begun_as.strip()} is {counted(count, 'token')} for the base, and the new word has "
        f"{counted(tuning.vectors, 'vector')}.",
        f"Set Vectors of the word to {count}, or begin with one word." if enough else "Begin with fewer words.",
        Remedy(f"Set {count} vectors", {"tuning.vectors": count}) if enough else None,
    )


def _trained_on(config: RunConfig, facts: StartFacts) -> int:
    """How many images are not held out: at least half of them (engine/data/held_out.py)."""
    return facts.images - min(config.data.held_out, facts.images // 2)
