"""Every policy-gradient estimator in expectation against the exact gradient, by enumeration.

A random decision process of 3 states, 2 actions and 4 steps has few enough trajectories to list
them all. Each goes through the algorithm's own `process` and `update` (plain gradient steps of
size 1), and the steps are added up, weighted by the trajectory's probability. The exact gradient
does not know trajectories: it is automatic differentiation of the expected return, which a
backward recursion over the steps gives.
"""

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.agents.a2c import A2C
from rlgen.agents.actor_critic import OneStepActorCritic
from rlgen.agents.impala import IMPALA
from rlgen.agents.ppo import PPO
from rlgen.agents.reinforce import REINFORCE
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig

STATES, ACTIONS, HORIZON, GAMMA = 3, 2, 4, 0.7
OBSERVATIONS = STATES * (HORIZON + 1)  # t * STATES + s: values depend on the step
BIG = 1e9


class Chain:
    """Two random successors for every state and action, random rewards; it begins in state 0."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.successors = np.stack(
            [rng.permutation(STATES)[:2] for _ in range(STATES * ACTIONS)]
        ).reshape(STATES, ACTIONS, 2)
        self.probability = rng.dirichlet([1.0, 1.0], size=(STATES, ACTIONS))
        self.reward = torch.from_numpy(rng.normal(size=(STATES, ACTIONS, 2)))
        self.logits = torch.from_numpy(rng.normal(size=(HORIZON, STATES, ACTIONS)))

    def trajectories(self):
        """Lists of (t, s, a, reward, successor), and the probability of what the world did."""
        for choices in itertools.product(
            itertools.product(range(ACTIONS), range(2)), repeat=HORIZON
        ):
            state, chance, steps = 0, 1.0, []
            for t, (action, outcome) in enumerate(choices):
                chance *= self.probability[state, action, outcome]
                following = int(self.successors[state, action, outcome])
                reward = self.reward[state, action, outcome].item()
                steps.append((t, state, action, reward, following))
                state = following
            yield steps, chance

    def action_values(self, policy: Tensor, gamma: float = GAMMA) -> Tensor:
        """Q_t(s, a) of a policy ``(HORIZON, S, A)``, by the Bellman equation backwards."""
        value, rows = torch.zeros(STATES, dtype=torch.float64), []
        chances = torch.from_numpy(self.probability)
        for t in reversed(range(HORIZON)):
            q = (chances * (self.reward + gamma * value[torch.from_numpy(self.successors)])).sum(-1)
            value = (policy[t] * q).sum(-1)
            rows.append(q)
        return torch.stack(rows[::-1])

    def visits(self, policy: Tensor) -> Tensor:
        """The probability of being in s at step t, ``(HORIZON, S)``, forwards."""
        rows = [torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)]
        for t in range(HORIZON - 1):
            following = torch.zeros(STATES, dtype=torch.float64)
            for s, a, k in itertools.product(range(STATES), range(ACTIONS), range(2)):
                chance = rows[-1][s] * policy[t, s, a] * self.probability[s, a, k]
                following[self.successors[s, a, k]] += chance
            rows.append(following)
        return torch.stack(rows)


def exact_gradient(chain: Chain) -> Tensor:
    """Of the expected discounted return, in the logits, by automatic differentiation."""
    logits = chain.logits.clone().requires_grad_()
    policy = logits.softmax(-1)
    objective = (policy[0, 0] * chain.action_values(policy)[0, 0]).sum()
    (gradient,) = torch.autograd.grad(objective, logits)
    return gradient


def undiscounted_gradient(chain: Chain, behaviour: Tensor | None = None) -> Tensor:
    """sum_t sum_s P(s_t = s) sum_a grad pi(a | s) Q_t(s, a): no gamma^t on the steps.

    The states may be visited by another policy than the one that is improved.
    """
    logits = chain.logits.clone().requires_grad_()
    policy = logits.softmax(-1)
    acting = policy.detach() if behaviour is None else behaviour
    surrogate = policy * chain.action_values(policy.detach())
    (gradient,) = torch.autograd.grad((chain.visits(acting)[..., None] * surrogate).sum(), logits)
    return gradient


def agent(kind: Any, chain: Chain, value: Tensor, **hyperparameters: Any) -> Any:
    """A linear policy and value over one-hot observations in float64, stepping by 1."""
    space = gym.spaces.Discrete(OBSERVATIONS)
    problem = Problem(space, gym.spaces.Discrete(ACTIONS), network=NetworkConfig(hidden=[]))
    config = kind.Config(gamma=GAMMA, max_gradient_norm=BIG, **hyperparameters)
    algorithm = kind(config, problem, np.random.default_rng(0))
    net = algorithm.network.double()
    net.encoder.register_forward_hook(lambda *call: call[-1].double())  # features are float32
    with torch.no_grad():
        net.policy[0].weight[:, : HORIZON * STATES] = chain.logits.reshape(-1, ACTIONS).T
        net.value[0].weight[0, : HORIZON * STATES] = value.reshape(-1)
        net.value[0].weight[0, HORIZON * STATES :] = 0.0
        for layer in (net.policy[0], net.value[0]):
            layer.bias.zero_()
    algorithm.optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    return algorithm


def columns(steps: list[Any]) -> dict[str, Tensor]:
    """A trajectory as a rollout ``(HORIZON, 1)``; the last step terminates."""
    rows = (torch.from_numpy(np.array(c))[:, None] for c in zip(*steps, strict=True))
    t, s, a, reward, following = rows
    last = t == HORIZON - 1
    return {
        "observation": t * STATES + s,
        "next_observation": (t + 1) * STATES + following,
        "action": a,
        "reward": reward,
        "terminated": last,
        "truncated": torch.zeros_like(last),
        "valid": torch.ones_like(last),
        "start": t == 0,
        "discount": GAMMA ** t.double(),
    }


def expectation(
    algorithm: Any, chain: Chain, behaviour: Tensor | None = None
) -> tuple[Tensor, float]:
    """Mean step of the policy's logits ``(HORIZON, S, A)``, and the sum of its variances."""
    net = algorithm.network
    acting = (chain.logits.softmax(-1) if behaviour is None else behaviour).log()
    weight = net.policy[0].weight
    kept = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    mean, square = torch.zeros_like(weight), 0.0
    total = 0.0
    for steps, chance in chain.trajectories():
        batch = columns(steps)
        batch["log_prob"] = torch.stack([acting[t, s, a] for t, s, a, _, _ in steps])[:, None]
        probability = chance * batch["log_prob"].sum().exp().item()
        algorithm.update(algorithm.process(batch))
        step = weight.detach() - kept["policy.0.weight"]
        net.load_state_dict(kept)
        mean += probability * step
        square += probability * step.square().sum().item()
        total += probability
    assert total == pytest.approx(1.0, abs=1e-12)
    logits = mean.T[: HORIZON * STATES].reshape(HORIZON, STATES, ACTIONS)
    return logits, square - mean.square().sum().item()


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain()


