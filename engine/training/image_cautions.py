"""Rules about the base and the images of a run that is about to start. Pure functions; docs/training.md lists them."""

from __future__ import annotations

import math

from engine.config import RunConfig
from engine.data import balance
from engine.data.doctor.catalogue import BY_NAME
from engine.data.doctor.lost_lines import LINES_LOST
from engine.evaluation.causes import FAULTS
from engine.machine.units import counted, plural
from engine.runs.known_bases import UNKNOWN, WORKS
from engine.training.caution import Caution, Place, Remedy, StartFacts
from engine.tuning.facts import facts_of

HARDLY_ANY, FEW, MANY = 200, 1_000, 20_000
"""Images up to which a dataset is like one of 50, of 500, of 5,000; above, like one of 50,000."""
EXPECT = (
    (HARDLY_ANY, "About 50 are enough to learn these images, and little beyond them"),
    (FEW, "About 500 are enough for one narrow subject whose images look alike"),
    (MANY, "About 5,000 are enough for one kind of image, such as portraits or rooms"),
    (math.inf, "About 50,000 are enough for images of many kinds"),
)
"""Rules of thumb. In the ControlNet paper (Zhang et al. 2023) 1,000 images give a recognizable result, and 50,000 and
3 million better ones; the published nets had 80,000 to 3 million."""
SMALL_SHARE, MAPLESS_SHARE, CAPTIONLESS_SHARE = 0.1, 0.05, 0.5
"""Shares of the images from which on it matters that they are too small, have no map, or have no caption."""
SAID_ELSEWHERE = frozenset({*FAULTS, LINES_LOST.name, "caption_missing", "too_small", "map_missing"})
"""Findings of the dataset check that other rules cover."""
MOST_NAMED = 3
CHECKED = (
    "The dataset check found no problems.",
    "It checked files, images, captions and control images.",
    "There is nothing to do.",
)
SEE_THEM = "Look at them, and correct or leave out what is wrong."
OFTEN = 20
"""Times as often as others, above which images of a class are drawn too often for class balance."""
USUAL_RANK, LOW_RANK_RATE = 64, 1e-4
"""Of a Control-LoRA, as in the presets."""


def demo_base(config: RunConfig, facts: StartFacts) -> Caution | None:
    """The demo base with other images than its shapes, unless a run has measured that it knows them."""
    knows = facts.base_error is not None and facts.base_error < UNKNOWN
    if not facts.on_demo_base or facts.own_shapes or knows:
        return None
    if not facts_of(config).needs_condition_maps:
        return Caution(
            "note",
            "The demo base is tiny and knows only coloured shapes.",
            "It learns new shapes on plain ground, but no photographs.",
            "Choose a real base, such as Stable Diffusion 1.5, for other images.",
            look="base",
        )
    return Caution(
        "red",
        "The demo base knows only its own coloured shapes.",
        "A ControlNet steers what its base can draw, so on your images this one would learn to draw noise.",
        "Choose a real base, such as Stable Diffusion 1.5.",
        look="base",
        anyway="Train on the demo base anyway",
    )


def without_optional_text(config: RunConfig, facts: StartFacts) -> Caution | None:
    """The base comes without T5: it works, but reads less of a caption. The demo base was trained without it."""
    if not facts.lacks_optional_text or facts.on_demo_base:
        return None
    return Caution(
        "note",
        "The base has no T5 text encoder.",
        "It reads only the first 77 tokens of a caption, with CLIP, and zeros in place of T5's 256.",
        "For long captions, add the folders text_encoder_3 and tokenizer_3 and list them in its model_index.json.",
        look="base",
    )


def unknown_images(config: RunConfig, facts: StartFacts) -> Caution | None:
    """The base's own error on such images is ``UNKNOWN`` or more; from ``WORKS`` on it is no better than chance."""
    error = facts.base_error
    if error is None or error < UNKNOWN:
        return None
    shown = f"{error:.2f}" if math.isfinite(error) else "not a number"
    measured = f"Its error on them was {shown} in an earlier run or trial; 0.1 to 0.3 is usual."
    if error >= WORKS:
        return Caution(
            "red",
            "This base cannot draw images like yours.",
            f"{measured} The net would learn nothing.",
            "Choose a base that was trained on such images, and check that its files are complete.",
            look="base",
            anyway="Train on this base anyway",
        )
    return Caution(
        "yellow",
        "This base hardly knows images like yours.",
        f"{measured} A ControlNet steers what its base can draw.",
        "Choose a base that was trained on such images, if there is one.",
        look="base",
    )


def number_of_images(config: RunConfig, facts: StartFacts) -> Caution | None:
    """What to expect of so many images: a caution below ``FEW``; below ``HARDLY_ANY`` if it begins with a net."""
    if not facts.images or (facts.own_shapes and facts.on_demo_base) or facts_of(config).distilled:
        return None
    expected = next(words for below, words in EXPECT if facts.images < below)
    limit = HARDLY_ANY if config.model.controlnet else FEW
    if facts.images >= limit:
        return Caution(
            "note", f"{counted(facts.images, 'image')}.", f"{expected}.", "More images help more than more steps."
        )
    trained = facts_of(config)
    try_this, offer = "Add images if you can.", None
    if not facts.toy and not trained.rank and trained.base_is_frozen and trained.needs_condition_maps:
        try_this = "Add images, or train a Control-LoRA, which has fewer weights to fit."
        low_rank = {"model.control_lora_rank": USUAL_RANK, "optim.learning_rate": LOW_RANK_RATE}
        offer = Remedy("Use a Control-LoRA", low_rank)
    few = f"{counted(facts.images, 'image is', 'images are')} not many."
    return Caution("yellow", few, f"{expected}.", try_this, offer, "dataset")


