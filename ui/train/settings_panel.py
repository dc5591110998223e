"""All settings of the next run in folded groups, with a search, and a reset at each value that is not the preset's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from engine import config
from engine.families.family_facts import FamilyFacts
from ui.page.form import describe, section_widgets, widget

GROUPS = {
    "model": "Base model and ControlNet",
    "data": "Images and captions",
    "objective": "Loss, noise, dropout, what is trained",
    "optim": "Learning rate and optimizer",
    "train": "Batch, memory, speed, checkpoints",
    "validation": "Preview images, scores, loss checks",
}
"""The titles of the groups: one for each section of the settings but "tuning", which is at the top of the form."""
OWN_TESTS = (
    "validation.prompts",
    "validation.pictures_folder",
    "validation.pictures_are_maps",
    "validation.probes",
)
"""Settings of the user's own test images and prompts, in a group of their own."""
FIRST = (*(f"tuning.{name}" for name in config.fields("tuning")), "data.dataset", "model.base", "train.steps")
"""Settings at the top of the form."""
RUNS = {
    "controlnet": ("controlnet",),
    "net": ("controlnet", "lcm"),
    "factors": ("lora", "subject", "lcm"),
    "text": ("lora", "subject", "base"),
    "lcm": ("lcm",),
    "word": ("word",),
    "named": ("word", "subject"),
    "preserved": ("lora", "subject", "base", "svdiff"),
    "teaching": ("lora", "subject", "word", "base", "svdiff"),
}
"""Which kinds of run (``tuning.what``) a setting with such a mark (``setting(only=...)``) has a meaning for."""
PRESERVES = {"preserving": ("answers", "pictures"), "drawing": ("pictures",)}
"""The same for marks that depend on how a run preserves what the base knows (``TuningConfig.preserved_by``)."""
RESET_ALL = "all"
"""What the button that resets everything sends, in place of a setting's name."""

FIND = """
const field = element.querySelector('input'), none = element.querySelector('[role=status]');
const index = JSON.parse(field.dataset.index), unfolded = new Set();
const head = (group) => document.querySelector(`#${group} > button`);
const open = (group) => head(group)?.classList.contains('open');
const apply = () => {
  const words = field.value.trim().toLowerCase().split(/\\s+/).filter(Boolean);
  let found = 0;
  for (const [group, texts] of Object.entries(index)) {
    let here = 0;
    for (const [block, text] of Object.entries(texts)) {
      const fits = words.every((word) => text.includes(word));
      document.getElementById(block)?.classList.toggle('not-found', !fits);
      here += fits;
    }
    document.getElementById(group).classList.toggle('not-found', !here);
    if (words.length && here && !open(group)) { unfolded.add(group); head(group).click(); }
    if (!words.length && unfolded.delete(group) && open(group)) head(group).click();
    found += here;
  }
  none.hidden = found > 0;
};
field.addEventListener('input', apply);
const box = document.getElementById('all-settings');
const observer = new MutationObserver((changes) => {
  if (!element.isConnected) observer.disconnect(); // hidden meanwhile: another one takes its place
  else if (field.value && changes.some((one) => one.addedNodes.length)) apply();
});
observer.observe(box, { childList: true, subtree: true });
"""
"""Script of the search. A folded group's boxes are not on the page, hence the index. Groups that it has unfolded are
folded again when it is emptied."""

MARK = """
const setup = element.closest('.run-setup') || document;
const reset = (name) => trigger('click', { setting: name });
const mark = () => {
  if (!element.isConnected) return observer.disconnect(); // hidden meanwhile: another one takes its place
  const changed = [...element.querySelectorAll('button[data-block]')];
  const ids = new Set(changed.map((one) => one.dataset.block));
  for (const old of setup.querySelectorAll('.block > button.reset')) {
    if (ids.has(old.parentElement.id)) continue;
    old.parentElement.classList.remove('changed');
    old.remove();
  }
  for (const one of changed) {
    const block = document.getElementById(one.dataset.block);
    if (!block) continue;
    block.classList.add('changed');
    let button = block.querySelector(':scope > button.reset');
    if (!button) {
      button = document.createElement('button');
      button.type = 'button';
      button.className = 'reset';
      button.addEventListener('click', () => reset(button.dataset.setting));
      block.append(button);
    }
    if (button.title === one.title) continue;
    button.dataset.setting = one.dataset.setting;
    button.title = one.title;
    button.setAttribute('aria-label', one.title);
    button.textContent = '↺ ' + one.dataset.usual;
  }
  for (const group of setup.querySelectorAll('.settings-group')) {
    const count = changed.filter((one) => one.dataset.group === group.id).length;
    const title = group.querySelector(':scope > button > span'), text = count ? count + ' changed' : '';
    if (title.dataset.changed !== text) title.dataset.changed = text;
  }
};
element.addEventListener('click', (event) => {
  const one = event.target.closest('button[data-setting]');
  if (one) reset(one.dataset.setting);
});
let due = 0;
const soon = () => { due ||= setTimeout(() => { due = 0; mark(); }, 30); };
const observer = new MutationObserver(soon);
observer.observe(setup, { childList: true, subtree: true });
soon();
"""
"""Script of the list of changed settings: marks each at its own box, too, and tells the app which one to reset."""


