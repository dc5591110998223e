"""Inline buttons that open the part of the page where a problem can be fixed."""

from __future__ import annotations

from html import escape

UNFOLD = (
    "const form=document.getElementById('resume-settings'),fold=form?.querySelector('button');"
    "if(fold&&!fold.classList.contains('open'))fold.click();form?.scrollIntoView({block:'center'});"
)
"""Opens the form of settings with which the shown run can be resumed, if it is there."""
CHOOSE_BASE = (
    "const base=document.querySelector('#set-model-base input');base?.scrollIntoView({block:'center'});base?.focus();"
)
PLACES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "doctor": ("Check the dataset", ("tab-dataset", "dataset-check"), ""),
    "settings": ("Open the settings", ("tab-train",), UNFOLD),
    "dataset": ("Add images", ("tab-dataset",), ""),
    "captions": ("Open the captions", ("tab-dataset", "dataset-captions"), ""),
    "conditions": ("Make control images", ("tab-conditions",), ""),
    "base": ("Choose a base", (), CHOOSE_BASE),
}
"""The text of the button, the ids of the tabs that it opens, and a script that follows."""


def place_button(place: str) -> str:
    """Return the button that opens a place, after a space. Empty for one that is not known."""
    if place not in PLACES:
        return ""
    text, tabs, then = PLACES[place]
    clicks = "".join(f"document.getElementById('{name}-button')?.click();" for name in tabs)
    return f' <button type="button" class="look" onclick="{clicks}{then}">{escape(text)}</button>'
