"""Figures of trained models, and those of the book.

What runs recorded is drawn by `rlgen.curves`, and what tabular agents know by `rlgen.value_maps`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri
from torch import nn

from rlgen.drawing import panels, save
from rlgen.generative import densities, divergences, pictures
from rlgen.generative.boltzmann import BoltzmannMachine
from rlgen.generative.metrics import NEAR, count_modes
from rlgen.generative.sparse_coding import Dictionary
from rlgen.palette import COLOURS

BLUE, GREEN, RED = COLOURS[0], COLOURS[2], COLOURS[1]
SHIFT = 8.0  # of the distributions whose gradient vanishes, in their deviations
COLUMNS = 10  # of pictures
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
    """Write a picture of codes in the plane, and beside them the rows that a grid of codes gives.

    Args:
        path: of the file.
        codes: ``(n, k)``; of more than two values, their principal components are drawn.
        labels: ``(n,)`` int64, each named where its codes are.
        manifold: ``(H, W)`` or ``(H, W, channels)`` uint8, a grid of `manifold_codes` decoded.
    """
    count, k = codes.shape
    title, names = f"Codes of {count:,} rows", ("z1", "z2")
    if k > 2:
        codes, share = principal_components(codes)
        title += f":\nfirst two of {k} principal components, {share:.0%} of the variance"
        names = ("component 1", "component 2")
    from matplotlib.colors import to_rgba_array

    figure, panes = panels(1 if manifold is None else 2, 6.5, 6.0)
    axes = panes[0]
    axes.set(title=title, xlabel=names[0], ylabel=names[1])
    axes.set_aspect("equal", adjustable="datalim")
    classes = np.zeros(count, int) if labels is None else labels
    order = np.random.default_rng(0).permutation(count)  # no label lies on top of all others
    rgb = to_rgba_array(COLOURS)[classes % len(COLOURS)][order, :3]
    # A darker edge, without which the yellow is hardly seen on white.
    axes.scatter(*codes[order].T, c=rgb, edgecolors=0.6 * rgb, s=7, alpha=0.7, linewidths=0.3)
    for label, (x, y) in _places(codes, labels).items() if labels is not None else ():
        colour = COLOURS[label % len(COLOURS)]
        frame = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colour}
        style = {"fontsize": 13, "weight": "bold", "ha": "center", "va": "center"}
        axes.text(x, y, str(label), bbox=frame | {"linewidth": 2}, **style)
    if manifold is not None:
        values = np.arange(-2, 3)
        places = 0.5 + (SIDE - 1) * (ndtr(values) - EDGE) / (1 - 2 * EDGE)
        panes[1].imshow(manifold, cmap="gray_r", extent=(0, SIDE, 0, SIDE))
        panes[1].set(title="What codes decode to", xlabel=names[0], ylabel=names[1])
        panes[1].set_xticks(places, values)
        panes[1].set_yticks(places, values)
    save(figure, path)


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
    """Write figure 13.9 as a picture: the best discriminator is flat where the generated data lie.

    Beside it, the divergence that a GAN's generator minimises, as the distributions move apart,
    its slope, and the Wasserstein distance, whose slope is 1 everywhere.

    Returns:
        The Jensen-Shannon divergence of the two drawn distributions, in nats.
    """
    figure, (left, right) = panels(2)
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
    save(figure, path)
    return divergences.js_of_shifted(SHIFT)


def save_kl_directions(path: Path) -> dict[str, divergences.Fit]:
    """Write figure 13.10 as a picture: a Gaussian fitted to a mixture of two in both directions.

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
    figure, panes = panels(2)
    for axes, (name, fit) in zip(panes, fits.items(), strict=True):
        axes.contourf(ticks, ticks, density, levels=8, cmap="Blues")
        q = np.exp(divergences.log_gaussian(points, fit.mean, fit.covariance))
        heights = q.max() * np.exp(-np.square([2.0, 1.5, 1.0, 0.5]) / 2)
        axes.contour(ticks, ticks, q, levels=heights, colors=RED, linewidths=1.5)
        axes.set(title=names[name].format(fit.divergence), xlabel="x1", ylabel="x2", aspect="equal")
        axes.plot([], [], color=RED, label="q: 0.5 to 2 deviations")
        axes.fill_between([], [], color="#6BAED6", label="p")
        axes.legend(loc="upper left")
    save(figure, path)
    return fits


