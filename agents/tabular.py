"""What the tabular algorithms share: tables, exploration, step sizes and whole episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import gymnasium as gym
import numpy as np
from pydantic import model_validator

from rlgen.algorithm import Problem
from rlgen.config import Count, Fraction, Hyperparameters, Rate
from rlgen.errors import ConfigError
from rlgen.schedules import glie, linear

LARGEST_TABLE = 10**8  # entries, 0.8 GB


class ExplorationConfig(Hyperparameters):
    """Hyper-parameters of every epsilon-greedy control; steps are those of the whole run."""

    gamma: Fraction = 0.99  # discount, in [0, 1]
    epsilon: Fraction = 0.1  # share of random actions (at first), in [0, 1]
    epsilon_schedule: Literal["constant", "linear", "glie"] = "constant"  # glie: falls with N(s)
    epsilon_end: Fraction | None = None  # of linear: the share from `epsilon_steps` on
    epsilon_steps: Count | None = None  # of linear: environment steps
    epsilon_visits: Count | None = None  # of glie: the N(s) that halves epsilon
    rollout_steps: Count = 16  # T, steps per environment and cycle

    @model_validator(mode="after")
    def _schedule(self) -> Self:
        needs = {"linear": ("epsilon_end", "epsilon_steps"), "glie": ("epsilon_visits",)}
        for schedule, names in needs.items():
            for name in names:
                given = getattr(self, name) is not None
                if given and schedule != self.epsilon_schedule:
                    raise ValueError(f"{name} belongs to epsilon_schedule={schedule}; remove it")
                if not given and schedule == self.epsilon_schedule:
                    raise ValueError(f"epsilon_schedule={schedule} needs {name}")
        return self

    @property
    def counts(self) -> bool:
        """Whether a schedule reads the visits N(s, a)."""
        return self.epsilon_schedule == "glie"


class ControlConfig(ExplorationConfig):
    """The same, and the step size."""

    learning_rate: Rate = 0.1  # alpha, in (0, 1]
    learning_rate_power: Fraction = 0.0  # omega: steps are alpha / N(s, a)^omega; 0: constant

    @property
    def counts(self) -> bool:
        """Whether a schedule reads the visits N(s, a)."""
        return self.learning_rate_power > 0 or self.epsilon_schedule == "glie"


def check(name: str, problem: Problem, largest: int = LARGEST_TABLE) -> None:
    """Refuse spaces that do not fit a table of at most ``largest`` entries.

    Raises:
        ConfigError: what the environment has instead, for the algorithm called ``name``.
    """
    observation, action = problem.observation_space, problem.action_space
    if not isinstance(observation, (gym.spaces.Discrete, gym.spaces.MultiDiscrete)):
        raise ConfigError(f"env.id: {name} needs discrete observations, not {observation}; use dqn")
    if not isinstance(action, gym.spaces.Discrete):
        raise ConfigError(f"env.id: {name} needs one discrete action, not {action}")
    entries = float(np.prod(sizes(problem), dtype=float)) * int(action.n)
    if entries > largest:
        raise ConfigError(
            f"env.id: {name} would need a table of {entries:.1e} entries, more than "
            f"{largest:.0e}; use dqn"
        )


def sizes(problem: Problem) -> tuple[int, ...]:
    """How many values each component of an observation takes."""
    space = problem.observation_space
    if isinstance(space, gym.spaces.MultiDiscrete):
        return tuple(space.nvec.ravel().tolist())
    assert isinstance(space, gym.spaces.Discrete)
    return (int(space.n),)


def table(problem: Problem, planes: int) -> np.ndarray:
    """Zeros ``(planes, S, A)`` float64."""
    assert isinstance(problem.action_space, gym.spaces.Discrete)
    return np.zeros((planes, int(np.prod(sizes(problem))), int(problem.action_space.n)))


def states(problem: Problem, observation: np.ndarray) -> np.ndarray:
    """Row numbers ``(...)`` in the table of observations ``(...)``, or ``(..., k)`` of k parts."""
    if isinstance(problem.observation_space, gym.spaces.Discrete):
        return observation
    parts = tuple(np.moveaxis(observation, -1, 0))
    rows: np.ndarray = np.ravel_multi_index(parts, sizes(problem))
    return rows


def exploration(config: ExplorationConfig, env_steps: int, counts: np.ndarray) -> np.ndarray:
    """Epsilon ``(B,)`` of B states, whose counts ``(B, A)`` are N(s, a); only glie reads them."""
    epsilon = config.epsilon
    if config.epsilon_schedule == "linear":
        assert config.epsilon_end is not None and config.epsilon_steps is not None
        epsilon = linear(epsilon, config.epsilon_end, config.epsilon_steps, env_steps)
    if config.epsilon_schedule == "glie":
        assert config.epsilon_visits is not None
        return glie(epsilon, config.epsilon_visits, counts.sum(axis=1))
    return np.full(len(counts), epsilon)


def epsilon_greedy(values: np.ndarray, epsilon: Any, rng: np.random.Generator) -> np.ndarray:
    """Actions ``(B,)`` int64: any with probability epsilon ``(B,)``, else one of the best.

    So the greedy one has 1 - epsilon + epsilon / A: the book's eq 14.31 does not sum to 1. Ties of
    values ``(B, A)`` are broken at random.
    """
    # One draw for everything: the order of the best ones, whether to explore, and where to.
    rows, actions = values.shape
    draws = rng.random((rows, actions + 2))
    best = values == values.max(axis=1, keepdims=True)
    chosen = np.where(best, draws[:, :actions], -1.0).argmax(axis=1)
    anywhere = (draws[:, actions + 1] * actions).astype(np.int64)
    return np.where(draws[:, actions] < epsilon, anywhere, chosen)


def behave(
    config: ExplorationConfig,
    table: np.ndarray,
    env_steps: int,
    rows: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Epsilon-greedy actions ``(B,)`` in rows ``(B,)`` of a table ``(planes, S, A)``: Q, N last."""
    return epsilon_greedy(table[0, rows], exploration(config, env_steps, table[-1, rows]), rng)


