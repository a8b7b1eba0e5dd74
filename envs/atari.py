"""Atari games by ale-py's native vector environment, told apart for learning and for the score.

The emulators and the standard preprocessing (Machado et al., *Revisiting the arcade learning
environment*, 2018) run in C++: frames of 84 x 84 grey levels, the maximum of the last two of every
four, the latest four stacked, no-ops and a press of fire at the start of a game.
"""

from __future__ import annotations

import inspect
from typing import Any

import ale_py.vector_env
import numpy as np
from gymnasium.vector import AutoresetMode

FIXED = {"autoreset_mode", "batch_size", "life_loss_info"}


class AtariVectorEnv(ale_py.vector_env.AtariVectorEnv):
    """``ALE/Pong-v5`` and the other games, B of them; observations ``(B, 4, 84, 84)`` uint8.

    It takes the arguments of ale-py's class of this name, and is otherwise than it where learning
    from a game and scoring it part:

    - ``reward_clipping`` cuts the rewards to learn from to [-1, 1]; the score stays the game's.
    - ``episodic_life`` ends the future at the loss of a life, for learning only: the game goes on,
      and so does its score (ale-py's would begin a new game, so that later lives are never seen).

    Both are told in ``infos["learning"]`` (see `rlgen.envs.vector`). There is no autoreset: games
    are reset by mask in the step that ended them. Seeds may be any, and neighbouring ones give
    games of their own.

    Raises:
        ValueError: an argument that is not the caller's to choose.
    """

    __signature__ = inspect.signature(ale_py.vector_env.AtariVectorEnv)

    def __init__(
        self,
        game: str,
        num_envs: int,
        episodic_life: bool = False,
        reward_clipping: bool = True,
        **settings: Any,
    ) -> None:
        for name in sorted(FIXED & set(settings)):
            raise ValueError(f"{name} is rlgen's to choose; remove it")
        super().__init__(game, num_envs, reward_clipping=False, **settings)
        # Its own mode is to reset at the next step: never, as `reset` comes before that.
        self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.episodic_life = episodic_life
        self.reward_clipping = reward_clipping
        self.lives = np.zeros(num_envs, np.int32)

    def reset(
        self, *, seed: int | np.ndarray | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, np.ndarray]]:
        """Begin a game everywhere, or in the rows of ``options["reset_mask"]`` (B,) bool."""
        if isinstance(
            seed, int
        ):  # ale-py takes 31 bits, and seeds the rows with seed, seed + 1, ...
            seed = np.random.SeedSequence(seed).generate_state(self.num_envs).astype(np.int64) >> 1
        observation, info = super().reset(seed=seed, options=options)
        self.lives = info["lives"]
        return observation, info

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play four frames with actions ``(B,)``; rewards are the game's."""
        observation, reward, over, cut, info = super().step(actions)
        lost, self.lives = info["lives"] < self.lives, info["lives"]
        learning = {
            "reward": reward.clip(-1, 1) if self.reward_clipping else reward,
            "terminated": over | lost if self.episodic_life else over,
        }
        return observation, reward, over, cut, {**info, "learning": learning}
