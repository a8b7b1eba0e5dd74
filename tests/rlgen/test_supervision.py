"""What is lost is brought back, and a sync run does not even notice."""

import os
import signal

import numpy as np
import pytest
import ray
from experiments import train

from rlgen import tracking
from rlgen.backends import ray as ray_backend
from rlgen.errors import LearnerDied, WorkerDied


class Killing:
    """Really kills the processes of some actors, each before one of their calls.

    The other base is the backend.
    """

    #: (class name, index among its actors, method, call number) of each kill.
    plan: tuple[tuple[str, int, str, int], ...] = ()

    def __init__(self, *args):
        super().__init__(*args)
        self.names = {}
        self.counts = {}
        self.to_kill = list(self.plan)

    def spawn(self, target, args, seed, threads, **needs):
        actor = super().spawn(target, args, seed, threads, **needs)
        kind = target.partition(":")[2]
        self.names[actor] = (kind, args[1] if "Worker" in kind else 0)
        return actor

    def call(self, actor, method, *args, returns=1):
        key = (*self.names[actor], method)
        self.counts[key] = self.counts.get(key, 0) + 1
        for planned in self.to_kill:
            if planned == (*key, self.counts[key]):
                self.to_kill.remove(planned)
                os.kill(ray.get(actor.process.remote()), signal.SIGKILL)
                break
        return super().call(actor, method, *args, returns=returns)


@pytest.fixture
def killing(pool, monkeypatch):
    def plan(*kills):
        chosen = type("Chosen", (Killing, pool), {"plan": kills})
        monkeypatch.setattr(ray_backend, "RayBackend", chosen)

    return plan


def events(run):
    return [r["message"] for r in tracking.read_metrics(run.dir) if r["kind"] == "event"]


ON_RAY = {"scheduler.backend": "ray"}


@pytest.mark.parametrize(
    ("name", "kind", "kills"),
    [
        # Before any state was kept, and after; two at once.
        ("q-learning", "RolloutWorker", [(0, 5), (1, 40), (0, 40)]),
        pytest.param("vae", "DataWorker", [(1, 20)], marks=pytest.mark.slow),
        pytest.param("value-iteration", "ModelWorker", [(0, 20)], marks=pytest.mark.slow),
    ],
)
def test_a_killed_worker_changes_no_weight_of_a_sync_run(name, kind, kills, tmp_path, killing):
    killing(*((kind, index, "produce", call) for index, call in kills))
    longer = {"hyperparameters.rollout_steps": 8} if name == "q-learning" else {}
    run = train(name, tmp_path, ON_RAY | longer)
    assert run.summary["restarts"] == len(kills)
    told = [event for event in events(run) if "anew" in event]
    assert len(told) == len(kills) and all("died" in event for event in told)
    *_, workers = (r for r in tracking.read_metrics(run.dir) if r["kind"] == "workers")
    assert workers["restarts"] == [[index for index, _ in kills].count(i) for i in (0, 1)]
    undisturbed = train(name, tmp_path, longer)
    np.testing.assert_array_equal(run.weights, undisturbed.weights)
    assert run.summary["env_steps"] == undisturbed.summary["env_steps"]
    assert run.summary["evaluation"] == undisturbed.summary["evaluation"]


def test_a_killed_evaluator_is_replaced_and_its_evaluation_done_again(tmp_path, killing):
    killing(("Evaluator", 0, "evaluate", 2))
    changes = {"evaluation.every": 1000}
    run = train("q-learning", tmp_path, ON_RAY | changes)
    assert run.summary["restarts"] == 1
    assert any("evaluator died" in event for event in events(run))
    means = [r["mean"] for r in tracking.read_metrics(run.dir) if r["kind"] == "evaluation"]
    undisturbed = train("q-learning", tmp_path, changes)
    records = tracking.read_metrics(undisturbed.dir)
    assert means == [r["mean"] for r in records if r["kind"] == "evaluation"]


@pytest.mark.slow
def test_an_evaluator_that_dies_over_its_pictures_costs_these_pictures_only(tmp_path, killing):
    killing(("Evaluator", 0, "pictures", 2))
    changes = {"evaluation.every": 1, "stop.epochs": 4}
    run = train("vae", tmp_path, ON_RAY | changes)
    undisturbed = train("vae", tmp_path, changes)
    (lost,) = (event for event in events(run) if "pictures" in event)
    assert "the pictures at epochs 2" in lost and "are lost: the evaluator died" in lost
    for name in ("samples", "reconstructions"):
        there = [path.name for path in sorted((run.dir / "pictures").glob(f"{name}*"))]
        wanted = [path.name for path in sorted((undisturbed.dir / "pictures").glob(f"{name}*"))]
        assert there == [n for n in wanted if n != f"{name}-0000000002.png"]
        for file in there:
            made = (run.dir / "pictures" / file).read_bytes()
            assert made == (undisturbed.dir / "pictures" / file).read_bytes()


def test_a_killed_learner_ends_the_run_and_is_named(tmp_path, killing):
    killing(("Learner", 0, "update", 30))
    with pytest.raises(LearnerDied, match="the learner died"):
        train("q-learning", tmp_path, ON_RAY)


@pytest.mark.parametrize("every", [pytest.param(0, marks=pytest.mark.slow), 600])
def test_a_killed_learner_goes_on_from_the_last_checkpoint_if_so_configured(
    every, tmp_path, killing
):
    killing(("Learner", 0, "update", 30))
    run = train(
        "q-learning",
        tmp_path,
        ON_RAY | {"fault.restart_learner": True, "checkpoint.every": every},
    )
    where = "checkpoints/" if every else "the start"
    assert any("going on from" in event and where in event for event in events(run))
    assert run.summary["restarts"] == 1
    np.testing.assert_array_equal(run.weights, train("q-learning", tmp_path).weights)


def test_an_async_run_goes_on_with_the_others_while_a_worker_is_away(tmp_path, killing):
    killing(("RolloutWorker", 0, "produce", 5), ("RolloutWorker", 1, "produce", 60))
    run = train(
        "dqn",
        tmp_path,
        ON_RAY | {"scheduler.mode": "async", "fault.backoff_s": 0.5, "stop.env_steps": 4000},
    )
    assert run.summary["restarts"] == 2
    assert run.summary["stop_reason"] == "env_steps"
    *_, workers = (r for r in tracking.read_metrics(run.dir) if r["kind"] == "workers")
    # Each has begun anew, or is still away.
    assert [bool(workers["restarts"][i]) or i in workers["away"] for i in (0, 1)] == [True, True]
    told = [event for event in events(run) if "starting it anew in" in event]
    assert "in 0.5 s" in told[0] and "in 1 s" in told[1]  # twice as long


@pytest.mark.slow
def test_an_async_run_ends_when_too_few_workers_are_left(tmp_path, killing):
    killing(("RolloutWorker", 0, "produce", 5), ("RolloutWorker", 1, "produce", 30))
    with pytest.raises(WorkerDied, match=r"0 workers are left .*the first loss was: env.*worker 0"):
        train(
            "dqn",
            tmp_path,
            ON_RAY
            | {"scheduler.mode": "async", "fault.max_restarts": 0, "stop.env_steps": 100_000},
        )
    (run,) = tmp_path.glob("*/*")
    assert list(run.glob("checkpoints/*")), "what was learned is kept"
