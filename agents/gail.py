"""Generative adversarial imitation learning."""

from __future__ import annotations

from typing import Annotated, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from rlgen.agents.discriminator import Discriminator
from rlgen.agents.policies import ActorCritic, check_policy, clipped_objective, shuffled
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.batch import to_tensors
from rlgen.config import Count, Fraction, Hyperparameters, NotNegative, Positive
from rlgen.demonstrations import Demonstrations
from rlgen.networks import clip_gradients
from rlgen.returns import gae


class GAILConfig(Hyperparameters):
    """Hyper-parameters of GAIL."""

    gamma: Fraction = 0.99  # discount of the learned rewards, in [0, 1]
    gae_lambda: Fraction = 0.95  # of the advantage estimates, in [0, 1]
    rollout_steps: Annotated[int, Field(ge=2)] = 64  # T, steps per environment and update
    epochs: Count = 5  # passes over the rollout, of the policy and of the discriminator
    minibatch_size: Count = 256  # transitions per step of Adam
    clip_range: Positive = 0.2  # the ratio counts within 1 +- this, > 0
    learning_rate: Positive = 1e-3  # of the policy's Adam, > 0
    discriminator_rate: Positive = 3e-4  # of the discriminator's Adam, > 0
    value_coefficient: NotNegative = 0.5  # c_v, >= 0
    entropy_coefficient: NotNegative = 0.0  # c_e, >= 0
    max_gradient_norm: Positive = 0.5  # clipped above it, > 0


class GAIL(Algorithm):
    """GAIL: a discriminator learns what tells the policy from the expert; that is the reward.

    Each update, on a rollout of the policy and as many steps drawn from the expert's recording:

    1. the discriminator D(s, a) takes steps of Adam down the cross-entropy

           -mean_expert [ log D(s, a) ] - mean_policy [ log (1 - D(s, a)) ];

    2. the policy takes steps of PPO (clipped ratio, generalised advantages) on the rewards
       r(s, a) = -log(1 - D(s, a)), which the environment's own rewards never enter.

    The book only names inverse reinforcement learning (section 14.5); as in a GAN (its eq 13.31),
    D = 1/2 everywhere is the end. These rewards are never negative, so they also say "stay alive"
    where episodes can terminate: an expert that ends its episodes soon is imitated less well.

    Ho and Ermon, *Generative adversarial imitation learning*, 2016, algorithm 1 (whose D is the
    probability of the policy, ours of the expert, and whose TRPO step is PPO's here).
    """

    Config = GAILConfig
    uses_network = True
    uses_demonstrations = True
    data_parallel = whole_batch = True
    config: GAILConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that have no policy head, and observations that have no encoder."""
        check_policy(problem)

    def __init__(self, config: GAILConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.shown = cast(Demonstrations, problem.demonstrations)
        self.network = ActorCritic(problem)
        self.discriminator = Discriminator(problem, self.shown)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, eps=1e-5, fused=True
        )
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=config.discriminator_rate, fused=True
        )

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Actions drawn from the policy, with their log-probability; its mode when greedy."""
        action, outputs = self.network.act(observation, greedy)
        return {"action": action, "log_prob": self.network.head.log_prob(outputs, action)}

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """Teach the discriminator, then the policy, on a rollout ``(T, B, ...)``."""
        c, valid = self.config, batch["valid"]
        names = ("observation", "action", "log_prob")
        rows = {name: batch[name][valid] for name in names}
        parts = max(len(rows["action"]) // c.minibatch_size, 1)
        for _ in range(c.epochs):
            for minibatch in shuffled(rows, parts):
                metrics = self._discriminate(minibatch)
        rows |= {name: column[valid] for name, column in self._advantages(batch).items()}
        deviation, mean = torch.std_mean(rows["advantage"], correction=0)
        rows["advantage"] = (rows["advantage"] - mean) / (deviation + 1e-8)
        for _ in range(c.epochs):
            for minibatch in shuffled(rows, parts):
                metrics |= self._imitate(self.part(minibatch, 0))
        return metrics

    def _discriminate(self, policy: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of the discriminator, on as many of the expert's steps."""
        count = len(policy["action"])
        drawn = self.shown.columns("train", self.rng.integers(self.shown.count(), size=count))
        expert = self.part(to_tensors(drawn, str(policy["action"].device)), 0)
        policy = self.part(policy, 0)
        real = self.discriminator(expert["observation"], expert["action"])
        fake = self.discriminator(policy["observation"], policy["action"])
        loss = functional.softplus(-real).mean() + functional.softplus(fake).mean()
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()
        accuracy = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        return {"discriminator_loss": loss.detach(), "discriminator_accuracy": accuracy}

    def _advantages(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Advantages of the learned rewards, and the values' targets, ``(T, B)``."""
        net, c = self.network, self.config
        with torch.no_grad():
            # -log(1 - sigmoid(x)) = softplus(x)
            reward = functional.softplus(self.discriminator(batch["observation"], batch["action"]))
            value = net(batch)[1]
            advantage = gae(
                reward, value, net.next_values(batch, value),
                batch["terminated"], batch["truncated"], c.gamma, c.gae_lambda,
            )  # fmt: skip
        return {"advantage": advantage, "return": advantage + value}

    def _imitate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of PPO on a minibatch ``(n, ...)``."""
        net, c = self.network, self.config
        outputs, value = net(batch)
        ratio = (net.head.log_prob(outputs, batch["action"]) - batch["log_prob"]).exp()
        policy_loss = -clipped_objective(ratio, batch["advantage"], c.clip_range).mean()
        value_loss = (batch["return"] - value).square().mean()
        entropy = net.head.entropy(outputs).mean()
        loss = policy_loss + c.value_coefficient * value_loss - c.entropy_coefficient * entropy
        self.optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(net.parameters(), c.max_gradient_norm)
        self.optimizer.step()
        return {"entropy": entropy.detach(), "gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("gail-cartpole")
