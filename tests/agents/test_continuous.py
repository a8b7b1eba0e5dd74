"""What DDPG, TD3 and SAC share: targets, slow copies, gradients, bounds; and what they refuse."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlgen import registry
from rlgen.agents.continuous import Critics, DeterministicPolicy, descend, td_target
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig, resolve_experiment
from rlgen.errors import ConfigError
from rlgen.networks import follow

ALGORITHMS = ["ddpg", "td3", "sac"]
SEEN = gym.spaces.Box(-1.0, 1.0, (3,))
# Two components of other ranges, neither around 0.
LOW, HIGH = np.array([-1.0, 10.0], np.float32), np.array([3.0, 60.0], np.float32)
ACTIONS = gym.spaces.Box(LOW, HIGH)


def agent(name: str, actions: gym.Space[Any] = ACTIONS, **hyperparameters: Any) -> Any:
    torch.manual_seed(0)
    network = NetworkConfig(hidden=[8], activation="relu")
    problem = Problem(SEEN, actions, network=network)
    algorithm = registry.resolve(name)
    algorithm.check(problem)
    return algorithm(algorithm.Config(**hyperparameters), problem, np.random.default_rng(0))


def test_td_target_by_hand():
    """A termination has no successor; a truncation is not in here, so it has."""
    reward, terminated = torch.tensor([1.0, 2.0]), torch.tensor([False, True])
    assert td_target(reward, terminated, torch.tensor([4.0, 9.0]), 0.5).tolist() == [3.0, 2.0]


def test_slow_copies_move_by_the_rate_and_take_the_buffers():
    target, module = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([5.0, -3.0]))
        module.running_mean.copy_(torch.tensor([7.0, 8.0]))
    follow(target, module, 0.25)  # 1 + 0.25 * (5 - 1), 1 + 0.25 * (-3 - 1)
    assert target.weight.tolist() == [2.0, 0.0]
    assert target.running_mean.tolist() == [7.0, 8.0]
    follow(target, module, 1.0)
    assert target.weight.tolist() == [5.0, -3.0]


def test_descend_moves_only_the_parameters_of_its_optimizer():
    """d/dx of x * y at (2, 3) is 3: x - 0.1 * 3; clipped to a norm of 1, x - 0.1."""
    x, y = (torch.nn.Parameter(torch.tensor([v])) for v in (2.0, 3.0))
    optimizer = torch.optim.SGD([x], lr=0.1)
    norm = descend((x * y).sum(), optimizer, max_norm=10.0)
    assert (round(x.item(), 6), y.item(), round(norm.item(), 5)) == (1.7, 3.0, 3.0)
    assert y.grad is None
    norm = descend((x * y).sum(), optimizer, max_norm=1.0)
    assert round(norm.item(), 5) == 3.0  # as it was before the clipping
    assert round(x.item(), 5) == 1.6


@pytest.mark.parametrize("name", ALGORITHMS)
def test_actions_are_within_bounds_that_differ_by_component(name):
    agent_ = agent(name, random_steps=100)
    observation = torch.randn(20_000, 3)
    agent_.starts = np.zeros(20_000, np.bool_)
    low, high = torch.from_numpy(LOW), torch.from_numpy(HIGH)
    # At first uniform between them: mean and variance within five standard errors.
    action = agent_.act(observation, greedy=False)["action"]
    assert action.shape == (20_000, 2) and action.dtype == torch.float32
    unit = (action - low) / (high - low)
    assert (unit.mean(0) - 0.5).abs().max() < 5 * np.sqrt(1 / 12 / 20_000)
    assert (unit.var(0) - 1 / 12).abs().max() < 5 * np.sqrt(1 / 180 / 20_000)
    # Then the policy with noise; one that wants to go beyond stays at the bound.
    agent_.env_steps = 100
    with torch.no_grad():
        agent_.network.layers[-1].bias.fill_(40.0)
    for greedy in (False, True):
        action = agent_.act(observation, greedy)["action"]
        assert (action <= high).all() and (action >= low).all()
        assert torch.equal(action.amax(0), high)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_policy_around_zero_acts_in_the_middle_of_the_bounds(name):
    agent_ = agent(name)
    with torch.no_grad():
        for parameter in agent_.network.layers.parameters():
            parameter.zero_()
    action = agent_.act(torch.randn(4, 3), greedy=True)["action"]
    torch.testing.assert_close(action, torch.tensor([[1.0, 35.0]]).expand(4, 2))


def test_actions_of_any_shape():
    policy = agent("ddpg", gym.spaces.Box(-2.0, 2.0, (2, 2))).network
    assert policy.bounds.to_action(torch.zeros(5, 4)).shape == (5, 2, 2)
    assert policy.bounds.to_unit(torch.full((5, 2, 2), 1.0)).tolist() == [[0.5] * 4] * 5


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            gym.spaces.Discrete(2),
            r"env.id: {} needs a Box of continuous actions, not Discrete\(2\); use dqn or ppo",
        ),
        (
            gym.spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, 1], np.float32)),
            r"env.id: {} squashes actions .* component 1 of Box.* goes from -inf to 1.0; use ppo",
        ),
        (
            gym.spaces.Box(np.array([2.0], np.float32), np.array([2.0], np.float32)),
            r"env.id: {} squashes actions .* component 0 of Box.* goes from 2.0 to 2.0",
        ),
        (
            gym.spaces.Box(0, 5, (1,), np.int64),
            r"env.id: {} needs real-valued actions, not Box\(0, 5, \(1,\), int64\)",
        ),
    ],
)
def test_other_actions_are_refused(name, space, message):
    with pytest.raises(ConfigError, match=message.format(name)):
        registry.resolve(name).check(Problem(SEEN, space, network=NetworkConfig()))


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("ddpg", "learning_starts", 200, r"learning_starts=200 is more than buffer_size=100 holds"),
        ("td3", "learning_starts", 200, r"learning_starts=200 is more than buffer_size=100 holds"),
        ("sac", "learning_starts", 200, r"learning_starts=200 is more than buffer_size=100 holds"),
        ("ddpg", "target_rate", 0.0, r"hyperparameters.target_rate: .*greater than 0"),
        ("ddpg", "noise_reversion", 1.5, r"hyperparameters.noise_reversion: .*less than or equal"),
        ("td3", "policy_periode", 2, r"policy_periode: unknown key; did you mean 'policy_period'"),
        ("sac", "temperature", 0.0, r"hyperparameters.temperature: .*greater than 0"),
    ],
)
def test_bad_hyperparameters_are_refused(name, key, value, message):
    plain = {
        "name": "x",
        "algorithm": name,
        "hyperparameters": {"buffer_size": 100, "learning_starts": 50, key: value},
        "env": {"id": "Pendulum-v1"},
        "stop": {"env_steps": 10},
    }
    with pytest.raises(ConfigError, match=message):
        resolve_experiment(plain)


def test_critics_differ_and_see_standardised_actions():
    torch.manual_seed(0)
    problem = Problem(SEEN, ACTIONS, network=NetworkConfig(hidden=[4]))
    critics = Critics(problem, DeterministicPolicy(problem).encoder.size, 2)
    features, unit = torch.randn(5, 3), torch.rand(5, 2)
    values = critics(features, unit)
    assert values.shape == (2, 5)
    assert not torch.equal(values[0], values[1])
    for values_, layers in zip(values, critics.each, strict=True):
        hidden = torch.cat([features, unit], 1) @ layers[0].weight.T + layers[0].bias
        expected = hidden.tanh() @ layers[2].weight.T + layers[2].bias
        torch.testing.assert_close(values_, expected[:, 0])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_normalised_observations_reach_the_targets_too(name):
    """The encoder's running moments are buffers; a target that kept old ones would be wrong."""
    torch.manual_seed(0)
    problem = Problem(SEEN, ACTIONS, network=NetworkConfig(hidden=[4]), normalize_observation=True)
    algorithm = registry.resolve(name)
    agent_ = algorithm(algorithm.Config(), problem, np.random.default_rng(0))
    agent_.network.encoder.mean.fill_(3.0)
    batch = {
        "observation": torch.randn(4, 3),
        "action": torch.from_numpy(LOW).expand(4, 2),
        "reward": torch.zeros(4),
        "next_observation": torch.randn(4, 3),
        "terminated": torch.zeros(4, dtype=torch.bool),
    }
    for _ in range(2):
        agent_.update(batch)
    target = agent_.targets[0] if name == "sac" else agent_.target_network.encoder
    assert target.mean.tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_encoder_of_images_is_trained_by_the_critics_alone(name):
    torch.manual_seed(0)
    images = gym.spaces.Box(0, 255, (10, 10, 2), np.uint8)
    problem = Problem(images, ACTIONS, network=NetworkConfig(hidden=[4]))
    algorithm = registry.resolve(name)
    agent_ = algorithm(algorithm.Config(), problem, np.random.default_rng(0))
    batch = {
        "observation": torch.randint(256, (6, 10, 10, 2), dtype=torch.uint8),
        "action": torch.from_numpy(LOW).expand(6, 2),
        "reward": torch.ones(6),
        "next_observation": torch.randint(256, (6, 10, 10, 2), dtype=torch.uint8),
        "terminated": torch.zeros(6, dtype=torch.bool),
    }
    encoder = [p.detach().clone() for p in agent_.network.encoder.parameters()]
    assert len(encoder) > 0
    agent_.critic_optimizer.param_groups[0]["lr"] = 0.0
    for _ in range(2):
        agent_.update(batch)
    assert all(
        torch.equal(*pair)
        for pair in zip(encoder, agent_.network.encoder.parameters(), strict=True)
    )
    agent_.critic_optimizer.param_groups[0]["lr"] = 1e-3
    agent_.update(batch)
    assert not any(
        torch.equal(*pair)
        for pair in zip(encoder, agent_.network.encoder.parameters(), strict=True)
    )
