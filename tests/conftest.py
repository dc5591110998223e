"""Fixtures for every test: one thread, real photographs, a workspace, and a tiny random base to run pipelines on."""

from __future__ import annotations

import gc
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: tests share the machine with other work

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.workspace.paths import Workspace


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums over several threads may differ in the last bit from one run to the next.

    OpenCV's threads wait for each other by spinning, which on a busy machine makes small images twenty times slower.
    """
    try:
        import cv2
        import torch
    except ImportError:  # the installer's tests run before torch is there
        return
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


LIBRARIES = 400  # modules
_loaded = 0


def pytest_runtest_setup() -> None:
    """Take what the large libraries hold out of the garbage collector's sight, once they are loaded.

    Drawing and training collect garbage to give memory back. Each time that walks over a million objects of torch,
    diffusers and transformers that never go, and takes half of the time of such a test.
    """
    global _loaded
    if len(sys.modules) > _loaded + LIBRARIES:
        _loaded = len(sys.modules)
        gc.collect()
        gc.freeze()


FIRST = ("tests/training/", "tests/export/", "tests/browser/", "tests/")
"""Where what takes longest lies: begun last, it would be waited for by a core that has nothing left to do."""
OWN_APP = ("test_dataset_journey.py", "test_injection.py", "test_window_may_go.py")
"""Browser tests with an app of their own; all others look at one run of the demo, which is trained once."""
DEMO = "the demo's run"


def work_of(nodeid: str) -> str:
    """What a process takes on as a whole: a file, or all files that look at the demo's run."""
    file = nodeid.split("::", 1)[0]
    return DEMO if file.startswith("tests/browser/") and not file.endswith(OWN_APP) else file


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In one of several processes: the demo's run first, then by folders; a file stays together."""
    if hasattr(config, "workerinput"):
        place = {item.nodeid: next(n for n, name in enumerate(FIRST) if item.nodeid.startswith(name)) for item in items}
        items.sort(key=lambda item: -1 if work_of(item.nodeid) == DEMO else place[item.nodeid])


@pytest.hookimpl(optionalhook=True)  # one process alone has no scheduler
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class LoadWork(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return work_of(nodeid)

    return LoadWork(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    """Photographs that come with scikit-image, RGB uint8 (h, w, 3)."""
    from skimage import data

    return {name: getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable-Diffusion-1-shaped pipeline folder (fp32) with random, seeded weights, for images of 64 px."""
    from tests import tiny_bases

    folder, work = tmp_path_factory.mktemp("tiny_base"), tmp_path_factory.mktemp("tokenizer")
    return tiny_bases.build(folder, work, tiny_bases.UNET, {})


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shaped like Stable Diffusion 2.1: velocity, and noise alone at the last step."""
    from tests import tiny_bases

    folder, work = tmp_path_factory.mktemp("tiny_sd2"), tmp_path_factory.mktemp("tokenizer")
    schedule = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    return tiny_bases.build(folder, work, tiny_bases.SD2_UNET, schedule)


@pytest.fixture(scope="session")
def tiny_sd2_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shaped like Stable Diffusion 2-base: noise prediction."""
    from tests import tiny_bases

    folder, work = tmp_path_factory.mktemp("tiny_sd2_base"), tmp_path_factory.mktemp("tokenizer")
    return tiny_bases.build(folder, work, tiny_bases.SD2_UNET, {})


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shaped like Stable Diffusion XL: two text encoders, size conditions."""
    from tests import tiny_bases

    folder, work = tmp_path_factory.mktemp("tiny_sdxl"), tmp_path_factory.mktemp("tokenizer")
    return tiny_bases.build(folder, work, tiny_bases.SDXL_UNET, {}, two_encoders=True)


@pytest.fixture(params=["tiny_base", "tiny_sd2", "tiny_sd2_base", "tiny_sdxl"])
def any_base(request: pytest.FixtureRequest) -> Path:
    """A tiny base of each family in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def loud_controlnet(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ControlNet folder (fp32) for ``tiny_base`` whose outputs are not zero: as if trained, though on nothing."""
    import torch

    from engine.families.registry import detect

    family = detect(str(tiny_base))
    folder = tmp_path_factory.mktemp("controlnet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        controlnet = family.new_controlnet(family.load_unet(str(tiny_base), torch.float32))
        for name, weight in controlnet.named_parameters():
            if name.startswith(
                ("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")
            ):
                torch.nn.init.normal_(weight, std=0.2)
    controlnet.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def edges() -> Image.Image:
    """A control image of 64 px: a white ring on black."""
    ys, xs = np.mgrid[:64, :64]
    ring = np.abs(np.hypot(xs - 32, ys - 32) - 20) < 2
    return Image.fromarray(np.repeat(ring[..., None] * np.uint8(255), 3, axis=2))


@pytest.fixture(scope="session")
def blank() -> Image.Image:
    return Image.new("RGB", (64, 64))
