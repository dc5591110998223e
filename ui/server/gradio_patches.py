"""Halves the time that importing gradio takes.

At each import gradio parses the source of all its components and rewrites their type stubs (.pyi) in site-packages:
two seconds on a slow machine, for files that only editors read. Here that one function is replaced, by a hook on the
module that holds it. Where a later gradio has no such function, nothing is changed.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

MODULE, FUNCTION = "gradio.component_meta", "create_or_modify_pyi"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_replace(module: ModuleType) -> None:
            run(module)
            if hasattr(module, FUNCTION):
                setattr(module, FUNCTION, lambda *arguments: None)

        spec.loader.exec_module = run_and_replace  # type: ignore[method-assign]
        return spec


def write_no_stubs() -> None:
    """For components of our own: without this gradio writes a type stub beside the module that holds them."""
    import gradio.component_meta as holder

    if hasattr(holder, FUNCTION):
        setattr(holder, FUNCTION, lambda *arguments: None)


def install() -> None:
    """Call before gradio is imported for the first time; later it has no effect."""
    if MODULE not in sys.modules:
        sys.meta_path.insert(0, _Finder())