def save_modes(path: Path, samples: np.ndarray, name: str) -> tuple[int, float]:
    """Write a picture of samples ``(n, 2)`` over the modes of the density ``"ring"`` or ``"grid"``.

    Returns:
        Modes found and the share of good samples, as `metrics.count_modes`.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Circle

    found, good = count_modes(samples, name)
    centres, radius = densities.modes(name), NEAR * densities.MODE_SCALES[name]
    figure, (axes,) = panels(1)
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
    save(figure, path)
    return found, good


def save_filters(path: Path, weights: np.ndarray, shape: tuple[int, ...], total: int) -> None:
    """Write a picture of what the units of a first layer look for.

    Args:
        path: of the file.
        weights: ``(n, d)``, one filter a row; each is scaled by its largest weight, so that 0 is
            grey, less is darker and more is lighter.
        shape: of a row of data, an image of d values.
        total: of the filters that there are.
    """
    most = np.abs(weights).max(axis=1, keepdims=True)
    scaled = 0.5 + 0.5 * weights / np.where(most > 0, most, 1.0)
    columns = int(np.ceil(np.sqrt(len(weights))))
    title = f"The {len(weights)} strongest of {total} filters"
    if len(weights) == total:
        title = f"All {total} filters, the strongest first"
    figure, (axes,) = panels(1, 5.5, 5.8)
    axes.imshow(pictures.grid(scaled, shape, columns), cmap="gray", vmin=0, vmax=255)
    axes.set(title=title, xticks=[], yticks=[])
    save(figure, path)


def filters(network: nn.Module, size: int) -> np.ndarray | None:
    """The weights ``(n, size)`` of a network's first layer, the largest norms first.

    None where no layer has ``size`` inputs.
    """
    for layer in network.modules():
        if isinstance(layer, BoltzmannMachine) and getattr(layer, "d", len(layer.weight)) == size:
            found = layer.weight[:size].T  # a deep machine has units of its own after the data's
        elif isinstance(layer, Dictionary):
            found = layer.atoms.T
        elif isinstance(layer, nn.Linear) and layer.in_features == size:
            found = layer.weight
        else:
            continue
        weights = found.detach().numpy().astype(np.float64)
        return weights[np.argsort(-np.linalg.norm(weights, axis=1), kind="stable")]
    return None


def save_reconstructions(
    path: Path, originals: np.ndarray, made: np.ndarray, shape: tuple[int, ...]
) -> float:
    """Write a picture of rows and what a model makes of them.

    Args:
        path: of the file.
        originals: ``(n, d)``.
        made: ``(n, d)``, their reconstructions: below them, or of points at the end of a line.
        shape: of a row.

    Returns:
        The mean squared error of a value.
    """
    error = float(np.square(originals - made).mean())
    title = f"mean squared error of a value: {error:.4g}"
    if shape == (2,):
        figure, (axes,) = panels(1, 5.5, 5.8)
        axes.plot(*np.stack([originals, made], axis=1).T, color="0.7", linewidth=0.6, zorder=1)
        for rows, colour, label in ((originals, BLUE, "data"), (made, RED, "reconstructions")):
            axes.scatter(*rows.T, s=9, color=colour, linewidths=0, label=label, zorder=2)
        axes.set(title=title, aspect="equal")
        axes.legend()
    else:
        columns = min(COLUMNS, len(originals))
        lines = -(-len(originals) // columns)
        both = np.zeros((lines, 2, columns, originals.shape[1]))
        for index, rows in enumerate((originals, made)):
            padded = np.zeros((lines * columns, rows.shape[1]))
            padded[: len(rows)] = rows
            both[:, index] = padded.reshape(lines, columns, -1)
        picture = pictures.grid(both.reshape(-1, originals.shape[1]), shape, columns)
        height = 6.5 * picture.shape[0] / picture.shape[1]
        figure, (axes,) = panels(1, 6.5, height + 0.7)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        ticks = (np.arange(2 * lines) + 0.5) * picture.shape[0] / (2 * lines)
        axes.set_yticks(ticks, ["data", "reconstruction"] * lines)
        axes.tick_params(length=0)
        axes.set(title=title, xticks=[])
    save(figure, path)
    return error
