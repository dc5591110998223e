"""The demo's curve of docs/adherence.md from a demo run's folder: images/demo-adherence.svg, and its table as Markdown.

python docs/make_adherence_figures.py workspace/runs/DATE_demo
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.evaluation.causes import verdict_facts
from engine.evaluation.verdict import Verdict, judge
from engine.jobs.snapshot import JobSnapshot
from engine.runs.run import Run

OUT = Path(__file__).resolve().parent / "images" / "demo-adherence.svg"
WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 720, 190, 56, 16, 26, 44
OBEYS, EXACT, GAIN, LOSS = "#0f766e", "#b45309", "#1d4ed8", "#64748b"
Points = Sequence[tuple[float, float]]


class Panel:
    """One chart: ``top`` in pixels, values from ``low`` to ``high``."""

    def __init__(self, top: float, last: int, low: float, high: float) -> None:
        self._top, self._last, self._low, self._high = top, last, low, high

    def at(self, step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / self._last
        y = self._top + PANEL * (self._high - value) / (self._high - self._low)
        return f"{x:.1f},{y:.1f}"

    def grid(self, title: str, values: Sequence[float], unit: str) -> list[str]:
        parts = [f'<text x="{LEFT}" y="{self._top - 10}" font-weight="bold">{title}</text>']
        for value in values:
            start, end = self.at(0, value), self.at(self._last, value)
            y = float(start.split(",")[1]) + 4
            parts.append(f'<polyline points="{start} {end}" stroke="#ddd" fill="none"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y}" text-anchor="end">{value:g}{unit}</text>')
        return parts

    def line(self, points: Points, colour: str, dash: str = "") -> str:
        drawn = " ".join(self.at(*point) for point in points)
        return (
            f'<polyline points="{drawn}" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}" fill="none"/>'
        )

    def area(self, low: Points, high: Points, colour: str) -> str:
        drawn = " ".join(self.at(*point) for point in [*low, *reversed(high)])
        return f'<polygon points="{drawn}" fill="{colour}" opacity="0.15"/>'

    def mark(self, step: int, words: str) -> str:
        x, y = self.at(step, self._high).split(",")
        end = self.at(step, self._low)
        line = f'<polyline points="{x},{y} {end}" stroke="#111" stroke-dasharray="3 3"/>'
        return f'{line}<text x="{float(x) + 5}" y="{float(y) + 14}">{words}</text>'


def chart(history: JobSnapshot, verdict: Verdict) -> str:
    """The adherence, above; what the checks measured, below."""
    last = history.checks[-1].step
    sets = [
        (step, scores | figures) for (step, scores), (_, figures) in zip(history.scores, history.figures, strict=True)
    ]
    first = history.checks[0]
    gain = [(check.step, 100 * check.gain_share) for check in history.checks]
    loss = [(check.step, 100 * (check.held_out_loss / first.held_out_loss - 1)) for check in history.checks]
    most = 100 * (max(value for _, value in gain) // 100 + 1)
    above, below = Panel(TOP, last, -0.1, 1), Panel(TOP + PANEL + GAP, last, -100, most)

    def of(name: str) -> Points:
        return [(step, values[name]) for step, values in sets if name in values]

    parts = [
        *above.grid("Images", (0, 0.25, 0.5, 0.75, 1), ""),
        above.area(of("obeys_low"), of("obeys_high"), OBEYS),
        above.line(of("obeys"), OBEYS),
        above.line(of("iou"), EXACT, "6 4"),
        *below.grid("Checks", (-100, 0, most / 2, most), "%"),
        below.line(gain, GAIN),
        below.line(loss, LOSS, "6 4"),
    ]
    if verdict.follows_since is not None:
        parts += [
            panel.mark(verdict.follows_since, f"follows the control image since {verdict.follows_since}")
            for panel in (above, below)
        ]
    height = TOP + 2 * PANEL + GAP + 40
    for step in range(0, last + 1, 100):
        x = below.at(step, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{height - 22}" text-anchor="middle">{step:,}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{height - 4}" text-anchor="middle">step</text>')
    names = (
        ("adherence, with its 95 % interval", OBEYS),
        ("disc in the right place (IoU)", EXACT),
        ("control gain", GAIN),
        ("held-out loss, change", LOSS),
    )
    for number, (name, colour) in enumerate(names):
        y = (TOP if number < 2 else TOP + PANEL + GAP) - 10
        left = WIDTH - 430 + 215 * (number % 2)
        parts.append(f'<text x="{left}" y="{y}" fill="{colour}">{"– –" if number % 2 else "––"} {name}</text>')
    box = f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def table(history: JobSnapshot) -> str:
    """Markdown: a column a set of images, with the check nearest to it."""
    rows: dict[str, list[str]] = {
        "step": [],
        "obeys": [],
        "exact IoU": [],
        "control gain, nearest check": [],
        "held-out loss": [],
    }
    for (step, scores), (_, figures) in zip(history.scores, history.figures, strict=True):
        check = min(history.checks, key=lambda one: abs(one.step - step))
        rows["step"].append(f"{step:,}")
        rows["obeys"].append(f"{scores['obeys']:.2f} ({figures['obeys_low']:.2f} to {figures['obeys_high']:.2f})")
        rows["exact IoU"].append(f"{scores['iou']:.2f}")
        rows["control gain, nearest check"].append(f"{check.gain_share:.0%}")
        rows["held-out loss"].append(f"{check.held_out_loss / history.checks[0].held_out_loss - 1:+.0%}")
    lines = [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()]
    return "\n".join([lines[0], "|---" * (len(rows["step"]) + 1) + "|", *lines[1:]])


def main() -> None:
    run = Run(sys.argv[1])
    history = run.history()
    verdict = judge(history.checks, verdict_facts(run.config), history.scores, history.kept, history.figures)
    OUT.write_text(chart(history, verdict), encoding="utf-8")
    print(table(history), verdict.sentence, sep="\n\n")


if __name__ == "__main__":
    main()
