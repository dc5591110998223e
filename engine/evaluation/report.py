"""The report of a thorough evaluation: sentences and numbers for people, as a page and in the window."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from engine.evaluation.verdict import USABLE

JSON, HTML = "report.json", "report.html"
BANDS = ((0.15, "it hardly listens"), (USABLE, "it listens a little"), (0.6, "usable"), (2.0, "strong"))
DRIFTED = 1.25
"""Ratio of saturation or contrast, either way, from which colours are said to drift."""
LESS_VARIED = 0.1
"""Share of the diversity without control below which images of different seeds are said to be too alike."""
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2937}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{text-align:left;padding:.3rem .8rem;border-bottom:1px solid "
    "#d1d5db;vertical-align:top}th{font-weight:600}img{max-width:100%;display:block}figure{margin:1rem 0}"
    "figcaption,.hint{color:#6b7280}.bad{color:#b91c1c}@media(prefers-color-scheme:dark){body{background:#111827;"
    "color:#e5e7eb}th,td{border-color:#374151}figcaption,.hint{color:#9ca3af}.bad{color:#fca5a5}}"
)


def reports(folder: Path) -> list[dict[str, Any]]:
    """Every whole report below a run's evaluation folder, by step."""
    found = []
    for path in sorted(folder.glob(f"full-*/{JSON}")):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            found.append(about | {"step": int(about["step"]), "rows": list(about["rows"])})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of another version, or damaged: it is only compared with
    return found


def band(value: float) -> str:
    """What A amounts to, in words."""
    return next(words for upto, words in BANDS if value < upto)


def headline(report: dict[str, Any]) -> str:
    """One sentence."""
    obeys = report["obeys"] or report["obeys_on_training_pairs"]
    if obeys is None:
        return "Whether it obeys cannot be told: the true images do not fit their own maps better than others'."
    where = "" if report["obeys"] else ", on pairs that it was trained on"
    return f"Step {report['step']:,} obeys its map by {_interval(obeys)}{where}: {band(obeys['value'])}."


def warnings(report: dict[str, Any]) -> list[str]:
    """What looks damaged, a sentence each."""
    said = []
    for name, ratio in report["colour"]["against_without_control"].items():
        if not 1 / DRIFTED < ratio < DRIFTED:
            said.append(f"The control changes the {name}: {ratio:.0%} of what it is without.")
    varied = report["seed_diversity"]
    if varied["with_control"] < LESS_VARIED * varied["without_control"]:
        said.append("Other seeds hardly change the image any more.")
    near = report["nearest"]
    if near["suspicious"]:
        said.append(
            f"{len(near['drawn'])} images nearly equal a training image ({near['true_pictures']} of the true ones "
            "do): it may have learnt them by heart."
        )
    clip = report["clip"]
    if clip.get("cmmd", 0) > 2 * max(clip.get("cmmd_without_control", 0), 0.1):
        said.append("With control the images are farther from the true ones than without (CMMD).")
    return said


def facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of the table: a name and what was found."""
    meter, varied, near, clip = (report[n] for n in ("control_effect", "seed_diversity", "nearest", "clip"))
    counts = report["pairs"]
    rows = [("Careful", words) for words in report.get("remarks", ())]
    rows.append(("Pairs", f"{counts['held_out']} held out" + _and(counts["trained_on"], "that it was trained on")))
    if report["obeys"]:
        rows.append(("Obeys its map", f"{_interval(report['obeys'])} on held-out pairs; 0 blind, 1 as well as can be"))
    if report["obeys_on_training_pairs"]:
        rows.append(("… on training pairs", _interval(report["obeys_on_training_pairs"])))
    if report["measure"] == "likeness":
        words = "These maps cannot be made from an image: contours of the true image stand in for them"
        rows.append(("Careful", words))
    for name, value in report["scores"].items():
        bare = report["scores_without_control"].get(name)
        rows.append((_title(name), f"{value:.3f}" + (f" (without control {bare:.3f})" if bare is not None else "")))
    if report.get("compared"):
        gap = report["compared"]
        sure = "sure" if gap["low"] > 0 or gap["high"] < 0 else "could be chance"
        rows.append(
            (f"Against step {gap['step']:,}", f"{gap['value']:+.2f} ({gap['low']:+.2f} to {gap['high']:+.2f}): {sure}")
        )
    rows.append(("Control effect", effect_words(meter)))
    for against, title in (("against_without_control", "without control"), ("against_true_pictures", "true images")):
        ratios = report["colour"][against]
        rows.append((
            f"Colours against {title}", f"saturation {ratios['saturation']:.0%}, contrast {ratios['contrast']:.0%}"
        ))  # fmt: skip
    rows.append((
        "Seeds differ by",
        f"{varied['with_control']:.1f} colour steps (without control {varied['without_control']:.1f})",
    ))  # fmt: skip
    looked = f"{near['looked_at']:,}" + (f" of {near['of']:,}" if near["looked_at"] < near["of"] else "")
    rows.append((
        "Near a training image",
        f"{len(near['drawn'])} drawn ones, {near['true_pictures']} true ones; {looked} looked at",
    ))  # fmt: skip
    if "missing" in clip:
        rows.append(("CLIP", clip["missing"]))
    else:
        rows += [
            ("CLIP score", f"{clip['score']:.1f} (without control {clip['score_without_control']:.1f}, true images "
             f"{clip['score_of_true_pictures']:.1f}); {clip['model']}"),
            ("Distance from the true images", f"CMMD {clip['cmmd']:.2f} (without control "
             f"{clip['cmmd_without_control']:.2f})"),
        ]  # fmt: skip
    return rows


def effect_words(meter: dict[str, Any]) -> str:
    """The meter's number and what it is made of."""
    value, right, blank, swapped = (
        0.0 if abs(figure) < 0.005 else figure  # not -0.00
        for figure in (meter["value"], *(meter["scores"][name] for name in ("right", "blank", "swapped")))
    )
    return (
        f"{value:.2f}: right map {right:.2f}, blank {blank:.2f}, another's {swapped:.2f}; "
        f"the image moves by {meter['moved']:.0f} colour steps"
    )


def page(report: dict[str, Any]) -> str:
    """The report as a page of its own; its images lie beside it."""
    title = f"{report['run']}, step {report['step']:,}"
    said = "".join(f"<li class='bad'>{escape(words)}</li>" for words in warnings(report))
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts(report))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>{escape(headline(report))}</p><ul>{said}</ul><table>{cells}</table>"
        "<h2>Images</h2><p class='hint'>Map, drawn, drawn without control, true image.</p>"
        f"{_figures(report['pictures'])}"
        "<h2>Control effect</h2><p class='hint'>Map; the same seed with it, with a blank one, with the other map; the "
        f"other map.</p>{_figures(report['effect_pictures'])}</body></html>\n"
    )


def _figures(images: Sequence[Sequence[str]]) -> str:
    return "".join(
        f"<figure><img src='{escape(name)}' alt=''><figcaption>{escape(caption)}</figcaption></figure>"
        for name, caption in images
    )


def _interval(found: dict[str, Any]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _and(count: int, words: str) -> str:
    return f", {count} {words}" if count else ""


def _title(name: str) -> str:
    known = {"adherence": "Map made anew, agreement", "iou": "Right place (exact)", "colours": "Right colours (exact)"}
    return known.get(name, name.replace("_", " ").capitalize())
