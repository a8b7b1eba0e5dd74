"""REINFORCE's whole episodes and its step against slow loops; learning.

That its expectation is the exact gradient is in test_policy_gradients.py.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rollouts import acted
from torch import Tensor

import rlgen
from rlgen.agents.reinforce import REINFORCE
from rlgen.algorithm import Problem, read_weights
from rlgen.config import NetworkConfig, load_experiment
from rlgen.errors import ConfigError

ENVS, FEATURES, GAMMA = 4, 3, 0.9


def agent(**hyperparameters: Any) -> REINFORCE:
    torch.manual_seed(0)
    space = gym.spaces.Box(-np.inf, np.inf, (FEATURES,))
    problem = Problem(space, gym.spaces.Discrete(3), network=NetworkConfig(hidden=[8]))
    REINFORCE.check(problem)
    given = {"gamma": GAMMA, "max_gradient_norm": 1e9} | hyperparameters
    return REINFORCE(REINFORCE.Config(**given), problem, np.random.default_rng(0))


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).clone()


def long_rollout(algorithm: REINFORCE, steps: int, next_step: bool, seed: int) -> dict[str, Tensor]:
    """Columns ``(T, B, ...)`` with ends in one of five rows.

    With ``next_step`` a row that only resets follows each end, else the next episode at once.
    """
    rng = np.random.default_rng(seed)
    observation, following = rng.normal(size=(2, steps, ENVS, FEATURES)).astype(np.float32)
    ended = rng.random((2, steps, ENVS)) < 0.1
    valid = np.ones((steps, ENVS), bool)
    if next_step:
        for t in range(1, steps):
            valid[t] = ~(ended[:, t - 1].any(0) & valid[t - 1])
    terminated, truncated = ended[0] & valid, ended[1] & valid
    columns = {
        "observation": observation,
        "next_observation": following,
        "reward": rng.normal(size=(steps, ENVS)).astype(np.float32),
        "terminated": terminated,
        "truncated": truncated,
        "valid": valid,
    }
    return acted(algorithm, columns)


def slow_episodes(batch):
    """(first feature, action, G_t, t) of every row of a complete episode, one by one."""
    rows = []
    for b in range(ENVS):
        episode = []
        for t in range(len(batch["valid"])):
            if not batch["valid"][t, b]:
                assert not episode
                continue
            columns = ("observation", "action", "reward")
            observation, action, reward = (batch[name][t, b] for name in columns)
            episode.append((observation[0].item(), action.item(), reward.item()))
            if batch["terminated"][t, b] or batch["truncated"][t, b]:
                for time, (feature, action, _) in enumerate(episode):
                    later = [reward for _, _, reward in episode[time:]]
                    return_ = sum(GAMMA**k * reward for k, reward in enumerate(later))
                    rows.append((feature, action, return_, time))
                episode = []
    return rows


@pytest.mark.parametrize("next_step", [True, False])
@pytest.mark.parametrize("cuts", [[60], [1] * 60, [7, 1, 20, 3, 29]])
def test_episodes_arrive_whole_wherever_rollouts_are_cut(cuts, next_step):
    """Every row of every complete episode, once, with its return and its time."""
    algorithm = agent()
    batch = long_rollout(algorithm, 60, next_step, seed=3)
    rows = []
    for part in zip(*(column.split(cuts) for column in batch.values()), strict=True):
        sent = algorithm.process(dict(zip(batch, part, strict=True)))
        assert {name: len(column) for name, column in sent.items()}.keys() == {
            "observation",
            "action",
            "return",
            "time",
        }
        columns = (sent["observation"][:, 0], sent["action"], sent["return"], sent["time"])
        rows += zip(*(column.tolist() for column in columns), strict=True)
    expected = slow_episodes(batch)
    assert len(expected) > 100
    np.testing.assert_allclose(sorted(rows), sorted(expected), rtol=1e-4, atol=1e-5)
    kept = algorithm.running["valid"]
    assert int(kept.sum()) == int(batch["valid"].sum()) - len(expected)
    assert len(kept) < 60  # what was sent is let go


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("weighting", [False, True])
def test_update_is_one_step_on_the_mean_of_the_episodes(baseline, weighting):
    """All terms with the parameters before the step, which the listing does not do."""
    algorithm = agent(baseline=baseline, discount_weighting=weighting, episodes=2)
    net, batch = algorithm.network, long_rollout(algorithm, 30, True, seed=5)
    sent = algorithm.process(batch)
    count = int((batch["terminated"] | batch["truncated"]).sum())
    policy, critic = torch.zeros(()), torch.zeros(())
    for n in range(len(sent["time"])):
        value = net.value(sent["observation"][n]).squeeze()
        logits = net.policy(sent["observation"][n])
        error = sent["return"][n].item() - (value.item() if baseline else 0.0)
        weight = GAMMA ** sent["time"][n].item() if weighting else 1.0
        policy = policy + weight * error * net.head.log_prob(logits, sent["action"][n])
        critic = critic + error * value
    up = flat(torch.autograd.grad(policy / count, list(net.policy.parameters())))
    critic_up = flat(torch.autograd.grad(critic / count, list(net.value.parameters())))
    before = [flat(part.parameters()) for part in (net.policy, net.value)]
    algorithm.optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    algorithm.update(sent)
    after = [flat(part.parameters()) for part in (net.policy, net.value)]
    torch.testing.assert_close(after[0], before[0] + up, rtol=1e-4, atol=1e-5)
    if baseline:  # phi += beta delta grad V
        torch.testing.assert_close(after[1], before[1] + critic_up, rtol=1e-3, atol=1e-4)
    else:
        assert torch.equal(after[1], before[1])


def test_episodes_wait_until_they_are_enough():
    algorithm, once = agent(episodes=6), agent(episodes=6)
    before = read_weights(algorithm)
    sent = algorithm.process(long_rollout(algorithm, 40, True, seed=6))
    # Rows are in order of time, so whole episodes are told apart by the environment they are of:
    # here the parts need not be episodes, for only their beginnings are counted.
    parts = [{name: column[k::3] for name, column in sent.items()} for k in range(3)]
    first = int((parts[0]["time"] == 0).sum())
    assert 0 < first < 6 <= int((sent["time"] == 0).sum())
    assert algorithm.update(parts[0]) == {}
    np.testing.assert_array_equal(read_weights(algorithm), before)
    algorithm.update({name: torch.cat([parts[1][name], parts[2][name]]) for name in sent})
    assert not np.array_equal(read_weights(algorithm), before)
    assert algorithm.held == {}
    once.update({name: torch.cat([part[name] for part in parts]) for name in sent})
    np.testing.assert_array_equal(read_weights(algorithm), read_weights(once))


def test_a_rollout_without_an_end_sends_no_rows():
    algorithm = agent()
    batch = long_rollout(algorithm, 3, True, seed=7)
    off = torch.zeros_like(batch["terminated"])
    going = batch | {"terminated": off, "truncated": off, "valid": ~off}
    sent = algorithm.process(going)
    assert {name: len(column) for name, column in sent.items()} == dict.fromkeys(sent, 0)
    assert algorithm.update(sent) == {}


def test_an_episode_that_was_begun_anew_is_left_out():
    """As after a resume where the environments could not be stored."""
    batch = long_rollout(agent(), 40, True, seed=7)
    first, second = ({k: c[part] for k, c in batch.items()} for part in (slice(17), slice(17, 40)))
    begun_anew = second | {"start": second["start"].clone()}
    begun_anew["start"][0] = True
    resumed, fresh = agent(), agent()
    resumed.process(first)
    sent, expected = resumed.process(begun_anew), fresh.process(begun_anew)
    assert len(expected["return"]) > 0
    for name, column in expected.items():
        np.testing.assert_array_equal(sent[name], column)


def test_bad_hyperparameters_are_refused():
    message = r"hyperparameters.episodes: .*greater than or equal to 1 \(got 0\)"
    with pytest.raises(ConfigError, match=message):
        load_experiment("reinforce-cartpole", ["hyperparameters.episodes=0"])
    message = r"hyperparameters: value_learning_rate has an effect only with baseline=true"
    with pytest.raises(ConfigError, match=message):
        load_experiment("reinforce-cartpole", ["hyperparameters.value_learning_rate=0.1"])


def solves_cartpole(name: str, tmp_path: Any, seed: int) -> None:
    run = rlgen.train(name, {"run.dir": str(tmp_path), "seed": seed})
    assert (run.experiment.stop.target, run.experiment.stop.target_evaluations) == (475, 2)
    assert run.summary["stop_reason"] == "target"
    assert run.summary["env_steps"] <= 300_000


def test_reinforce_with_baseline_solves_cartpole_within_300000_steps(tmp_path):
    solves_cartpole("reinforce-baseline-cartpole", tmp_path, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_reinforce_with_baseline_solves_cartpole_with_every_seed(seed, tmp_path):
    solves_cartpole("reinforce-baseline-cartpole", tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_reinforce_without_baseline_solves_cartpole(seed, tmp_path):
    solves_cartpole("reinforce-cartpole", tmp_path, seed)
