"""What the tests of planning compare with: linear programs, and a loop without a platform."""

import itertools

import numpy as np
import scipy.optimize
import scipy.sparse

from rlgen.algorithm import Problem


def linear_program(model, gamma):
    """V*: the least V with V >= r + gamma P V, and 0 where it ends; by scipy's HiGHS."""
    states, actions = model.rewards.shape
    pair = np.arange(states * actions)
    identity = scipy.sparse.csr_array((np.ones(pair.size), (pair, pair // actions)))
    result = scipy.optimize.linprog(
        np.ones(states),
        A_ub=gamma * model.transitions - identity,
        b_ub=-model.rewards.ravel(),
        bounds=[(0, 0) if end else (None, None) for end in model.terminal],
        method="highs-ds",
    )
    assert result.success
    return result.x


def action_values(model, values, gamma):
    """Q of V, dense ``(S, A)``."""
    return model.rewards + gamma * (model.transitions @ values).reshape(model.rewards.shape)


def value_of(model, policy, gamma):
    """V of a policy ``(S, A)`` of probabilities, by a dense solve of the states that go on."""
    states, actions = model.rewards.shape
    p = model.transitions.toarray().reshape(states, actions, states)
    chain = np.einsum("sa,sat->st", policy, p)
    rewards = (policy * model.rewards).sum(axis=1)
    on = ~model.terminal
    values = np.zeros(states)
    values[on] = np.linalg.solve(np.eye(on.sum()) - gamma * chain[np.ix_(on, on)], rewards[on])
    return values


def planner(algorithm, model, **hyperparameters):
    """The algorithm, set a model."""
    config = algorithm.Config(**hyperparameters)
    return algorithm(config, Problem(model=model), np.random.default_rng(0))


def cycle(algorithm, slices=1):
    """One cycle in step: every slice swept, then one update; its metrics."""
    edges = np.linspace(0, len(algorithm.model.terminal), slices + 1).astype(int)
    parts = [algorithm.sweep(*edge) for edge in itertools.pairwise(edges)]
    batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return algorithm.update(batch)


def solve(algorithm, model, slices=1, **hyperparameters):
    """Cycles until converged; the algorithm and the metrics of every update."""
    made, history = planner(algorithm, model, **hyperparameters), []
    while not made.converged:
        history.append(cycle(made, slices))
        assert len(history) < 20_000
    return made, history
