"""Monte Carlo control against exact values, means by hand, and the basic strategy of Blackjack."""

from functools import cache

import gymnasium as gym
import numpy as np
import pytest

import rlgen
from rlgen.agents.monte_carlo import MonteCarlo
from rlgen.agents.off_policy_monte_carlo import OffPolicyMonteCarlo
from rlgen.algorithm import Problem
from rlgen.config import EnvConfig, resolve_experiment
from rlgen.envs.mdp import load_mdp
from rlgen.errors import ConfigError

ALGORITHMS = {"monte-carlo": MonteCarlo, "off-policy-monte-carlo": OffPolicyMonteCarlo}


def learner(name="monte-carlo", states=3, actions=2, **hyperparameters):
    problem = Problem(gym.spaces.Discrete(states), gym.spaces.Discrete(actions))
    algorithm = ALGORITHMS[name]
    return algorithm(algorithm.Config(**hyperparameters), problem, np.random.default_rng(0))


def rollout(*episodes, **columns):
    """One environment's rows of episodes: lists of (state, action, reward); the last one's end."""
    rows = [(*row, i == 0, i == len(e) - 1) for e in episodes for i, row in enumerate(e)]
    state, action, reward, start, ends = map(np.array, zip(*rows, strict=True))
    batch = {
        "observation": state,
        "action": action,
        "reward": reward.astype(np.float32),
        "next_observation": np.roll(state, -1),
        "start": start,
        "terminated": ends,
        "truncated": np.zeros_like(ends),
        "valid": np.ones_like(ends),
    } | columns
    return {name: np.asarray(column)[:, None] for name, column in batch.items()}


def parts(batch, size):
    for first in range(0, len(batch["valid"]), size):
        yield {name: column[first : first + size].copy() for name, column in batch.items()}


EPISODES = (
    [(0, 1, 1.0), (1, 0, 2.0), (0, 1, 4.0)],  # gamma 1/2: returns 3, 4, 4
    [(1, 0, 8.0)],
    [(0, 1, 0.0), (0, 1, 6.0)],  # returns 3, 6
)


@pytest.mark.parametrize("size", [1, 2, 4, 6])
@pytest.mark.parametrize(
    ("visits", "mean", "count"), [("first", 3.0, 2), ("every", (3 + 4 + 3 + 6) / 4, 4)]
)
def test_q_is_the_mean_of_first_or_every_visits(visits, mean, count, size):
    """By hand (eq 14.30), for rollouts cut anywhere."""
    agent = learner(gamma=0.5, visits=visits)
    for part in parts(rollout(*EPISODES), size):
        agent.update(agent.process(part))
    assert agent.table[0, :2].tolist() == [[0.0, mean], [6.0, 0.0]]
    assert agent.table[1, :2].tolist() == [[0.0, count], [2.0, 0.0]]


def test_the_incremental_mean_is_the_mean():
    """Eq 14.35 with alpha 1/N is eq 14.30; with a constant alpha it is not."""
    rng = np.random.default_rng(0)
    returns = rng.normal(size=10_000)
    batch = {"state": np.zeros(10_000, int), "action": rng.integers(2, size=10_000)}
    means = [returns[batch["action"] == a].mean() for a in (0, 1)]
    agent = learner()
    agent.update(batch | {"return": returns})
    np.testing.assert_allclose(agent.table[0, 0], means, rtol=1e-12)
    agent = learner(learning_rate=0.5, learning_rate_power=0.0)
    agent.update({name: column[:2] for name, column in (batch | {"return": returns}).items()})
    expected = np.zeros(2)
    for a, return_ in zip(batch["action"][:2], returns[:2], strict=True):
        expected[a] += 0.5 * (return_ - expected[a])
    np.testing.assert_array_equal(agent.table[0, 0], expected)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(("terminated", "expected"), [(True, 2.0), (False, 2.0 + 0.5 * 8.0)])
def test_a_truncated_episode_ends_with_the_value_of_what_is_next(name, terminated, expected):
    agent = learner(name, gamma=0.5)
    agent.table[0, 1] = [3.0, 8.0]
    batch = rollout([(0, 1, 2.0)], next_observation=[1], probability=[0.5])
    batch |= {"terminated": np.array([[terminated]]), "truncated": np.array([[True]])}
    agent.update(agent.process(batch))
    assert agent.table[0, 0].tolist() == [0.0, expected]


