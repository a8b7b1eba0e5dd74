"""IMPALA's step against a slow loop on a rollout of another policy; lag that is real; learning."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rollouts import random_rollout
from torch import Tensor

import rlgen
from rlgen import tracking
from rlgen.agents.a2c import A2C
from rlgen.agents.impala import IMPALA
from rlgen.algorithm import Problem, read_weights
from rlgen.config import NetworkConfig, load_experiment
from rlgen.errors import ConfigError

STEPS, ENVS, FEATURES = 7, 5, 3
GAMMA, RHO, C = 0.9, 1.5, 0.8
SPACES = [gym.spaces.Discrete(3), gym.spaces.Box(-2.0, 2.0, (2,))]


def agent(kind: Any, action_space: gym.Space[Any], **hyperparameters: Any) -> Any:
    torch.manual_seed(0)
    space = gym.spaces.Box(-np.inf, np.inf, (FEATURES,))
    problem = Problem(space, action_space, network=NetworkConfig(hidden=[8]))
    kind.check(problem)
    given = {"gamma": GAMMA, "max_gradient_norm": 1e9} | hyperparameters
    algorithm = kind(kind.Config(**given), problem, np.random.default_rng(0))
    with torch.no_grad():  # away from the nearly uniform policy of the start
        algorithm.network.policy[-1].weight.normal_()
    return algorithm


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).clone()


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_update_is_one_gradient_step_on_a_slow_loop(space):
    """The recursion of the paper's remark 1, row by row; w - g for plain descent of rate 1."""
    impala = agent(
        IMPALA, space, rho_clip=RHO, c_clip=C, value_coefficient=0.3, entropy_coefficient=0.05
    )
    batch, net = random_rollout(impala), impala.network
    noise = np.random.default_rng(3).normal(scale=0.6, size=(STEPS, ENVS))
    batch["log_prob"] = batch["log_prob"] + torch.from_numpy(noise).float()
    total, rows, ratios = torch.zeros(()), 0, []
    for b in range(ENVS):
        after = above = 0.0  # v_{t+1}, v_{t+1} - V(s_{t+1})
        for t in reversed(range(STEPS)):
            value = net.value(batch["observation"][t, b]).squeeze()
            outputs = net.policy(batch["observation"][t, b])
            log_prob = net.head.log_prob(outputs, batch["action"][t, b])
            ratio = (log_prob - batch["log_prob"][t, b]).exp().item()
            future = 0.0
            if batch["terminated"][t, b]:
                after = above = 0.0
            elif batch["truncated"][t, b] or t == STEPS - 1:
                after = future = net.value(batch["next_observation"][t, b]).item()
                above = 0.0
            else:
                future = net.value(batch["observation"][t + 1, b]).item()
            reward, rho = batch["reward"][t, b].item(), min(RHO, ratio)
            advantage = rho * (reward + GAMMA * after - value.item())
            above = rho * (reward + GAMMA * future - value.item()) + GAMMA * min(C, ratio) * above
            after = value.item() + above
            if batch["valid"][t, b]:
                entropy = net.head.entropy(outputs)
                total = total - log_prob * advantage + 0.3 * (after - value) ** 2 - 0.05 * entropy
                rows += 1
                ratios.append(ratio)
    assert min(ratios) < C < RHO < max(ratios)
    gradients = torch.autograd.grad(total / rows, list(net.parameters()))
    expected = flat(net.parameters()) - flat(gradients)
    impala.optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    metrics = impala.update(batch)
    torch.testing.assert_close(flat(net.parameters()), expected, rtol=1e-4, atol=2e-5)
    assert metrics["rho"].item() == pytest.approx(np.minimum(ratios, RHO).mean(), rel=1e-4)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_on_the_workers_own_weights_it_is_a2c(space):
    given = {"learning_rate": 1e-3, "entropy_coefficient": 0.01}
    impala, a2c = agent(IMPALA, space, **given), agent(A2C, space, **given)
    batch = random_rollout(impala)
    impala.update(batch)
    a2c.update(batch)
    np.testing.assert_allclose(read_weights(impala), read_weights(a2c), rtol=0, atol=1e-5)


def test_clips_that_contradict_the_paper_are_refused():
    message = r"hyperparameters: c_clip=2 is above rho_clip=1; V-trace needs c_clip <= rho_clip"
    with pytest.raises(ConfigError, match=message):
        load_experiment("impala-cartpole", ["hyperparameters.c_clip=2.0"])


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_batches_of_older_weights_are_learned_from(backend, tmp_path):
    changes = {"stop": {"env_steps": 6000}, "evaluation.every": 0, "scheduler.backend": backend}
    run = rlgen.train("impala-cartpole", {"run.dir": str(tmp_path), **changes})
    records = [r for r in tracking.read_metrics(run.dir) if r["kind"] == "train"]
    assert max(record.get("lag_max", 0) for record in records) >= 1
    assert 0.5 < run.summary["metrics"]["rho"] <= 1.0
    assert run.summary["dropped"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_impala_solves_cartpole_within_300000_steps(seed, tmp_path):
    run = rlgen.train("impala-cartpole", {"run.dir": str(tmp_path), "seed": seed})
    assert run.experiment.scheduler.mode == "async"
    assert (run.experiment.stop.target, run.experiment.stop.target_evaluations) == (475, 2)
    assert run.summary["stop_reason"] == "target"
    assert run.summary["env_steps"] <= 300_000
