"""Deep Q-network."""

from __future__ import annotations

import copy
from typing import Annotated, Self

import gymnasium as gym
import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Hyperparameters
from rlgen.errors import ConfigError
from rlgen.networks import clip_gradients, make_encoder, make_mlp
from rlgen.replay import ReplayPlan
from rlgen.schedules import linear

Count = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class DQNConfig(Hyperparameters):
    """Hyper-parameters of DQN; steps are environment steps of the whole run."""

    gamma: Probability = 0.99  # discount, in [0, 1]
    learning_rate: Annotated[float, Field(gt=0)] = 2.3e-3  # of Adam, > 0
    rollout_steps: Count = 16  # T, steps per environment and cycle
    buffer_size: Count = 100_000  # N, transitions in the replay
    batch_size: Count = 64  # transitions per update
    learning_starts: Count = 1_000  # transitions in the replay before the first update
    updates: Count = 1  # updates per `train_every` steps
    train_every: Count = 2  # steps
    target_period: Count = 25  # C, updates between two copies into the target network
    epsilon_start: Probability = 1.0  # share of random actions at the first step, in [0, 1]
    epsilon_end: Probability = 0.04  # and from `epsilon_steps` on, in [0, 1]
    epsilon_steps: Count = 8_000  # steps of the linear decay between the two
    max_gradient_norm: Annotated[float, Field(gt=0)] = 10.0  # clipped above it, > 0

    @model_validator(mode="after")
    def _can_start(self) -> Self:
        if self.learning_starts > self.buffer_size:
            raise ValueError(
                f"learning_starts={self.learning_starts} is more than "
                f"buffer_size={self.buffer_size} holds, so learning would never start"
            )
        return self


class QNetwork(nn.Module):
    """Q(s, .) of all actions (eq 14.42)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        assert isinstance(problem.action_space, gym.spaces.Discrete)
        self.encoder = make_encoder(problem)
        actions = int(problem.action_space.n)
        self.layers = make_mlp(problem.network, self.encoder.size, actions)

    def forward(self, observation: Tensor) -> Tensor:
        """Action values ``(B, A)`` of observations ``(B, ...)``."""
        return self.layers(self.encoder(observation))


def td_target(reward: Tensor, terminated: Tensor, next_values: Tensor, gamma: float) -> Tensor:
    """Targets ``(B,)`` of rewards, ends ``(B,)`` and the successors' values ``(B, A)``."""
    # y = r + gamma * (1 - terminated) * max_a' Q_target(s', a'); truncation does not end a future.
    return reward + gamma * ~terminated * next_values.amax(dim=1)


class DQN(Algorithm):
    """DQN: Q-learning with a network, a replay and a frozen target network (Algorithm 14.5).

    One update draws a minibatch of transitions (s, a, r, s') from the replay and descends

        L(phi) = mean ( y - Q_phi(s, a) )^2,
        y = r + gamma * (1 - terminated) * max_a' Q_target(s', a')          (eq 14.43)

    without a gradient through y. Every C updates the target becomes a copy of Q_phi. The behaviour
    is epsilon-greedy with respect to Q_phi, and `terminated` is stored: the listing leaves both
    open. The paper clips the error at 1; that pulls Q towards the median of y, which hides rare
    ends of episodes, so the error is squared here, as listed.

    Mnih et al., *Human-level control through deep reinforcement learning*, 2015.
    """

    Config = DQNConfig
    uses_network = True
    modes = ("sync", "async")
    config: DQNConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions over which Q has no maximum, and observations that have no encoder."""
        if not isinstance(problem.action_space, gym.spaces.Discrete):
            raise ConfigError(
                f"env.id: dqn needs a Discrete action space, not {problem.action_space}; use a3c"
            )
        make_encoder(problem)

    def __init__(self, config: DQNConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.network = QNetwork(problem)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        parameters = self.network.parameters()
        self.optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
        self.updates = 0
        self.replay = ReplayPlan(
            config.buffer_size, config.batch_size, config.learning_starts,
            (config.updates, config.train_every),
        )  # fmt: skip

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Epsilon-greedy actions ``(B,)`` int64."""
        values, c = self.network(observation), self.config
        action = values.argmax(dim=1)
        if greedy:
            return {"action": action}
        epsilon = linear(c.epsilon_start, c.epsilon_end, c.epsilon_steps, self.env_steps)
        anywhere = torch.randint_like(action, values.shape[1])
        return {"action": torch.where(torch.rand(len(action)) < epsilon, anywhere, action)}

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """Descend on one minibatch of B transitions."""
        with torch.no_grad():
            next_values = self.target(batch["next_observation"])
            y = td_target(batch["reward"], batch["terminated"], next_values, self.config.gamma)
        q = self.network(batch["observation"]).gather(1, batch["action"][:, None]).squeeze(1)
        loss = functional.mse_loss(q, y)
        self.optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(self.network.parameters(), self.config.max_gradient_norm)
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.config.target_period == 0:
            self.target.load_state_dict(self.network.state_dict())
        return {"loss": loss.detach(), "q": q.detach().mean(), "gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("dqn-cartpole")
