"""The advice on a run as a table: what to expect, what to set, and where each figure comes from."""

from __future__ import annotations

from html import escape

from engine.estimate.advice import Advice


def advice_table(advice: Advice) -> str:
    """Return a row for each piece of advice, with its source below it."""
    rows = "".join(
        f"<tr><th>{escape(line.title)}</th><td>{escape(line.text)}"
        + (f"<div class='hint'>{escape(line.source)}</div>" if line.source else "")
        + "</td></tr>"
        for line in advice.lines
    )
    return f"<table class='facts advice'>{rows}</table>" if rows else ""
