"""Inline buttons that open a part of the page and move the focus there."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

TRIES, PAUSE = 40, 150
"""How often, and after how many milliseconds, a place is looked for: a tab draws its parts when it is opened."""


def go_button(text: str, tabs: Sequence[str], then: str = "", css: str = "look") -> str:
    """Return a button as HTML.

    Args:
        tabs: ids of the tabs that it opens, the outer one first.
        then: a script that follows, such as ``focus_on``.
    """
    return f'<button type="button" class="{css}" onclick="{escape(go_script(tabs, then))}">{escape(text)}</button>'


def go_script(tabs: Sequence[str], then: str = "") -> str:
    """Return the script that opens tabs, and then does something."""
    return "".join(f"document.getElementById('{name}-button')?.click();" for name in tabs) + then


def focus_on(selector: str, unfold: str = "", press: str = "") -> str:
    """Return a script that shows an element and puts the focus on it, once it is there.

    Args:
        unfold: id of the folded panel in which it lies.
        press: a button that is pressed first, if the page shows it.
    """
    opened = (
        f"const fold=document.querySelector('#{unfold} > button');"
        "if(fold&&!fold.classList.contains('open'))fold.click();"
        if unfold
        else ""
    )
    pressed = (
        f"const first=document.querySelector('{press}');if(first&&first.offsetParent&&!done){{done=1;first.click();}}"
        if press
        else ""
    )
    return (
        "(()=>{let tries=0,done=0;const find=()=>{"
        f"{pressed}{opened}"
        f"const found=[...document.querySelectorAll('{selector}')].find(one=>one.offsetParent);"
        "if(found){found.scrollIntoView({block:'center'});found.focus();}"
        f"else if(tries++<{TRIES})setTimeout(find,{PAUSE});}};setTimeout(find,{PAUSE});}})();"
    )
