"""A2C's step against a slow loop over the rows; its options; learning."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rollouts import random_rollout
from torch import Tensor

import rlgen
from rlgen.agents.a2c import A2C
from rlgen.agents.policies import normalized
from rlgen.algorithm import Problem, read_weights
from rlgen.config import NetworkConfig, load_experiment
from rlgen.errors import ConfigError

STEPS, ENVS, FEATURES = 7, 5, 3
GAMMA = 0.9
SPACES = [gym.spaces.Discrete(3), gym.spaces.Box(-2.0, 2.0, (2,))]


def agent(action_space: gym.Space[Any], **hyperparameters: Any) -> A2C:
    torch.manual_seed(0)
    space = gym.spaces.Box(-np.inf, np.inf, (FEATURES,))
    problem = Problem(space, action_space, network=NetworkConfig(hidden=[8]))
    A2C.check(problem)
    given = {"gamma": GAMMA, "max_gradient_norm": 1e9} | hyperparameters
    a2c = A2C(A2C.Config(**given), problem, np.random.default_rng(0))
    with torch.no_grad():  # away from the nearly uniform policy of the start
        last: Any = a2c.network.policy[-1]
        last.weight.normal_()
    return a2c


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).clone()


def slow_advantage(net: Any, batch: dict[str, Tensor], t: int, b: int, lam: float) -> float:
    """The generalised estimate of one row as the sum of discounted errors, step by step."""
    total, weight = 0.0, 1.0
    for k in range(t, STEPS):
        future = 0.0
        if not batch["terminated"][k, b]:
            future = net.value(batch["next_observation"][k, b]).item()
            if not batch["truncated"][k, b] and k < STEPS - 1:
                future = net.value(batch["observation"][k + 1, b]).item()
        value = net.value(batch["observation"][k, b]).item()
        total += weight * (batch["reward"][k, b].item() + GAMMA * future - value)
        weight *= GAMMA * lam
        if batch["terminated"][k, b] or batch["truncated"][k, b]:
            break
    return total


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(
    "space", [gym.spaces.Discrete(3), gym.spaces.Box(-2.0, 2.0, (2,))], ids=str
)
@pytest.mark.parametrize("normalize", [False, True])
def test_update_is_one_gradient_step_on_a_slow_loop(space, lam, normalize):
    """w - g exactly, for plain descent of rate 1; invalid rows have no part in it."""
    a2c = agent(
        space,
        gae_lambda=lam,
        value_coefficient=0.3,
        entropy_coefficient=0.05,
        normalize_advantage=normalize,
    )
    batch, net = random_rollout(a2c), a2c.network
    places = [(t, b) for t in range(STEPS) for b in range(ENVS) if batch["valid"][t, b]]
    advantages = np.array([slow_advantage(net, batch, t, b, lam) for t, b in places])
    weights = (advantages - advantages.mean()) / advantages.std() if normalize else advantages
    total = torch.zeros(())
    for (t, b), advantage, weight in zip(places, advantages, weights, strict=True):
        value = net.value(batch["observation"][t, b]).squeeze()
        outputs = net.policy(batch["observation"][t, b])
        log_prob = net.head.log_prob(outputs, batch["action"][t, b])
        error = float(advantage) + value.item() - value
        entropy = net.head.entropy(outputs)
        total = total - log_prob * float(weight) + 0.3 * error**2 - 0.05 * entropy
    gradients = torch.autograd.grad(total / len(places), list(net.parameters()))
    expected = flat(net.parameters()) - flat(gradients)
    a2c.optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    metrics = a2c.update(batch)
    torch.testing.assert_close(flat(net.parameters()), expected, rtol=1e-4, atol=1e-5)
    assert metrics["gradient_norm"].item() == pytest.approx(flat(gradients).norm().item(), rel=1e-4)


def test_rows_that_only_reset_have_no_influence():
    first, second = (agent(gym.spaces.Discrete(3)) for _ in range(2))
    batch = random_rollout(first)
    other = {name: column.clone() for name, column in batch.items()}
    for name in ("observation", "next_observation", "reward"):
        other[name][~batch["valid"]] = 1e3
    other["action"][~batch["valid"]] = 0
    first.update(batch)
    second.update(other)
    np.testing.assert_allclose(read_weights(first), read_weights(second), rtol=0, atol=1e-6)


def test_a_rollout_of_resets_only_leaves_the_weights_finite():
    a2c = agent(gym.spaces.Discrete(3), normalize_advantage=True)
    batch = {name: column[:1] for name, column in random_rollout(a2c).items()}
    before = read_weights(a2c)
    a2c.update(batch | {"valid": torch.zeros(1, ENVS, dtype=torch.bool)})
    np.testing.assert_array_equal(read_weights(a2c), before)


@pytest.mark.parametrize(("now", "share"), [(0, 1.0), (250, 0.75), (1000, 0.0), (5000, 0.0)])
def test_annealing_ends_at_rate_0(now, share):
    """The first step of RMSprop is lr g / (sqrt(0.01) |g|): proportional to the rate."""
    constant, annealed = (agent(gym.spaces.Discrete(3), annealing_steps=n) for n in (0, 1000))
    before, batch = flat(constant.network.parameters()), random_rollout(constant, seed=2)
    moved = []
    for a2c in (constant, annealed):
        a2c.env_steps = now
        a2c.update(batch)
        moved.append(flat(a2c.network.parameters()) - before)
    assert moved[0].abs().max() > 1e-3
    torch.testing.assert_close(moved[1], share * moved[0], rtol=1e-3, atol=1e-6)


def test_normalized_values_have_mean_0_and_deviation_1():
    values, valid = torch.tensor([1.0, 5.0, 3.0, 1e6]), torch.tensor([True, True, True, False])
    result = normalized(values, valid)[:3]
    torch.testing.assert_close(result, torch.tensor([-1.0, 1.0, 0.0]) * 1.5**0.5)
    assert torch.equal(normalized(torch.ones(2), torch.ones(2, dtype=torch.bool)), torch.zeros(2))


def test_unsupported_actions_are_refused():
    problem = Problem(gym.spaces.Discrete(2), gym.spaces.MultiBinary(3))
    with pytest.raises(ConfigError, match=r"env.id: actions in MultiBinary\(3\) are not supported"):
        A2C.check(problem)


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("gae_lambda", 1.5, r"hyperparameters.gae_lambda: .*less than or equal to 1 \(got 1.5\)"),
        ("learning_rate", 0, r"hyperparameters.learning_rate: .*greater than 0 \(got 0\)"),
        ("anealing_steps", 9, r"anealing_steps: unknown key; did you mean 'annealing_steps'"),
    ],
)
def test_bad_hyperparameters_are_refused(key, given, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment("a2c-cartpole", [f"hyperparameters.{key}={given}"])


def solves_cartpole(name: str, tmp_path: Any, seed: int, most: int) -> None:
    run = rlgen.train(name, {"run.dir": str(tmp_path), "seed": seed})
    assert run.experiment.stop.target_evaluations == 2
    assert (run.experiment.stop.target, run.experiment.evaluation.episodes) == (475, 20)
    assert run.summary["stop_reason"] == "target"
    assert run.summary["env_steps"] <= most


def test_a2c_solves_cartpole_within_100000_steps(tmp_path):
    solves_cartpole("a2c-cartpole", tmp_path, seed=0, most=100_000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_a2c_solves_cartpole_with_every_seed(seed, tmp_path):
    solves_cartpole("a2c-cartpole", tmp_path, seed, most=100_000)