def test_exploring_starts_take_any_first_action():
    agent = learner(actions=4, epsilon=0.0, exploring_starts=True)
    agent.table[0, :, 2] = 1.0
    agent.starts = np.arange(40_000) % 2 == 0
    drawn = agent.act(np.zeros(40_000, int), greedy=False)["action"].reshape(-1, 2)
    np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 20_000, 0.25, atol=0.02)
    assert (drawn[:, 1] == 2).all()


@pytest.mark.parametrize("visits", ["first", "every"])
def test_it_comes_to_the_exact_values_of_a_random_policy(visits, tmp_path):
    """Of the slippery cliff, by a linear solve; on two workers."""
    config = EnvConfig(id="rlgen/Cliff-v0", kwargs={"slip": 0.1})
    mdp = load_mdp(config)
    mean = mdp.transitions.toarray().reshape(21, 4, 21).mean(axis=1)
    values = np.linalg.solve(np.eye(21) - 0.9 * mean, mdp.rewards.mean(axis=1))
    exact = mdp.rewards + 0.9 * (mdp.transitions @ values).reshape(21, 4)
    run = rlgen.train({
        "name": "x",
        "algorithm": "monte-carlo",
        "hyperparameters": {"gamma": 0.9, "epsilon": 1.0, "visits": visits, "rollout_steps": 7},
        "env": {"id": "rlgen/Cliff-v0", "kwargs": {"slip": 0.1}, "num_envs": 64},
        "scheduler": {"workers": 2},
        "stop": {"env_steps": 100_000},
        "evaluation": {"episodes": 1},
        "run": {"dir": str(tmp_path)},
    })  # fmt: skip
    q, counts = run.weights.reshape(2, 21, 4)
    often = counts > 500
    assert often.sum() > 30
    np.testing.assert_array_less(np.abs(q - exact)[often], 5 * 50 / np.sqrt(counts[often]))
    assert np.abs(q - exact)[often].mean() < 1.5 < np.ptp(exact[often]) / 20


def test_off_policy_is_the_listing():
    """Sutton and Barto (2018), section 5.7, as printed, episode after episode, bit for bit."""
    rng = np.random.default_rng(1)
    agent = learner("off-policy-monte-carlo", states=4, actions=3, gamma=0.9)
    q, total = np.zeros((4, 3)), np.zeros((4, 3))
    episodes = [
        [(rng.integers(4), rng.integers(3), rng.normal()) for _ in range(rng.integers(1, 9))]
        for _ in range(300)
    ]
    batch = rollout(*episodes)
    batch["probability"] = rng.uniform(0.1, 0.9, batch["reward"].shape)
    for part in parts(batch, 37):
        agent.update(agent.process(part))
    row, stopped = 0, 0
    for episode in episodes:
        return_, weight = 0.0, 1.0
        for t in reversed(range(len(episode))):
            s, a, _ = episode[t]
            return_ = 0.9 * return_ + float(batch["reward"][row + t, 0])
            total[s, a] += weight
            q[s, a] += weight / total[s, a] * (return_ - q[s, a])
            if q[s].argmax() != a:
                stopped += t > 0
                break
            weight = weight / batch["probability"][row + t, 0]
        row += len(episode)
    assert 50 < stopped < 290
    np.testing.assert_array_equal(agent.table[0], q)
    np.testing.assert_array_equal(agent.weights, total)


@pytest.mark.parametrize("name", ["monte-carlo", "off-policy-monte-carlo"])
def test_a_rollout_without_an_end_teaches_nothing_yet(name):
    agent = learner(name, states=4, actions=3, gamma=0.9)
    batch = rollout([(0, 1, 1.0), (2, 0, 1.0)]) | {"probability": np.full((2, 1), 0.5)}
    metrics = agent.update(agent.process({name: column[:1] for name, column in batch.items()}))
    assert metrics["error"] == 0.0
    assert not agent.table.any()
    agent.update(agent.process({name: column[1:] for name, column in batch.items()}))
    assert agent.table[0, 2, 0] == 1.0


