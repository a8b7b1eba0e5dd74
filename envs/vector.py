"""Vector environments without their autoreset modes.

This is the one place that knows how Gymnasium's vector environments begin the next episode: at the
next step, in the same step, or only when asked. What leaves it is the same for all: the true
successor of every step, termination apart from truncation, and a mask of the rows that count.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rlgen.config import EnvConfig
from rlgen.envs.making import make_vector
from rlgen.envs.spaces import from_zero, observed, observed_space, stack_space, start_of
from rlgen.errors import ConfigError
from rlgen.finite import Finite
from rlgen.frames import push_frame


class Step(NamedTuple):
    """One step of B environments; the arrays are the caller's to read, not to write."""

    observation: np.ndarray  # (B, ...) to act on next
    next_observation: np.ndarray  # (B, ...) the true successor, never of a later episode
    reward: np.ndarray  # (B,) float32
    terminated: np.ndarray  # (B,) bool: the successor has no future
    truncated: np.ndarray  # (B,) bool: the episode was cut; its successor has a future
    valid: np.ndarray  # (B,) bool: False where the environment only reset, ignoring the action

    @property
    def starts(self) -> np.ndarray:
        """(B,) bool: an episode begins with ``observation``, or will where that is void."""
        return self.terminated | self.truncated | ~self.valid