def build_settings(values: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Build search, list of changes and groups, without the settings of ``FIRST``.

    Args:
        values: of all settings, by dotted name.

    Returns:
        the widgets by dotted name; the list of changes, whose click says which one to reset.
    """
    made: dict[str, Any] = {}
    with gr.Column(elem_id="all-settings", elem_classes="snug"):
        gr.HTML(search_html(), js_on_load=FIND, elem_id="settings-search")
        changed = gr.HTML(js_on_load=MARK, elem_id="settings-changed")
        for section, title in GROUPS.items():
            with gr.Accordion(title, open=False, elem_id=f"group-{section}", elem_classes="settings-group"):
                for advanced in (False, True):
                    made |= section_widgets([section], values, advanced, skip=(*FIRST, *OWN_TESTS))
        with gr.Accordion(
            "Your own test images and prompts", open=False, elem_id="own-tests", elem_classes="settings-group"
        ):
            for dotted in OWN_TESTS:
                made[dotted] = widget(config.field_of(dotted), values[dotted], elem_id(dotted))
    return made, changed


def search_html() -> str:
    """Return the search box, which holds an index of titles and help by group and widget."""
    index: dict[str, dict[str, str]] = {}
    for section in GROUPS:
        for name, field in config.fields(section).items():
            dotted, about = f"{section}.{name}", describe(field)
            if dotted not in FIRST:
                words = f"{dotted} {about.label} {about.hint}".lower()
                index.setdefault(group_id(dotted), {})[elem_id(dotted)] = words
    known = escape(json.dumps(index), quote=True)
    return (
        "<label class='settings-search'><b>All settings</b><input type='search' autocomplete='off' "
        "placeholder='Search names and help texts, e.g. memory' aria-label='Search the settings' "
        f"data-index='{known}'></label><p class='hint' role='status' hidden>No setting has all these words in its "
        "name or help text.</p>"
    )


def group_id(dotted: str) -> str:
    """Return the id of the group of a setting; empty for one at the top of the form."""
    if dotted in FIRST:
        return ""
    return "own-tests" if dotted in OWN_TESTS else f"group-{dotted.split('.')[0]}"


def elem_id(dotted: str) -> str:
    """Return the id of a setting's widget on the page."""
    return "set-" + dotted.replace(".", "-")


def changes_html(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the list of changed settings, with a button for each that sets it back.

    Args:
        changed: the value and the preset's, by dotted name.
    """
    if not changed:
        return ""
    chips = []
    for dotted, (value, usual) in changed.items():
        field = config.field_of(dotted)
        name = describe(field).label if field is not None else dotted
        back = f"Reset {name} to the preset's value, {shown(usual)}"
        chips.append(
            f"<button type='button' data-setting='{escape(dotted, quote=True)}' data-block='{elem_id(dotted)}' "
            f"data-group='{group_id(dotted)}' "
            f"data-usual='{escape(shown(usual), quote=True)}' title='{escape(back, quote=True)}'>"
            f"{escape(name)}: <b>{escape(shown(value))}</b> <span aria-hidden='true'>↺</span></button>"
        )
    everything = ""
    if len(changed) > 1:
        everything = f"<button type='button' data-setting='{RESET_ALL}'>Reset all</button>"
    return (
        "<div class='changed-list'><span class='hint'>Changed from the "
        f"preset:</span>{''.join(chips)}{everything}</div>"
    )


def shown(value: Any) -> str:
    """Return a setting's value as a short text."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    text = " ".join(str(value or "").split()) or "empty"
    return text if len(text) <= 24 else f"…{text[-23:]}"


def not_applicable(tuning: config.TuningConfig, facts: FamilyFacts) -> tuple[str, ...]:
    """Return the marks (``setting(only=...)``) of settings that have no meaning for a run.

    Args:
        tuning: what the run trains.
        facts: of the run's base.
    """
    hidden = () if facts.patch > 1 else ("transformers",)
    kinds = (kind for kind, runs in RUNS.items() if tuning.what not in runs)
    ways = (mark for mark, preserves in PRESERVES.items() if tuning.preserved_by not in preserves)
    return (*hidden, *kinds, *ways)


def not_applicable_html(tuning: config.TuningConfig, facts: FamilyFacts) -> str:
    """Return these marks of the form's run for style.css, which hides the settings.

    Args:
        tuning: what the run trains.
        facts: of the run's base.
    """
    return f"<span data-hides='{' '.join(not_applicable(tuning, facts))}'></span>"
