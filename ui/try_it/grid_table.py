"""The HTML of a checkpoint grid: a table whose images open large on a click."""

from __future__ import annotations

from html import escape
from pathlib import Path

from engine.evaluation.grid import Grid, RowLabel
from ui.page import enlarge

MIN_WIDTH, MAX_WIDTH, DEFAULT_WIDTH = 80, 512, 176
"""Widths of an image in the table, in px. The default is smaller if there are many columns."""
ROW_WIDTH, HEAD_WIDTH = 700, 180
"""Width of the page for the images of one row, and for the text beside them, in px."""

ON_LOAD = (
    enlarge.ON_LOAD
    + """
element.addEventListener('input', (event) => {
  if (event.target.type !== 'range') return;
  event.target.closest('.comparison').style.setProperty('--cell', event.target.value + 'px');
});
"""
)
"""Script for gr.HTML."""


def grid_html(grid: Grid, folder: Path) -> str:
    """Return the table, with the best checkpoint marked and a slider for the size of the images.

    Args:
        folder: the folder of the images. The app must be allowed to serve it.
    """
    heads = []
    for column in grid.columns:
        best = column.step is not None and column.step == grid.best and not column.live
        mark = "<span class='best-mark'>★ best according to the verdict</span>" if best else ""
        heads.append(f"<th scope='col' class='{'best' if best else ''}'>{escape(column.title)}{mark}</th>")
    rows = []
    for row, keys in zip(grid.rows, grid.cells, strict=True):
        cells = [f"<td>{_image(folder, row, row.control, f'Control image: {row.source}')}</td>"]
        for column, key in zip(grid.columns, keys, strict=True):
            best = column.step is not None and column.step == grid.best and not column.live
            text = f"{column.title} · {_row_text(row)}"
            inside = _image(folder, row, key, text) if key else "<span class='hint'>not drawn</span>"
            cells.append(f"<td class='{'best' if best else ''}'>{inside}</td>")
        rows.append(f"<tr><th scope='row'>{_row_head(row)}</th>{''.join(cells)}</tr>")
    width = max(MIN_WIDTH, min(DEFAULT_WIDTH, ROW_WIDTH // (len(grid.columns) + 1) // 8 * 8))
    # On a narrow page the images shrink until all columns fit. The slider overrides this width.
    narrow = f"clamp({MIN_WIDTH}px, calc((100cqw - {HEAD_WIDTH}px) / {len(grid.columns) + 1} - 10px), {width}px)"
    slider = (
        f"<label class='cell-size'>Size of the images <input type='range' min='{MIN_WIDTH}' max='{MAX_WIDTH}' "
        f"value='{width}' step='8'></label>"
    )
    notes = "".join(f"<p class='note warning'>! {escape(note)}</p>" for note in grid.notes)
    return (
        f"<div class='comparison' style='--cell: {narrow}'>{notes}{slider}<div class='scroll' tabindex='0'><table>"
        f"<thead><tr><th scope='col'>Row</th><th scope='col'>control image</th>{''.join(heads)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>{enlarge.dialog('An image of the grid')}</div>"
    )


def _row_head(row: RowLabel) -> str:
    facts = f"seed {row.seed:,} · strength {row.strength:g}"
    return f"{escape(row.prompt or '(no prompt)')}<span class='hint'>{escape(facts)}<br>{escape(row.source)}</span>"


def _row_text(row: RowLabel) -> str:
    return f"{row.prompt or '(no prompt)'} · seed {row.seed:,} · strength {row.strength:g}"


def _image(folder: Path, row: RowLabel, key: str, text: str) -> str:
    return enlarge.cell(folder / f"{key}.webp", text, f"width='{row.width}' height='{row.height}'")