def some_images(count: int, facts: StartFacts, one: str, many: str, why: str, try_this: str, look: Place) -> Caution:
    """A caution about some of the images: how many of them, and what they are or have (``one`` of them, ``many``)."""
    what = f"{count:,} of {counted(facts.listed, 'image')} {plural(count, one, many)}."
    return Caution("yellow", what, why, try_this, look=look)


def small_images(config: RunConfig, facts: StartFacts) -> Caution | None:
    """``SMALL_SHARE`` of the images or more are smaller than the resolution."""
    if not facts.too_small or facts.too_small < SMALL_SHARE * facts.listed:
        return None
    side = config.data.resolution
    return some_images(
        facts.too_small,
        facts,
        f"is smaller than {side} px",
        f"are smaller than {side} px",
        "They are enlarged, so the net learns to draw soft images.",
        "Use larger copies, or leave these images out.",
        "doctor",
    )


def missing_maps(config: RunConfig, facts: StartFacts) -> Caution | None:
    """``MAPLESS_SHARE`` of the images or more have no control image."""
    missing = facts.listed - facts.images
    if not missing or missing < MAPLESS_SHARE * facts.listed:
        return None
    has = "no control image"
    why, try_this = "The run leaves these images out.", "Make the missing control images first."
    return some_images(missing, facts, f"has {has}", f"have {has}", why, try_this, "conditions")


def faulty_maps(config: RunConfig, facts: StartFacts) -> Caution | None:
    """The dataset check found empty maps, or others that teach a net to ignore them (``FAULTS``, as in the verdict)."""
    counts = {words: facts.found[name] for name, words in FAULTS.items() if facts.found.get(name)}
    if not counts:
        return None
    listed = ", ".join(f"{count:,} {words}" for words, count in counts.items())
    return Caution(
        "yellow",
        f"The dataset check found faulty control images: {listed}.",
        "They teach the net to ignore its control image.",
        "Correct them, make them again, or leave them out.",
        look="doctor",
    )


def lost_lines(config: RunConfig, facts: StartFacts) -> Caution | None:
    """The base's ControlNets read latents, and its VAE loses the lines of the control images."""
    count = facts.found.get(LINES_LOST.name, 0)
    if not count:
        return None
    return Caution(
        "yellow",
        f"The base's VAE loses thin lines: in {counted(count, 'control image')} of those looked at.",
        "The ControlNet reads control images through it, and cannot learn to follow lines that it does not see.",
        "Draw thicker lines, or train at a larger resolution.",
        look="doctor",
    )


def dataset_check(config: RunConfig, facts: StartFacts) -> Caution | None:
    """What the dataset check found that other rules do not cover: a caution if some of it is serious."""
    if facts.own_shapes:
        return None
    if not facts.checked:
        return Caution(
            "note",
            "The dataset was not checked since it last changed.",
            "The check finds damaged, blurred and duplicate images, and maps that do not fit.",
            "Check it: it only reads your files.",
            look="doctor",
        )
    found = {
        name: count for name, count in facts.found.items() if count and name in BY_NAME and name not in SAID_ELSEWHERE
    }
    if not found:
        return None if {*FAULTS, LINES_LOST.name} & set(facts.found) else Caution("note", *CHECKED)
    serious = [name for name in found if BY_NAME[name].severity == "serious"]
    named = serious or sorted(found, key=lambda name: -found[name])
    listed = ", ".join(f"{BY_NAME[name].title} ({found[name]:,})" for name in named[:MOST_NAMED])
    more = f" and {counted(len(found) - MOST_NAMED, 'more kind')}" if len(named) > MOST_NAMED else ""
    if serious:
        what = f"The dataset check found serious problems: {listed}{more}."
        return Caution("yellow", what, "They harm the training, or make its score wrong.", SEE_THEM, look="doctor")
    what = f"The dataset check found nothing serious: {listed}{more}."
    return Caution("note", what, "Some of these lower the quality.", SEE_THEM, look="doctor")


def class_balance(config: RunConfig, facts: StartFacts) -> Caution | None:
    """What class balance does; a caution if it does nothing, or a class is ``OFTEN`` times too small for it."""
    if not facts.classes:
        return None
    said = f"In each epoch, every image is drawn this often: {balance.words_about(facts.classes)}."
    if doubts := list(balance.doubts(facts.classes, config.data)):
        return Caution("yellow", doubts[0], said, "Choose another class balance, or other class words.", look="doctor")
    most, least = (choose(one.times for one in facts.classes) for choose in (max, min))
    if most <= OFTEN * least:
        what = "Class balance draws images of small classes more often."
        return Caution("note", what, said, "There is nothing to do.")
    return Caution(
        "yellow",
        f"Class balance draws some images {most / least:.0f} times as often as others.",
        f"Images that are drawn so often are remembered rather than learned from. {said}",
        "Add images to the small classes.",
        look="doctor",
    )


def missing_captions(config: RunConfig, facts: StartFacts) -> Caution | None:
    """More than ``CAPTIONLESS_SHARE`` of the images have no caption."""
    if facts.without_caption <= CAPTIONLESS_SHARE * facts.listed:
        return None
    word = config.tuning.caption_word
    why, try_this = "The net learns to ignore the prompt.", "Write or generate captions."
    if word:
        why = f"Their caption is {word} alone, so grounds and poses become a part of what it means."
    if facts.without_caption == facts.listed:
        return Caution("yellow", "No image has a caption.", why, try_this, look="captions")
    return some_images(facts.without_caption, facts, "has no caption", "have no caption", why, try_this, "captions")
