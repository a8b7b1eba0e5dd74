"""Bandit algorithms against published curves, bounds, closed forms and slow oracles."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import integrate, stats

import rlgen
from rlgen import tracking
from rlgen.agents.epsilon_greedy import EpsilonGreedy, EpsilonGreedyConfig
from rlgen.agents.gradient_bandit import GradientBandit, GradientBanditConfig
from rlgen.agents.thompson import Thompson, ThompsonConfig
from rlgen.agents.ucb1 import UCB1, UCB1Config
from rlgen.algorithm import Problem
from rlgen.errors import ConfigError

ALL = {
    "epsilon-greedy": (EpsilonGreedy, EpsilonGreedyConfig),
    "gradient-bandit": (GradientBandit, GradientBanditConfig),
    "ucb1": (UCB1, UCB1Config),
    "thompson": (Thompson, ThompsonConfig),
}


def make(name, bandits=1, arms=4, seed=0, **config):
    algorithm, settings = ALL[name]
    problem = Problem(gym.spaces.Discrete(bandits), gym.spaces.Discrete(arms))
    algorithm.check(problem)
    return algorithm(settings(**config), problem, np.random.default_rng(seed))


def rollout(bandit, action, reward, valid=None):
    """Columns (T, B) of a rollout."""
    columns = {"observation": bandit, "action": action, "reward": reward}
    batch = {name: np.asarray(column) for name, column in columns.items()}
    batch["valid"] = np.ones(batch["action"].shape, bool) if valid is None else np.asarray(valid)
    return batch


def random_rollout(rng, bandits, arms, shape=(3, 40)):
    """Several steps of several workers: every bandit occurs more than once, some rows are void."""
    return rollout(
        rng.integers(bandits, size=shape),
        rng.integers(arms, size=shape),
        rng.integers(2, size=shape).astype(np.float32),
        rng.random(shape) < 0.9,
    )


def in_order(batch):
    rows = np.flatnonzero(batch["valid"].ravel())
    return [
        tuple(batch[k].ravel()[i].item() for k in ("observation", "action", "reward")) for i in rows
    ]


def frequencies(algorithm, draws=200_000):
    action = algorithm.act(np.zeros(draws, int), greedy=False)["action"]
    return np.bincount(action, minlength=algorithm.problem.action_space.n)


def curves(name, tmp_path, seed=0, **changes):
    """Means over the bandits of each pull, as the records of a run have them."""
    every = {"run.dir": str(tmp_path), "tracking.every_s": 0, "seed": seed}
    run = rlgen.train(name, {**every, **changes})
    records = [r for r in tracking.read_metrics(run.dir) if r["kind"] == "train"]
    pulls = run.summary["cycles"]
    keys = ("reward", "regret", "optimal_action")
    return {key: np.array([record[key] for record in records[:pulls]]) for key in keys}, run


# --- probabilities of the arms --------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_epsilon_greedy_probabilities_sum_to_one(epsilon):
    """1 - epsilon + epsilon / K for the best arm, epsilon / K for each other."""
    algorithm = make("epsilon-greedy", arms=5, epsilon=epsilon)
    algorithm.q[0] = [0, 3, 1, 2, -1]
    expected = np.full(5, epsilon / 5)
    expected[1] += 1 - epsilon
    counts = frequencies(algorithm)
    assert np.all(counts[expected == 0] == 0)
    kept = expected > 0
    total = counts[kept].sum() * expected[kept] / expected[kept].sum()
    assert stats.chisquare(counts[kept], total).pvalue > 0.001 or kept.sum() == 1
    assert set(algorithm.act(np.zeros(100, int), greedy=True)["action"]) == {1}


def test_ties_are_broken_evenly():
    algorithm = make("epsilon-greedy", epsilon=0.0)
    algorithm.q[0] = [1, 0, 1, 1]
    counts = frequencies(algorithm)
    assert counts[1] == 0 and stats.chisquare(counts[[0, 2, 3]]).pvalue > 0.001


def test_gradient_bandit_draws_from_the_softmax():
    algorithm = make("gradient-bandit")
    algorithm.preference[0] = [0.0, 1.0, -2.0, 2.0]
    expected = torch.softmax(torch.tensor(algorithm.preference[0]), 0).numpy()
    assert stats.chisquare(frequencies(algorithm), 200_000 * expected).pvalue > 0.001
    assert algorithm.act(np.zeros(1, int), greedy=True)["action"] == [3]


def test_thompson_pulls_as_often_as_an_arm_is_best():
    """Posterior probabilities by quadrature (Beta) and in closed form (Gaussian)."""
    algorithm = make("thompson", arms=3, prior_successes=2.0, prior_failures=0.5)
    algorithm.totals[:, 0] = [[3, 5, 1], [6, 9, 1]]  # successes, pulls
    beta = [stats.beta(2 + s, 0.5 + n - s) for s, n in ((3, 6), (5, 9), (1, 1))]

    def best(a):
        others = [b for i, b in enumerate(beta) if i != a]
        density = lambda x: beta[a].pdf(x) * np.prod([b.cdf(x) for b in others])  # noqa: E731
        return integrate.quad(density, 0, 1)[0]

    expected = np.array([best(a) for a in range(3)])
    assert expected.sum() == pytest.approx(1)
    assert stats.chisquare(frequencies(algorithm), 200_000 * expected).pvalue > 0.001

    settings = {"prior_mean": 1.0, "prior_std": 2.0, "reward_std": 0.5}
    algorithm = make("thompson", arms=2, rewards="gaussian", **settings)
    algorithm.totals[:, 0] = [[1.5, 0.0], [3, 0]]  # sums, pulls; nothing is known of the second
    v = 1 / (1 / 4 + 3 / 0.25)
    mean = v * (1 / 4 + 1.5 / 0.25)
    first = stats.norm.cdf((mean - 1) / math.sqrt(v + 4))
    counts = frequencies(algorithm)
    assert stats.binomtest(int(counts[0]), 200_000, first).pvalue > 0.001
    assert algorithm.act(np.zeros(1, int), greedy=True)["action"] == [int(mean < 1)]


# --- updates against slow oracles -----------------------------------------------------------------


@pytest.mark.parametrize("step_size", [None, 0.3])
def test_epsilon_greedy_values_are_those_of_one_pull_after_the_other(step_size):
    rng = np.random.default_rng(5)
    algorithm = make("epsilon-greedy", 7, 3, step_size=step_size, initial_value=2.0)
    q, n = np.full((7, 3), 2.0), np.zeros((7, 3))
    for _ in range(4):
        batch = random_rollout(rng, 7, 3)
        algorithm.update(batch)
        for bandit, arm, reward in in_order(batch):
            n[bandit, arm] += 1
            alpha = step_size or 1 / n[bandit, arm]
            q[bandit, arm] += alpha * (reward - q[bandit, arm])
    assert n.max() > 10
    np.testing.assert_allclose(algorithm.q, q, atol=1e-12)


@pytest.mark.parametrize("baseline", [True, False])
def test_gradient_bandit_moves_by_its_formula(baseline):
    rng = np.random.default_rng(5)
    algorithm = make("gradient-bandit", 7, 3, baseline=baseline, step_size=0.2)
    h, rewards = np.zeros((7, 3)), [[] for _ in range(7)]
    for _ in range(4):
        batch = random_rollout(rng, 7, 3)
        algorithm.update(batch)
        pi = torch.softmax(torch.tensor(h), 1).numpy()
        means = [np.mean(r) if r else None for r in rewards]
        for bandit, arm, reward in in_order(batch):
            before = means[bandit] if means[bandit] is not None else reward
            advantage = reward - (before if baseline else 0.0)
            for a in range(3):
                h[bandit, a] += 0.2 * advantage * ((a == arm) - pi[bandit, a])
            rewards[bandit].append(reward)
    assert np.abs(h).max() > 0.3
    np.testing.assert_allclose(algorithm.preference, h, atol=1e-12)


def test_gradient_bandit_climbs_the_expected_reward_with_and_without_a_baseline():
    """Enumerated: the mean update is alpha times the exact gradient; a baseline cuts the variance.

    The exact gradient is that of automatic differentiation through sum_a pi(a) q(a).
    """
    q = np.array([5.0, 4.0, 6.5])
    h = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    pi = torch.softmax(h, 0)
    (pi @ torch.tensor(q)).backward()
    pi, variance = pi.detach().numpy(), {}
    for baseline in (True, False):
        moves = []
        for arm in range(3):
            algorithm = make("gradient-bandit", arms=3, baseline=baseline, step_size=0.1)
            algorithm.preference[0] = h.detach().numpy()
            algorithm.totals[:, 0, 0] = [50.0, 10.0]  # ten pulls of mean reward 5
            algorithm.update(rollout([[0]], [[arm]], [[q[arm]]]))
            moves.append(algorithm.preference[0] - h.detach().numpy())
        np.testing.assert_allclose(pi @ np.array(moves), 0.1 * h.grad.numpy(), atol=1e-12)
        variance[baseline] = (pi @ np.square(moves)).sum()
    assert variance[True] < 0.1 * variance[False]


def test_ucb1_pulls_every_arm_once_and_then_the_greatest_bound():
    rng, c = np.random.default_rng(1), 0.7
    algorithm = make("ucb1", bandits=20, arms=4, exploration=c)
    rewards = [[[] for _ in range(4)] for _ in range(20)]
    for t in range(60):
        action = algorithm.act(np.arange(20), greedy=False)["action"]
        for bandit, arm in enumerate(action):
            pulled = rewards[bandit]
            if t < 4:
                assert not pulled[arm]
            else:
                bounds = [np.mean(r) + c * math.sqrt(math.log(t) / len(r)) for r in pulled]
                assert bounds[arm] == pytest.approx(max(bounds))
        reward = rng.random(20).astype(np.float32)
        for bandit, arm in enumerate(action):
            rewards[bandit][arm].append(float(reward[bandit]))
        algorithm.update(rollout([np.arange(20)], [action], [reward]))
    best = [int(np.argmax([np.mean(r) for r in pulled])) for pulled in rewards]
    assert algorithm.act(np.arange(20), greedy=True)["action"].tolist() == best


@pytest.mark.parametrize("name", ["ucb1", "thompson"])
def test_two_workers_pulls_of_one_bandit_all_count(name):
    algorithm = make(name, bandits=2, arms=2)
    algorithm.update(rollout([[0, 1, 0, 1]], [[1, 0, 1, 1]], [[1.0, 1.0, 0.0, 1.0]]))
    assert algorithm.totals.tolist() == [[[0, 1], [1, 1]], [[0, 2], [1, 1]]]


# --- published curves -----------------------------------------------------------------------------


def test_epsilon_greedy_finds_the_best_arm_as_in_figure_2_2(tmp_path):
    """Sutton and Barto, figure 2.2: at pull 1,000, epsilon 0.1 pulls the best arm 80 times of 100.

    Epsilon 0 does "in only approximately one-third of the tasks", with a mean reward of about 1.
    """
    last = {}
    for epsilon in (0.1, 0.0):
        change = {"hyperparameters.epsilon": epsilon}
        seen, run = curves("epsilon-greedy-testbed", tmp_path, **change)
        assert len(seen["reward"]) == 1000
        last[epsilon] = seen["optimal_action"][-1]
        if epsilon == 0.0:
            assert seen["reward"][-100:].mean() == pytest.approx(1.0, abs=0.1)
    assert last[0.1] == pytest.approx(0.80, abs=0.03)
    assert last[0.0] == pytest.approx(0.36, abs=0.05)
    # Every pull of the greedy evaluation is of the arm that seems best: no exploration.
    assert run.summary["evaluation"]["episodes"] == 2000


def test_optimistic_values_explore_without_epsilon_as_in_figure_2_3(tmp_path):
    """Alpha 0.1: the optimistic ones are worse at first and better later than epsilon 0.1."""
    change = {"hyperparameters.step_size": 0.1, "stop.env_steps": 800_000}
    realistic = curves("epsilon-greedy-testbed", tmp_path, **change)[0]["optimal_action"]
    change |= {"hyperparameters.epsilon": 0.0, "hyperparameters.initial_value": 5.0}
    optimistic = curves("epsilon-greedy-testbed", tmp_path, **change)[0]["optimal_action"]
    assert optimistic[12:40].mean() < realistic[12:40].mean()
    assert optimistic[-20:].mean() == pytest.approx(0.77, abs=0.05)
    assert optimistic[-20:].mean() > realistic[-20:].mean() + 0.05
    # Exercise 2.6: the spike, when after ten tries each bandit takes what disappointed least.
    assert optimistic[10] > 0.35 > optimistic[9] + 0.2


def test_ucb_beats_epsilon_greedy_as_in_figure_2_4(tmp_path):
    """C = 2: a mean reward of 1.5 at pull 1,000, and a spike at pull 11 (exercise 2.8)."""
    seen, _ = curves("ucb1-testbed", tmp_path)
    assert seen["reward"][-100:].mean() == pytest.approx(1.5, abs=0.05)
    assert seen["reward"][10] > max(seen["reward"][9] + 0.8, seen["reward"][11] + 0.05)
    assert seen["reward"][:10].mean() == pytest.approx(0.0, abs=0.05)  # every arm once


def test_the_gradient_bandit_needs_its_baseline_as_in_figure_2_5(tmp_path):
    """Arms around +4, pull 1,000, alpha 0.1: above 80 % with the baseline, about half without."""
    bed = {"bandits": 1000, "mean": 4.0}
    half = {"env.kwargs": bed, "env.num_envs": 1000, "stop.env_steps": 1_000_000}
    with_, _ = curves("gradient-bandit-testbed", tmp_path, **half)
    half["hyperparameters.baseline"] = False
    without, _ = curves("gradient-bandit-testbed", tmp_path, **half)
    assert with_["optimal_action"][-100:].mean() == pytest.approx(0.84, abs=0.04)
    assert without["optimal_action"][-100:].mean() == pytest.approx(0.50, abs=0.05)


# --- regret ---------------------------------------------------------------------------------------


def regret(algorithm, means, pulls, tmp_path, **hyperparameters):
    """Cumulative expected regret of 400 bandits after 1, 2, ... pulls."""
    plain = {
        "name": f"{algorithm}-regret",
        "algorithm": algorithm,
        "hyperparameters": hyperparameters,
        "env": {
            "id": "rlgen/BernoulliBandit-v0",
            "kwargs": {"bandits": 400, "means": means},
            "num_envs": 400,
        },
        "stop": {"env_steps": 400 * pulls},
        "evaluation": {"episodes": 10, "max_steps": 1},
    }
    seen, _ = curves(plain, tmp_path)
    return np.cumsum(seen["regret"])


def test_regret_grows_as_the_logarithm_and_stays_below_the_bounds(tmp_path):
    """Two arms of 0.9 and 0.6 (distribution 1 of Auer et al., 2002), 2,000 pulls.

    UCB1 stays below theorem 1 of that paper. Thompson sampling stays below the asymptotic rate of
    Lai and Robbins with Kaufmann et al.'s log log term. Both add about the same regret in every
    decade; epsilon-greedy adds epsilon * Delta / 2 with every pull, for ever.
    """
    t, delta = np.array([20, 200, 2000]), 0.3
    ucb1, thompson, greedy = (
        regret(name, [0.9, 0.6], 2000, tmp_path)[t - 1]
        for name in ("ucb1", "thompson", "epsilon-greedy")
    )
    assert np.all(ucb1 <= 8 * np.log(t) / delta + (1 + np.pi**2 / 3) * delta)
    kl = 0.6 * math.log(0.6 / 0.9) + 0.4 * math.log(0.4 / 0.1)
    rate = delta / kl
    assert np.all(thompson <= rate * (np.log(t) + np.log(np.log(t))) + 1)
    decades = [np.diff(r) for r in (ucb1, thompson, greedy)]
    assert [d[1] / d[0] < 2.5 for d in decades] == [True, True, False]
    assert 0.4 * rate < decades[1][1] / math.log(10) < 1.2 * rate < decades[0][1] / math.log(10)
    assert decades[2][1] >= 0.9 * 0.1 * delta / 2 * 1800


# --- what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_only_numbers_of_bandits_and_arms_will_do(name):
    box, discrete = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)
    with pytest.raises(ConfigError, match=f"{name} needs Discrete observations .*GaussianBandit"):
        ALL[name][0].check(Problem(box, discrete))
    with pytest.raises(ConfigError, match=f"{name} needs Discrete actions"):
        ALL[name][0].check(Problem(discrete, box))


def test_priors_of_the_other_kind_of_rewards_are_refused():
    with pytest.raises(ValueError, match="reward_std belongs to rewards=gaussian, not bernoulli"):
        ThompsonConfig(reward_std=2.0)
    with pytest.raises(ValueError, match="prior_failures belongs to rewards=bernoulli"):
        ThompsonConfig(rewards="gaussian", prior_failures=2.0)
    # What a run stores has every default, and is read again.
    stored = ThompsonConfig(rewards="gaussian", prior_mean=1.0).model_dump()
    assert ThompsonConfig(**stored).prior_mean == 1.0


def test_bernoulli_posteriors_refuse_other_rewards(tmp_path):
    changes = {
        "run.dir": str(tmp_path),
        "env.id": "rlgen/GaussianBandit-v0",
        "env.kwargs": {"bandits": 1000},
    }
    with pytest.raises(ConfigError, match="rewards: bernoulli is for rewards of 0 and 1, and the"):
        rlgen.train("thompson-bernoulli", changes)
    # They are for Gaussian ones, and then find the best arms faster than UCB with c = 2.
    settings = {"hyperparameters": {"rewards": "gaussian"}, "stop.env_steps": 200_000}
    seen, _ = curves("thompson-bernoulli", tmp_path, **{**changes, **settings})
    assert seen["optimal_action"][-20:].mean() > 0.7


@pytest.mark.parametrize(
    ("name", "budget", "reached"),
    [
        ("epsilon-greedy-testbed", 1_600_000, 1.5),
        ("thompson-bernoulli", 400_000, 0.9),
    ],
)
def test_two_workers_learn_together(name, budget, reached, tmp_path):
    """Each plays the whole bed; the evaluation pulls the arm that seems best once a bandit."""
    _, run = curves(name, tmp_path, **{"scheduler.workers": 2, "stop.env_steps": budget})
    assert run.summary["evaluation"]["mean"] == pytest.approx(reached, abs=0.07)
