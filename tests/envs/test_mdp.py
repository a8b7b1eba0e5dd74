"""Transition tables as matrices and as sampled environments."""

import gymnasium as gym
import numpy as np
import pytest
import scipy.sparse
import scipy.stats

from rlgen.config import EnvConfig
from rlgen.envs.mdp import MDP, MDPVectorEnv, Outcomes, load_mdp, outcomes_of
from rlgen.envs.vector import Environments

TABULAR = [
    "FrozenLake-v1",
    "FrozenLake8x8-v1",
    "Taxi-v4",
    "CliffWalking-v1",
    "CliffWalkingSlippery-v1",
]


def dense(mdp):
    return mdp.transitions.toarray().reshape(mdp.num_states, mdp.num_actions, mdp.num_states)


@pytest.mark.parametrize("name", TABULAR)
def test_matrices_hold_the_table(name):
    """Rows add up outcome by outcome, with ending ones in states without a future."""
    env = gym.make(name).unwrapped
    mdp = load_mdp(EnvConfig(id=name))
    p = dense(mdp)
    for s, actions in env.P.items():
        if mdp.terminal[s]:
            continue
        for a, outcomes in actions.items():
            going_on, ending, reward = np.zeros(mdp.num_states), 0.0, 0.0
            for probability, successor, r, terminated in outcomes:
                reward += probability * r
                if terminated:
                    ending += probability
                else:
                    going_on[successor] += probability
            np.testing.assert_allclose(p[s, a][~mdp.terminal], going_on[~mdp.terminal], atol=1e-15)
            assert p[s, a][mdp.terminal].sum() == pytest.approx(ending, abs=1e-15)
            assert mdp.rewards[s, a] == pytest.approx(reward, abs=1e-12)
    np.testing.assert_array_equal(mdp.start[: len(env.P)], env.initial_state_distrib)


def test_terminal_states():
    lake = load_mdp(EnvConfig(id="FrozenLake-v1"))
    assert np.flatnonzero(lake.terminal).tolist() == [5, 7, 11, 12, 15]  # holes and goal
    # A fall leads back to the start and goes on; only the goal ends. It is where the agent stays.
    walk = load_mdp(EnvConfig(id="CliffWalking-v1"))
    assert np.flatnonzero(walk.terminal).tolist() == [47]
    assert dense(walk)[25, 2, 36] == 1
    assert dense(walk)[36, 1, 36] == 1
    assert walk.rewards[36, 1] == -100
    # Taxi's table also drives on with a passenger at the destination: its drop-offs need a state.
    taxi = load_mdp(EnvConfig(id="Taxi-v4"))
    assert taxi.num_states == 501
    assert np.flatnonzero(taxi.terminal).tolist() == [500]
    assert (taxi.transitions.tocsc()[:, [500]].sum() - 6) == 4  # 4 destinations, 6 self-loops


def test_a_state_entered_both_ways():
    table = {
        0: {0: [(0.25, 1, 4.0, True), (0.25, 1, 8.0, False), (0.5, 1, 2.0, True)]},
        1: {0: [(1.0, 0, -1.0, False)]},
    }
    mdp = MDP.from_toy_text(table, np.array([1.0, 0.0]))
    np.testing.assert_array_equal(dense(mdp)[:, 0], [[0, 0.25, 0.75], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(mdp.rewards[:, 0], [4.0, -1.0, 0.0])
    np.testing.assert_array_equal(mdp.terminal, [False, False, True])


def test_a_first_state_is_not_terminal():
    """Coming back to the start ends the episode; starting there does not."""
    table = {0: {0: [(1.0, 1, 1.0, False)]}, 1: {0: [(1.0, 0, 2.0, True)]}}
    mdp = MDP.from_toy_text(table, np.array([1.0, 0.0]))
    assert mdp.terminal.tolist() == [False, False, True]
    assert dense(mdp)[1, 0].tolist() == [0, 0, 1]


def test_a_terminal_state_may_stay_where_it_is():
    """A loop in the end state that does not end again is no other way to enter it."""
    table = {0: {0: [(1.0, 1, 5.0, True)]}, 1: {0: [(1.0, 1, 3.0, False)]}}
    mdp = MDP.from_toy_text(table, np.array([1.0, 0.0]))
    assert mdp.terminal.tolist() == [False, True]
    assert mdp.rewards.tolist() == [[5.0], [0.0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0.5, 0, 0.0, False)], "the probabilities of state 0, action 0 sum to 0.5"),
        ([], "the probabilities of state 0, action 0 sum to 0"),
        ([(1.5, 0, 0.0, False), (-0.5, 0, 0.0, False)], "the probabilities of state 0, action 0"),
        ([(1.0, 3, 0.0, False)], r"a successor is outside of 0\.\.0"),
    ],
)
def test_improper_tables(rows, message):
    with pytest.raises(ValueError, match=message):
        Outcomes.from_toy_text({0: {0: rows}}, np.ones(1))


