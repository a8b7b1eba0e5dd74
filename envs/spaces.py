"""Spaces as algorithms see them: counted from 0, flat, and of several frames."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


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


def stack_space(space: gym.Space[Any], frames: int) -> gym.Space[Any]:
    """The space of ``frames`` observations of ``space`` joined into one."""
    if frames == 1:
        return space
    if isinstance(space, spaces.Box):
        low, high = (np.stack([bound] * frames) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=space.dtype)
    sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec  # type: ignore[attr-defined]
    return spaces.MultiDiscrete(np.tile(sizes, frames))
