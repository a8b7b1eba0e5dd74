"""The one-step actor-critic against a slow run of listing 14.8; its batches; learning."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rollouts import random_rollout
from torch import Tensor

import rlgen
from rlgen.agents.actor_critic import OneStepActorCritic
from rlgen.algorithm import Problem, read_weights
from rlgen.config import NetworkConfig
from rlgen.errors import ConfigError

STATES, ACTIONS, GAMMA, ALPHA, BETA = 4, 3, 0.9, 0.05, 0.2


def agent(observation_space: gym.Space[Any], **hyperparameters: Any) -> OneStepActorCritic:
    torch.manual_seed(0)
    problem = Problem(
        observation_space, gym.spaces.Discrete(ACTIONS), network=NetworkConfig(hidden=[])
    )
    OneStepActorCritic.check(problem)
    rates = {"gamma": GAMMA, "learning_rate": ALPHA, "value_learning_rate": BETA}
    config = OneStepActorCritic.Config(**rates, max_gradient_norm=1e9, **hyperparameters)
    return OneStepActorCritic(config, problem, np.random.default_rng(0))


def transition(s: int, a: Tensor, r: float, s1: int, ended: bool, cut: bool) -> dict[str, Tensor]:
    """As a rollout of one step in one environment."""
    flags = {"terminated": ended, "truncated": cut, "valid": True}
    columns = {name: torch.tensor([[flag]]) for name, flag in flags.items()}
    columns |= {"observation": torch.tensor([[s]]), "next_observation": torch.tensor([[s1]])}
    return columns | {"action": a[None], "reward": torch.tensor([[r]])}


@pytest.mark.parametrize("weighting", [True, False])
def test_one_environment_and_one_step_are_the_listing(weighting):
    """80 steps of 8 or more episodes with one-hot features, in NumPy from the listing."""
    critic = agent(gym.spaces.Discrete(STATES), discount_weighting=weighting)
    rng = np.random.default_rng(1)
    net = critic.network
    w, b = (p.detach().double().numpy().copy() for p in net.policy.parameters())
    v, c = (p.detach().double().numpy().copy() for p in net.value.parameters())
    state, power, starts, episodes = 0, 1.0, True, 0
    for _ in range(80):
        critic.starts = np.array([starts])
        with torch.no_grad():
            columns = critic.act(torch.tensor([state]), greedy=False)
        action = int(columns["action"])
        if starts:
            power = 1.0
        assert columns["discount"].item() == pytest.approx(power)
        reward, following = float(rng.normal()), int(rng.integers(STATES))
        ended, cut = bool(rng.random() < 0.1), bool(rng.random() < 0.05)
        row = transition(state, columns["action"], reward, following, ended, cut)
        critic.update(row | {"discount": columns["discount"][None]})
        # The listing: delta, then phi, then theta, then lambda (here: power).
        value = v[0, state] + c[0]
        future = 0.0 if ended else v[0, following] + c[0]
        delta = reward + GAMMA * future - value
        logits = w[:, state] + b
        policy = np.exp(logits) / np.exp(logits).sum()
        slope = (np.arange(ACTIONS) == action) - policy  # of log pi in the logits
        scale = ALPHA * (power if weighting else 1.0) * delta
        v[0, state] += BETA * delta
        c += BETA * delta
        w[:, state] += scale * slope
        b += scale * slope
        power *= GAMMA
        starts = ended or cut
        episodes += starts
        state = int(rng.integers(STATES)) if starts else following
    assert episodes >= 8
    for parameter, expected in zip(net.policy.parameters(), (w, b), strict=True):
        np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-4, atol=1e-5)
    for parameter, expected in zip(net.value.parameters(), (v, c), strict=True):
        np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_is_the_mean_of_its_valid_rows():
    space = gym.spaces.Box(-np.inf, np.inf, (3,))
    whole = agent(space)
    batch, before = random_rollout(whole), read_weights(whole)
    whole.update(batch)
    moved, rows = np.zeros_like(before), 0
    for t, b in batch["valid"].nonzero().tolist():
        one = agent(space)
        one.update({name: column[t : t + 1, b : b + 1] for name, column in batch.items()})
        moved += read_weights(one) - before
        rows += 1
    np.testing.assert_allclose(read_weights(whole) - before, moved / rows, rtol=1e-3, atol=1e-6)


def test_a_step_that_only_reset_changes_nothing():
    critic = agent(gym.spaces.Discrete(STATES))
    before = read_weights(critic)
    row = transition(0, torch.tensor([1]), 5.0, 1, False, False)
    critic.update(row | {"valid": torch.tensor([[False]]), "discount": torch.ones(1, 1)})
    np.testing.assert_array_equal(read_weights(critic), before)


def test_discounts_of_several_environments_begin_anew_with_their_episodes():
    critic = agent(gym.spaces.Discrete(STATES))
    seen = []
    for starts in ([True, True], [False, False], [False, True], [False, False]):
        critic.starts = np.array(starts)
        seen.append(critic.act(torch.tensor([0, 1]), greedy=False)["discount"].tolist())
    expected = [[1.0, 1.0], [GAMMA, GAMMA], [GAMMA**2, 1.0], [GAMMA**3, GAMMA]]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_unsupported_actions_are_refused():
    problem = Problem(gym.spaces.Discrete(2), gym.spaces.MultiBinary(3))
    with pytest.raises(ConfigError, match=r"env.id: actions in MultiBinary\(3\) are not supported"):
        OneStepActorCritic.check(problem)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_actor_critic_solves_cartpole(seed, tmp_path):
    run = rlgen.train("actor-critic-cartpole", {"run.dir": str(tmp_path), "seed": seed})
    assert run.summary["stop_reason"] == "target"
    assert run.summary["env_steps"] <= 300_000
