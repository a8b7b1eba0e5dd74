"""Exact Markov decision processes: their matrices, and environments that sample them.

`Outcomes` is an environment's own transition table as columns, `MDP` the matrices that planning
needs, `MDPVectorEnv` the same table stepped as a native NumPy vector environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import gymnasium as gym
import numpy as np
import scipy.sparse
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rlgen.config import EnvConfig
from rlgen.envs.single import make_single
from rlgen.errors import ConfigError

ToyText = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]


@dataclass(frozen=True)
class Outcomes:
    """What can happen after action a in state s, as N rows sorted by ``s * num_actions + a``.

    Attributes:
        num_states: S, the observations of the environment.
        num_actions: A.
        first: ``(S * A + 1,)`` int64; the outcomes of a pair are rows ``first[i]:first[i + 1]``.
        probability: ``(N,)`` float64, positive; sums to 1 over a pair.
        successor: ``(N,)`` int64, the state that is observed next.
        reward: ``(N,)`` float64, r(s, a, s').
        terminated: ``(N,)`` bool, whether the episode ends with this outcome.
        start: ``(S,)`` float64, the distribution of the first state.
    """

    num_states: int
    num_actions: int
    first: np.ndarray
    probability: np.ndarray
    successor: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    start: np.ndarray

    @classmethod
    def from_toy_text(cls, table: ToyText, start: np.ndarray) -> Self:
        """From ``table[s][a] = [(probability, successor, reward, terminated), ...]``.

        Raises:
            ValueError: a state with other actions than the first, an unknown successor, or
                probabilities that are negative or do not sum to 1.
        """
        states, actions = len(table), len(table[0])
        rows: list[tuple[int, float, int, float, bool]] = []
        for state in range(states):
            if len(table[state]) != actions:
                raise ValueError(
                    f"state {state} has {len(table[state])} actions and state 0 has {actions}"
                )
            for action in range(actions):
                pair = state * actions + action
                rows += [(pair, *outcome) for outcome in table[state][action]]
        columns = ([row[column] for row in rows] for column in range(5))
        return cls.from_rows(states, actions, columns, start)

    @classmethod
    def from_rows(
        cls, num_states: int, num_actions: int, columns: Iterable[Any], start: np.ndarray
    ) -> Self:
        """From five columns of N outcomes: pair, probability, successor, reward, terminated.

        Args:
            num_states, num_actions: S and A.
            columns: ``(N,)`` each, the first ``s * num_actions + a``; in any order of the rows.
            start: ``(S,)``, the distribution of the first state.

        Raises:
            ValueError: an unknown successor, or probabilities of a pair that are negative or do
                not sum to 1.
        """
        pair, probability, successor, reward, terminated = map(np.asarray, columns)
        pairs = num_states * num_actions
        pair = pair.astype(np.int64)  # also where there are none
        total = np.bincount(pair, probability, minlength=pairs)
        wrong = np.abs(total - 1.0) > 1e-9
        wrong[pair[probability < 0]] = True
        if wrong.any():
            state, action = divmod(int(wrong.argmax()), num_actions)
            raise ValueError(
                f"the probabilities of state {state}, action {action} sum to "
                f"{total[wrong.argmax()]:g}"
            )
        if successor.min() < 0 or successor.max() >= num_states:
            raise ValueError(f"a successor is outside of 0..{num_states - 1}")
        order = np.flatnonzero(probability)
        if np.any(np.diff(pair) < 0):
            order = order[np.argsort(pair[order], kind="stable")]
        first = np.concatenate([[0], np.cumsum(np.bincount(pair[order], minlength=pairs))])
        return cls(
            num_states,
            num_actions,
            first,
            probability[order].astype(np.float64),
            successor[order].astype(np.int64),
            reward[order].astype(np.float64),
            terminated[order].astype(np.bool_),
            np.asarray(start, np.float64),
        )

    @cached_property
    def pair(self) -> np.ndarray:
        """``(N,)`` int64, the ``s * num_actions + a`` of every row."""
        return np.repeat(np.arange(self.first.size - 1), np.diff(self.first))

    @cached_property
    def cumulative(self) -> np.ndarray:
        """``(N,)`` float64: pair plus its cumulative probability, so one sorted array for all."""
        total = np.cumsum(self.probability)
        before = np.concatenate([[0.0], total])[self.first[:-1]]
        cumulative: np.ndarray = self.pair + (total - before[self.pair])
        cumulative[self.first[1:] - 1] = np.arange(1, self.first.size)  # ends free of rounding
        return cumulative

    @cached_property
    def start_states(self) -> tuple[np.ndarray, np.ndarray]:
        """The states an episode can start in, and their cumulative probabilities."""
        states = np.flatnonzero(self.start)
        return states, np.cumsum(self.start[states])

    def first_states(self, uniform: np.ndarray) -> np.ndarray:
        """The states in which episodes begin, for draws in [0, 1) of any shape."""
        states, cumulative = self.start_states
        drawn = np.searchsorted(cumulative, uniform, side="right")
        return states[np.minimum(drawn, states.size - 1)]

    def rows(self, pair: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """The outcomes (row numbers) of pairs ``s * num_actions + a``, for draws in [0, 1)."""
        drawn = np.searchsorted(self.cumulative, pair + uniform, side="right")
        # pair + u rounds up to pair + 1 for the u nearest to 1, and would leave the pair.
        return np.minimum(drawn, self.first[pair + 1] - 1)


@dataclass(frozen=True)
class MDP:
    """The matrices of a Markov decision process (`rlgen.algorithm.Model`).

    Attributes:
        transitions: ``(S * A, S)`` float64 in CSR: row ``s * A + a`` holds p(. | s, a).
        rewards: ``(S, A)`` float64, the expected reward r(s, a).
        terminal: ``(S,)`` bool; terminal states are absorbing and pay nothing.
        start: ``(S,)`` float64, the distribution of the first state.

    Raises:
        ValueError: shapes that do not fit, rows that do not sum to 1, or a terminal state that can
            be left or pays a reward.
    """

    transitions: scipy.sparse.csr_array
    rewards: np.ndarray
    terminal: np.ndarray
    start: np.ndarray

    def __post_init__(self) -> None:
        states, actions = self.rewards.shape
        if self.transitions.shape != (states * actions, states):
            raise ValueError(
                f"transitions have shape {self.transitions.shape}, expected "
                f"{(states * actions, states)} for {states} states of {actions} actions"
            )
        if self.terminal.shape != (states,) or self.start.shape != (states,):
            raise ValueError(f"terminal and start must have shape ({states},)")
        sums = np.append(self.transitions.sum(axis=1), self.start.sum())
        if self.transitions.data.min() < 0 or np.abs(sums - 1.0).max() > 1e-9:
            raise ValueError("probabilities must not be negative and must sum to 1")
        ends = np.flatnonzero(self.terminal)
        rows = (ends[:, None] * actions + np.arange(actions)).ravel()
        exits = self.transitions[rows].tocoo()
        leaves = exits.data[exits.col != ends[exits.row // actions]] != 0
        if np.any(self.rewards[ends] != 0) or leaves.any():
            raise ValueError("terminal states must be absorbing and pay no reward")

    @property
    def num_states(self) -> int:
        """S, with the absorbing state that `from_outcomes` may have added."""
        return int(self.rewards.shape[0])

    @property
    def num_actions(self) -> int:
        """A."""
        return int(self.rewards.shape[1])

    @classmethod
    def from_toy_text(cls, table: ToyText, start: np.ndarray) -> Self:
        """From the table ``P`` of a toy-text environment and its ``initial_state_distrib``."""
        return cls.from_outcomes(Outcomes.from_toy_text(table, start))

    @classmethod
    def from_outcomes(cls, outcomes: Outcomes) -> Self:
        """The exact model of a transition table; states keep their numbers.

        In the table the end of an episode belongs to an outcome, here to a state. A state that is
        only ever entered by ending (apart from itself, and never the first) is terminal, whatever
        the table says about leaving it. Where a state is entered both ways, its ending outcomes
        lead to one more absorbing state, number S.
        """
        states, actions = outcomes.num_states, outcomes.num_actions
        source, successor = outcomes.pair // actions, outcomes.successor
        ends = np.zeros(states, np.bool_)
        ends[successor[outcomes.terminated]] = True
        goes_on = outcomes.start > 0
        goes_on[successor[~outcomes.terminated & (source != successor)]] = True
        terminal, mixed = ends & ~goes_on, outcomes.terminated & goes_on[successor]
        successor = np.where(mixed, states, successor)
        total = states + bool(mixed.any())
        terminal = np.append(terminal, np.ones(total - states, np.bool_))

        kept = ~terminal[source]
        stays = np.flatnonzero(terminal)
        rows = (stays[:, None] * actions + np.arange(actions)).ravel()
        row = np.append(outcomes.pair[kept], rows)
        column = np.append(successor[kept], np.repeat(stays, actions))
        probability = np.append(outcomes.probability[kept], np.ones(rows.size))
        shape = (total * actions, total)
        transitions = scipy.sparse.coo_array((probability, (row, column)), shape).tocsr()
        gain = outcomes.probability * outcomes.reward
        rewards = np.bincount(outcomes.pair[kept], gain[kept], minlength=total * actions)
        start = np.append(outcomes.start, np.zeros(total - states))
        return cls(transitions, rewards.reshape(total, actions), terminal, start)


_PLAIN_WRAPPERS = (
    gym.wrappers.OrderEnforcing,
    gym.wrappers.PassiveEnvChecker,
    gym.wrappers.TimeLimit,
)


def outcomes_of(env: gym.Env[Any, Any]) -> Outcomes | None:
    """The transition table of a tabular environment, None of one whose dynamics have none.

    Such an environment has ``outcomes``, or like Gymnasium's toy text ``P``,
    ``initial_state_distrib`` and discrete spaces; and no wrapper that could change what is seen.

    Raises:
        ValueError: the table is not a proper one.
    """
    inner = env
    while isinstance(inner, gym.Wrapper):
        if not isinstance(inner, _PLAIN_WRAPPERS):
            return None
        inner = inner.env
    offered = getattr(inner, "outcomes", None)
    if isinstance(offered, Outcomes):
        return offered
    table = getattr(inner, "P", None)
    start = getattr(inner, "initial_state_distrib", None)
    spaces = (inner.observation_space, inner.action_space)
    if table is None or start is None or not all(_is_plain_discrete(space) for space in spaces):
        return None
    if getattr(inner, "fickle_passenger", False):  # Taxi: what its table does not know of
        return None
    return Outcomes.from_toy_text(table, start)


def _is_plain_discrete(space: gym.Space[Any]) -> bool:
    return isinstance(space, gym.spaces.Discrete) and space.start == 0


def load_mdp(config: EnvConfig) -> MDP:
    """The exact model of an environment that has a transition table.

    Raises:
        ConfigError: the environment cannot be made or has no model.
    """
    if config.frame_stack != 1:
        raise ConfigError("env.frame_stack: the states of a model are not stacked; remove it")
    env = make_single(config)
    try:
        outcomes = outcomes_of(env)
        if outcomes is None:
            raise ConfigError(
                f"env.id: {config.id} has no model (no transition table P that holds all of its "
                "dynamics); use one that has, such as FrozenLake-v1"
            )
        return MDP.from_outcomes(outcomes)
    except ValueError as error:
        raise ConfigError(f"env.id: the transition table of {config.id}: {error}") from error
    finally:
        env.close()


class MDPVectorEnv(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """B copies of a tabular environment, stepped as arrays; no autoreset (reset by mask).

    Every step draws one uniform number a copy and inverts the cumulative distribution of its
    outcome, so that rewards are those of the sampled outcome, r(s, a, s').

    Args:
        outcomes: the transition table.
        num_envs: B.
        max_episode_steps: truncates longer episodes; None does not.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(
        self, outcomes: Outcomes, num_envs: int, max_episode_steps: int | None = None
    ) -> None:
        self.num_envs = num_envs
        self.outcomes = outcomes
        self.max_episode_steps = max_episode_steps
        self.single_observation_space = gym.spaces.Discrete(outcomes.num_states)
        self.single_action_space = gym.spaces.Discrete(outcomes.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.state = np.zeros(num_envs, np.int64)
        self.elapsed = np.zeros(num_envs, np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode everywhere, or in the rows of ``options["reset_mask"]`` (B,) bool."""
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask")
        rows = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        self.state[rows] = self.outcomes.first_states(self.np_random.random(rows.size))
        self.elapsed[rows] = 0
        return self.state.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every copy with its action (B,) int; the reward is float64."""
        table = self.outcomes
        pair = self.state * table.num_actions + actions
        row = table.rows(pair, self.np_random.random(self.num_envs))
        self.state = table.successor[row]
        self.elapsed += 1
        if self.max_episode_steps is None:
            truncated = np.zeros(self.num_envs, np.bool_)
        else:
            truncated = self.elapsed >= self.max_episode_steps
        return self.state.copy(), table.reward[row], table.terminated[row], truncated, {}
