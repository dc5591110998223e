"""A folder with a net and its base as ONNX graphs, for ONNX Runtime; checked against torch before it gets its name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.disk.durable import atomic_write_text
from engine.disk.in_use import clear
from engine.errors import UserError
from engine.export.formats import ExportFormat, ExportResult, measured
from engine.export.model_card import MARK
from engine.export.quantize import to_int8
from engine.export.self_check import failed
from engine.export.source import Source, public_name
from engine.export.writing import TEMPORARY, demand_free_name, demand_space, give_names, write_or_explain
from engine.families.fingerprint import denoiser_fingerprint
from engine.families.onnx_graphs import (
    ADDED,
    CONTROLNET,
    DENOISER,
    Graph,
    Tensors,
    example,
    graphs,
    predict,
    predict_with,
    residual_names,
)
from engine.families.registry import Family
from engine.machine.memory import free_memory
from engine.machine.onnx_packages import TO_EXPORT, require_packages
from engine.nets.frozen_layers import quantize_as_trained
from engine.nets.onnx_net import FILES, OnnxNet, input_names, open_nets, session, write_description
from engine.nets.outputs import net_of
from engine.runs.checkpoints import Checkpoint
from engine.tuning.unlocked import load_trained_base
from engine.version import VERSION

if TYPE_CHECKING:
    from engine.export.quantization_check import QuantizationCheck

EXAMPLE = (2, 16, 24, 77)
"""Batch, height and width of the latents, and tokens, with which the exporter traces the nets."""
SIZES = ((3, 16, 8, 77), (1, 8, 16, 154))
"""The same, where the graphs are compared with torch."""
TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2}
"""Largest difference of the predictions, relative to the strongest."""
CALIBRATION = 32
"""Held-out pairs, each at another noise level, from which int8_static learns the ranges."""
CPU = "CPUExecutionProvider"


def export_onnx(
    checkpoint: Checkpoint,
    source: Source,
    way: ExportFormat,
    out_folder: Path,
    stem: str,
    precision: str,
    overwrite: bool,
    family: Family,
    base: str,
    stage: Callable[[int, str], None],
    quantization_check: QuantizationCheck | None,
) -> ExportResult:
    """Write one net. See ``engine.export.out.export``.

    Args:
        source: in fp32.
        base: located; empty: it is not on this computer.

    Raises:
        UserError: a package or the base is missing, the name is taken, the disk is full, a check failed, or the
            adherence in int8 is too low. Nothing is left behind. Cancelled: the token is cancelled. Likewise.
    """
    require_packages(TO_EXPORT, "Nothing was exported in ONNX.")
    target = Path(out_folder) / f"{stem}_onnx"
    demand_free_name(target, way, overwrite)
    if not base:
        raise UserError(
            "Nothing was exported in ONNX.",
            f"The base {source.metadata.get('base', '')}, which becomes a part of it, was not found on this computer.",
            "Put the base back in the models folder, or choose another format.",
        )
    if measured(precision) and quantization_check is None:
        raise UserError(
            f"Nothing was exported in {precision}.",
            "Its loss of adherence has to be measured, and this checkpoint belongs to no run whose images could be "
            "drawn.",
            "Export in fp32.",
        )
    if quantization_check is not None:
        quantization_check.refuse_known(source.metadata["weights"], precision)
    denoiser: Any = quantize_as_trained(
        family.load_denoiser(base, torch.float32), {}, family.layers, torch.device("cpu")
    )
    load_trained_base(checkpoint.folder, denoiser, family.layers)
    net = net_of(source.config, source.original)
    demand_space(target, 4 * sum(one.numel() for part in (denoiser, net) for one in part.parameters()))
    temporary = target.with_name(f"{TEMPORARY}{target.name}")
    clear(temporary)
    try:
        temporary.mkdir(parents=True)
        rounded = precision.startswith("int8")
        graphs_in = temporary / "fp32" if rounded else temporary
        graphs_in.mkdir(exist_ok=True)
        inputs = example(denoiser.config, *EXAMPLE)
        if precision == "fp16":
            # Sizes and pooled text stay in fp32: diffusers joins them in it, and ONNX joins equal types only.
            inputs = {name: one if name in ADDED else one.half() for name, one in inputs.items()}
            for part in (denoiser, net):
                torch.nn.Module.half(part)  # past diffusers' warning about layers that these nets do not have
        for name, graph in graphs(denoiser, net, inputs).items():
            stage(1, f"Writing {FILES[name]}")
            write_or_explain(lambda graph=graph, name=name: _write(graph, graphs_in / FILES[name]), target)  # type: ignore[misc]
        for part in (denoiser, net):
            torch.nn.Module.float(part)
        if rounded:
            stage(1, "Rounding to int8")
            batches = None
            if precision == "int8_static" and quantization_check is not None:
                batches = quantization_check.calibration(CALIBRATION)
            _round(graphs_in, temporary, batches, denoiser.config)
            clear(graphs_in)
        free_memory()
        stage(2, "Checking")
        checked = _compare(temporary, denoiser, net, precision)
        about = OnnxNet(
            family=family.name,
            base=public_name(str(checkpoint.about.get("base", ""))),
            checkpoint=checkpoint.folder.name,
            run=str(checkpoint.about.get("run", "")),
            weights=source.metadata["weights"],
            precision=precision,
            controlnet=source.config,
            denoiser={name: value for name, value in dict(denoiser.config).items() if not name.startswith("_")},
            schedule=dict(checkpoint.noise_schedule),
            checksums={},
            base_fingerprint=denoiser_fingerprint(family, base),
            ingredients=list(checkpoint.about.get("ingredients", ())),
        )
        write_description(temporary, about)
        if measured(precision) and quantization_check is not None:
            stage(3, "Measuring the loss of adherence")
            nets = open_nets(temporary, about, family.denoiser_config(base), base, family.facts, "onnx")
            loss = quantization_check(replace(source, precision=precision), nets)
            checked = f"{loss} {checked}".strip()
            del nets
        stage(4, "Writing the model card")
        atomic_write_text(temporary / "README.md", _card(stem, about, checked))
        stage(5, "Done")
        demand_free_name(target, way, overwrite)
        give_names(temporary, target, None, temporary)
    finally:
        clear(temporary)
    return ExportResult(target, sum(file.stat().st_size for file in target.iterdir()), checked, target)


def _write(graph: Graph, file: Path) -> None:
    """Export a module with torch's own exporter."""
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)  # it warns of packages that are not needed
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module.eval(),
                graph.arguments,
                dynamo=True,
                dynamic_shapes=graph.free,
                input_names=graph.input_names,
                output_names=graph.output_names,
                verbose=False,
            )
    finally:
        noisy.setLevel(level)
    assert program is not None, "dynamo=True returns a program"
    program.save(str(file))


