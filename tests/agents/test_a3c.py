"""A3C's gradient against slow loops and an exact policy gradient; shared RMSprop by hand."""

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rollouts import random_rollout
from torch import Tensor

from rlgen.agents.a3c import A3C
from rlgen.algorithm import Problem, read_weights
from rlgen.config import NetworkConfig
from rlgen.errors import ConfigError

STEPS, ENVS, FEATURES = 7, 5, 3
ACTION_SPACES = [
    gym.spaces.Discrete(3),
    gym.spaces.MultiDiscrete([2, 3]),
    gym.spaces.Box(-2.0, 2.0, (2,)),
]


def agent(action_space: gym.Space[Any], *, normalize: bool = False, **hyperparameters: Any) -> A3C:
    torch.manual_seed(0)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (FEATURES,))
    network = NetworkConfig(hidden=[8])
    problem = Problem(
        observation_space, action_space, network=network, normalize_observation=normalize
    )
    A3C.check(problem)
    a3c = A3C(A3C.Config(**hyperparameters), problem, np.random.default_rng(0))
    with torch.no_grad():  # away from the nearly uniform policy of the start
        last: Any = a3c.network.policy[-1]
        last.weight.normal_()
    return a3c


def flat(gradients: Any) -> Tensor:
    return torch.cat([g.reshape(-1) for g in gradients])


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=str)
def test_gradient_equals_a_slow_loop(action_space):
    """Step by step: n-step return, advantage, log-probability, entropy, mean over valid rows."""
    a3c = agent(action_space, gamma=0.9, value_coefficient=0.3, entropy_coefficient=0.05)
    batch, net = random_rollout(a3c), a3c.network
    total, rows = torch.zeros(()), 0
    for b in range(ENVS):
        for t in range(STEPS):
            if not batch["valid"][t, b]:
                continue
            return_, discount = 0.0, 1.0
            for k in range(t, STEPS):
                return_ += discount * batch["reward"][k, b].item()
                discount *= 0.9
                if batch["terminated"][k, b]:
                    break
                if batch["truncated"][k, b] or k == STEPS - 1:
                    return_ += discount * net.value(batch["next_observation"][k, b]).item()
                    break
            value = net.value(batch["observation"][t, b]).squeeze()
            outputs = net.policy(batch["observation"][t, b])
            log_prob = net.head.log_prob(outputs, batch["action"][t, b])
            advantage = return_ - value.item()
            entropy = net.head.entropy(outputs)
            total = total - log_prob * advantage + 0.3 * (return_ - value) ** 2 - 0.05 * entropy
            rows += 1
    expected = torch.autograd.grad(total / rows, list(net.parameters()))
    produced = a3c.process(batch)
    assert produced["gradient"].shape == (1, sum(p.numel() for p in net.parameters()))
    torch.testing.assert_close(produced["gradient"][0], flat(expected), rtol=1e-4, atol=1e-5)
    assert {name: tuple(c.shape) for name, c in produced.items() if name != "gradient"} == {
        "policy_loss": (1,),
        "value_loss": (1,),
        "entropy": (1,),
    }


def test_rows_that_only_reset_have_no_influence():
    a3c = agent(gym.spaces.Discrete(3))
    batch = random_rollout(a3c)
    other = {name: column.clone() for name, column in batch.items()}
    for name in ("observation", "next_observation", "reward"):
        other[name][~batch["valid"]] = 1e3
    other["action"][~batch["valid"]] = 0
    for name, column in a3c.process(batch).items():
        torch.testing.assert_close(a3c.process(other)[name], column, msg=name)


def test_a_rollout_of_resets_only_gives_no_gradient():
    a3c = agent(gym.spaces.Discrete(3))
    batch = {name: column[:1] for name, column in random_rollout(a3c).items()}
    batch["valid"] = torch.zeros(1, ENVS, dtype=torch.bool)
    assert not a3c.process(batch)["gradient"].any()


