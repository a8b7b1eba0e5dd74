"""Figures of trained models, and those of the book: what ``rlgen plot`` draws.

Colours are those of Paul Tol's muted scheme, which the colour-blind tell apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from rlgen.generative import densities, divergences
from rlgen.generative.metrics import NEAR, count_modes

COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933",
    "#DDCC77", "#CC6677", "#882255", "#AA4499", "#444444",
)  # fmt: skip
BLUE, GREEN, RED = COLOURS[0], COLOURS[3], COLOURS[6]
SHIFT = 8.0  # of the distributions whose gradient vanishes, in their deviations
CELLS = 25  # on each axis, in which the codes of each label are counted
SIDE, EDGE = 20, 0.01  # pictures along a manifold; the probability left out on each side of it


def manifold_codes() -> np.ndarray:
    """Codes ``(400, 2)`` at 20 x 20 evenly spaced probabilities of N(0, I), the top line first.

    The first value grows along a line, the second one falls from line to line: as in a plot.
    """
    ticks = ndtri(np.linspace(EDGE, 1 - EDGE, SIDE))
    across, up = np.meshgrid(ticks, ticks[::-1])
    return np.stack([across, up], axis=-1).reshape(-1, 2).astype(np.float32)


def principal_components(codes: np.ndarray) -> tuple[np.ndarray, float]:
    """The first two principal components ``(n, 2)`` of codes ``(n, k)``, their variance's share."""
    centred = codes - codes.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    share = np.square(values[:2]).sum() / np.square(values).sum()
    return left[:, :2] * values[:2], float(share)


def save_latent(
    path: Path, codes: np.ndarray, labels: np.ndarray | None, manifold: np.ndarray | None
) -> None:
    """Write a PNG of codes in the plane, and beside them of the rows that a grid of codes gives.

    Args:
        path: of the file.
        codes: ``(n, k)``; of more than two values, their principal components are drawn.
        labels: ``(n,)`` int64, each named where its codes are.
        manifold: ``(H, W)`` or ``(H, W, channels)`` uint8, a grid of `manifold_codes` decoded.
    """
    # The object interface: pyplot would choose a display backend and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count, k = codes.shape
    title, names = f"Codes of {count:,} rows", ("z1", "z2")
    if k > 2:
        codes, share = principal_components(codes)
        title += f":\nfirst two of {k} principal components, {share:.0%} of the variance"
        names = ("component 1", "component 2")
    figure = Figure(figsize=(12 if manifold is not None else 7, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 if manifold is None else 2, squeeze=False)[0]
    axes = panels[0]
    axes.set(title=title, xlabel=names[0], ylabel=names[1])
    axes.set_aspect("equal", adjustable="datalim")
    classes = np.zeros(count, int) if labels is None else labels
    order = np.random.default_rng(0).permutation(count)  # no label lies on top of all others
    colours = np.array(COLOURS)[classes % len(COLOURS)]
    axes.scatter(*codes[order].T, c=colours[order], s=6, alpha=0.7, linewidths=0)
    for label, (x, y) in _places(codes, labels).items() if labels is not None else ():
        colour = COLOURS[label % len(COLOURS)]
        frame = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colour}
        style = {"fontsize": 13, "weight": "bold", "ha": "center", "va": "center"}
        axes.text(x, y, str(label), bbox=frame | {"linewidth": 2}, **style)
    if manifold is not None:
        values = np.arange(-2, 3)
        places = 0.5 + (SIDE - 1) * (ndtr(values) - EDGE) / (1 - 2 * EDGE)
        panels[1].imshow(manifold, cmap="gray_r", extent=(0, SIDE, 0, SIDE))
        panels[1].set(title="What codes decode to", xlabel=names[0], ylabel=names[1])
        panels[1].set_xticks(places, values)
        panels[1].set_yticks(places, values)
    figure.savefig(path)


