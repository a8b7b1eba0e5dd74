"""What the algorithms of continuous actions share: a deterministic policy, critics, slow targets.

No algorithm of its own. Networks see actions standardised to [-1, 1] (`rlgen.networks.Bounds`), so
that noise, losses and densities do not depend on the units of an environment. The encoder is
trained by the critics' loss alone; a policy takes its features as they are.
"""

from __future__ import annotations

from typing import Self

import gymnasium as gym
import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor, nn

from rlgen.algorithm import Problem
from rlgen.config import (
    Count,
    Fraction,
    Hyperparameters,
    Positive,
    Rate,
    Whole,
    check_learning_starts,
)
from rlgen.errors import ConfigError
from rlgen.networks import Bounds, clip_gradients, make_encoder, make_mlp
from rlgen.replay import ReplayPlan


class ReplayHyperparameters(Hyperparameters):
    """What all of them are asked for; steps are environment steps of the whole run."""

    gamma: Fraction = 0.99  # discount, in [0, 1]
    policy_learning_rate: Positive = 1e-3  # of Adam, > 0
    critic_learning_rate: Positive = 1e-3  # of Adam, > 0
    rollout_steps: Count = 1  # T, steps per environment and cycle
    buffer_size: Count = 1_000_000  # transitions in the replay
    batch_size: Count = 128  # transitions per update
    learning_starts: Count = 1_000  # transitions in the replay before the first update
    updates: Count = 1  # updates per `train_every` steps
    train_every: Count = 1  # steps
    target_rate: Rate = 0.005  # tau of the targets; 1: no targets
    random_steps: Whole = 1_000  # steps of uniformly random actions at first
    max_gradient_norm: Positive = 10.0  # clipped above it, > 0

    @model_validator(mode="after")
    def _can_start(self) -> Self:
        check_learning_starts(self.learning_starts, self.buffer_size)
        return self

    def plan(self) -> ReplayPlan:
        """How the platform replays."""
        ratio = (self.updates, self.train_every)
        return ReplayPlan(self.buffer_size, self.batch_size, self.learning_starts, ratio)


class DeterministicPolicy(nn.Module):
    """Observations to the features of an encoder, and to the action mu(s) in [-1, 1]^d."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.bounds = Bounds(problem.action_space)
        self.encoder = make_encoder(problem)
        size = self.bounds.size
        self.layers = make_mlp(problem.network, self.encoder.size, size, last_gain=0.01)

    def forward(self, features: Tensor) -> Tensor:
        """mu(s), ``(..., d)`` in [-1, 1]."""
        return self.layers(features).tanh()


class Critics(nn.Module):
    """One or several Q(s, a), each a perceptron of the features and the standardised action."""

    def __init__(self, problem: Problem, features: int, count: int) -> None:
        super().__init__()
        inputs = features + Bounds(problem.action_space).size
        self.each = nn.ModuleList(make_mlp(problem.network, inputs, 1) for _ in range(count))

    def forward(self, features: Tensor, unit: Tensor) -> Tensor:
        """Values ``(count, ...)`` of features ``(..., f)`` and actions ``(..., d)``."""
        inputs = torch.cat([features, unit], dim=-1)
        return torch.stack([layers(inputs).squeeze(-1) for layers in self.each])


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """y = r + gamma * (1 - terminated) * Q'(s', a'), all ``(B,)``; truncation ends no future."""
    return reward + gamma * ~terminated * next_value


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """One step of an optimiser down the gradient, clipped; the norm before.

    The gradient is that of the optimiser's own parameters: others that the loss goes through, such
    as a critic's in a policy's loss, are left alone.
    """
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    norm = clip_gradients(parameters, max_norm)
    optimizer.step()
    return norm


def check_bounded_actions(problem: Problem, algorithm: str) -> None:
    """Refuse actions that are not in a bounded ``Box``, and observations that have no encoder.

    Raises:
        ConfigError: names the space and what to use instead.
    """
    space = problem.action_space
    if not isinstance(space, gym.spaces.Box):
        raise ConfigError(
            f"env.id: {algorithm} needs a Box of continuous actions, not {space}; use dqn or ppo"
        )
    if not np.issubdtype(space.dtype, np.floating):
        raise ConfigError(f"env.id: {algorithm} needs real-valued actions, not {space}")
    bounded = np.isfinite(space.low) & np.isfinite(space.high) & (space.low < space.high)
    if not bounded.all():
        first = int(np.flatnonzero(~bounded)[0])
        low, high = space.low.ravel()[first], space.high.ravel()[first]
        raise ConfigError(
            f"env.id: {algorithm} squashes actions into their bounds, and component {first} of "
            f"{space} goes from {low} to {high}; use ppo, or give it bounds with a wrapper"
        )
    make_encoder(problem)
