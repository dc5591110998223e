"""Images that open large on a click: galleries, and the script of a gr.HTML with the dialog in it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote

import gradio as gr

ON_LOAD = """
const dialog = () => element.querySelector('dialog');
const cells = () => [...element.querySelectorAll('button.cell')];
let at = 0;
const show = (number) => {
  const all = cells();
  at = (number + all.length) % all.length;
  const box = dialog();
  box.querySelector('img').src = all[at].dataset.full;
  box.querySelector('img').alt = all[at].dataset.words;
  box.querySelector('p').textContent = all[at].dataset.words;
  if (!box.open) box.showModal();
};
const zoom = (times) => {
  const image = dialog().querySelector('img');
  image.style.width = times ? image.naturalWidth * times + 'px' : '';
  image.classList.toggle('whole', !times);
};
element.addEventListener('click', (event) => {
  const cell = event.target.closest('button.cell');
  if (cell) { show(cells().indexOf(cell)); zoom(0); return; }
  const what = event.target.closest('button[data-do]');
  if (what) {
    const act = what.dataset.do;
    if (act === 'close') dialog().close();
    else if (act === 'before' || act === 'after') show(at + (act === 'after' ? 1 : -1));
    else zoom(Number(act));
  } else if (event.target === dialog()) dialog().close();
});
element.addEventListener('keydown', (event) => {
  if (!dialog() || !dialog().open) return;
  if (event.key === 'ArrowRight') show(at + 1);
  if (event.key === 'ArrowLeft') show(at - 1);
});
"""
"""It listens on the element itself, which stays when its content is replaced."""


def gallery(elem_id: str, columns: int, downloads: bool = True) -> gr.Gallery:
    """Whole images, to open and perhaps to download, hidden as long as there are none."""
    return gr.Gallery(
        show_label=False,
        columns=columns,
        height="auto",
        object_fit="contain",
        buttons=["download", "fullscreen"] if downloads else ["fullscreen"],
        interactive=False,
        visible=False,
        elem_id=elem_id,
    )


def dialog(title: str) -> str:
    """Return the dialog, once for each gr.HTML. ``title``: for screen readers."""
    return (
        f"<dialog class='enlarge' aria-label='{escape(title, quote=True)}'><div class='bar-above'><p></p><span>"
        "<button type='button' data-do='before' aria-label='The previous image'>‹</button>"
        "<button type='button' data-do='after' aria-label='The next image'>›</button>"
        "<button type='button' data-do='0'>Fit</button><button type='button' data-do='1'>1 : 1</button>"
        "<button type='button' data-do='2'>2 x</button><button type='button' data-do='4'>4 x</button>"
        "<button type='button' data-do='close'>Close</button></span></div>"
        "<div class='stage'><img class='whole' alt=''></div></dialog>"
    )


def cell(path: Path, words: str, size: str = "") -> str:
    """Return an image that opens large on a click.

    Args:
        path: in a folder that the app may serve.
        words: what it shows, as plain text.
        size: width and height as HTML attributes.
    """
    address, escaped = served(path), escape(words, quote=True)
    return (
        f"<button type='button' class='cell' data-full='{address}' data-words='{escaped}' "
        f"aria-label='Enlarge: {escaped}'><img src='{address}' alt='{escaped}' loading='lazy' {size}></button>"
    )


def served(path: Path) -> str:
    """Return the address at which the app serves a file of an allowed folder."""
    return f"gradio_api/file={quote(path.as_posix(), safe='/:')}"
