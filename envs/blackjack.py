"""Gymnasium's Blackjack as a native NumPy vector environment.

A step of the single one costs tens of microseconds, almost all of it for drawing single cards. Here
all copies are stepped at once, and the dealer's whole hand is one draw from its distribution.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.toy_text.blackjack import BlackjackEnv
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rlgen.envs.single import FlatTuple

CARDS = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10])  # an ace is 1; drawn with replacement
SCORES = np.array([0, 17, 18, 19, 20, 21, 21])  # of the dealer: bust, ..., 21, and a natural
NATURAL = 6
# What may be around it without changing what it does.
_WRAPPERS = (gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker, FlatTuple)


def dealer_hands() -> np.ndarray:
    """The distribution over `SCORES` of the dealer's hand by the card shown, ``(11, 7)`` float64.

    The dealer draws up to 17, also with an ace that counts 11. Row 0 is no card.
    """
    hands = np.zeros((11, 7))
    for shown in range(1, 11):
        for hidden in CARDS:
            if {shown, int(hidden)} == {1, 10}:
                hands[shown, NATURAL] += 1 / 13
            else:
                hands[shown] += _dealt(shown + int(hidden), 1 in (shown, hidden)) / 13
    return hands


@cache
def _dealt(hard: int, ace: bool) -> np.ndarray:
    """The distribution ``(7,)`` from a hand with the given sum, where aces are 1, on."""
    total = hard + 10 if ace and hard + 10 <= 21 else hard
    if total >= 17:
        return np.eye(7)[total - 16 if total <= 21 else 0]
    return np.mean([_dealt(hard + int(c), ace or c == 1) for c in CARDS], axis=0)


def blackjack_of(env: gym.Env[Any, Any], num_envs: int) -> BlackjackVectorEnv | None:
    """The vector form of Gymnasium's Blackjack; None of any other environment."""
    inner = env
    while isinstance(inner, _WRAPPERS):
        inner = inner.env
    if type(inner) is not BlackjackEnv:
        return None
    return BlackjackVectorEnv(num_envs, inner.natural, inner.sab)


class BlackjackVectorEnv(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """B tables of ``Blackjack-v1`` (Sutton and Barto, example 5.1); no autoreset (reset by mask).

    Observations ``(B, 3)`` are the player's sum, the dealer's card and whether the player has an
    ace that counts 11; actions are 0 to stick and 1 to hit.

    Args:
        num_envs: B.
        natural: a natural (ace and ten) that wins pays 1.5; without effect where ``sab``.
        sab: the rules of the book: a natural wins against any hand but a natural.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, num_envs: int, natural: bool = False, sab: bool = False) -> None:
        self.num_envs = num_envs
        self.natural, self.sab = natural, sab
        self.single_observation_space = gym.spaces.MultiDiscrete([32, 11, 2])
        self.single_action_space = gym.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.hand = np.zeros((num_envs, 3), np.int64)  # what is observed
        self.dealt_natural = np.zeros(num_envs, np.bool_)
        self._cumulative = dealer_hands().cumsum(axis=1)
        self._cumulative[:, -1] = 1.0  # free of rounding

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Deal everywhere, or in the rows of ``options["reset_mask"]`` (B,) bool."""
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask")
        rows = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        cards = CARDS[self.np_random.integers(13, size=(rows.size, 3))]
        ace = (cards[:, :2] == 1).any(axis=1)
        total = cards[:, 0] + cards[:, 1] + 10 * ace
        self.hand[rows] = np.stack([total, cards[:, 2], ace], axis=1)
        self.dealt_natural[rows] = total == 21
        return self.hand.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Hit or stick at every table, actions (B,) int; the reward is float64."""
        hits = actions == 1
        card = CARDS[self.np_random.integers(13, size=self.num_envs)]
        luck = self.np_random.random(self.num_envs)
        total, shown, ace = self.hand.T
        # An ace that counts 1 will never count 11 again, so the flag is all that must be known.
        hard = total - 10 * ace + card
        soft = ((ace == 1) | (card == 1)) & (hard <= 11)
        outcome = (luck[:, None] >= self._cumulative[shown]).sum(axis=1)
        reward = np.where(hits, -1.0 * (hard > 21), np.sign(total - SCORES[outcome]))
        if self.sab:
            reward[~hits & self.dealt_natural & (outcome != NATURAL)] = 1.0
        elif self.natural:
            reward[~hits & self.dealt_natural & (reward == 1.0)] = 1.5
        self.hand[hits, 0] = (hard + 10 * soft)[hits]
        self.hand[hits, 2] = soft[hits]
        self.dealt_natural &= ~hits
        terminated = ~hits | (self.hand[:, 0] > 21)
        return self.hand.copy(), reward, terminated, np.zeros_like(terminated), {}
