from __future__ import annotations

from collections import Counter

import numpy as np

from engine.demo.evaluate_base import Prompt, choose_prompts, grid, measure
from engine.demo.shapes import PALETTE, SHAPES, contrast


def test_prompts_cover_every_shape_and_colour_and_depend_on_the_seed() -> None:
    prompts = choose_prompts(200, seed=0)
    assert prompts == choose_prompts(200, seed=0) != choose_prompts(200, seed=1)
    for role in ("foreground", "background"):
        used = Counter(getattr(prompt, role) for prompt in prompts)
        assert set(used) == set(PALETTE) and max(used.values()) - min(used.values()) <= 4
    assert set(Counter(prompt.shape for prompt in prompts).values()) == {50}
    assert {p.shape for p in prompts if p.foreground == "teal"} == set(SHAPES)
    assert min(contrast(p.foreground, p.background) for p in prompts) > 90


def test_correct_images_are_counted_and_confusions_listed() -> None:
    prompts = [Prompt("circle", "red", "blue"), Prompt("star", "teal", "pink")]
    scores = measure(prompts, [("circle", "red", "blue"), ("square", "teal", "white")])
    assert (scores["colours_right"], scores["shape_right"], scores["all_right"]) == (0.5, 0.5, 0.5)
    assert scores["shape_confusions"] == {"star -> square": 1} and scores["colour_confusions"] == {"pink -> white": 1}
    assert scores["by_shape"]["star"]["shape_right"] == 0 and scores["by_colour"]["pink"] == 0


def test_the_grid_marks_failures_in_red() -> None:
    prompt, black = Prompt("circle", "red", "blue"), np.zeros((32, 32, 3), np.uint8)
    sheets = [
        np.asarray(grid([prompt], [read], [black])) for read in (("circle", "red", "blue"), ("star", "red", "red"))
    ]
    assert [bool((sheet == (255, 0, 0)).all(axis=2).any()) for sheet in sheets] == [False, True]