def _places(codes: np.ndarray, labels: np.ndarray) -> dict[int, tuple[float, float]]:
    """Where to name each label: in the cell that it fills most by itself, apart from the others."""
    edges = [np.linspace(codes[:, i].min(), codes[:, i].max(), CELLS + 1) for i in (0, 1)]
    names = [int(label) for label in np.unique(labels)]
    counts = np.stack([np.histogramdd(codes[labels == name], edges)[0] for name in names])
    alone = np.square(counts) / np.maximum(counts.sum(axis=0), 1)
    places: dict[int, tuple[float, float]] = {}
    for name, scores in zip(names, alone, strict=True):
        i, j = np.unravel_index(scores.argmax(), scores.shape)
        alone[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = -1.0
        places[name] = float(edges[0][i : i + 2].mean()), float(edges[1][j : j + 2].mean())
    return places


def save_vanishing_gradient(path: Path) -> float:
    """Write figure 13.9 as a PNG: the best discriminator is flat where the generated data lie.

    Beside it, the divergence that a GAN's generator minimises, as the distributions move apart,
    its slope, and the Wasserstein distance, whose slope is 1 everywhere.

    Returns:
        The Jensen-Shannon divergence of the two drawn distributions, in nats.
    """
    figure, (left, right) = _panels(2)
    x = np.linspace(-8, 8, 801)
    real, made = SHIFT / 2, -SHIFT / 2
    for centre, colour, label in ((made, RED, "generated data pθ"), (real, GREEN, "real data pr")):
        density = np.exp(-np.square(x - centre) / 2) / np.sqrt(2 * np.pi)
        left.fill_between(x, density, color=colour, alpha=0.35, linewidth=0, label=label)
        left.plot(x, density, color=colour)
    best = divergences.optimal_discriminator(x, real, made)
    left.plot(x, best, color=BLUE, linewidth=2, label="best discriminator D*")
    left.set(title="D* is 0, and flat, on all generated data", xlabel="x", ylim=(0, 1.35))
    left.legend(loc="upper left")

    shifts = np.linspace(0, 10, 201)
    js = np.array([divergences.js_of_shifted(shift) for shift in shifts])
    right.plot(shifts, js, color=BLUE, linewidth=2, label="JS(pr, pθ)")
    slope = np.gradient(js, shifts)
    right.plot(shifts, slope, color=BLUE, linestyle="--", label="its slope: half a GAN's gradient")
    right.plot(shifts, np.ones_like(shifts), color=RED, linestyle="-.", label="slope of W1: 1")
    right.axhline(np.log(2), color="0.5", linewidth=1, linestyle=":")
    right.text(0.1, np.log(2) + 0.01, "log 2", color="0.3", va="bottom")
    right.set(
        title="The gradient vanishes as the distributions part",
        xlabel="distance of pθ = N(θ, 1) from pr = N(0, 1)",
        ylim=(0, 1.35),
    )
    right.legend(loc="upper right")
    figure.savefig(path)
    return divergences.js_of_shifted(SHIFT)


def save_kl_directions(path: Path) -> dict[str, divergences.Fit]:
    """Write figure 13.10 as a PNG: a Gaussian fitted to a mixture of two in both directions.

    Returns:
        The fits ``forward`` and ``reverse``.
    """
    fits = {
        "forward": divergences.fit_gaussian("forward"),
        "reverse": divergences.fit_gaussian("reverse"),
    }
    ticks = np.linspace(-6, 6, 241)
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    density = np.exp(divergences.log_mixture(points))
    names = {
        "forward": "Forward, KL(p || q) = {:.4f}: q covers",
        "reverse": "Reverse, KL(q || p) = {:.4f}: q seeks one mode",
    }
    figure, panels = _panels(2)
    for axes, (name, fit) in zip(panels, fits.items(), strict=True):
        axes.contourf(ticks, ticks, density, levels=8, cmap="Blues")
        q = np.exp(divergences.log_gaussian(points, fit.mean, fit.covariance))
        heights = q.max() * np.exp(-np.square([2.0, 1.5, 1.0, 0.5]) / 2)
        axes.contour(ticks, ticks, q, levels=heights, colors=RED, linewidths=1.5)
        axes.set(title=names[name].format(fit.divergence), xlabel="x1", ylabel="x2", aspect="equal")
        axes.plot([], [], color=RED, label="q: 0.5 to 2 deviations")
        axes.fill_between([], [], color="#6BAED6", label="p")
        axes.legend(loc="upper left")
    figure.savefig(path)
    return fits


def save_modes(path: Path, samples: np.ndarray, name: str) -> tuple[int, float]:
    """Write a PNG of samples ``(n, 2)`` over the modes of the density ``"ring"`` or ``"grid"``.

    Returns:
        Modes found and the share of good samples, as `metrics.count_modes`.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Circle

    found, good = count_modes(samples, name)
    centres, radius = densities.modes(name), NEAR * densities.MODE_SCALES[name]
    figure, (axes,) = _panels(1)
    axes.scatter(*samples.T, s=5, alpha=0.5, linewidths=0, color=BLUE, label="samples", zorder=2)
    rings = PatchCollection([Circle((x, y), radius) for x, y in centres], zorder=3)
    rings.set(facecolor="none", edgecolor=RED, linewidth=1.5)
    axes.add_collection(rings)
    axes.scatter(*centres.T, marker="+", color=RED, s=60, zorder=3, label="modes, 3 deviations")
    edge = 1.25 * np.abs(centres).max()
    axes.set(
        title=f"{found} of {len(centres)} modes; {good:.0%} of {len(samples):,} samples near one",
        xlim=(-edge, edge),
        ylim=(-edge, 1.25 * edge),  # with room for the legend
        aspect="equal",
    )
    axes.legend(loc="upper right")
    figure.savefig(path)
    return found, good


def _panels(count: int) -> tuple[Any, Any]:
    """A figure of panels side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * count, 5.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, squeeze=False)[0]
