"""Spaces as algorithms see them: counted from 0, flat, and of several frames."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlgen.errors import ConfigError


def start_of(space: gym.Space[Any]) -> Any:
    """What the space counts from, None where that is 0."""
    start = getattr(space, "start", 0)
    return start if np.any(start) else None


def from_zero(space: gym.Space[Any]) -> gym.Space[Any]:
    """The space counted from 0 and, where it is ``MultiDiscrete``, flat."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.ravel())
    return space


def observed_space(space: gym.Space[Any], components: list[int] | None) -> gym.Space[Any]:
    """The space of some components of an observation; None for all.

    Raises:
        ConfigError: the space is not a flat ``Box``, or has no such components.
    """
    if components is None:
        return space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ConfigError(f"env.observed: needs observations in a flat Box, not {space}; remove it")
    size = space.shape[0]
    if not components or len(set(components)) < len(components) or max(components) >= size:
        raise ConfigError(
            f"env.observed: expected different components out of 0 to {size - 1}, got {components}"
        )
    return spaces.Box(space.low[components], space.high[components], dtype=space.dtype)


def observed(rows: Any, components: list[int] | None) -> Any:
    """The components of observations ``(n, d)`` that are seen; None for all."""
    return rows if components is None else rows[:, components]


def stack_space(space: gym.Space[Any], frames: int) -> gym.Space[Any]:
    """The space of ``frames`` observations of ``space`` joined into one."""
    if frames == 1:
        return space
    if isinstance(space, spaces.Box):
        low, high = (np.stack([bound] * frames) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=space.dtype)
    sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec  # type: ignore[attr-defined]
    return spaces.MultiDiscrete(np.tile(sizes, frames))