def test_off_policy_refuses_a_behaviour_that_does_not_explore():
    plain = {
        "name": "x",
        "algorithm": "off-policy-monte-carlo",
        "env": {"id": "FrozenLake-v1"},
        "stop": {"updates": 1},
    }
    with pytest.raises(ConfigError, match=r"hyperparameters.epsilon: input should be greater than"):
        resolve_experiment(plain | {"hyperparameters": {"epsilon": 0.0}})
    ends = {"epsilon_schedule": "linear", "epsilon_end": 0.0, "epsilon_steps": 10}
    with pytest.raises(ConfigError, match=r"epsilon_end must be above 0: the behaviour must try"):
        resolve_experiment(plain | {"hyperparameters": ends})


def test_glie_counts_every_step_that_was_seen():
    schedule = {"epsilon_schedule": "glie", "epsilon_visits": 10}
    agent = learner("off-policy-monte-carlo", **schedule)
    batch = rollout(*EPISODES)
    agent.update(agent.process(batch | {"probability": np.full((6, 1), 0.5)}))
    assert agent.table[1].tolist() == [[0, 4], [2, 0], [0, 0]]


CARDS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]


def total_of(hard, ace):
    return hard + 10 if ace and hard <= 11 else hard


@cache
def dealer(hard, ace):
    """{final sum, 0 if bust: probability} of a dealer who draws up to 17."""
    total = total_of(hard, ace)
    if total >= 17:
        return {total if total <= 21 else 0: 1.0}
    found = {}
    for card in CARDS:
        for end, p in dealer(hard + card, ace or card == 1).items():
            found[end] = found.get(end, 0.0) + p / 13
    return found


@cache
def action_values(hard, ace, shown):
    """Optimal (stick, hit), by recursion over the cards; naturals apart."""
    total, stick, hit = total_of(hard, ace), 0.0, 0.0
    for card in CARDS:
        for end, p in dealer(shown + card, 1 in (shown, card)).items():
            stick += p / 13 * ((total > end) - (total < end))
        further = hard + card, ace or card == 1
        hit += (-1.0 if total_of(*further) > 21 else max(action_values(*further, shown))) / 13
    return stick, hit


def basic_strategy():
    """Whether to hit, ``(sum 12 to 21, dealer ace to 10, no usable ace or one)``: figure 5.2."""
    hits = np.zeros((10, 10, 2), bool)
    for shown in range(1, 11):
        hard = 13 if shown in (2, 3) else 12 if shown in (4, 5, 6) else 17
        soft = 19 if shown in (1, 9, 10) else 18
        hits[: hard - 12, shown - 1, 0] = True  # sticks from these sums on
        hits[: soft - 12, shown - 1, 1] = True
    return hits


def test_the_published_strategy_is_the_exact_one():
    """The two answers that the next test compares with agree in all 200 states."""
    for total, shown, ace in np.ndindex(10, 10, 2):
        stick, hit = action_values(total + 12 - 10 * ace, bool(ace), shown + 1)
        assert basic_strategy()[total, shown, ace] == (hit > stick)


def blackjack(name, tmp_path, **changes):
    more = {"run.dir": str(tmp_path), "evaluation": {"every": 0, "episodes": 1}} | changes
    q = rlgen.train(name, more).weights.reshape(-1, 32, 11, 2, 2)[0]
    q = q[12:22, 1:11]
    agree = (q.argmax(axis=-1) == basic_strategy()).mean()
    exact = np.array(
        [
            action_values(total + 12 - 10 * ace, bool(ace), shown + 1)
            for total, shown, ace in np.ndindex(10, 10, 2)
        ]
    ).reshape(q.shape)
    # A natural, which some of the soft 21s are, pays more than a recursion over sums knows.
    return agree, np.sqrt(((q - exact)[:9] ** 2).mean())


@pytest.mark.parametrize("name", ["monte-carlo-blackjack", "off-policy-monte-carlo-blackjack"])
def test_blackjack_comes_to_the_basic_strategy(name, tmp_path):
    """At least 95 % of the 200 states of Sutton and Barto, figure 5.2."""
    agree, error = blackjack(name, tmp_path, **{"stop.env_steps": 1_000_000})
    assert agree >= 0.95
    assert error < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["monte-carlo-blackjack", "off-policy-monte-carlo-blackjack"])
def test_blackjack_comes_to_the_basic_strategy_with_every_seed(name, seed, tmp_path):
    agree, error = blackjack(name, tmp_path, seed=seed)
    print(f"{name}, seed {seed}: {agree:.1%} of the states, RMS error {error:.4f}")
    assert agree >= 0.95
    assert error < 0.05
