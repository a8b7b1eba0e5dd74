"""Runs on several nodes, of which one is killed in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from experiments import TINY, train
from nodes import Killing, Nodes, simulated

from rlgen import tracking
from rlgen.backends import ray as ray_backend
from rlgen.backends.inline import Done, InlineBackend
from rlgen.config import resolve_experiment
from rlgen.crew import Crew
from rlgen.errors import BatchLost, LearnerDied


@pytest.mark.parametrize(
    ("who", "learners", "expected", "message"),
    [
        ("environment worker 0", 1, LearnerDied, "node died with the weights for environment"),
        ("the learner", 1, BatchLost, "lost"),
        ("the learner", 2, LearnerDied, "lost a batch that the others may have"),
    ],
)
def test_who_is_to_blame_for_what_went_with_a_node(
    who: str, learners: int, expected: Any, message: str
) -> None:
    experiment = resolve_experiment({"name": "small", **TINY["q-learning"]})
    crew = Crew(experiment, InlineBackend(), {}, print)
    crew.learners = [None] * learners
    with pytest.raises(expected, match=message) as raised:
        crew.answer(Done(None, BatchLost("lost")), who)
    if expected is LearnerDied:  # no worker is replaced for that
        for supervise in (crew.replace, crew.lose):
            with pytest.raises(LearnerDied, match=message):
                supervise(0, raised.value)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with simulated() as nodes:
        yield nodes


@pytest.fixture
def killing(cluster: Nodes, monkeypatch: pytest.MonkeyPatch) -> Callable[..., type[Killing]]:
    """Has a node of three killed in the next run."""

    def plan(victim: str, method: str, call: int) -> type[Killing]:
        cluster.have(3)
        chosen = type(
            "Chosen", (Killing,), {"nodes": cluster, "victim": victim, "before": (method, call)}
        )
        monkeypatch.setattr(ray_backend, "RayBackend", chosen)
        return chosen

    return plan


def events(run: Any) -> list[str]:
    return [r["message"] for r in tracking.read_metrics(run.dir) if r["kind"] == "event"]


@pytest.mark.slow  # a node takes seconds to start
@pytest.mark.parametrize("name", ["a3c", "dqn", "value-iteration", "vae", "rbm"])
def test_three_nodes_give_the_same_weights_as_one_process(
    name: str, tmp_path: Any, cluster: Nodes
) -> None:
    cluster.have(3)
    sync = {"scheduler.mode": "sync", "scheduler.workers": 6}
    run = train(name, tmp_path, cluster.on(sync))
    assert run.summary["restarts"] == 0
    np.testing.assert_array_equal(run.weights, train(name, tmp_path, sync).weights)


#: Batches that lie in the object store of their node: some 300 KB each.
WIDE = {"env.num_envs": 64, "hyperparameters.rollout_steps": 100, "stop.env_steps": 200_000}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "call", "changes"),
    [
        ("q-learning", "produce", 40, {"hyperparameters.rollout_steps": 8}),
        ("a2c", "update", 5, WIDE),  # which finds that batches are gone
        ("vae", "produce", 80, {"stop.epochs": 6}),
    ],
)
def test_a_killed_node_changes_no_weight_of_a_sync_run(
    name: str, method: str, call: int, changes: Any, tmp_path: Any, cluster: Nodes, killing: Any
) -> None:
    changes = {"scheduler.workers": 3, **changes}
    victim = "DataWorker" if name == "vae" else "RolloutWorker"
    chosen = killing(victim, method, call)
    run = train(name, tmp_path, cluster.on(changes))
    assert chosen.latest.killed == 1
    told = [event for event in events(run) if "anew" in event]
    assert run.summary["restarts"] == len(told) >= 1, events(run)
    undisturbed = train(name, tmp_path, changes)
    np.testing.assert_array_equal(run.weights, undisturbed.weights)
    assert run.summary["evaluation"] == undisturbed.summary["evaluation"]


@pytest.mark.slow
def test_a_node_that_is_killed_with_the_evaluator_costs_no_evaluation(
    tmp_path: Any, cluster: Nodes, killing: Any
) -> None:
    changes = {"evaluation.every": 1000, "scheduler.learner_cpus": 1.5}
    chosen = killing("Evaluator", "evaluate", 2)
    run = train("q-learning", tmp_path, {**cluster.on(changes), **changes})
    assert chosen.latest.killed == 1
    assert any("the evaluator died" in event for event in events(run)), events(run)
    undisturbed = train("q-learning", tmp_path, changes)
    np.testing.assert_array_equal(run.weights, undisturbed.weights)
    means = [
        [r["mean"] for r in tracking.read_metrics(each.dir) if r["kind"] == "evaluation"]
        for each in (run, undisturbed)
    ]
    assert means[0] == means[1]


@pytest.mark.slow
def test_a_node_that_is_killed_with_the_learner_costs_what_followed_the_checkpoint(
    tmp_path: Any, cluster: Nodes, killing: Any
) -> None:
    changes = {"fault.restart_learner": True, "checkpoint.every": 600}
    chosen = killing("Learner", "update", 30)
    run = train("q-learning", tmp_path, cluster.on(changes))
    assert chosen.latest.killed == 1
    assert any("going on from" in event and "checkpoints/" in event for event in events(run))
    np.testing.assert_array_equal(run.weights, train("q-learning", tmp_path).weights)


@pytest.mark.slow
def test_an_async_run_goes_on_while_a_node_is_away(
    tmp_path: Any, cluster: Nodes, killing: Any
) -> None:
    chosen = killing("RolloutWorker", "produce", 40)
    changes = {"scheduler.mode": "async", "scheduler.workers": 3, "stop.env_steps": 20_000}
    run = train("dqn", tmp_path, cluster.on(changes))
    assert chosen.latest.killed == 1
    assert run.summary["stop_reason"] == "env_steps"
    assert any("starting it anew on another node" in event for event in events(run)), events(run)
