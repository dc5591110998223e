from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.conditions import ready, registry
from engine.conditions import types as types_folder
from engine.conditions.registry import ConditionType, Parameter, Registry
from engine.conditions.types.canny import CANNY
from engine.errors import UserError

GAIN = Parameter("gain", "Gain", "float", 1.0, 0.0, 2.0)


def brighter(image: np.ndarray, *, gain: float) -> np.ndarray:
    return np.clip(image * gain, 0, 255).astype(np.uint8)


def with_default(image: np.ndarray, *, gain: float = 1.0) -> np.ndarray:
    return image


def positional(image: np.ndarray, gain: float) -> np.ndarray:
    return image


def one_array(wanted: np.ndarray, *, gain: float) -> float:
    return 0.0


HERE = f"{__name__}:"


def kind(name: str, extract: str, *parameters: Parameter, metric: str | None = None) -> ConditionType:
    return ConditionType(name, name, "a test", parameters or (GAIN,), extract=HERE + extract, metric=metric)


def test_a_valid_declaration_is_registered() -> None:
    own = Registry()
    own.add(kind("brighter", "brighter"))
    assert own.get("brighter").extractor is brighter and own.get("brighter").scorer is None


@pytest.mark.parametrize(
    "wrong",
    [
        kind("a", "brighter", replace(GAIN, name="strength")),
        kind("a", "brighter", GAIN, replace(GAIN, name="more")),
        kind("a", "brighter", GAIN, GAIN),
        kind("a", "brighter", Parameter("gain", "Gain", "int", 1, 0, 2)),
        kind("a", "with_default"),
        kind("a", "positional"),
        kind("a", "missing"),
        kind("a", "brighter", metric=HERE + "one_array"),
        ConditionType("a", "a", "a test", (GAIN,)),
        replace(kind("a", "brighter"), program="gain"),  # it could not be stopped
    ],
)
def test_if_an_error_is_raised_the_registry_is_left_unchanged(wrong: ConditionType) -> None:
    own = Registry()
    own.add(CANNY)
    before = own.all()
    for types in ((wrong,), (kind("good", "brighter"), wrong), (kind("good", "brighter"), CANNY)):
        with pytest.raises(ValueError):
            own.add(*types)
        assert own.all() == before


@pytest.mark.parametrize(
    ("kind", "default", "more"),
    [
        ("int", 1, {}),
        ("int", 5, {"low": 0, "high": 2}),
        ("int", 0.5, {"low": 0, "high": 2}),
        ("choice", "a", {}),
        ("choice", "c", {"choices": ("a", "b")}),
        ("bool", 1, {}),
        ("colour", 1, {}),
    ],
)
def test_a_contradictory_parameter_is_refused(kind, default, more) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError):
        Parameter("x", "X", kind, default, **more)


def test_parameters_get_defaults_and_all_problems_are_reported_together() -> None:
    assert registry.resolve_parameters("canny", {"low": 10.0}) == {
        "low": 10,
        "high": 200,
        "blur": 0.0,
        "edges": "colour",
    }
    with pytest.raises(UserError) as caught:
        registry.resolve_parameters("canny", {"low": -1, "high": "much", "wide": 3})
    for word in ("low", "high", "wide"):
        assert word in caught.value.why


def test_an_unknown_type_raises_an_error_listing_the_known_ones() -> None:
    with pytest.raises(UserError) as caught:
        registry.get("kanny")
    assert caught.value.try_this.startswith("Did you mean canny? Choose one of these: canny, soft_edge")


def test_every_type_has_a_description_and_is_found_by_name() -> None:
    assert all(condition.teaches and registry.get(condition.name) is condition for condition in registry.all())


def test_every_declared_type_is_registered() -> None:
    found = [module.name for module in pkgutil.iter_modules(types_folder.__path__, types_folder.__name__ + ".")]
    modules = [importlib.import_module(name) for name in found]
    declared = {value.name for module in modules for value in vars(module).values() if isinstance(value, ConditionType)}
    assert declared == {condition.name for condition in registry.all()}


def test_the_docs_list_every_type_with_its_weights_and_licence() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "conditions.md").read_text(encoding="utf-8")
    for kind in registry.all():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {kind.title} (`{kind.name}`)")]
        assert kind.teaches in row
        assert all(f"{need.id}: {need.megabytes} MB, {need.licence}" in row for need in kind.models)
        assert all(parameter.title.lower() in row for parameter in kind.parameters)


def test_listing_the_types_imports_nothing_heavy() -> None:
    code = "import sys; import engine.conditions.registry; print({'torch', 'gradio', 'cv2'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_parameters_that_contradict_each_other_are_refused_for_new_maps_only() -> None:
    for name, values in (("canny", {"low": 300, "high": 10}), ("light_dark", {"dark_below": 200, "light_above": 100})):
        condition = registry.get(name)
        resolved = registry.resolve_parameters(name, values)  # a dataset of an earlier version still opens
        with pytest.raises(UserError, match="contradict each other") as error:
            ready.check(condition, resolved)
        assert all(f"{value:g}" in error.value.why for value in values.values())
        ready.check(condition, registry.resolve_parameters(name, {}))


def test_an_undeclared_parameter_to_compare_with_is_refused() -> None:
    odd = Parameter("low", "Low", "int", 1, 0, 9, 1, at_most="high")
    with pytest.raises(ValueError, match="not declared"):
        replace(registry.get("canny"), name="odd", parameters=(odd,), extract=None, metric=None).check()
