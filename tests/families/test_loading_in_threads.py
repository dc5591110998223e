"""Two threads that load nets at once, such as a run and a window in which another base is looked at."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from threading import Event, Thread
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers.initialization import no_tie_weights

from engine.families.parts import load_part
from engine.families.registry import detect


def test_what_one_thread_loads_has_weights_while_another_builds_an_empty_net(tmp_path: Path) -> None:
    """diffusers builds an empty net before it loads one, and meanwhile every net of the process would be empty."""
    empty, over = Event(), Event()

    class Diffusers:
        @classmethod
        def from_pretrained(cls, *given: Any, **options: Any) -> torch.nn.Module:
            with init_empty_weights():
                empty.set()
                over.wait(0.3)
                return torch.nn.Linear(2, 2)

    class Transformers:
        @classmethod
        def from_pretrained(cls, *given: Any, **options: Any) -> torch.nn.Module:
            return torch.nn.Linear(2, 2)

    other = Thread(target=load_part, args=(Diffusers, str(tmp_path), "", None))
    other.start()
    assert empty.wait(60)
    net = load_part(Transformers, str(tmp_path), "", None)
    over.set()
    other.join()
    assert not net.weight.is_meta


def test_a_base_is_complete_while_another_thread_loads_a_text_encoder(tiny_flux: Path, tmp_path: Path) -> None:
    """transformers ties no weights of any net meanwhile, so that T5 seems to have more than its file holds."""
    base = copytree(tiny_flux, tmp_path / "base")
    with no_tie_weights():
        detect(str(base))
