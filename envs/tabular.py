"""Environments that are their table of outcomes: what they share, and those without a picture."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rlgen.envs.mdp import Outcomes


class TabularEnv(gym.Env[Any, Any]):
    """An environment whose dynamics are a table of outcomes; observations are its states.

    The platform steps the table itself, many copies at once (`rlgen.envs.mdp.MDPVectorEnv`); this
    is the same as one Gymnasium environment, with pictures.

    Args:
        outcomes: the table.
        render_mode: None, ``"ansi"`` or, where `picture` exists, ``"rgb_array"``.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, outcomes: Outcomes, render_mode: str | None = None) -> None:
        self.outcomes = outcomes
        self.observation_space = gym.spaces.Discrete(outcomes.num_states)
        self.action_space = gym.spaces.Discrete(outcomes.num_actions)
        self.render_mode = render_mode
        self.state = int(outcomes.start_states[0][0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Begin an episode in a state drawn from ``outcomes.start``."""
        super().reset(seed=seed)
        self.state = int(self.outcomes.first_states(np.array(self.np_random.random())))
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Draw one outcome of the action."""
        table = self.outcomes
        pair = np.array(self.state * table.num_actions + int(action))
        row = table.rows(pair, np.array(self.np_random.random()))
        self.state = int(table.successor[row])
        return self.state, float(table.reward[row]), bool(table.terminated[row]), False, {}

    def render(self) -> Any:
        """The state as text or as a picture, by ``render_mode``."""
        if self.render_mode == "ansi":
            return self.text()
        return self.picture() if self.render_mode == "rgb_array" else None

    def text(self) -> str:
        """The state in a line or a few."""
        return f"state {self.state} of {self.outcomes.num_states}\n"

    def picture(self) -> np.ndarray:
        """The state as ``(height, width, 3)`` uint8."""
        raise NotImplementedError(f"{type(self).__name__} has no picture; use render_mode='ansi'")


class RandomMDPEnv(TabularEnv):
    """``rlgen/RandomMDP-v0``: a Garnet problem (Archibald, McKinnon and Thomas 1995), never ending.

    From every state each action leads to ``branching`` different successors, chosen uniformly;
    their probabilities are the lengths of the pieces of [0, 1] cut at uniform points; the reward of
    a state and action is standard normal. An episode begins anywhere, and is cut after 100 steps
    (``max_episode_steps``). Any size that fits the memory: 100,000 states with 4 actions and 4
    successors take half a second.

    Args:
        states: at least 1.
        actions: at least 1.
        branching: successors of a state and action, at most ``states``.
        seed: of the problem, not of the episodes.
        render_mode: None or ``"ansi"``.

    Raises:
        ValueError: sizes that do not fit.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        states: int = 100,
        actions: int = 4,
        branching: int = 4,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if states < 1 or actions < 1 or not 1 <= branching <= states:
            raise ValueError(
                "states and actions must be at least 1, and branching between 1 and states; got "
                f"states={states}, actions={actions}, branching={branching}"
            )
        rng, pairs = np.random.default_rng(seed), states * actions
        successor = _distinct(rng, pairs, branching, states)
        pieces = rng.standard_exponential((pairs, branching))
        columns = (
            np.repeat(np.arange(pairs), branching),
            (pieces / pieces.sum(axis=1, keepdims=True)).ravel(),
            successor.ravel(),
            np.repeat(rng.standard_normal(pairs), branching),
            np.zeros(pairs * branching, np.bool_),
        )
        start = np.full(states, 1.0 / states)
        super().__init__(Outcomes.from_rows(states, actions, columns, start), render_mode)


def _distinct(rng: np.random.Generator, rows: int, count: int, below: int) -> np.ndarray:
    """``(rows, count)`` numbers, in every row a uniform subset of ``range(below)`` (Floyd)."""
    chosen = np.empty((rows, count), np.int64)
    for k in range(count):
        last = below - count + k
        drawn = rng.integers(last + 1, size=rows)
        taken = (chosen[:, :k] == drawn[:, None]).any(axis=1)
        chosen[:, k] = np.where(taken, last, drawn)
    return chosen
