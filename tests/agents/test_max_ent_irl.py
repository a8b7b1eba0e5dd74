"""Maximum-entropy IRL: its gradient by finite differences, visits by another way, a 5 x 5 grid."""

from types import SimpleNamespace

import numpy as np
import pytest
from exact import action_values, linear_program, value_of

import rlgen
from rlgen import demonstrations
from rlgen.agents.max_ent_irl import MaxEntIRL
from rlgen.algorithm import Problem
from rlgen.config import DemonstrationsConfig, load_experiment
from rlgen.demonstrations import Demonstrations
from rlgen.envs.mdp import MDP, load_mdp
from rlgen.errors import ConfigError
from rlgen.problem import load_problem

GRID = load_experiment("max-ent-irl-grid")


def solver(model, shown, **hyperparameters):
    config = MaxEntIRL.Config(**hyperparameters)
    problem = Problem(model=model, demonstrations=shown)
    MaxEntIRL.check(problem)
    return MaxEntIRL(config, problem, np.random.default_rng(0))


def grid_solver(**hyperparameters):
    shown = demonstrations.load(GRID.demonstrations)
    return solver(load_mdp(GRID.env), shown, **hyperparameters)


def states_of(irl):
    return len(irl.expert)


def settle(irl):
    """The soft-optimal values of the reward as it is."""
    for _ in range(600):
        irl.table[1] = irl.sweep(0, states_of(irl))["value"]


