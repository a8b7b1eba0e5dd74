"""Test beds of bandits: distributions, numbering, metrics, and what does not fit."""

import numpy as np
import pytest
from scipy import stats

from rlgen.config import EnvConfig
from rlgen.envs.vector import Environments
from rlgen.errors import ConfigError


def bed(num_envs, seed=0, kind="Gaussian", **kwargs):
    return Environments(EnvConfig(id=f"rlgen/{kind}Bandit-v0", kwargs=kwargs), num_envs, seed)


def test_arms_and_rewards_of_the_gaussian_bed_are_drawn_as_published():
    """Sutton and Barto, section 2.3: q*(a) ~ N(0, 1), and a reward ~ N(q*(a), 1)."""
    env = bed(2000, bandits=2000)
    expected = env.env.expected
    assert expected.shape == (2000, 10)
    assert stats.kstest(expected.ravel(), "norm").pvalue > 0.01
    bandit = env.reset()
    noise = [env.step(np.full(2000, a)).reward - expected[bandit, a] for a in range(10)]
    assert stats.kstest(np.concatenate(noise), "norm").pvalue > 0.01
    # Figure 2.5 moves all arms up by 4; the same seed draws the same bed, another one another.
    moved = bed(1, bandits=2000, mean=4.0).env.expected
    np.testing.assert_allclose(moved, expected + 4)
    assert not np.allclose(bed(1, bandits=2000, bed_seed=1).env.expected, expected)


def test_arms_of_the_bernoulli_bed_pay_with_their_probability():
    env = bed(3000, kind="Bernoulli", bandits=3000, arms=4)
    assert stats.kstest(env.env.expected.ravel(), "uniform").pvalue > 0.01
    env = bed(20_000, kind="Bernoulli", means=[0.2, 0.7])
    env.reset()
    for arm, mean in enumerate([0.2, 0.7]):
        reward = env.step(np.full(20_000, arm)).reward
        assert set(reward.tolist()) == {0.0, 1.0}
        assert stats.binomtest(int(reward.sum()), 20_000, mean).pvalue > 0.001


def test_regret_and_optimal_pulls_are_those_of_the_expected_rewards():
    env = bed(4, kind="Bernoulli", bandits=4, means=[0.5, 0.9, 0.9])
    env.reset()
    step = env.step(np.array([0, 1, 2, 0]))
    metrics = env.take_metrics()
    assert metrics["regret"] == pytest.approx(0.4 + 0 + 0 + 0.4)
    assert metrics["optimal_action"] == 2  # both of the best arms are
    assert metrics["reward"] == step.reward.sum()
    assert not (step.terminated | step.truncated).any()


def test_rows_play_the_bed_from_first_to_last():
    env = bed(5, bandits=5)
    assert env.observation_space.n == 5
    assert env.reset().tolist() == env.step(np.zeros(5, int)).observation.tolist() == [*range(5)]
    # An evaluation has fewer rows, and resets all of them after each round of episodes.
    few = bed(2, bandits=5)
    assert [few.reset().tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 0]]
    mask = {"reset_mask": np.array([True, False])}
    assert few.env.reset(options=mask)[0].tolist() == [4, 0]
    one, same, other = (bed(5, seed, bandits=5) for seed in (3, 3, 4))
    rewards = [(env.reset(), env.step(np.zeros(5, int)).reward)[1] for env in (one, same, other)]
    np.testing.assert_array_equal(rewards[0], rewards[1])
    assert not np.allclose(rewards[0], rewards[2])


def test_episodes_can_be_cut():
    env = bed(3, bandits=7, max_episode_steps=4)
    bandit = env.reset()
    steps = [env.step(np.zeros(3, int)) for _ in range(8)]
    assert [step.truncated.all() for step in steps] == [False, False, False, True] * 2
    assert not any(step.terminated.any() for step in steps)
    np.testing.assert_array_equal(steps[-1].observation, bandit)  # of the same bandit
    assert [length for _, length in env.finished] == [4] * 6


@pytest.mark.parametrize(
    ("kind", "kwargs", "reason"),
    [
        ("Gaussian", {"bandits": 0}, "bandits must be at least 1, got 0"),
        ("Gaussian", {"arms": 1}, "a bandit needs at least 2 arms, got 1"),
        ("Gaussian", {"means": [1, 2], "arms": 3}, "the 2 means given leave nothing to arms"),
        ("Gaussian", {"means": [1, 2], "mean": 1.0}, "the 2 means given leave nothing to arms"),
        ("Bernoulli", {"means": [0.5, 1.5]}, r"must be in \[0, 1\], got \[0.5, 1.5\]"),
        ("Bernoulli", {"mean": 0.5}, "mean moves a Gaussian bed only"),
    ],
)
def test_beds_that_cannot_be(kind, kwargs, reason):
    with pytest.raises(ConfigError, match=f"env.kwargs: rlgen/{kind}Bandit-v0 .*{reason}"):
        bed(1, kind=kind, **kwargs)


def test_arguments_of_a_vector_environment_are_checked_by_name():
    with pytest.raises(ConfigError) as caught:
        bed(1, arm=3)
    assert str(caught.value) == (
        "env.kwargs.arm: rlgen/GaussianBandit-v0 takes no such argument; did you mean 'arms'?"
    )
