"""Pictures of rows: grids of images, scatter plots of points in the plane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rlgen.palette import COLOURS

MIN_SIDE = 56  # pixels; smaller images are enlarged by a whole factor
FRAME_MS = 83  # of an animation
SEPARATOR = 96  # gray level of the lines between images: neither ink nor paper


def drawable(shape: tuple[int, ...]) -> bool:
    """Whether rows of this shape are images ``(h, w)``, ``(h, w, 1 or 3)`` or points ``(2,)``."""
    return shape == (2,) or len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def grid(rows: np.ndarray, shape: tuple[int, ...], columns: int) -> np.ndarray:
    """Images side by side, ``columns`` to a line, with lines one pixel wide around them.

    Args:
        rows: ``(n, d)`` values; those outside [0, 1] are clipped.
        shape: of one image, ``(h, w)`` or ``(h, w, channels)``, with d values in all.
        columns: images to a line; the last line is filled up with blanks.

    Returns:
        ``(H, W)`` or ``(H, W, channels)`` uint8.
    """
    height, width, *channels = shape
    lines = -(-len(rows) // columns)
    images = np.zeros((lines * columns, *shape), np.uint8)
    images[: len(rows)] = np.rint(np.clip(rows, 0, 1) * 255).reshape(-1, *shape)
    cells = np.full((lines, columns, height + 1, width + 1, *channels), SEPARATOR, np.uint8)
    cells[:, :, 1:, 1:] = images.reshape(lines, columns, *shape)
    joined = cells.swapaxes(1, 2).reshape(lines * (height + 1), columns * (width + 1), *channels)
    edges = [(0, 1), (0, 1)] + [(0, 0)] * len(channels)
    return np.pad(joined, edges, constant_values=SEPARATOR)


def save_grid(path: Path, rows: np.ndarray, shape: tuple[int, ...], columns: int = 8) -> None:
    """Write rows ``(n, d)`` as a PNG: images in a `grid`, or points in a scatter plot."""
    if shape == (2,):
        _save_scatter(path, {"samples": rows})
        return
    Image.fromarray(_enlarged(rows, shape, min(columns, len(rows)))).save(path)


def save_walks(path: Path, walks: np.ndarray, shape: tuple[int, ...]) -> None:
    """Write walks ``(n, steps, ...)`` as a PNG: images, a line for each, or the ways of points."""
    n, steps = walks.shape[:2]
    if shape == (2,):
        _save_ways(path, walks)
        return
    save_grid(path, walks.reshape(n * steps, -1), shape, columns=steps)


def save_reconstructions(
    path: Path,
    originals: np.ndarray,
    reconstructions: np.ndarray,
    shape: tuple[int, ...],
    columns: int = 8,
) -> None:
    """Write a PNG in which a line of originals is followed by the line of their reconstructions.

    Points are plotted in two colours.
    """
    if shape == (2,):
        _save_scatter(path, {"originals": originals, "reconstructions": reconstructions})
        return
    pairs = []
    for first in range(0, len(originals), columns):
        for rows in (originals, reconstructions):
            line = np.zeros((columns, originals.shape[1]), np.float32)
            chosen = rows[first : first + columns]
            line[: len(chosen)] = chosen
            pairs.append(line)
    save_grid(path, np.concatenate(pairs), shape, columns)


def save_animation(
    path: Path, frames: np.ndarray, shape: tuple[int, ...], columns: int = 8
) -> None:
    """Write a GIF of frames ``(t, n, ...)`` of n rows each, twelve a second; the last stays longer.

    Points are drawn on the axes of all frames together.
    """
    count, number = frames.shape[:2]
    rows = frames.reshape(count, number, -1)
    if shape == (2,):
        box = [(float(rows[..., i].min()), float(rows[..., i].max())) for i in (0, 1)]
        images = [Image.fromarray(_scatter_pixels(frame, box)) for frame in rows]
    else:
        columns = min(columns, number)
        images = [Image.fromarray(_enlarged(frame, shape, columns)) for frame in rows]
    duration = [FRAME_MS] * (count - 1) + [12 * FRAME_MS]
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0)


def _enlarged(rows: np.ndarray, shape: tuple[int, ...], columns: int) -> np.ndarray:
    """A `grid` of pixels large enough to be seen."""
    picture = grid(rows, shape, columns)
    factor = max(1, -(-MIN_SIDE // min(shape[:2])))
    enlarged = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return enlarged.squeeze(-1) if enlarged.shape[2:] == (1,) else enlarged


def _scatter_pixels(points: np.ndarray, box: list[tuple[float, float]]) -> np.ndarray:
    """One frame of moving points, ``(h, w, 3)`` uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=_widened(box[0]), ylim=_widened(box[1]), aspect="equal")
    axes.scatter(points[:, 0], points[:, 1], s=6, alpha=0.6, linewidths=0, color=COLOURS[0])
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    return np.asarray(pixels)[..., :3].copy()


def _widened(limits: tuple[float, float]) -> tuple[float, float]:
    margin = 0.05 * (limits[1] - limits[0] or 1.0)
    return limits[0] - margin, limits[1] + margin


def _plane() -> tuple[Any, Any]:
    """A figure and its axes, of the object interface: pyplot would keep every figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_aspect("equal", adjustable="datalim")
    return figure, axes


def _save_scatter(path: Path, points: dict[str, np.ndarray]) -> None:
    figure, axes = _plane()
    for (label, rows), colour in zip(points.items(), COLOURS, strict=False):
        x, y = rows.T
        axes.scatter(x, y, s=6, alpha=0.6, linewidths=0, color=colour, label=label)
    figure.legend(loc="outside upper center", ncols=len(points))  # it hides no point
    figure.savefig(path)


def _save_ways(path: Path, walks: np.ndarray) -> None:
    """Each walk ``(steps, 2)`` in a colour of its own, from a circle to a square."""
    figure, axes = _plane()
    for walk in walks:
        (line,) = axes.plot(walk[:, 0], walk[:, 1], ".-", markersize=4, linewidth=1, alpha=0.8)
        for end, marker in ((walk[0], "o"), (walk[-1], "s")):
            axes.plot(*end, marker, markersize=7, color=line.get_color())
    figure.savefig(path)