@pytest.fixture(scope="module")
def value(chain: Chain) -> Tensor:
    """V of the policy itself, ``(HORIZON, S)``."""
    policy = chain.logits.softmax(-1)
    return (policy * chain.action_values(policy)).sum(-1)


def wrong(value: Tensor) -> Tensor:
    return value + torch.from_numpy(np.random.default_rng(9).normal(size=value.shape))


def test_the_two_exact_forms_agree(chain):
    """The policy gradient theorem with gamma^t on the steps is the derivative of the objective."""
    policy = chain.logits.softmax(-1)
    visits, q = chain.visits(policy), chain.action_values(policy)
    advantage = q - (policy * q).sum(-1, keepdim=True)
    powers = GAMMA ** torch.arange(HORIZON)[:, None, None].double()
    theorem = powers * visits[..., None] * policy * advantage  # of softmax: grad = pi (Q - V)
    torch.testing.assert_close(exact_gradient(chain), theorem, rtol=0, atol=1e-14)


@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce_with_gamma_t_is_exact(chain, value, baseline):
    """Eq 14.55 and 14.63 to 14.67: also for a baseline that is no value at all."""
    algorithm = agent(REINFORCE, chain, wrong(value), baseline=baseline, episodes=1)
    mean, _ = expectation(algorithm, chain)
    torch.testing.assert_close(mean, exact_gradient(chain), rtol=0, atol=1e-12)


