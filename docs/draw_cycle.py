"""Draw the picture of the cycle: ``python docs/draw_cycle.py`` writes docs/images/cycle.svg."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 880, 372
INK, SOFT, PAPER = "#1f2933", "#52606d", "#ffffff"
FILLS = {"worker": "#dbeafe", "learner": "#dcfce7", "driver": "#f1f5f9", "evaluator": "#fef3c7"}


def box(x: int, y: int, width: int, height: int, kind: str, title: str, lines: list[str]) -> str:
    """A rounded box with a title and lines of text."""
    parts = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" '
        f'fill="{FILLS[kind]}" stroke="{INK}" stroke-width="1.2"/>',
        text(x + width // 2, y + 25, title, size=15, weight="600"),
    ]
    parts += [text(x + width // 2, y + 47 + 18 * i, line) for i, line in enumerate(lines)]
    return "\n".join(parts)


def text(x: int, y: int, words: str, size: int = 12, weight: str = "400", fill: str = INK) -> str:
    """Centred text."""
    return (
        f'<text x="{x}" y="{y}" text-anchor="middle" font-size="{size}" font-weight="{weight}" '
        f'fill="{fill}">{escape(words)}</text>'
    )


def arrow(path: str, dashed: bool = False) -> str:
    """A line with an arrow head."""
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.6" '
        f'marker-end="url(#head)"{dash}/>'
    )


def draw() -> str:
    """The whole picture as SVG."""
    stack = "".join(
        f'<rect x="{40 + 7 * i}" y="{76 - 7 * i}" width="250" height="150" rx="10" '
        f'fill="{FILLS["worker"]}" stroke="{INK}" stroke-width="1.2"/>'
        for i in (2, 1)
    )
    shapes = [
        stack,
        box(40, 76, 250, 150, "worker", "Worker.produce()",
            ["environment: T steps in B environments", "data: a part of a minibatch",
             "model: a sweep of some states", "", "act(), process(), sweep()"]),
        box(590, 62, 250, 164, "learner", "Learner.update()",
            ["joins the batches, or fills the replay", "runs the updates that are owed",
             "publishes the next version", "", "update()"]),
        box(315, 284, 250, 70, "driver", "Scheduler (the driver)",
            ["references and a few numbers only"]),
        box(630, 284, 210, 70, "evaluator", "Evaluator", ["greedy episodes, held-out data"]),
        arrow("M 304 104 C 400 72, 490 72, 586 104"),
        text(447, 66, "Batch: columns, by reference", 12, "600"),
        arrow("M 590 196 C 490 236, 400 236, 294 196"),
        text(441, 248, "Weights: one flat vector, one version", 12, "600"),
        arrow("M 350 284 C 320 262, 260 258, 215 230", dashed=True),
        arrow("M 530 284 C 575 262, 625 258, 665 230", dashed=True),
        arrow("M 765 230 L 765 280", dashed=True),
        text(441, 150, "one cycle for a Q-table, a network,", 12, "400", SOFT),
        text(441, 167, "a value function and an RBM", 12, "400", SOFT),
        text(WIDTH // 2, 28, "inline: all in one process   |   ray: each box an actor", 14, "600"),
    ]  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, sans-serif">\n'
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{INK}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    target = Path(__file__).parent / "images" / "cycle.svg"
    target.write_text(draw())
    print(target)
