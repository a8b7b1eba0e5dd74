"""Synthetic densities in the plane, on which a generative model can be judged by eye.

Ring and grid are mixtures of known Gaussians, so that the modes that a model covers can be counted
(sizes as in Srivastava et al. 2017, VEEGAN, arXiv:1705.07761).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Draw = tuple[np.ndarray, np.ndarray]  # points (n, 2) float32, component of each (n,) int64

#: Standard deviation of each mode.
MODE_SCALES = {"ring": 0.01, "grid": 0.05}


def modes(name: str) -> np.ndarray:
    """Centres ``(k, 2)`` of the ring's 8 or the grid's 25 Gaussians."""
    if name == "ring":
        angles = 2 * np.pi * np.arange(8) / 8
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ticks = np.linspace(-4.0, 4.0, 5)
    return np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)


def _mixture(name: str) -> Callable[[int, np.random.Generator], Draw]:
    def draw(size: int, rng: np.random.Generator) -> Draw:
        centres = modes(name)
        component = rng.integers(len(centres), size=size)
        points = centres[component] + MODE_SCALES[name] * rng.standard_normal((size, 2))
        return points.astype(np.float32), component

    return draw


def _two_moons(size: int, rng: np.random.Generator) -> Draw:
    """Two interleaved half circles with noise of deviation 0.05 (scikit-learn's make_moons)."""
    component = rng.integers(2, size=size)
    angle = np.pi * rng.random(size)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.where(component[:, None] == 0, upper, [1.0, 0.5] - upper)
    return (points + 0.05 * rng.standard_normal((size, 2))).astype(np.float32), component


def _circles(size: int, rng: np.random.Generator) -> Draw:
    """Circles of radius 1 and 1/2 with noise of deviation 0.05."""
    component = rng.integers(2, size=size)
    angle = 2 * np.pi * rng.random(size)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) / (1 + component[:, None])
    return (points + 0.05 * rng.standard_normal((size, 2))).astype(np.float32), component


def _pinwheel(size: int, rng: np.random.Generator) -> Draw:
    """Five spiral arms (Johnson et al. 2016, arXiv:1603.06277)."""
    component = rng.integers(5, size=size)
    radius = 1.0 + 0.3 * rng.standard_normal(size)
    across = 0.1 * rng.standard_normal(size)
    angle = 2 * np.pi * component / 5 + 0.25 * np.exp(radius)
    cos, sin = np.cos(angle), np.sin(angle)
    points = np.stack([cos * radius - sin * across, sin * radius + cos * across], axis=1)
    return (2 * points).astype(np.float32), component


#: Each draws ``size`` points and the component that each belongs to.
DENSITIES: dict[str, Callable[[int, np.random.Generator], Draw]] = {
    "two_moons": _two_moons,
    "circles": _circles,
    "ring": _mixture("ring"),
    "grid": _mixture("grid"),
    "pinwheel": _pinwheel,
}
