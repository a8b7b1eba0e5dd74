"""Blackjack stepped as arrays against Gymnasium's own, and observations that are tuples."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.toy_text import blackjack
from gymnasium.envs.toy_text.blackjack import BlackjackEnv
from gymnasium.vector import SyncVectorEnv

from rlgen import state
from rlgen.config import EnvConfig
from rlgen.envs.blackjack import SCORES, BlackjackVectorEnv, dealer_hands
from rlgen.envs.making import make_vector
from rlgen.envs.single import make_single
from rlgen.envs.vector import Environments
from rlgen.errors import ConfigError
from rlgen.problem import probe


def test_dealer_hands():
    """Against hands dealt with Gymnasium's own functions, within 5 standard deviations."""
    hands, n = dealer_hands(), 3_000
    assert not hands[0].any() and SCORES.shape == (7,)
    np.testing.assert_allclose(hands[1:].sum(axis=1), 1.0, rtol=1e-12)
    # A ten shown makes a natural with an ace, an ace with any of the four tens.
    assert hands[10, 6] == pytest.approx(1 / 13) and hands[1, 6] == pytest.approx(4 / 13)
    rng = np.random.default_rng(0)
    for shown in (1, 6, 10):
        counts = np.zeros(7)
        for _ in range(n):
            hand = [shown, blackjack.draw_card(rng)]
            natural = blackjack.is_natural(hand)
            while blackjack.sum_hand(hand) < 17:
                hand.append(blackjack.draw_card(rng))
            counts[6 if natural else max(blackjack.score(hand) - 16, 0)] += 1
        deviation = np.sqrt(hands[shown] * (1 - hands[shown]) / n)
        assert (np.abs(counts / n - hands[shown]) <= 5 * deviation).all()


def gymnasium_hands(count, policy, rng, **rules):
    """(first observation, observations played, reward) of single hands in Gymnasium's own."""
    env = BlackjackEnv(**rules)
    env.reset(seed=1)
    for _ in range(count):
        observation, seen, reward, ends = env.reset()[0], [], 0.0, False
        while not ends:
            action = policy(*np.array(observation)[:, None], rng.random(1))
            seen.append((*observation, int(action[0])))
            observation, reward, ends, _, _ = env.step(int(action[0]))
        yield seen, reward


def vector_hands(count, policy, rng, **rules):
    env = BlackjackVectorEnv(200, **rules)
    observation, _ = env.reset(seed=2)
    seen = [[] for _ in range(200)]
    while count > 0:
        action = policy(*observation.T, rng.random(200)).astype(int)
        for row in range(200):
            seen[row].append((*observation[row].tolist(), int(action[row])))
        observation, reward, terminated, truncated, _ = env.step(action)
        assert not truncated.any()
        for row in np.flatnonzero(terminated):
            yield seen[row], reward[row]
            seen[row], count = [], count - 1
        observation, _ = env.reset(options={"reset_mask": terminated})


@pytest.mark.parametrize(
    "rules", [{"sab": True}, {"natural": True}, {}], ids=["book", "natural", "plain"]
)
def test_it_is_the_same_game(rules):
    """The same frequencies of everything seen and paid, within 5 standard deviations."""

    def often_hits(total, shown, ace, luck):
        return (total < 17) & (luck < 0.8) | (luck < 0.1)

    def frequencies(hands):
        counts, payments, n = {}, [], 0
        for seen, reward in hands:
            n += 1
            payments.append(reward)
            natural = seen[0][0] == 21 and len(seen) == 1
            for kind in (("seen", seen[0][:3]), ("last", seen[-1][0]), ("reward", reward),
                         ("steps", len(seen)), ("natural", natural and reward)):  # fmt: skip
                counts[kind] = counts.get(kind, 0) + 1
        return {kind: c / n for kind, c in counts.items()}, np.array(payments)

    n = 10_000
    theirs, paid = frequencies(gymnasium_hands(n, often_hits, np.random.default_rng(0), **rules))
    ours, paid_here = frequencies(vector_hands(n, often_hits, np.random.default_rng(3), **rules))
    assert len(theirs) > 200
    for kind in theirs.keys() | ours.keys():
        one, other = theirs.get(kind, 0.0), ours.get(kind, 0.0)
        deviation = np.sqrt(2 * max((one + other) / 2, 1e-9) / n)
        assert abs(one - other) < 5 * deviation + 3 / n, kind
    assert (paid == 1.5).any() == ("natural" in rules) == (paid_here == 1.5).any()


def test_which_form_is_stepped():
    native = make_vector(EnvConfig(id="Blackjack-v1", kwargs={"sab": False, "natural": True}), 3)
    assert isinstance(native, BlackjackVectorEnv)
    assert (native.sab, native.natural) == (False, True)
    assert make_vector(EnvConfig(id="Blackjack-v1"), 3).sab  # Gymnasium's default of this id
    # A time limit is not in it.
    limited = EnvConfig(id="Blackjack-v1", kwargs={"max_episode_steps": 1})
    assert isinstance(make_vector(limited, 3), SyncVectorEnv)
    environments = Environments(limited, 3, seed=0)
    assert environments.reset().shape == (3, 3)
    assert environments.step(np.ones(3, int)).truncated.all()
    assert environments.observation_space == gym.spaces.MultiDiscrete([32, 11, 2])


class Pairs(gym.Env):
    """Observes its last action in a tuple that counts from elsewhere than 0."""

    def __init__(self, last=None):
        discrete = gym.spaces.Discrete
        self.observation_space = gym.spaces.Tuple((discrete(3, start=5), last or discrete(9)))
        self.action_space = discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return (5, 8), {}

    def step(self, action):
        return (5 + int(action), 2), 0.0, False, False, {}


gym.register("rltest/Pairs-v0", entry_point=Pairs)


def test_a_tuple_of_discrete_spaces_is_one_multi_discrete():
    environments = Environments(EnvConfig(id="rltest/Pairs-v0"), 2, seed=0)
    assert environments.observation_space == gym.spaces.MultiDiscrete([3, 9])
    np.testing.assert_array_equal(environments.reset(), [[0, 8], [0, 8]])
    step = environments.step(np.array([2, 1]))
    np.testing.assert_array_equal(step.observation, [[2, 2], [1, 2]])
    assert make_single(EnvConfig(id="rltest/Pairs-v0")).reset()[0].tolist() == [5, 8]


def test_other_tuples_are_refused():
    config = EnvConfig(id="rltest/Pairs-v0", kwargs={"last": gym.spaces.Box(0, 1)})
    with pytest.raises(ConfigError, match=r"has observations in a Tuple space, expected Box"):
        probe(config)


def test_restored_tables_go_on_equally():
    config, rng = EnvConfig(id="Blackjack-v1"), np.random.default_rng(0)
    one, other = Environments(config, 5, seed=1), Environments(config, 5, seed=2)
    one.reset(), other.reset()
    actions = rng.integers(2, size=(40, 5))
    for action in actions:
        one.step(action)
    kept = state.capture(one)
    assert kept.opaque == []
    state.restore(other, kept.plain, kept.arrays)
    for action in actions:
        for left, right in zip(one.step(action), other.step(action), strict=True):
            np.testing.assert_array_equal(left, right)
