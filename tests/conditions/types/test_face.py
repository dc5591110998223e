from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.conditions import registry
from engine.conditions.types import face as module
from engine.conditions.types import face_parts
from engine.conditions.types.face import Frame, face, face_adherence, faces
from tests.conditions import tiny_models
from tests.conditions.types.test_types import compressed, photographs


def values(folder: Path, **given) -> dict:  # type: ignore[no-untyped-def, type-arg]
    return registry.resolve_parameters("face", {"model": str(folder), **given})


def test_detector_and_mesh_run_in_opencv(tmp_path: Path) -> None:
    own = values(tiny_models.faces(tmp_path / "faces"), people=1)
    bright = np.full((256, 256, 3), 255, np.uint8)
    (points,) = faces(bright, own["model"], own["sure"], 1)
    assert points.shape == (468, 2)
    map = face(bright, **own)
    assert map.shape == bright.shape and map.dtype == np.uint8
    lit = np.argwhere(map.any(-1))[:, ::-1]
    assert (np.abs(lit.mean(0) - points.mean(0)) < 15).all() and set(map[map.any(-1)].reshape(-1, 3).max(1)) <= {
        255,
        192,
    }
    assert not face(np.zeros_like(bright), **own).any()  # dark: no face
    assert face_adherence(map, bright, **own) == pytest.approx(1)
    assert face_adherence(map, np.zeros_like(bright), **own) == 0
    photograph = photographs()[0][:300, :220]
    assert face(photograph, **values(tmp_path / "faces", sure=0.0)).shape == photograph.shape


def test_a_frame_is_cropped_correctly_and_maps_points_back(tmp_path: Path) -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[80:84, 150:154] = 255
    frame = Frame(140.0, 90.0, 100.0, 0.5)
    cut = frame.cut(image, 200)
    where = (np.argwhere(cut[..., 0] > 200).mean(0)[::-1] + 0.5) / 200
    assert np.abs(frame.to_image(where[None])[0] - (152, 82)).max() < 0.5
    assert not Frame(-500.0, -500.0, 50.0, 0.0).cut(image, 64).any()


def test_the_square_around_a_mesh_rotates_with_it() -> None:
    points = np.random.default_rng(0).uniform(-50, 50, (468, 2))
    points[module.RIGHT_CORNER], points[module.LEFT_CORNER] = (-20, 0), (20, 0)
    cos, sin = np.cos(0.6), np.sin(0.6)
    turned = points @ np.array([(cos, sin), (-sin, cos)]) + (200, 150)
    straight, tilted = module.frame_around(points), module.frame_around(turned)
    assert straight.angle == 0 and tilted.angle == pytest.approx(0.6) and tilted.side == pytest.approx(straight.side)
    assert np.allclose(tilted.to_image(np.array([(0.5, 0.5)])), (tilted.x, tilted.y))
    middle = np.array([(straight.x, straight.y)]) @ np.array([(cos, sin), (-sin, cos)]) + (200, 150)
    assert np.allclose(middle, (tilted.x, tilted.y))


def test_overlapping_detections_count_as_one_face() -> None:
    first = np.array([10.0, 10.0, 50.0, 50.0])
    assert module.overlap(first, first + 2) > 0.8 and module.overlap(first, first + 100) == 0
    used = {point for _, lines in face_parts.PARTS.values() for line in lines for point in line}
    assert max(used) < face_parts.POINTS and len(set(face_parts.COLOURS)) == len(face_parts.PARTS)


def test_a_folder_without_the_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="face_detection_short_range"):
        module.load(tmp_path, "cpu")


def real() -> Path:
    """The models from mediapipe's older wheels; skips the test without them."""
    found = importlib.util.find_spec("mediapipe")
    folder = Path(next(iter(found.submodule_search_locations or [""]))) if found else Path()
    if not found or not all((folder.parent / name).is_file() for name in module.MODEL.files):
        pytest.skip("needs the files of mediapipe 0.10.21: pip install --no-deps mediapipe==0.10.21")
    return folder


def test_the_real_models_find_the_faces_of_photographs_and_no_others() -> None:
    own = values(real())
    astronaut = photographs()[0]
    (points,) = faces(astronaut, own["model"], 0.5, 10)
    # Read off the photograph by eye: the eyes, the tip of the nose, the corners of the mouth, the chin.
    for numbers, place in {
        (159, 145): (203, 100),
        (386, 374): (246, 103),
        (4,): (222, 127),
        (61,): (203, 140),
        (291,): (244, 141),
        (152,): (222, 178),
    }.items():
        assert np.abs(points[list(numbers)].mean(0) - place).max() < 4, (numbers, points[list(numbers)])
    for place in (1, 2, 3, 5):  # coffee, a cat, a rocket, coins
        assert faces(photographs()[place], own["model"], 0.5, 10) == []
    turned = np.asarray(Image.fromarray(astronaut).rotate(-30, Image.Resampling.BICUBIC))
    small = np.full((512, 900, 3), 90, np.uint8)
    small[100:356, 300:556] = np.asarray(Image.fromarray(astronaut).resize((256, 256)))
    (tilted,), (shrunk,) = (faces(image, own["model"], 0.5, 10) for image in (turned, small))
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    assert np.abs((points - 256) @ np.array([(cos, sin), (-sin, cos)]) + 256 - tilted).mean() < 3
    assert np.abs(points / 2 + (300, 100) - shrunk).mean() < 2
    wanted = face(astronaut, **own)
    others = compressed(0), np.roll(astronaut, 12, 1), photographs()[1]
    near, far, none = (face_adherence(wanted, other, **own) for other in others)
    assert near > 0.9 and 0.1 < far < 0.7 and none == 0