def policy_of(irl):
    q = irl.action_values(0, states_of(irl))
    p = np.exp(q - q.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def as_model(irl):
    """The recovered reward as a plain model: r(s) for a step, that of an end on coming there."""
    model, gamma = irl.model, irl.config.gamma
    reward, end = irl.table[0], model.terminal
    arrival = (model.transitions @ np.where(end, reward, 0.0)).reshape(model.rewards.shape)
    rewards = np.where(end[:, None], 0.0, reward[:, None] + gamma * arrival)
    parts = {"transitions": model.transitions, "terminal": end, "start": model.start}
    return SimpleNamespace(rewards=rewards, **parts)


def test_the_gradient_is_that_of_the_likelihood():
    """Causal entropy: L(r) = sum_s mu_E(s) r(s) - sum_s p_0(s) V(s); central differences."""
    irl = grid_solver()
    irl.table[0] = np.random.default_rng(1).normal(size=states_of(irl))

    def objective():
        settle(irl)
        return irl.expert @ irl.table[0] - irl.model.start @ irl.table[1]

    objective()
    gradient = irl.expert - irl.visits(policy_of(irl))
    for state in (0, 3, 5, 12, 23, 24):  # the start, free cells, holes, the goal
        difference = 0.0
        for sign in (1, -1):
            irl.table[0, state] += sign * 1e-4
            difference += sign * objective() / 2e-4
            irl.table[0, state] -= sign * 1e-4
        assert difference == pytest.approx(gradient[state], abs=1e-6)


def test_visits_weigh_rewards_as_the_value_does():
    """sum_s D(s) r(s) is the policy's discounted value, by a dense solve of Bellman's equation."""
    irl = grid_solver()
    rng = np.random.default_rng(2)
    for _ in range(3):
        irl.table[0] = rng.normal(size=states_of(irl))
        policy = rng.dirichlet(np.ones(4), size=states_of(irl))
        model = as_model(irl)
        value = model.start @ value_of(model, policy, irl.config.gamma)
        assert irl.visits(policy) @ irl.table[0] == pytest.approx(value, abs=1e-10)


def test_soft_values_are_those_of_the_policy_with_its_entropy():
    """V = E[sum gamma^t (r - log pi)]: the soft-optimal policy's value with its entropy as pay."""
    irl = grid_solver()
    irl.table[0] = np.random.default_rng(3).normal(size=states_of(irl))
    settle(irl)
    policy, model = policy_of(irl), as_model(irl)
    model.rewards = np.where(model.terminal[:, None], 0.0, model.rewards - np.log(policy))
    expected = value_of(model, policy, irl.config.gamma)
    on = ~model.terminal
    np.testing.assert_allclose(irl.table[1, on], expected[on], atol=1e-9)
    np.testing.assert_array_equal(irl.table[1, ~on], irl.table[0, ~on])


def test_slices_give_the_same_bits():
    irl = grid_solver()
    irl.table[:] = np.random.default_rng(4).normal(size=irl.table.shape)
    whole = irl.sweep(0, 25)["value"]
    parts = [irl.sweep(first, last)["value"] for first, last in ((0, 7), (7, 8), (8, 25))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def shown_on(states, actions, terminated):
    """One episode through some states."""
    steps = len(actions)
    return Demonstrations(
        observation=np.array(states[:-1]),
        action=np.array(actions),
        reward=np.zeros(steps, np.float32),
        terminated=np.arange(steps) == (steps - 1 if terminated else steps),
        truncated=np.arange(steps) == (steps if terminated else steps - 1),
        episode=np.zeros(steps, np.int64),
        last_observation=np.array(states[-1:]),
        about={},
    )


def chain(ends_in_passing):
    """0 -> 1 -> 2 by action 1; action 0 goes back to 0. Coming to 2 ends, or only by action 1."""
    table = {
        s: {0: [(1.0, 0, 0.0, False)], 1: [(1.0, min(s + 1, 2), 0.0, s == 1)]} for s in range(3)
    }
    if ends_in_passing:
        table[0][0] = [(1.0, 2, 0.0, False)]  # so that 2 is also passed through
    return MDP.from_toy_text(table, np.array([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("ends_in_passing", [False, True])
def test_the_experts_visits_by_hand(ends_in_passing):
    """0, 1, 0, 1, an end in 2: where 2 is passed through too, the end is a state of its own."""
    model = chain(ends_in_passing)
    irl = solver(model, shown_on([0, 1, 0, 1, 2], [1, 0, 1, 1], True), gamma=0.5)
    visits = [1 + 0.25, 0.5 + 0.125, 0.0625]
    expected = [*visits[:2], 0.0, visits[2]] if ends_in_passing else visits
    assert irl.expert.tolist() == expected
    cut = solver(model, shown_on([0, 1, 0], [1, 0], False), gamma=0.5)
    assert cut.expert[:3].tolist() == [1.25, 0.5, 0.0]  # what was not shown counts as none


def test_a_step_waits_until_the_values_have_settled():
    irl = solver(chain(False), shown_on([0, 1, 2], [1, 1], True), gamma=0.5, tolerance=1e-9)
    moved = []
    for _ in range(40):
        before = irl.table[0].copy()
        metrics = irl.update(irl.sweep(0, 3))
        moved.append(not np.array_equal(before, irl.table[0]))
        assert moved[-1] == ("gradient" in metrics) == (metrics["residual"] < 1e-4)
    assert 0 < sum(moved) < 40


@pytest.mark.parametrize("regularization", [0.05, 0.5])
def test_the_regularised_optimum_is_stationary(regularization):
    """mu_E - D = l r at the maximum of the penalised likelihood."""
    hyperparameters = {"regularization": regularization, "learning_rate": 1.0, "tolerance": 1e-6}
    irl = grid_solver(planning_tolerance=1e-8, **hyperparameters)
    while not irl.converged:
        metrics = irl.update(irl.sweep(0, 25))
    assert metrics["gradient"] < 1e-6
    settle(irl)
    gap = irl.expert - irl.visits(policy_of(irl))
    np.testing.assert_allclose(gap, regularization * irl.table[0], atol=2e-6)


def test_it_recovers_a_reward_for_which_the_expert_is_optimal(tmp_path):
    """On a slippery 5 x 5 grid with holes; both optima are those of a linear program (scipy)."""
    run = rlgen.train("max-ent-irl-grid", {"run.dir": str(tmp_path)})
    assert run.summary["stop_reason"] == "converged"
    irl = run.algorithm
    gamma, true, recovered = irl.config.gamma, irl.model, as_model(irl)
    assert true.rewards.max() > 0 and np.ptp(irl.table[0]) > 5
    true_values, values = linear_program(true, gamma), linear_program(recovered, gamma)
    expert = np.eye(4)[action_values(true, true_values, gamma).argmax(axis=1)]
    under_recovered = recovered.start @ value_of(recovered, expert, gamma)
    assert under_recovered == pytest.approx(recovered.start @ values, abs=1e-6)
    # And the other way round: what is best for the recovered reward is best for the true one.
    best = np.eye(4)[action_values(recovered, values, gamma).argmax(axis=1)]
    true_optimum = true.start @ true_values
    assert true.start @ value_of(true, best, gamma) == pytest.approx(true_optimum, abs=1e-9)
    # Not every reward does so: another one, and no reward at all.
    irl.table[0] = 0.0
    nothing = as_model(irl)
    first = np.eye(4)[action_values(nothing, linear_program(nothing, gamma), gamma).argmax(axis=1)]
    assert true.start @ value_of(true, first, gamma) < 0.1 * true_optimum


def test_the_mode_of_the_policy_acts():
    irl = grid_solver()
    irl.table[0] = np.random.default_rng(5).normal(size=25)
    settle(irl)
    chosen = irl.act(np.arange(25), greedy=True)["action"]
    assert chosen.tolist() == policy_of(irl).argmax(axis=1).tolist()


def test_an_environment_without_a_model_is_refused():
    with pytest.raises(ConfigError, match=r"env.id: max-ent-irl needs an environment with a known"):
        MaxEntIRL.check(Problem(demonstrations=demonstrations.load(GRID.demonstrations)))
    experiment = load_experiment("max-ent-irl-grid", ["env.id=Taxi-v4", "env.kwargs={}"])
    with pytest.raises(ConfigError, match=r"grid-expert was recorded with observations of values"):
        load_problem(experiment)
    assert DemonstrationsConfig(path="grid-expert").episodes is None
