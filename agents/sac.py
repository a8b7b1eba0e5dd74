"""Soft actor-critic."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from rlgen.agents.continuous import (
    Critics,
    ReplayHyperparameters,
    check_bounded_actions,
    descend,
    td_target,
)
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import NotNegative, Positive
from rlgen.networks import SquashedGaussian, follow, make_encoder, make_mlp


class SACConfig(ReplayHyperparameters):
    """Hyper-parameters of SAC, beside those of every algorithm of continuous actions."""

    temperature: Positive = 1.0  # alpha at first
    temperature_learning_rate: NotNegative = 1e-3  # of Adam on log alpha; 0: alpha stays
    target_entropy: float | None = None  # nats, of standardised actions; None: minus their number


class SquashedPolicy(nn.Module):
    """pi(. | s): encoder, perceptron, squashed Gaussian; and the logarithm of the temperature."""

    def __init__(self, problem: Problem, temperature: float) -> None:
        super().__init__()
        self.encoder = make_encoder(problem)
        self.head = SquashedGaussian(problem.action_space)
        self.layers = make_mlp(problem.network, self.encoder.size, self.head.size, last_gain=0.01)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(temperature)))


class SAC(Algorithm):
    """SAC: off-policy actor-critic that also maximises the entropy of its policy.

    One update draws transitions (s, a, r, s') and takes a step on each of three losses, with
    a' ~ pi(. | s'), a~ ~ pi(. | s) (through its random numbers, so that pi gets a gradient) and
    constants y, alpha and log pi where another symbol is learned:

        L_Q = sum_{i=1,2} mean ( y - Q_i(s, a) )^2,
        y = r + gamma * (1 - terminated) * [ min_i Q'_i(s', a') - alpha * log pi(a' | s') ],
        L_pi = mean [ alpha * log pi(a~ | s) - min_i Q_i(s, a~) ],
        L_alpha = -log alpha * mean [ log pi(a~ | s) + target entropy ].

    The targets Q' then move by tau of their distance (Polyak averaging). Densities are those of
    actions standardised to [-1, 1]^d, and the target entropy is -d unless given. Not in the book.

    Haarnoja et al., *Soft actor-critic algorithms and applications*, 2018, algorithm 1 (with
    log alpha for alpha in the last loss, as in the authors' program).
    """

    Config = SACConfig
    uses_network = True
    data_parallel = True
    modes = ("sync", "async")
    config: SACConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that are not in a bounded box, and observations without an encoder."""
        check_bounded_actions(problem, "sac")

    def __init__(self, config: SACConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        net = self.network = SquashedPolicy(problem, config.temperature)
        self.critics = Critics(problem, net.encoder.size, 2)
        self.targets = copy.deepcopy(nn.ModuleList([net.encoder, self.critics]))
        self.targets.requires_grad_(False)
        size, entropy = net.head.bounds.size, config.target_entropy
        self.target_entropy = -float(size) if entropy is None else entropy
        adam, critics = torch.optim.Adam, [*net.encoder.parameters(), *self.critics.parameters()]
        rates = config.policy_learning_rate, config.temperature_learning_rate
        self.policy_optimizer = adam(net.layers.parameters(), lr=rates[0], fused=True)
        self.critic_optimizer = adam(critics, lr=config.critic_learning_rate, fused=True)
        self.temperature_optimizer = adam([net.log_alpha], lr=rates[1], fused=True)
        self.replay = config.plan()

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Actions drawn from the policy, its mean when greedy; uniformly random at first."""
        net = self.network
        outputs = net.layers(net.encoder(observation))
        if greedy:
            return {"action": net.head.mode(outputs)}
        if self.env_steps < self.config.random_steps:
            unit = 2.0 * torch.rand_like(outputs.chunk(2, dim=-1)[0]) - 1.0
            return {"action": net.head.bounds.to_action(unit)}
        return {"action": net.head.sample(outputs)}

    def _target(self, batch: dict[str, Tensor], alpha: Tensor) -> Tensor:
        """y ``(B,)``."""
        net, (encoder, critics) = self.network, self.targets
        unit, log_prob = net.head.draw(net.layers(net.encoder(batch["next_observation"])))
        q = critics(encoder(batch["next_observation"]), unit).amin(dim=0)
        soft_value = q - alpha * log_prob
        return td_target(batch["reward"], batch["terminated"], soft_value, self.config.gamma)

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """Descend on one minibatch of B transitions."""
        c, net = self.config, self.network
        alpha = net.log_alpha.detach().exp()
        with torch.no_grad():
            y = self._target(batch, alpha)
        features = net.encoder(batch["observation"])
        q = self.critics(features, net.head.bounds.to_unit(batch["action"]))
        critic_loss = (q - y).square().mean(dim=1).sum()
        norm = descend(critic_loss, self.critic_optimizer, c.max_gradient_norm)
        features = features.detach()
        unit, log_prob = net.head.draw(net.layers(features))
        policy_loss = (alpha * log_prob - self.critics(features, unit).amin(dim=0)).mean()
        descend(policy_loss, self.policy_optimizer, c.max_gradient_norm)
        entropy = -log_prob.detach().mean()
        temperature_loss = net.log_alpha * (entropy - self.target_entropy)
        descend(temperature_loss, self.temperature_optimizer, c.max_gradient_norm)
        follow(self.targets, nn.ModuleList([net.encoder, self.critics]), c.target_rate)
        return {
            "critic_loss": critic_loss.detach(), "q": q.detach().mean(), "gradient_norm": norm,
            "entropy": entropy, "temperature": alpha,
        }  # fmt: skip


if __name__ == "__main__":
    import rlgen

    rlgen.train("sac-pendulum")
