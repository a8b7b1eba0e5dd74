"""Test beds of K-armed bandits: thousands of them at once, one in each row.

A bed holds N bandits of K arms. Row i of B environments plays bandit i, so with ``num_envs`` of N
every bandit is played by one row. A pull is a step; the observation is the bandit's number, and
nothing ends: ``max_episode_steps`` or ``evaluation.max_steps`` cuts. A later `reset` of all rows
goes on to the next B bandits, so that an evaluation of N episodes plays every one.

Every step reports the metrics ``reward``, ``regret`` (the best arm's expected reward less that of
the arm pulled) and ``optimal_action`` (whether that was a best arm).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _LINE, _BAR, _PULLED = "#f4f1e8", "#4a4a4a", "#b9b2a3", "#8fb3d1", "#e4572e"
_WIDTH, _HEIGHT, _MARGIN = 640, 320, 48  # pixels of a picture
_MOST_NAMED = 12  # arms with their pulls written below


class BanditVectorEnv(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """``rlgen/GaussianBandit-v0`` and ``rlgen/BernoulliBandit-v0``: B bandits of K arms.

    Gaussian: an arm's expected reward is drawn from N(``mean``, 1), and a reward from N(that, 1);
    the 10-armed test bed of Sutton and Barto, *Reinforcement learning* (2018), section 2.3.
    Bernoulli: an arm's expected reward is drawn from U(0, 1); it pays 1 with that probability, or
    else 0, as in the book (section 14.1.1).

    Args:
        num_envs: B.
        kind: the distribution of the rewards.
        bandits: N.
        arms: K, at least 2; given by ``means`` where there are any.
        bed_seed: draws the expected rewards: the same bed in every worker and evaluation.
        means: expected rewards of the K arms, the same in every bandit, in place of drawn ones.
        mean: the centre of the drawn expected rewards; Gaussian only.
        max_episode_steps: pulls after which an episode is truncated; None does not.
        render_mode: None or ``"rgb_array"`` (`render`).

    Attributes:
        expected: ``(N, K)`` float64, the expected rewards.

    Raises:
        ValueError: too few arms or bandits, or means that do not fit.
    """

    metadata = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"], "render_fps": 10
    }  # fmt: skip

    def __init__(
        self,
        num_envs: int,
        kind: Literal["gaussian", "bernoulli"],
        bandits: int = 1,
        arms: int | None = None,
        bed_seed: int = 0,
        means: Sequence[float] | None = None,
        mean: float = 0.0,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.kind = kind
        self.render_mode = render_mode
        self.num_envs = num_envs
        self.expected = _expected(kind, bandits, arms, bed_seed, means, mean)
        self.best = self.expected.max(axis=1)
        self.single_observation_space = gym.spaces.Discrete(bandits)
        self.single_action_space = gym.spaces.Discrete(self.expected.shape[1])
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.first = -num_envs  # the bandit of row 0
        self.bandit = np.zeros(num_envs, np.int64)
        self.max_episode_steps = max_episode_steps
        self.elapsed = np.zeros(num_envs, np.int64)
        self.pulls = np.zeros(self.expected.shape[1], np.int64)  # of row 0, where it is drawn
        self.pulled = -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Go on to the next B bandits; rows reset by ``options["reset_mask"]`` keep theirs."""
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask")
        self.elapsed[slice(None) if mask is None else mask] = 0
        if mask is None or mask[0]:
            self.pulls[:], self.pulled = 0, -1
        if mask is None:
            self.first += self.num_envs
            self.bandit = (self.first + np.arange(self.num_envs)) % len(self.expected)
        return self.bandit.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Pull one arm ``(B,)`` in every row."""
        expected, best = self.expected[self.bandit, actions], self.best[self.bandit]
        if self.kind == "gaussian":
            reward = self.np_random.normal(expected)
        else:
            reward = (self.np_random.random(self.num_envs) < expected).astype(np.float64)
        metrics = {
            "reward": reward, "regret": best - expected, "optimal_action": expected == best
        }  # fmt: skip
        self.elapsed += 1
        if self.render_mode is not None:
            self.pulled = int(actions[0])
            self.pulls[self.pulled] += 1
        terminated = truncated = np.zeros(self.num_envs, np.bool_)
        if self.max_episode_steps is not None:
            truncated = self.elapsed >= self.max_episode_steps
        return self.bandit.copy(), reward, terminated, truncated, {"metrics": metrics}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The expected reward of each arm of row 0 as a bar, its pulls below; the latest in red.

        Returns:
            ``(height, width, 3)`` uint8, alone in a tuple as Gymnasium has it.
        """
        if self.render_mode is None:
            return None
        expected = self.expected[self.bandit[0]]
        image = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(22)
        low, high = min(0.0, expected.min()), max(0.0, expected.max())
        scale = (_HEIGHT - 2 * _MARGIN) / max(high - low, 1e-9)
        zero = _MARGIN + high * scale
        width = (_WIDTH - _MARGIN) / expected.size
        title = "expected rewards of the arms, and pulls"
        draw.text((_MARGIN / 2, 20), title, _INK, font, anchor="lm")
        for arm, value in enumerate(expected):
            left = _MARGIN / 2 + arm * width
            ends = sorted((zero, zero - value * scale))
            colour = _PULLED if arm == self.pulled else _BAR
            draw.rectangle((left + width * 0.15, ends[0], left + width * 0.85, ends[1]), colour)
            if expected.size <= _MOST_NAMED:
                place = (left + width / 2, _HEIGHT - 20)
                draw.text(place, f"{self.pulls[arm]:,}", _INK, font, anchor="mm")
        draw.line((_MARGIN / 2, zero, _WIDTH - _MARGIN / 2, zero), _LINE, 2)
        return (np.array(image),)


def _expected(
    kind: str,
    bandits: int,
    arms: int | None,
    bed_seed: int,
    means: Sequence[float] | None,
    mean: float,
) -> np.ndarray:
    """The expected rewards ``(N, K)``, drawn or given."""
    if bandits < 1:
        raise ValueError(f"bandits must be at least 1, got {bandits}")
    if kind == "bernoulli" and mean != 0.0:
        raise ValueError("mean moves a Gaussian bed only; a Bernoulli one takes means=[...]")
    if means is not None:
        if (arms or len(means)) != len(means) or mean != 0.0:
            raise ValueError(f"the {len(means)} means given leave nothing to arms and mean")
        if kind == "bernoulli" and not all(0 <= m <= 1 for m in means):
            raise ValueError(f"means of a Bernoulli bed must be in [0, 1], got {list(means)}")
    count = len(means) if means is not None else 10 if arms is None else arms
    if count < 2:
        raise ValueError(f"a bandit needs at least 2 arms, got {count}")
    if means is not None:
        return np.tile(np.asarray(means, np.float64), (bandits, 1))
    rng = np.random.default_rng(bed_seed)
    shape = (bandits, count)
    return rng.normal(mean, 1.0, shape) if kind == "gaussian" else rng.random(shape)