def test_expected_gradient_is_the_exact_policy_gradient():
    """One-step episodes in two states with three actions: all of them at once, as often as p.

    J = sum_s 1/2 sum_a pi(a | s) r(s, a) is differentiated exactly. The batch has every (s, a)
    as often as pi has it (24 of 24 per state), so its mean is the expectation, and the baseline
    V(s) drops out (eq 14.64 to 14.67).
    """
    a3c = agent(gym.spaces.Discrete(3), value_coefficient=0.0, entropy_coefficient=0.0)
    net = a3c.network
    states = torch.eye(3)[:2]
    reward = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]])
    counts = ((12, 8, 4), (6, 6, 12))
    with torch.no_grad():  # logits that give these probabilities, by the last layer alone
        hidden = net.policy[:-1](states)
        logits = torch.tensor(counts).float().log()
        solution = torch.linalg.lstsq(hidden, logits).solution
        net.policy[-1].weight.copy_(solution.T)
        torch.testing.assert_close(net.policy(states), logits, rtol=1e-4, atol=1e-4)
    objective = 0.5 * (net.policy(states).softmax(1) * reward).sum()
    exact = torch.autograd.grad(objective, list(net.policy.parameters()))

    pairs = [(s, a) for s, a in itertools.product(range(2), range(3)) for _ in range(counts[s][a])]
    s, a = torch.tensor(pairs).T
    ended = torch.ones(1, len(s), dtype=torch.bool)
    batch = {
        "observation": states[s][None],
        "next_observation": states[s][None],
        "action": a[None],
        "reward": reward[s, a][None],
        "terminated": ended,
        "truncated": ~ended,
        "valid": ended,
    }
    gradient = a3c.process(batch)["gradient"][0]
    parts = gradient.split([p.numel() for p in net.parameters()])
    of_policy = {id(p) for p in net.policy.parameters()}
    ours = [g for p, g in zip(net.parameters(), parts, strict=True) if id(p) in of_policy]
    torch.testing.assert_close(-flat(ours), flat(exact), rtol=1e-3, atol=1e-4)


def test_gradients_are_applied_one_by_one_with_shared_statistics():
    """RMSprop: v = alpha v + (1 - alpha) g^2, w -= lr g / (sqrt(v) + eps), g clipped by norm."""
    a3c = agent(
        gym.spaces.Box(-1.0, 1.0, (1,)),
        normalize=True,  # buffers travel with the weights but are no parameters
        learning_rate=0.01,
        rmsprop_decay=0.9,
        rmsprop_epsilon=1e-3,
        max_gradient_norm=1.5,
    )
    weights = flat([p.detach() for p in a3c.network.parameters()]).clone()
    torch.manual_seed(2)
    gradients = torch.randn(2, len(weights)) * torch.tensor([[0.01], [3.0]])
    kept = gradients.clone()
    squares, expected = torch.zeros_like(weights), weights.clone()
    for gradient in gradients:
        clipped = gradient * min(1.0, 1.5 / gradient.norm().item())
        squares = 0.9 * squares + 0.1 * clipped**2
        expected -= 0.01 * clipped / (squares.sqrt() + 1e-3)
    columns = {name: torch.tensor([1.0, 3.0]) for name in ("policy_loss", "value_loss", "entropy")}
    metrics = a3c.update({"gradient": gradients} | columns)
    actual = flat([p.detach() for p in a3c.network.parameters()])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(gradients, kept)  # the batch may be shared memory
    torch.testing.assert_close(metrics["gradient_norm"], gradients[1].norm())
    assert metrics["entropy"].item() == 2.0
    assert len(read_weights(a3c)) > len(weights)


def test_two_rows_equal_two_updates():
    first, second = (agent(gym.spaces.Discrete(2)) for _ in range(2))
    batches = [first.process(random_rollout(first, seed=seed)) for seed in (1, 2)]
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    first.update(joined)
    for batch in batches:
        second.update(batch)
    np.testing.assert_array_equal(read_weights(first), read_weights(second))


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=str)
def test_greedy_actions_are_the_mode(action_space):
    a3c = agent(action_space)
    observation = torch.randn(50, FEATURES)
    with torch.no_grad():
        greedy = a3c.act(observation, greedy=True)["action"]
        assert torch.equal(greedy, a3c.network.head.mode(a3c.network.policy(observation)))
        assert not torch.equal(greedy, a3c.act(observation, greedy=False)["action"])


def test_learns_to_repeat_what_it_sees():
    """Reward 1 where the action is the brightest of three inputs."""
    a3c = agent(gym.spaces.Discrete(3), gamma=0.0, learning_rate=0.01, max_gradient_norm=5.0)
    inputs = torch.eye(3)
    off = torch.zeros(4, 16, dtype=torch.bool)
    for _ in range(80):
        state = torch.from_numpy(a3c.rng.integers(3, size=(5, 16)))
        with torch.no_grad():
            action = a3c.act(inputs[state[:-1]], greedy=False)["action"]
        batch = {
            "observation": inputs[state[:-1]],
            "next_observation": inputs[state[1:]],
            "action": action,
            "reward": (action == state[:-1]).float(),
            "terminated": off,
            "truncated": off,
            "valid": ~off,
        }
        a3c.update(a3c.process(batch))
    assert a3c.act(inputs, greedy=True)["action"].tolist() == [0, 1, 2]


def test_unsupported_actions_are_refused():
    problem = Problem(gym.spaces.Discrete(2), gym.spaces.MultiBinary(3))
    with pytest.raises(ConfigError, match=r"env.id: actions in MultiBinary\(3\) are not supported"):
        A3C.check(problem)


def test_normalising_discrete_observations_is_refused():
    space = gym.spaces.Discrete(2)
    problem = Problem(space, space, normalize_observation=True)
    with pytest.raises(ConfigError, match=r"env.normalize_observation: only for Box"):
        A3C.check(problem)