@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce_without_gamma_t_differs_as_stated(chain, value, baseline):
    """It is sum_t of the undiscounted visits: another direction, though not far away."""
    given = {"baseline": baseline, "discount_weighting": False, "episodes": 1}
    mean, _ = expectation(agent(REINFORCE, chain, wrong(value), **given), chain)
    torch.testing.assert_close(mean, undiscounted_gradient(chain), rtol=0, atol=1e-12)
    exact = exact_gradient(chain)
    assert (mean - exact).norm() > 0.05
    assert 0.8 < torch.cosine_similarity(mean.flatten(), exact.flatten(), dim=0) < 0.999


def test_the_baseline_changes_the_variance_and_not_the_mean():
    """Section 14.3.2: where all returns are large, V takes most of the variance away; -V adds."""
    chain = Chain()
    chain.reward += 2.0
    policy = chain.logits.softmax(-1)
    value = (policy * chain.action_values(policy)).sum(-1)
    none, own, opposite = (
        expectation(agent(REINFORCE, chain, v, baseline=baseline, episodes=1), chain)
        for v, baseline in ((value, False), (value, True), (-value, True))
    )
    for mean, _ in (none, own, opposite):
        torch.testing.assert_close(mean, exact_gradient(chain), rtol=0, atol=1e-12)
    assert own[1] < 0.5 * none[1] < 0.5 * opposite[1]


@pytest.mark.parametrize("weighting", [True, False])
def test_one_step_actor_critic_with_the_true_value_is_exact(chain, value, weighting):
    """Eq 14.71 to 14.73: E[delta | s, a] = Q - V. Its mean over the four rows times four."""
    algorithm = agent(OneStepActorCritic, chain, value, discount_weighting=weighting)
    mean, _ = expectation(algorithm, chain)
    expected = exact_gradient(chain) if weighting else undiscounted_gradient(chain)
    torch.testing.assert_close(HORIZON * mean, expected, rtol=0, atol=1e-12)


def test_one_step_actor_critic_inherits_the_error_of_its_value(chain, value):
    """What bootstrapping costs: with a wrong V the direction is wrong, unlike with a baseline."""
    mean, _ = expectation(agent(OneStepActorCritic, chain, wrong(value)), chain)
    assert (HORIZON * mean - exact_gradient(chain)).norm() > 0.05


PPO_ONCE = {"epochs": 1, "minibatch_size": HORIZON, "normalize_advantage": False}


@pytest.mark.parametrize(
    ("kind", "hyperparameters", "true_value"),
    [
        (A2C, {"gae_lambda": 1.0}, False),
        (A2C, {"gae_lambda": 0.5}, True),
        (A2C, {"gae_lambda": 0.0}, True),
        (PPO, {"gae_lambda": 1.0, **PPO_ONCE}, False),
        (PPO, {"gae_lambda": 0.5, **PPO_ONCE}, True),
        (IMPALA, {"entropy_coefficient": 0.0}, False),
    ],
)
def test_actor_critics_without_gamma_t(chain, value, kind, hyperparameters, true_value):
    """Whole episodes: with lambda 1 any V will do, below 1 it must be the policy's own."""
    given = value if true_value else wrong(value)
    mean, _ = expectation(agent(kind, chain, given, **hyperparameters), chain)
    torch.testing.assert_close(HORIZON * mean, undiscounted_gradient(chain), rtol=0, atol=1e-12)


@pytest.mark.parametrize("clip", [BIG, 1.0])
def test_impala_corrects_for_another_policy_that_acted(chain, value, clip):
    """Unclipped ratios: the exact gradient over the states that mu visits; clipped ones are not."""
    other = torch.from_numpy(np.random.default_rng(5).normal(size=chain.logits.shape)).softmax(-1)
    given = {"rho_clip": clip, "c_clip": clip, "entropy_coefficient": 0.0}
    mean, _ = expectation(agent(IMPALA, chain, value, **given), chain, behaviour=other)
    error = (HORIZON * mean - undiscounted_gradient(chain, behaviour=other)).abs().max().item()
    assert error < 1e-12 if clip == BIG else error > 1e-3
