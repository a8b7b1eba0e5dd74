"""What all figures share: panels without a window, and the files that they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlgen.command import writing

ENDINGS = (".png", ".svg")
DPI = 150  # of a PNG


def panels(count: int, width: float = 6.5, height: float = 5.5) -> tuple[Any, Any]:
    """A matplotlib figure of panels side by side, each ``width`` x ``height`` inches, and those."""
    # The object interface: pyplot would choose a display backend and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def save(figure: Any, path: Path) -> None:
    """Write a figure as its file's name says, PNG or SVG, without the white around it.

    Raises:
        ConfigError: the file cannot be written.
    """
    with writing(path):
        figure.savefig(path, format=path.suffix.lower()[1:], bbox_inches="tight")
