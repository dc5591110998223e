"""The figures of docs/demo.md from a demo run's folder.

python docs/make_demo_figures.py workspace/runs/DATE_demo [NAME, default: demo]
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.runs.run import Run

IMAGES = Path(__file__).resolve().parent / "images"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 260, 50, 40, 16


def curve(run: Run) -> str:
    """Score against steps, as SVG."""
    records = run.previews()
    last = records[-1].step

    def place(step: int, score: float) -> str:
        x = LEFT + (WIDTH - LEFT - 16) * step / last
        return f"{x:.1f},{HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * score:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for score in (0, 0.25, 0.5, 0.75, 1):
        start, end = place(0, score), place(last, score)
        x, y = start.split(",")
        parts.append(f'<polyline points="{start} {end}" stroke="#ddd" fill="none"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{float(y) + 4}" text-anchor="end">{score}</text>')
    for record in records:
        x = place(record.step, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - 22}" text-anchor="middle">{record.step:,}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">step</text>')
    for number, (name, title, colour) in enumerate(
        (("iou", "disc lies right (IoU)", "#0f766e"), ("colours", "both colours right", "#b45309"))
    ):
        points = [place(record.step, record.scores[name]) for record in records if name in record.scores]
        dash = ' stroke-dasharray="6 4"' if number else ""
        parts.append(f'<polyline points="{" ".join(points)}" stroke="{colour}" stroke-width="2.5" fill="none"{dash}/>')
        y = HEIGHT - BOTTOM - 34 + 18 * number
        parts.append(
            f'<polyline points="{WIDTH - 210},{y} {WIDTH - 180},{y}" stroke="{colour}" stroke-width="2.5"{dash}/>'
        )
        parts.append(f'<text x="{WIDTH - 172}" y="{y + 4}">{title}</text>')
    return "\n".join([*parts, "</svg>", ""])


def images(run: Run, count: int = 5) -> Image.Image:
    """A row a set of images: control | drawn | original of the first ``count`` held-out pairs; later steps below."""
    rows = []
    for record in run.previews():
        opened = [Image.open(path).convert("RGB") for path in record.pictures[:count]]
        row = Image.new("RGB", (sum(p.width for p in opened) + 6 * (count - 1), opened[0].height), "white")
        x = 0
        for image in opened:
            row.paste(image, (x, 0))
            x += image.width + 6
        rows.append(row)
    sheet = Image.new("RGB", (rows[0].width, sum(row.height + 4 for row in rows)), "white")
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * (row.height + 4)))
    return sheet.resize((sheet.width * 2 // 3, sheet.height * 2 // 3), Image.Resampling.LANCZOS)


def main() -> None:
    run, name = Run(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "demo"
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"{name}-curve.svg").write_text(curve(run), encoding="utf-8")
    images(run).save(IMAGES / f"{name}-pictures.webp", quality=85)


if __name__ == "__main__":
    main()
