"""The report of a full evaluation as sentences and a table, for the Train tab and as an HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from engine.evaluation.verdict import USABLE
from engine.machine.units import counted

JSON, HTML = "report.json", "report.html"
BANDS = ((0.15, "very weak"), (USABLE, "weak"), (0.6, "usable"), (2.0, "strong"))
DRIFTED = 1.25
"""Colours count as changed if the ratio of saturation or contrast, in either direction, exceeds this."""
MIN_DIVERSITY = 0.1
"""Images of different seeds count as too alike if they differ by less than this fraction of those without control."""
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2937}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{text-align:left;padding:.3rem .8rem;border-bottom:1px solid "
    "#d1d5db;vertical-align:top}th{font-weight:600}img{max-width:100%;display:block}figure{margin:1rem 0}"
    "figcaption,.hint{color:#6b7280}.bad{color:#b91c1c}@media(prefers-color-scheme:dark){body{background:#111827;"
    "color:#e5e7eb}th,td{border-color:#374151}figcaption,.hint{color:#9ca3af}.bad{color:#fca5a5}}"
)


def reports(folder: Path) -> list[dict[str, Any]]:
    """All readable reports in a run's evaluation folder, in the order of their steps."""
    found = []
    for path in sorted(folder.glob(f"full-*/{JSON}")):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            found.append(about | {"step": int(about["step"]), "rows": list(about["rows"])})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged or of another version; reports are only read for comparison
    return found


def band(value: float) -> str:
    """A word for an adherence."""
    return next(text for upto, text in BANDS if value < upto)


def headline(report: dict[str, Any]) -> str:
    """One sentence about the adherence."""
    found = report["obeys"] or report["obeys_on_training_pairs"]
    if found is None:
        return (
            "The adherence cannot be measured: the original images do not fit their own control images better "
            "than those of other images."
        )
    where = "" if report["obeys"] else " on training pairs"
    return f"Adherence of step {report['step']:,}{where}: {_interval(found)}, {band(found['value'])}."


def warnings(report: dict[str, Any]) -> list[str]:
    """One sentence for each thing that looks damaged."""
    found = []
    for name, ratio in report["colour"]["against_without_control"].items():
        if not 1 / DRIFTED < ratio < DRIFTED:
            found.append(f"The ControlNet changes the {name} to {ratio:.0%} of what it is without control.")
    diversity = report["seed_diversity"]
    if diversity["with_control"] < MIN_DIVERSITY * diversity["without_control"]:
        found.append("Different seeds give nearly the same image.")
    near = report["nearest"]
    if near["suspicious"]:
        found.append(
            f"{counted(len(near['drawn']), 'image is', 'images are')} nearly equal to a training image "
            f"({near['true_pictures']} of the originals are, too): the net may have memorized them."
        )
    clip = report["clip"]
    if clip.get("cmmd", 0) > 2 * max(clip.get("cmmd_without_control", 0), 0.1):
        found.append("With control, the images are farther from the originals than without (CMMD).")
    return found


def facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of the table, as (name, value)."""
    counts, near = report["pairs"], report["nearest"]
    rows = [("Note", text) for text in report.get("remarks", ())]
    trained_on = f", {counts['trained_on']} from training" if counts["trained_on"] else ""
    rows.append(("Pairs", f"{counts['held_out']} held out{trained_on}"))
    rows += _adherence_facts(report)
    rows.append(("Control effect", effect_text(report["control_effect"])))
    for against, title in (("against_without_control", "without control"), ("against_true_pictures", "originals")):
        ratios = report["colour"][against]
        text = f"saturation {ratios['saturation']:.0%}, contrast {ratios['contrast']:.0%}"
        rows.append((f"Colours against {title}", text))
    diversity = report["seed_diversity"]
    text = f"{diversity['with_control']:.1f} delta E (without control {diversity['without_control']:.1f})"
    rows.append(("Difference between seeds", text))
    looked = f"{near['looked_at']:,}" + (f" of {near['of']:,}" if near["looked_at"] < near["of"] else "")
    alike = f"{counted(len(near['drawn']), 'drawn image')}, {counted(near['true_pictures'], 'original')}"
    text = f"{alike}; compared with {looked}"
    rows.append(("Nearly equal to a training image", text))
    return rows + _clip_facts(report["clip"])


def _adherence_facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if report["obeys"]:
        text = f"{_interval(report['obeys'])} on held-out pairs; 0: no effect, 1: the best this base can do"
        rows.append(("Adherence", text))
    if report["obeys_on_training_pairs"]:
        rows.append(("Adherence, training pairs", _interval(report["obeys_on_training_pairs"])))
    if report["measure"] == "likeness":  # adherence.CONTOURS; that module needs torch
        text = "These control images cannot be made from an image, so contours are compared with those of the original"
        rows.append(("Note", text))
    for name, value in report["scores"].items():
        bare = report["scores_without_control"].get(name)
        rows.append((_title(name), f"{value:.3f}" + (f" (without control {bare:.3f})" if bare is not None else "")))
    if report.get("compared"):
        gap = report["compared"]
        sure = "significant" if gap["low"] > 0 or gap["high"] < 0 else "may be chance"
        text = f"{gap['value']:+z.2f} ({gap['low']:+z.2f} to {gap['high']:+z.2f}): {sure}"
        rows.append((f"Against step {gap['step']:,}", text))
    return rows


def _clip_facts(clip: dict[str, Any]) -> list[tuple[str, str]]:
    if "missing" in clip:
        return [("CLIP", clip["missing"])]
    score = (
        f"{clip['score']:.1f} (without control {clip['score_without_control']:.1f}, originals "
        f"{clip['score_of_true_pictures']:.1f}); {clip['model']}"
    )
    distance = f"CMMD {clip['cmmd']:.2f} (without control {clip['cmmd_without_control']:.2f})"
    rows = [("CLIP score", score), ("Distance from the originals", distance)]
    if "kid" in clip:  # reports of earlier versions have none
        kid, bare = (f"{clip[f'kid{end}']:.1f} ± {clip[f'kid_spread{end}']:.1f}" for end in ("", "_without_control"))
        rows.append(("KID (CLIP features) x 1,000", f"{kid} (without control {bare})"))
    if "fid" in clip:
        rows.append(("FID (CLIP features)", f"{clip['fid']:.1f} (without control {clip['fid_without_control']:.1f})"))
    elif "fid_missing" in clip:
        rows.append(("FID", clip["fid_missing"]))
    return rows


def effect_text(meter: dict[str, Any]) -> str:
    """The control effect and the scores that it is computed from."""
    value, right, blank, swapped = (
        0.0 if abs(figure) < 0.005 else figure  # not -0.00
        for figure in (meter["value"], *(meter["scores"][name] for name in ("right", "blank", "swapped")))
    )
    return (
        f"{value:.2f}: right map {right:.2f}, blank map {blank:.2f}, another image's map {swapped:.2f}; the map "
        f"changes colours by {meter['moved']:.0f} delta E"
    )


def page(report: dict[str, Any]) -> str:
    """The report as an HTML page. Its images lie beside it."""
    title = f"{report['run']}, step {report['step']:,}"
    bad = "".join(f"<li class='bad'>{escape(text)}</li>" for text in warnings(report))
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts(report))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>{escape(headline(report))}</p><ul>{bad}</ul><table>{cells}</table>"
        "<h2>Images</h2><p class='hint'>Control image, drawn image, drawn without control, original.</p>"
        f"{_figures(report['pictures'])}"
        "<h2>Control effect</h2><p class='hint'>Control image; images drawn from the same seed with it, with a blank "
        "one, and with another image's; that other control image.</p>"
        f"{_figures(report['effect_pictures'])}</body></html>\n"
    )


def _figures(images: Sequence[Sequence[str]]) -> str:
    return "".join(
        f"<figure><img src='{escape(name)}' alt=''><figcaption>{escape(caption)}</figcaption></figure>"
        for name, caption in images
    )


def _interval(found: dict[str, Any]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _title(name: str) -> str:
    known = {
        "adherence": "Agreement of the maps",
        "iou": "Shape in the right place (exact)",
        "colours": "Colours right (exact)",
    }
    return known.get(name, name.replace("_", " ").capitalize())