class Environments:
    """B environments of one configuration, stepped together.

    A table of transitions is stepped as arrays (`MDPVectorEnv`), another environment by its own
    vector entry point, or else one by one. Observations are in the spaces below: ``Discrete`` and
    ``MultiDiscrete`` count from 0, and the latter is flat. Actions are given in the same numbering;
    those of a ``Box`` in the environment's units, clipped to its bounds here.

    Every plain attribute is state (see `rlgen.state`); call `reset` before restoring them.

    Attributes:
        observation_space, action_space: of one environment, after frame stacking.
        num_envs: B.
        finished: (return, length) of every episode that ended; the caller empties it.
        metrics: sums over steps of what the environments report in ``infos["metrics"]``, a
            mapping of names to ``(B,)`` numbers (such as a bandit's regret).
        learning: whether steps have what to learn from where an environment tells that apart from
            the score, in ``infos["learning"]``: ``"reward"`` (such as a clipped one) and
            ``"terminated"`` (such as the loss of a life). `finished` always has the score.

    Args:
        config: the environment.
        num_envs: B; ``config.num_envs`` is not looked at.
        seed: of the first `reset`; later ones go on with the same random streams.
        learning: False where an evaluation keeps the score.
        finite: what becomes of numbers that are not finite; else they are an error.
        env: the environments themselves, where they are not to be made here.

    Raises:
        ConfigError: the environment cannot be made, or its spaces are not supported.
    """

    def __init__(
        self, config: EnvConfig, num_envs: int, seed: int, learning: bool = True,
        finite: Finite | None = None, env: VectorEnv[Any, Any, Any] | None = None,
    ) -> None:  # fmt: skip
        self.num_envs = num_envs
        self.learning = learning
        self.finite = finite or Finite(f"environment {config.id!r}")
        self.finished: list[tuple[float, int]] = []
        self.metrics: dict[str, float] = {}
        self.env = make_vector(config, num_envs) if env is None else env
        try:
            self._mode = AutoresetMode(
                self.env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
            ).value
            self._read_spaces(config)
        except (ConfigError, ValueError) as error:
            self.env.close()
            raise ConfigError(str(error)) from error
        self._id = config.id
        self._seed: int | None = seed
        self._fresh = np.zeros(0, np.int64)  # NEXT_STEP: rows that only reset at the next step
        self._clock = 0
        self._began = np.zeros(num_envs, np.int64)  # clock at the start of the running episodes
        self._returns = np.zeros(num_envs, np.float64)
        self._all_valid = np.ones(num_envs, np.bool_)
        self._all_valid.flags.writeable = False

    def _read_spaces(self, config: EnvConfig) -> None:
        observation, action = self.env.single_observation_space, self.env.single_action_space
        for role, space in (("observations", observation), ("actions", action)):
            if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete)):
                raise ConfigError(
                    f"env.id: {config.id} has {role} in a {type(space).__name__} space, expected "
                    "Box, Discrete or MultiDiscrete; wrap it, such as with FlattenObservation"
                )
        self._stacked, self._observed = config.frame_stack, config.observed
        observation = observed_space(observation, config.observed)
        self._observation_start = start_of(observation)
        self._action_start = start_of(action)
        self._bounds = (action.low, action.high) if isinstance(action, spaces.Box) else None
        self.action_space = from_zero(action)
        single = from_zero(observation)
        self._shape, self._dtype = single.shape or (), observation.dtype
        self.observation_space = stack_space(single, self._stacked)
        # (B, k, *shape): the latest k observations of the running episodes.
        self._frames = np.zeros((self.num_envs, self._stacked, *self._shape), self._dtype)

    def reset(self) -> np.ndarray:
        """Begin an episode in every environment; the observations ``(B, ...)``."""
        seed: int | list[int] | None = self._seed
        if seed is not None and isinstance(self.env, SyncVectorEnv):
            # Gymnasium would use seed, seed + 1, ...: the same streams as a neighbouring seed.
            seed = np.random.SeedSequence(seed).generate_state(self.num_envs).tolist()
        self._seed = None
        observation, _ = self.env.reset(seed=seed)  # type: ignore[arg-type]
        first = self.finite.first(self.from_env(observation), np.arange(self.num_envs))
        self._fresh = np.zeros(0, np.int64)
        self._began[:] = self._clock
        self._returns[:] = 0.0
        if self._stacked == 1:
            return first
        self._frames = np.repeat(first[:, None], self._stacked, axis=1)
        return self._flat(self._frames)

    def step(self, action: np.ndarray) -> Step:
        """Step every environment with its action ``(B, ...)``."""
        valid, fresh, taken = self._all_valid, self._fresh, self._clock - self._began
        came, info, void = self.finite.step(self, action, fresh, taken)
        successor, reward, terminated, truncated = came
        observation = successor
        self._clock += 1
        if fresh.size:  # these rows only reset: whatever the environment reports of them is void
            valid = valid.copy()
            valid[fresh] = False
            terminated &= valid
            truncated &= valid
            reward[fresh] = 0.0
            self._returns[fresh] = 0.0
            self._began[fresh] = self._clock
        self._returns += reward
        for name, values in info.get("metrics", {}).items():
            self.metrics[name] = self.metrics.get(name, 0.0) + float(values.sum())
        ends = (terminated | truncated).nonzero()[0]
        if void.size:  # as if the episode had been cut before
            valid = valid.copy()
            valid[void], terminated[void], truncated[void] = False, False, True
            ends = np.union1d(ends, void) if self._mode == "Disabled" else ends
        if ends.size:
            whole = ends[valid[ends]]
            lengths = self._clock - self._began[whole]
            self.finished.extend(zip(self._returns[whole].tolist(), lengths.tolist(), strict=True))
        if self._mode == "NextStep":
            self._fresh = ends
        else:
            fresh = ends
            if ends.size:
                self._returns[ends] = 0.0
                self._began[ends] = self._clock
                successor, observation = self._begin(successor, ends, info)
        if self._stacked > 1:
            restart = np.union1d(fresh, void)
            seen, self._frames = push_frame(self._frames, successor, observation, restart)
            successor, observation = self._flat(seen), self._flat(self._frames)
        if self.learning and "learning" in info:
            reward, terminated = info["learning"]["reward"], info["learning"]["terminated"]
        reward = reward.astype(np.float32, copy=False)
        return Step(observation, successor, reward, terminated, truncated, valid)

    def take_metrics(self) -> dict[str, float]:
        """The sums of the metrics since the last call."""
        taken, self.metrics = self.metrics, {}
        return taken

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def _begin(
        self, arrived: np.ndarray, ends: np.ndarray, info: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The true successors, and the observations to act on: of new episodes in rows ``ends``."""
        other = arrived.copy()
        if self._mode == "SameStep":
            try:
                last = [info["final_obs"][row] for row in ends]
                other[ends] = self.from_env(np.stack(last))
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"env.id: {self._id} resets in the step that ends an episode (SAME_STEP) but "
                    "gives no infos['final_obs'] for it; without it the true successor is lost"
                ) from error
            return other, arrived
        mask = np.zeros(self.num_envs, np.bool_)
        mask[ends] = True
        first, _ = self.env.reset(options={"reset_mask": mask})
        other[ends] = self.finite.first(self.from_env(first)[ends], ends)
        return arrived, other

    def _flat(self, frames: np.ndarray) -> np.ndarray:
        """Frames ``(B, k, ...)`` in the shape of the observation space."""
        return frames.reshape(self.num_envs, *(self.observation_space.shape or ()))

    def from_env(self, observation: Any) -> np.ndarray:
        """Observations of the environment in our numbering; a copy, for it may reuse its own."""
        rows = np.array(observed(observation, self._observed), self._dtype)
        if self._observation_start is not None:
            rows -= self._observation_start
        return rows.reshape(len(rows), *self._shape)

    def to_env(self, action: np.ndarray) -> np.ndarray:
        """Actions in the numbering, the bounds, the shape and the dtype of the environment."""
        if self._bounds is not None:
            action = np.clip(action, *self._bounds)
        elif self._action_start is not None:
            action = action + self._action_start
        space = self.env.action_space
        return np.asarray(action, space.dtype).reshape(space.shape)