def epsilon_greedy_probability(
    values: np.ndarray, epsilon: np.ndarray, action: np.ndarray
) -> np.ndarray:
    """The probability ``(B,)`` with which `epsilon_greedy` takes the given actions ``(B,)``."""
    best = values == values.max(axis=1, keepdims=True)
    greedy = best[np.arange(len(action)), action] / best.sum(axis=1)
    probability: np.ndarray = (1.0 - epsilon) * greedy + epsilon / values.shape[1]
    return probability


def next_actions(
    batch: dict[str, np.ndarray], choose: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The a' of every row of a rollout, ``(T, B)`` int64.

    It is the action of the next row. Where the episode was truncated, and in the last row where it
    goes on, ``choose`` gives one for the successors ``(n, ...)``.
    """
    following = np.zeros_like(batch["action"])
    following[:-1] = batch["action"][1:]
    drawn = batch["truncated"].copy()
    drawn[-1] = True
    drawn &= batch["valid"] & ~batch["terminated"]
    following[drawn] = choose(batch["next_observation"][drawn])
    return following


def blank(columns: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """So many rows like those of the columns ``(T, B, ...)``, all zero, so not valid."""
    return {name: np.zeros((rows, *c.shape[1:]), c.dtype) for name, c in columns.items()}


def prepend(running: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of ``running`` (all of the batch, or none) before those of the batch."""
    if not running:
        return batch
    return {name: np.concatenate([running[name], column]) for name, column in batch.items()}


def split_episodes(
    columns: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What is over, and what goes on.

    Args:
        columns: ``(T, B, ...)``, with ``"start"`` where an episode begins. A row that is followed
            by a start without an end of its own is of an episode that was lost.

    Returns:
        The rows ``(n, ...)`` of the complete episodes, environment by environment, in order of
        time; and the columns ``(T', B, ...)`` of the running ones, ``"valid"`` only in their rows.
    """
    ended = columns["terminated"] | columns["truncated"]
    over, lost = np.zeros_like(ended), np.zeros_like(ended)
    ends, begins = np.zeros_like(ended[0]), np.zeros_like(ended[0])
    for t in reversed(range(len(ended))):  # does an end follow, or a start without one?
        ends, begins = ended[t] | ends, begins & ~ended[t]
        over[t], lost[t] = ends, begins
        ends, begins = ends & ~columns["start"][t], begins | columns["start"][t]
    done = (over & columns["valid"]).T
    rows = {name: column.swapaxes(0, 1)[done] for name, column in columns.items()}
    valid = columns["valid"] & ~over & ~lost
    first = int(np.append(np.flatnonzero(valid.any(axis=1)), len(valid))[0])
    running = columns | {"valid": valid}
    return rows, {name: column[first:].copy() for name, column in running.items()}
