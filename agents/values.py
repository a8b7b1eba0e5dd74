"""Action values by networks: what the algorithms that learn them share."""

from __future__ import annotations

import gymnasium as gym
import torch
from torch import Tensor, nn

from rlgen.algorithm import Problem
from rlgen.errors import ConfigError
from rlgen.networks import make_encoder, make_memory, make_mlp


class QNetwork(nn.Module):
    """Q(s, .) of all actions (eq 14.42), with a memory where the network section asks for one.

    Args:
        problem: of a ``Discrete`` action space.
        duelling: two streams of layers, Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a')
            (Wang et al., *Dueling network architectures*, 2016, eq 9).
    """

    def __init__(self, problem: Problem, duelling: bool = False) -> None:
        super().__init__()
        assert isinstance(problem.action_space, gym.spaces.Discrete)
        self.encoder = make_encoder(problem)
        self.memory = make_memory(problem.network, self.encoder.size)
        inputs = self.memory.size if self.memory else self.encoder.size
        self.layers = make_mlp(problem.network, inputs, int(problem.action_space.n))
        self.value = make_mlp(problem.network, inputs, 1) if duelling else None

    def forward(self, observation: Tensor) -> Tensor:
        """Action values ``(..., A)`` of observations ``(..., *shape)``; without a memory."""
        return self._values(self.encoder(observation))

    def step(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Action values ``(B, A)`` of observations ``(B, ...)`` and a memory's next state."""
        assert self.memory is not None
        outputs, state = self.memory.step(self.encoder(observation), state)
        return self._values(outputs), state

    def sequence(self, observation: Tensor, state: Tensor) -> Tensor:
        """Action values ``(L, B, A)`` of L steps of one episode each, from a state ``(B, S)``."""
        assert self.memory is not None
        starts = torch.zeros(observation.shape[:2], dtype=torch.bool, device=observation.device)
        return self._values(self.memory(self.encoder(observation), state, starts))

    def _values(self, features: Tensor) -> Tensor:
        q: Tensor = self.layers(features)
        if self.value is not None:
            q = self.value(features) + q - q.mean(dim=-1, keepdim=True)
        return q


def td_target(
    reward: Tensor,
    terminated: Tensor,
    discount: Tensor | float,
    next_values: Tensor,
    choosing: Tensor,
) -> Tensor:
    """y = r + discount * (1 - terminated) * Q_target(s', argmax_a' Q_choosing(s', a')), ``(...)``.

    Args:
        reward: ``(...)`` float; of n steps, their discounted sum.
        terminated: ``(...)`` bool; truncation does not end a future.
        discount: gamma, or gamma^n ``(...)``.
        next_values: ``(..., A)`` of the target network (eq 14.43).
        choosing: ``(..., A)`` the same, or with double DQN those of the network that learns
            (van Hasselt, Guez and Silver, *Deep reinforcement learning with double Q-learning*,
            2016, eq 4): what overestimates an action then does not choose it too.
    """
    best = choosing.argmax(dim=-1, keepdim=True)
    return reward + discount * ~terminated * next_values.gather(-1, best).squeeze(-1)


def epsilon_greedy(values: Tensor, epsilon: float) -> Tensor:
    """Actions ``(B,)`` int64: of the largest value, or with probability epsilon any."""
    action = values.argmax(dim=1)
    if epsilon == 0:
        return action
    anywhere = torch.randint_like(action, values.shape[1])
    return torch.where(torch.rand(len(action)) < epsilon, anywhere, action)


def check_values(problem: Problem, name: str) -> None:
    """Refuse actions over which Q has no maximum, and observations that have no encoder.

    Raises:
        ConfigError: of the algorithm called ``name``.
    """
    if not isinstance(problem.action_space, gym.spaces.Discrete):
        raise ConfigError(
            f"env.id: {name} needs a Discrete action space, not {problem.action_space}; use ppo"
        )
    make_encoder(problem)
