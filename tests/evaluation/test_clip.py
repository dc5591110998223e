"""The two CLIP metrics: compared with hand-computed values, and run with a model of the real shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.conditions import places
from engine.errors import UserError
from engine.evaluation import clip
from engine.workspace.paths import Workspace
from tests.evaluation import tiny_clip


@pytest.fixture(autouse=True)
def in_workspace(workspace: Workspace) -> None:
    places.use(workspace)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_score_is_a_hundred_times_the_cosine_and_never_negative() -> None:
    images = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert clip.score(images, np.array([[0.6, 0.8], [-1.0, 0.0]])) == pytest.approx(30)


def test_the_distance_is_zero_for_equal_sets_and_grows_with_the_gap() -> None:
    rng = np.random.default_rng(0)
    make = lambda shift: unit(rng.standard_normal((200, 32)) + shift)  # noqa: E731
    near, far = (abs(clip.cmmd(make(0), make(shift))) for shift in (0.0, 0.5))
    farther = clip.cmmd(make(0), make(1.0))
    assert near < 0.05 < far < farther


def test_the_distance_by_hand() -> None:
    """Two sets of two embeddings: k = exp(-d^2 / 200) with d^2 = 2 - 2 cos."""
    first, second = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[-1.0, 0.0], [0.0, -1.0]])
    within, near, opposite = np.exp(-2 / 200), np.exp(-2 / 200), np.exp(-4 / 200)
    assert clip.cmmd(first, second) == pytest.approx(1000 * (2 * within - 2 * (near + opposite) / 2))
    with pytest.raises(ValueError, match="at least two"):
        clip.cmmd(first[:1], second)


def test_a_model_of_the_real_shape_embeds_images_and_text(
    tiny_base: Path, photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    model = clip.load(tiny_clip.write(tmp_path / "clip", tiny_base), "cpu")
    images = [photos["coffee"], photos["coffee"], photos["chelsea"]]
    seen = model.images(images)
    assert seen.shape == (3, 8)
    assert np.linalg.norm(seen, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert seen[0] == pytest.approx(seen[1], abs=1e-5) and not np.allclose(seen[0], seen[2], atol=1e-3)
    words = model.texts(["a cup of coffee", "word " * 200])
    assert words.shape == (2, 8) and np.isfinite(words).all()


def test_the_distance_grows_with_the_number_of_degraded_photographs(
    tiny_base: Path, photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """64 crops of photographs against 64 other crops, of which more and more are negatives."""
    rng = np.random.default_rng(0)

    def pieces() -> list[np.ndarray]:
        found = []
        for number in range(64):
            photo = list(photos.values())[number % len(photos)]
            top, left = (int(rng.integers(0, side - 160)) for side in photo.shape[:2])
            found.append(photo[top : top + 160, left : left + 160])
        return found

    model = clip.load(tiny_clip.write(tmp_path / "clip", tiny_base), "cpu")
    true = model.images(pieces())
    others = pieces()
    spoilt = {"others": 0, "a quarter": 16, "half": 32, "all": 64}  # number of negatives
    sets = {name: [*(255 - one for one in others[:n]), *others[n:]] for name, n in spoilt.items()}
    found = {name: clip.cmmd(true, model.images(images)) for name, images in sets.items()}
    assert abs(found["others"]) < found["a quarter"] < found["half"] < found["all"], found
    assert found["all"] > 10 * abs(found["others"]), found


def test_the_model_is_found_in_its_folders_or_reported_missing(workspace: Workspace) -> None:
    assert clip.find() is None
    text = clip.missing_text()
    assert clip.MODEL.id in text and str(workspace.models / "clip") in text and "--download" in text
    (workspace.models / "clip").mkdir(parents=True)
    assert clip.find() == workspace.models / "clip"
    with pytest.raises(UserError, match="were not found"):
        clip.find(str(workspace.root / "nowhere"))
