"""What the policy-gradient algorithms share: one network of policy and value, and its use.

No algorithm of its own: `ActorCritic` is the network of REINFORCE, A2C, A3C, PPO and IMPALA.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlgen.algorithm import Problem
from rlgen.networks import (
    episode_starts,
    make_encoder,
    make_memory,
    make_mlp,
    policy_head,
    resume_state,
)

Columns = dict[str, Tensor]

FORGOTTEN = torch.zeros(0, 0)  # the state of a memory that has not begun


class ActorCritic(nn.Module):
    """Policy and value of a state, with a torso each: neither's loss disturbs the other's.

    With ``network.memory`` one memory feeds both. Then batches hold ``"state"`` ``(T, B, S)``, the
    memory before each step, and are whole rollouts, whose time is in order.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        network = problem.network
        self.encoder = make_encoder(problem)
        self.head = policy_head(problem.action_space)
        self.memory = make_memory(network, self.encoder.size)
        inputs = self.memory.size if self.memory else self.encoder.size
        self.policy = make_mlp(network, inputs, self.head.size, last_gain=0.01)
        self.value = make_mlp(network, inputs, 1)

    def parameter_groups(self, rate: float, value_rate: float) -> list[dict[str, Any]]:
        """For an optimiser: the policy with its encoder at one learning rate, the value at its."""
        actor = [*self.encoder.parameters(), *self.head.parameters(), *self.policy.parameters()]
        return [
            {"params": actor, "lr": rate},
            {"params": list(self.value.parameters()), "lr": value_rate},
        ]

    def act(self, observation: Tensor, greedy: bool) -> tuple[Tensor, Tensor]:
        """Actions ``(B, ...)``, drawn or the mode, and the policy's outputs ``(B, size)``."""
        return self.decide(self.encoder(observation), greedy)

    def decide(self, features: Tensor, greedy: bool) -> tuple[Tensor, Tensor]:
        """Actions of features, and the policy's outputs, as `act`."""
        outputs = self.policy(features)
        return self.head.mode(outputs) if greedy else self.head.sample(outputs), outputs

    def recall(
        self, observation: Tensor, state: Tensor, starts: np.ndarray
    ) -> tuple[Tensor, Tensor, Columns]:
        """What a policy that may have a memory acts on.

        Args:
            observation: ``(B, ...)``.
            state: ``(B, S)``, what the step before left; `FORGOTTEN` where there was none.
            starts: ``(B,)`` bool (`rlgen.algorithm.Algorithm.starts`).

        Returns:
            Features ``(B, F)`` for `decide`, the next state, and the columns that `forward` needs.
        """
        features = self.encoder(observation)
        if self.memory is None:
            return features, state, {}
        before = resume_state(self.memory, state, torch.from_numpy(starts))
        features, after = self.memory.step(features, before)
        return features, after, {"state": before}

    def forward(self, batch: Columns) -> tuple[Tensor, Tensor]:
        """Policy outputs ``(..., size)`` and values V ``(...)`` of a batch's observations.

        The batch is a rollout ``(T, B, ...)``, or rows ``(n, ...)`` of one.
        """
        features = self.encoder(batch["observation"])
        if self.memory is not None:
            features = self.memory(features, batch["state"][0], episode_starts(batch))
        return self.policy(features), self.value(features).squeeze(-1)

    def next_values(self, batch: Columns, value: Tensor) -> Tensor:
        """V(s_{t+1}) of a rollout ``(T, B)`` whose V(s_t) is ``value``, without a gradient.

        Within an episode the next row's value; where the rollout is cut (a truncation, the last
        row), the value of the true successor. Rows that end an episode otherwise, or are not
        valid, have no successor: their entry means nothing.
        """
        cut = batch["truncated"].clone()
        cut[-1] = True
        with torch.no_grad():
            next_value = value.detach().roll(-1, dims=0)
            features = self.encoder(batch["next_observation"][cut])
            if self.memory is not None:
                last = self.encoder(batch["observation"][cut])
                _, after = self.memory.step(last, batch["state"][cut])
                features, _ = self.memory.step(features, after)
            next_value[cut] = self.value(features).squeeze(-1)
        return next_value


def check_policy(problem: Problem) -> None:
    """Refuse actions that have no policy head, and observations that have no encoder.

    Raises:
        ConfigError: names the space.
    """
    policy_head(problem.action_space)
    make_encoder(problem)


def make_rmsprop(network: nn.Module, config: Any) -> torch.optim.RMSprop:
    """RMSprop of ``learning_rate``, ``rmsprop_decay`` and ``rmsprop_epsilon``."""
    return torch.optim.RMSprop(
        network.parameters(),
        lr=config.learning_rate,
        alpha=config.rmsprop_decay,
        eps=config.rmsprop_epsilon,
        foreach=True,
    )


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean of the values where ``valid``; 0 where that is nowhere."""
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)


def normalized(values: Tensor, valid: Tensor) -> Tensor:
    """The values to mean 0 and deviation 1 of those where ``valid``."""
    above = values - masked_mean(values, valid)
    return above / (masked_mean(above.square(), valid).sqrt() + 1e-8)


def clipped_objective(ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """L = min(ratio A, clip(ratio, 1 - eps, 1 + eps) A) of each row (Schulman 2017, eq 7)."""
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return torch.minimum(ratio * advantage, clipped * advantage)


def shuffled(columns: Columns, parts: int, axis: int = 0) -> Iterator[Columns]:
    """All of the columns in random order along ``axis``, in ``parts`` nearly equal minibatches.

    Args:
        columns: rows ``(n, ...)`` with axis 0; a rollout ``(T, B, ...)`` with axis 1 gives
            minibatches of whole environments, in which time stays in order.
        parts: how many minibatches.
        axis: what is shuffled.
    """
    first = next(iter(columns.values()))
    order = torch.randperm(first.shape[axis]).to(first.device)  # the same on every device
    pieces = {
        name: column.index_select(axis, order).tensor_split(parts, axis)
        for name, column in columns.items()
    }
    for part in range(parts):
        yield {name: piece[part] for name, piece in pieces.items()}