def _round(whole: Path, target: Path, batches: list[Tensors] | None, config: Any) -> None:
    """Write the graphs of a folder in int8. ``batches``: inputs to learn the ranges of the activations from."""
    rows = None
    if batches is not None:
        controlnet = session(whole / FILES[CONTROLNET], CPU)
        names = residual_names(config)
        rows = [{**one, **dict(zip(names, controlnet(one), strict=True))} for one in batches]
    for file in FILES.values():
        to_int8(whole / file, target / file, None if rows is None else _arrays(rows, input_names(whole / file)))


def _arrays(rows: list[Tensors], names: list[str]) -> Iterator[dict[str, np.ndarray]]:
    return ({name: one[name].numpy() for name in names} for one in rows)


def _compare(folder: Path, denoiser: Any, net: Any, precision: str) -> str:
    """Compare both graphs with the nets that they were made of, at two sizes, none of them that of the export.

    Raises:
        UserError: they differ by more than the precision explains.
    """
    controlnet, denoising = (session(folder / FILES[name], CPU) for name in (CONTROLNET, DENOISER))
    worst = 0.0
    for number, size in enumerate(SIZES):
        inputs = example(denoiser.config, *size, seed=number + 1)
        found = predict(controlnet, denoising, inputs, denoiser.config)
        wanted = predict_with(denoiser, net, inputs)
        worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max()))
    if precision in TOLERANCE and not worst <= TOLERANCE[precision]:
        raise failed(f"ONNX Runtime computes something else than torch (difference {worst:.2%} of the largest output)")
    return (
        f"ONNX Runtime predicts what torch does at {len(SIZES)} sizes, batches and text lengths (largest difference "
        f"{worst:.2%} of the largest output)."
    )


def _card(stem: str, about: OnnxNet, checked: str) -> str:
    """The file README.md."""
    return "\n".join(
        [
            "---",
            f"{MARK} {VERSION}",
            "---",
            "",
            f"# {stem}: ControlNet and denoiser in ONNX",
            "",
            f"`{FILES[CONTROLNET]}` gives residuals, `{FILES[DENOISER]}` takes them. Batch, size and length of the "
            f"text are free. The denoiser is that of {about.base or 'its base'}; text encoder, VAE and sampler are "
            "not in this folder.",
            "",
            f"Precision: {about.precision}. {checked}",
            "",
        ]
    )
