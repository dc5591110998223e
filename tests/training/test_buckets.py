"""Training in buckets: one size a batch, every variant seen, maps under the images' own crops, previews in shape."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from PIL import Image

from engine.conditions import registry
from engine.data.cache import cropped_map
from engine.jobs.control import Control
from engine.runs.run import read_preview
from engine.training.job import build_trainer
from engine.workspace.paths import Workspace
from tests.short_runs import RunFactory, train

BUCKETS = {"data.dataset": "mixed", "data.resolution": 192, "data.buckets": True, "data.crop": "random"}


def test_batches_are_of_one_size_and_maps_lie_on_their_images(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**BUCKETS)
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    state = trainer.state
    batches, cache, sizes, variants = state.batches, state.cache, Counter(), set()
    nearest = registry.get(state.dataset.condition.type).categorical
    for number in range(16):
        batch = batches.get(number)
        height, width = batch.maps.shape[1:3]
        assert batch.mean.shape == batch.random.noise.shape == (2, 4, height // 8, width // 8)
        sizes[width, height] += 1
        assert batches.keys(number) == [state.samples[row].key for row, _ in batches.order.batch(number)]
        for place, (row, epoch) in enumerate(batches.order.batch(number)):
            sample = state.samples[row]
            variant = state.plan.variant_at(sample, epoch)
            crop = state.plan.crop(sample, variant)
            variants.add((row, variant))
            wanted = cropped_map(state.dataset.condition_path(sample), crop, nearest)
            assert np.array_equal(batch.maps[place].numpy(), wanted)
            assert torch.equal(batch.mean[place], cache.latents([row], [variant])[0][0])
    assert set(sizes) == {(256, 128), (128, 256), (192, 192)}
    assert len(variants) > 8, "more than one crop of an image was seen"
    whole = batches.keys(3)
    for processes in (1, 2):  # in two parts, taken by one process or one each
        batches.world = processes
        batches.split(1, 2)
        assert batches.keys(3) == whole, "the images of a step are those of all its parts, in every process"
    trainer.close()


def test_previews_have_the_shape_of_their_bucket(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(
        **BUCKETS,
        **{
            "data.held_out": 5,
            "train.steps": 1,
            "validation.every": 1,
            "validation.pictures": 5,
            "validation.sampling_steps": 1,
        },
    )
    trained = train(ready_workspace, run)
    assert trained.outcome == "completed", trained.events[-3:]
    record = read_preview(run.folder / "previews" / "step-000001")
    assert record is not None and len(record.pictures) == 5
    shapes = set()
    for image in record.pictures:
        row = np.asarray(Image.open(image))
        shapes.add((row.shape[1] // 3, row.shape[0]))
    assert len(shapes) >= 2 and shapes <= {(256, 128), (128, 256), (192, 192)}
