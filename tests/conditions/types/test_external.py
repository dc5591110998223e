from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from engine.conditions import registry
from engine.conditions.types import external
from engine.conditions.types.external import allow, command_of, external_batch
from engine.errors import UserError
from tests.conditions.types.test_types import photographs

NEGATIVE = "import numpy as np\ndef extract(image):\n    return 255 - image\n"


def script(folder: Path, text: str, name: str = "my map.py") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def images(count: int = 2) -> list[np.ndarray]:
    return [photo[:40, :60] for photo in photographs()[:count]]


def test_a_python_file_makes_many_maps_in_one_process(tmp_path: Path) -> None:
    program = script(tmp_path, NEGATIVE + "print('loud')\n")
    allow(program)
    made = external_batch(images(3), program=program, seconds=60)
    assert all(np.array_equal(map, 255 - image) for map, image in zip(made, images(3), strict=True))
    assert "own_condition" not in sys.modules


def test_a_command_with_placeholders_runs_without_a_shell(tmp_path: Path) -> None:
    tool = script(
        tmp_path,
        "import sys\nfrom PIL import Image, ImageOps\n"
        "assert sys.argv[3] == '$(touch nothing); a b', sys.argv\n"
        "ImageOps.grayscale(Image.open(sys.argv[1])).save(sys.argv[2])\n",
    )
    program = f'"{sys.executable}" "{tool}" {{input}} {{output}} "$(touch nothing); a b"'
    allow(program)
    (map,) = external_batch(images(1), program=program, seconds=60)
    assert map.shape == (40, 60, 3) and (map[..., 0] == map[..., 2]).all() and not Path("nothing").exists()


def test_code_that_was_not_allowed_or_has_changed_does_not_run(tmp_path: Path) -> None:
    program = script(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')\n" + NEGATIVE)
    kind = registry.get("external")
    with pytest.raises(UserError, match="not been allowed"):
        kind.extractor(images(1)[0], program=program, seconds=5)
    assert not (tmp_path / "ran").exists()
    allow(program)
    script(tmp_path, NEGATIVE + "# changed\n")
    with pytest.raises(UserError, match="not been allowed"):
        kind.extractor(images(1)[0], program=program, seconds=5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def extract(image):\n    raise ValueError('no luck today')\n", "no luck today"),
        ("x = 1\n", "no function extract"),
        ("def extract(image):\n    return image[None]\n", "returned an array of shape"),
        ("def extract(image):\n    return image[:5]\n", "different aspect ratio"),
        ("import time\nprint('on my way', flush=True)\ntime.sleep(60)\n", "took too long"),
    ],
)
def test_errors_include_the_programs_output(tmp_path: Path, text: str, expected: str) -> None:
    program = script(tmp_path, text)
    allow(program)
    with pytest.raises(UserError) as caught:
        external.external(images(1)[0], program=program, seconds=1 if "sleep" in text else 60)
    assert expected in f"{caught.value.what} {caught.value.why}"


def test_a_pasted_path_of_a_python_file_is_understood(tmp_path: Path) -> None:
    program = script(tmp_path, "def extract(image): return image")
    assert command_of(f'"{program}"') is None and command_of(f"\u202a{program} ") is None
    allow(program)
    external.require(f'"{program}"')


def test_an_incomplete_command_raises_a_readable_error() -> None:
    for program, expected in (
        ("", "No program"),
        ("tool {input}", "needs both"),
        ("nowhere.py", "not found"),
        ('tool "{input} {output}', "cannot be read"),
    ):
        with pytest.raises(UserError) as caught:
            command_of(program)
        assert expected in f"{caught.value.what} {caught.value.why}"
    allow("no-such-tool-here {input} {output}")
    with pytest.raises(UserError, match="cannot be started"):
        external.external(images(1)[0], program="no-such-tool-here {input} {output}", seconds=5)
