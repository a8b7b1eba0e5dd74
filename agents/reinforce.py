"""REINFORCE, with or without a baseline."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from rlgen.agents.policies import ActorCritic, check_policy
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Fraction, Hyperparameters, Positive
from rlgen.networks import clip_gradients
from rlgen.returns import n_step_returns


class REINFORCEConfig(Hyperparameters):
    """Hyper-parameters of REINFORCE."""

    gamma: Fraction = 0.99  # discount, in [0, 1]
    discount_weighting: bool = True  # weigh step t by gamma^t, as the exact gradient does
    baseline: bool = False  # subtract V(s_t) from G_t
    episodes: Count = 8  # N, complete episodes per update, at least
    rollout_steps: Count = 32  # steps per environment and cycle; 1 with one environment: the book's
    learning_rate: Positive = 5e-3  # alpha of the policy's Adam, > 0
    value_learning_rate: Positive = 5e-3  # beta of the baseline's, > 0
    max_gradient_norm: Positive = 100.0  # clipped above it, > 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.baseline:
            self.refuse_idle(["value_learning_rate"], "baseline=true")
        return self


class REINFORCE(Algorithm):
    """REINFORCE: Monte Carlo policy gradient (Algorithms 14.6 and 14.7, sections 14.3.1, 14.3.2).

    From N complete episodes, with G_t = r_{t+1} + gamma r_{t+2} + ... (eq 14.55), one step up

        1/N sum_episodes sum_t  gamma^t (G_t - b(s_t)) grad log pi(a_t | s_t),        (eq 14.56)

    where b is 0, or with ``baseline`` V(s_t) before the step, which itself goes up
    1/N sum sum (G_t - V(s_t)) grad V(s_t). With gamma^t this is the exact gradient of the expected
    discounted return; without it late steps count as much as early ones, which is biased, and
    how long episodes are learned from in practice.

    The listings step inside the loop over t, so that later terms mix old actions with a moved
    policy, and let t run to T, where there is no action. Here all terms are summed up first.

    Workers send an episode when it has ended, whole; an episode that is cut by a time limit counts
    as ended. With one environment and one step per cycle the policy never changes within an
    episode; with more, an episode may have begun under weights that are some updates older.

    Williams, *Simple statistical gradient-following algorithms*, 1992.

    Attributes:
        running: on a worker, the columns ``(K, B, ...)`` of episodes that have not ended yet.
        held: on the learner, rows of ended episodes that wait for others to make up N.
    """

    Config = REINFORCEConfig
    uses_network = True
    batch_axis = 0
    config: REINFORCEConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that have no policy head, and observations that have no encoder."""
        check_policy(problem)

    def __init__(self, config: REINFORCEConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.network = ActorCritic(problem)
        rate, value_rate = config.learning_rate, config.value_learning_rate
        groups = self.network.parameter_groups(rate, value_rate)
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self.running: dict[str, Tensor] = {}
        self.held: dict[str, Tensor] = {}

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Actions drawn from the policy; its mode when greedy."""
        action, _ = self.network.act(observation, greedy)
        return {"action": action, "start": torch.from_numpy(self.starts)}

    def process(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows ``(n, ...)`` of the episodes that ended in a rollout ``(T, B, ...)``.

        Columns "observation", "action", "return" G_t, and "time" t within the episode.
        """
        if self.running:
            # An episode that was begun anew before it had ended (a resumed run) is lost.
            going = self.running["valid"] & ~batch["start"][0]
            running = self.running | {"valid": going}
            batch = {name: torch.cat([running[name], batch[name]]) for name in running}
        ended = batch["terminated"] | batch["truncated"]
        complete = ended.flip(0).cummax(0).values.flip(0)  # an end is at this row or below it
        zero = torch.zeros_like(batch["reward"])
        return_ = n_step_returns(batch["reward"], zero, ended, ended, self.config.gamma)
        row = torch.arange(len(ended))[:, None].expand_as(ended)
        time = row - torch.where(batch["start"], row, 0).cummax(0).values
        done = batch["valid"] & complete
        keep = batch["valid"] & ~complete
        first = int(keep.any(1).long().argmax()) if keep.any() else len(keep)
        self.running = {name: column[first:] for name, column in (batch | {"valid": keep}).items()}
        columns = {"return": return_, "time": time}
        columns |= {name: batch[name] for name in ("observation", "action")}
        return {name: column[done] for name, column in columns.items()}

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """One step from all episodes at hand, once they are N."""
        if self.held:
            batch = {name: torch.cat([self.held[name], batch[name]]) for name in batch}
        episodes = int((batch["time"] == 0).sum())
        enough = episodes >= self.config.episodes
        self.held = {} if enough else batch
        return self._step(batch, episodes) if enough else {}

    def _step(self, batch: dict[str, Tensor], episodes: int) -> Metrics:
        net, c = self.network, self.config
        outputs, value = net(batch)
        advantage = batch["return"] - value.detach() if c.baseline else batch["return"]
        if c.discount_weighting:
            advantage = advantage * c.gamma ** batch["time"].to(advantage)
        log_prob = net.head.log_prob(outputs, batch["action"])
        policy_loss = -(log_prob * advantage).sum() / episodes
        value_loss = 0.5 * (batch["return"] - value).square().sum() / episodes
        loss = policy_loss + value_loss if c.baseline else policy_loss
        self.optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(net.parameters(), c.max_gradient_norm)
        self.optimizer.step()
        metrics = {"policy_loss": policy_loss, "value_loss": value_loss}
        metrics |= {"entropy": net.head.entropy(outputs).mean()}
        return {k: v.detach() for k, v in metrics.items()} | {"gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("reinforce-cartpole")
