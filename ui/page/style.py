"""The look of the page: one accent colour, the system's own fonts, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

SHEETS = ("style.css", "train.css", "try_it.css")
CSS = "\n".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in SHEETS)

# The browser stores the choice. "system" follows the setting of the operating system, as gradio itself does.
APPLY = """
(choice) => {
  const dark = choice === 'dark' || (choice !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches);
  document.body.classList.toggle('dark', dark);
}
"""
CHOSEN_THEME = "() => localStorage.getItem('studio-colours') || 'system'"
SET_THEME = f"(choice) => {{ localStorage.setItem('studio-colours', choice); ({APPLY.strip()})(choice); return []; }}"


def script(name: str) -> str:
    """Read a JavaScript function from a file beside this one, without the comments above it."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("//")).strip()


ON_LOAD = (
    f"() => {{ ({APPLY.strip()})(localStorage.getItem('studio-colours') || 'system'); "
    + "".join(f"({script(name)})(); " for name in ("heartbeat.js", "poll.js", "title.js", "loading_status.js"))
    + "}"
)


def theme() -> Any:
    """Return gradio's base theme with our accent colour. It downloads no fonts."""
    system = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    mono = ["ui-monospace", "Cascadia Mono", "Consolas", "DejaVu Sans Mono", "monospace"]
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=system,
        font_mono=mono,
        radius_size="md",
        text_size="md",
        spacing_size="md",
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_title_text_color="*neutral_800",
        block_label_text_color="*neutral_800",
        block_border_width="1px",
        block_shadow="none",
        block_label_text_size="*text_sm",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        # gradio's own are nearly the colour of their ground; tests/ui/page/test_contrast.py measures these
        checkbox_border_width="1px",
        checkbox_border_width_dark="1px",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_hover="*neutral_600",
        checkbox_border_color_dark="*neutral_300",
        checkbox_border_color_hover_dark="*neutral_200",
        input_shadow="inset 0 0 0 1px *neutral_500",
        input_shadow_dark="inset 0 0 0 1px *neutral_500",
        input_shadow_focus="inset 0 0 0 2px *primary_600",
        input_shadow_focus_dark="inset 0 0 0 2px *primary_500",
        checkbox_shadow="none",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
    )