def test_improper_matrices():
    def make(p, rewards, terminal=(False, False)):
        matrix = scipy.sparse.csr_array(np.array(p, float))
        return MDP(matrix, np.array(rewards, float), np.array(terminal), np.array([1.0, 0.0]))

    assert make([[0, 1], [0, 1]], [[1], [0]], (False, True)).num_actions == 1
    with pytest.raises(ValueError, match="must sum to 1"):
        make([[0, 0.9], [0, 1]], [[1], [0]])
    with pytest.raises(ValueError, match="terminal states must be absorbing and pay no reward"):
        make([[0, 1], [1, 0]], [[1], [0]], (False, True))
    with pytest.raises(ValueError, match="terminal states must be absorbing and pay no reward"):
        make([[0, 1], [0, 1]], [[1], [2]], (False, True))
    with pytest.raises(ValueError, match="expected \\(4, 2\\) for 2 states of 2 actions"):
        make([[0, 1], [0, 1]], [[1, 1], [0, 0]])


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalkingSlippery-v1", "Taxi-v4"])
def test_samples_follow_the_table(name):
    """Every sampled outcome is one of the table's; their frequencies pass a chi-square test."""
    env = gym.make(name).unwrapped
    outcomes = outcomes_of(env)
    vector = MDPVectorEnv(outcomes, 512)
    rng = np.random.default_rng(0)
    state, _ = vector.reset(seed=1)
    np.testing.assert_array_equal(env.initial_state_distrib[state] > 0, True)
    counts: dict = {}
    for _ in range(400):
        action = rng.integers(outcomes.num_actions, size=512)
        successor, reward, terminated, _, _ = vector.step(action)
        rows = np.stack([state, action, successor, reward, terminated], axis=1)
        for (s, a, s1, r, end), n in zip(*np.unique(rows, axis=0, return_counts=True), strict=True):
            counts.setdefault((s, a), {})[s1, r, bool(end)] = (
                counts.get((s, a), {}).get((s1, r, bool(end)), 0) + n
            )
        state = successor
        if terminated.any():
            state, _ = vector.reset(options={"reset_mask": terminated})
    p_values = []
    for (s, a), seen in counts.items():
        expected: dict = {}
        for probability, s1, r, end in env.P[s][a]:
            expected[s1, r, end] = expected.get((s1, r, end), 0.0) + probability
        assert seen.keys() <= expected.keys()
        total = sum(seen.values())
        if len(expected) > 1 and total > 100:
            observed = [seen.get(key, 0) for key in expected]
            frequencies = np.array(list(expected.values())) * total
            p_values.append(scipy.stats.chisquare(observed, frequencies).pvalue)
    if name != "Taxi-v4":  # Taxi has no chance in it
        assert len(p_values) > 30
        # Under the right probabilities the p-values are uniform.
        assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.01
        assert min(p_values) > 1e-4


def test_rewards_are_those_of_the_outcome():
    """Not their mean over successors: a fall costs 100, another step 1."""
    outcomes = outcomes_of(gym.make("CliffWalkingSlippery-v1"))
    vector = MDPVectorEnv(outcomes, 64)
    vector.reset(seed=0)
    rng = np.random.default_rng(0)
    rewards = {r for _ in range(100) for r in vector.step(rng.integers(4, size=64))[1]}
    assert rewards == {-1.0, -100.0}


def test_random_episodes_are_gymnasiums():
    """Return and length of random episodes, by our arrays and by Gymnasium's own environment."""

    def play(environments, episodes):
        rng = np.random.default_rng(0)
        environments.reset()
        while len(environments.finished) < episodes:
            environments.step(rng.integers(4, size=environments.num_envs))
        return np.array(environments.finished)

    config = EnvConfig(id="FrozenLake-v1", kwargs={"max_episode_steps": 12})
    ours = play(Environments(config, 64, seed=0), 20_000)
    own = Environments(config, 16, seed=0)
    own.env = gym.make_vec(
        "FrozenLake-v1",
        16,
        "sync",
        {"autoreset_mode": gym.vector.AutoresetMode.DISABLED},
        max_episode_steps=12,
    )
    theirs = play(own, 3_000)
    # Exact: the distribution after t random steps, absorbed by holes, goal and the limit.
    mdp = load_mdp(EnvConfig(id="FrozenLake-v1"))
    step = dense(mdp).mean(axis=1)
    alive, length, goal = mdp.start, 0.0, 0.0
    for _ in range(12):
        length += alive[~mdp.terminal].sum()
        alive = alive @ step
        goal = alive[15]
    for sample in (ours, theirs):
        error = sample.std(axis=0) / np.sqrt(len(sample))
        np.testing.assert_allclose(sample.mean(axis=0), [goal, length], atol=float(4 * error.max()))
        assert abs(sample[:, 0].mean() - goal) < 4 * error[0]


def test_the_largest_draw_stays_in_its_row():
    """pair + u rounds up to pair + 1 for large pairs, which is the next pair's first outcome."""

    class Ones:
        def random(self, n):
            return np.full(n, np.nextafter(1.0, 0.0))

    states = 5000
    table = {
        s: {0: [(0.5, s, 0.0, False), (0.5, (s + 1) % states, 1.0, False)]} for s in range(states)
    }
    vector = MDPVectorEnv(Outcomes.from_toy_text(table, np.full(states, 1 / states)), states)
    vector.reset(seed=0)
    vector.state = np.arange(states)
    vector._np_random = Ones()  # type: ignore[assignment]
    successor, reward, *_ = vector.step(np.zeros(states, int))
    np.testing.assert_array_equal(successor, (np.arange(states) + 1) % states)
    np.testing.assert_array_equal(reward, 1.0)
    assert (vector.reset()[0] == states - 1).all()
