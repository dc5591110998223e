"""A new word finds what it was shown, where the truth is known: a shape or a colour for which the base has a word.

Figures of the last run, on a processor: docs/teaching-the-base.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.bases.merging import ready_base
from engine.demo.score import read_scene
from engine.demo.shapes import Scene, contrast, draw, random_scene
from engine.families.embedding_files import ONE_KEY
from engine.families.registry import detect
from engine.runs.word_files import word_file
from engine.workspace.paths import Workspace
from tests.learned_on_demo import DRAWN, SIDE, drawn_on, taught

IMAGES, STEPS = 16, 150


def circles(rng: np.random.Generator) -> Scene:
    scene = random_scene(rng)
    while scene.shape != "circle":
        scene = random_scene(rng)
    return scene


def teal_shapes(rng: np.random.Generator) -> Scene:
    scene = random_scene(rng)
    while scene.shape == "blob" or scene.background == "teal" or contrast("teal", scene.background) < 90:
        scene = random_scene(rng)
    return replace(scene, foreground="teal")


@pytest.mark.long
@pytest.mark.parametrize(
    ("shown", "part", "begun_as", "truth"),
    [(circles, "shape", "square", "circle"), (teal_shapes, "foreground", "red", "teal")],
    ids=["a shape", "a colour"],
)
def test_a_word_finds_what_exists(
    shown: Callable[[np.random.Generator], Scene],
    part: str,
    begun_as: str,
    truth: str,
    workspace: Workspace,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    def caption(scene: Scene, word: str = "zrp") -> str:
        return replace(scene, **{part: word}).caption  # type: ignore[arg-type]

    def paint(rng: np.random.Generator) -> tuple[np.ndarray, str]:
        scene = shown(rng)
        return draw(scene, SIDE), caption(scene)

    tuning = {"what": "word", "word": "zrp", "begun_as": begun_as}
    settings = {"tuning": tuning, "optim": {"learning_rate": 2e-2}, "train": {"steps": STEPS}}
    run = taught(workspace, tmp_path / "zrp", IMAGES, paint, **settings)
    file = word_file(run.checkpoints()[-1].folder)
    rng = np.random.default_rng(2)
    scenes = [shown(rng) for _ in range(DRAWN)]
    captions = [caption(scene) for scene in scenes]
    merged, plain = ready_base(workspace, f"demo + {file}"), workspace.locate_base("demo")
    read = [read_scene(image) for image in drawn_on(merged, captions)]
    before = [read_scene(image) for image in drawn_on(plain, [caption(scene, begun_as) for scene in scenes[:8]])]
    place = ("shape", "foreground").index(part)
    found, known = (np.mean([one[place] == truth for one in readings]) for readings in (read, before))
    whole = np.mean([one == (s.shape, s.foreground, s.background) for one, s in zip(read, scenes, strict=True)])
    record_property("figures", f"{truth}: {found:.2f} (begun with {known:.2f}), with shape and colours {whole:.2f}")
    assert known < 0.5 and found >= 0.9, f"right {found:.2f}, begun with {known:.2f}"
    assert whole >= 0.9, f"shape and both colours {whole:.2f}"

    # The vector lies nearest to that of the word that means it, among all words of the base.
    family = detect(plain)
    encoder, tokenizer = family.load_text_encoder(plain, torch.float32), family.load_tokenizer(plain)
    words = torch.nn.functional.normalize(encoder.get_input_embeddings().weight[: len(tokenizer)], dim=1)
    nearest = int((words @ load_file(file)[ONE_KEY][0]).argmax())
    assert tokenizer.convert_ids_to_tokens(nearest) == f"{truth}</w>"

    # Other prompts give the same images, bit for bit.
    others = [scene.caption for scene in scenes[:4]]
    for one, other in zip(drawn_on(merged, others), drawn_on(plain, others), strict=True):
        assert np.array_equal(one, other)
