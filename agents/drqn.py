"""Deep recurrent Q-network."""

from __future__ import annotations

import copy
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlgen.agents.values import QNetwork, check_values, epsilon_greedy, td_target
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Fraction, Hyperparameters, Positive, Whole, check_learning_starts
from rlgen.errors import ConfigError
from rlgen.networks import clip_gradients, follow, resume_state
from rlgen.replay import ReplayPlan
from rlgen.schedules import linear


class DRQNConfig(Hyperparameters):
    """Hyper-parameters of DRQN; steps are environment steps of the whole run."""

    gamma: Fraction = 0.99  # discount, in [0, 1]
    learning_rate: Positive = 1e-3  # of Adam, > 0
    rollout_steps: Count = 16  # T, steps per environment and cycle
    buffer_size: Count = 100_000  # N, transitions in the replay
    batch_size: Count = 32  # B, sequences per update
    sequence: Annotated[int, Field(ge=2)] = 16  # L, steps of a sequence, >= 2
    burn_in: Whole = 0  # steps of it without a loss, in [0, L)
    learning_starts: Count = 1_000  # transitions in the replay before the first update
    updates: Count = 1  # updates per `train_every` steps
    train_every: Count = 4  # steps
    target_period: Count = 50  # C, updates between two copies into the target network
    epsilon_start: Fraction = 1.0  # share of random actions at the first step, in [0, 1]
    epsilon_end: Fraction = 0.04  # and from `epsilon_steps` on, in [0, 1]
    epsilon_steps: Count = 8_000  # steps of the linear decay between the two
    max_gradient_norm: Positive = 10.0  # clipped above it, > 0
    double: bool = True  # the network that learns chooses a', the target values it
    duelling: bool = False  # Q = V + A - mean A

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_learning_starts(self.learning_starts, self.buffer_size)
        if self.burn_in >= self.sequence:
            raise ValueError(
                f"burn_in={self.burn_in} leaves nothing of sequence={self.sequence} to learn from"
            )
        return self


class DRQN(Algorithm):
    """DRQN: DQN whose Q-network remembers, for what one observation does not show (section 14.5).

    With h_t the memory's state after s_t, which begins at zero with each episode, one update draws
    sequences of L steps of one episode each and descends the mean over their steps of

        ( y_t - Q_phi(h_t, a_t) )^2,
        y_t = r_t + gamma * (1 - terminated) * Q_target(h_{t+1}, argmax_a' Q_phi(h_{t+1}, a'))

    (of `double`; else the maximum of Q_target), by backpropagation through those L steps. A
    sequence begins with the state that the worker had there, stored in the replay. That state is
    of older weights: the first `burn_in` steps then only bring it up to date, except at an
    episode's beginning, where it is exact. Both networks run over the same observations.

    Hausknecht and Stone, *Deep recurrent Q-learning for partially observable MDPs*, 2015 (with a
    state of zeros); Kapturowski et al., *Recurrent experience replay in distributed reinforcement
    learning*, 2019 (stored state and burn-in).
    """

    Config = DRQNConfig
    uses_network = True
    network_options = ("torso", "memory")
    modes = ("sync", "async")
    data_parallel = whole_batch = True
    config: DRQNConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse what DQN refuses, and a network that cannot remember."""
        check_values(problem, "drqn")
        if problem.network is None or problem.network.memory == "none":
            raise ConfigError("network.memory: drqn needs gru or lstm; without a memory use dqn")

    def __init__(self, config: DRQNConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.network = QNetwork(problem, config.duelling)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        parameters = self.network.parameters()
        self.optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
        self.state = torch.zeros(0, 0)  # (B, S) of the running episodes, on a worker
        self.updates = 0
        self.replay = ReplayPlan(
            config.buffer_size, config.batch_size, config.learning_starts,
            (config.updates, config.train_every), sequence=config.sequence,
        )  # fmt: skip

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Epsilon-greedy actions ``(B,)`` int64, and the state ``(B, S)`` before this step."""
        c, starts = self.config, torch.from_numpy(self.starts)
        assert self.network.memory is not None
        state = resume_state(self.network.memory, self.state, starts)
        values, self.state = self.network.step(observation, state)
        epsilon = linear(c.epsilon_start, c.epsilon_end, c.epsilon_steps, self.env_steps)
        return {"action": epsilon_greedy(values, 0.0 if greedy else epsilon), "state": state}

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """Descend on one minibatch of sequences ``(L, B, ...)``."""
        c, counts = self.config, batch["valid"].clone()
        # Steps of the burn-in have no loss; those of an episode's beginning need none.
        counts[: c.burn_in] &= (batch["state"][0] == 0).all(dim=-1)
        batch = self.part(batch | {"valid": counts}, 1)
        counts, state = batch["valid"], batch["state"][0]
        # The successor of each step is the observation of the next, where there is one.
        seen = torch.cat([batch["observation"][:1], batch["next_observation"]])
        values = self.network.sequence(seen, state)
        with torch.no_grad():
            next_values = self.target.sequence(seen, state)[1:]
            choosing = values[1:] if c.double else next_values
            y = td_target(batch["reward"], batch["terminated"], c.gamma, next_values, choosing)
        rows = counts.sum().clamp(min=1)
        q = values[:-1].gather(-1, batch["action"].unsqueeze(-1)).squeeze(-1)
        loss = (counts * (q - y).square()).sum() / rows
        self.optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(self.network.parameters(), c.max_gradient_norm)
        self.optimizer.step()
        self.updates += 1
        if self.updates % c.target_period == 0:
            follow(self.target, self.network, 1.0)
        q_mean = (counts * q.detach()).sum() / rows
        return {"loss": loss.detach(), "q": q_mean, "gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("drqn-masked-cartpole")
