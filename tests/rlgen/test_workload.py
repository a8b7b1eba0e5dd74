"""What each worker did is measured over the time of its own batches."""

import itertools

import pytest
from experiments import train

from rlgen import scheduler
from rlgen.config import resolve_experiment
from rlgen.history import read
from rlgen.workload import Workload, bottleneck


def experiment(workers):
    return resolve_experiment(
        {
            "name": "x",
            "algorithm": "q-learning",
            "env": {"id": "rlgen/Cliff-v0"},
            "stop": {"env_steps": 1},
            "scheduler": {"workers": workers},
        }
    )


def info(worker, steps, waiting, inference):
    seconds = {"waiting": waiting, "inference": inference}
    return {"worker": worker, "env_steps": steps, "seconds": seconds}


def report(*lags, update=0.5):
    return {"lags": list(lags), "seconds": {"update": update}}


def test_figures_of_each_worker_over_a_window():
    workload = Workload(experiment(3), now=100.0)
    workload.add([info(0, 30, 1.0, 2.0), info(1, 10, 0.0, 0.5)], report(2, 0))
    workload.add([info(0, 30, 3.0, 6.0)], report(3))
    values = workload.take(104.0, 3, restarts={1: 2}, away=[2])
    assert values["unit"] == "env_steps"
    assert values["per_s"] == [5.0, 20.0, None]  # the third has not answered
    assert values["busy"] == [0.6667, 1.0, None]
    assert values["lag"] == [2.5, 0.0, None]
    assert (values["restarts"], values["away"]) == ([0, 2, 0], [2])
    assert values["time_share"] == {
        "worker": {"waiting": 0.32, "inference": 0.68},
        "learner": {"update": 0.25},
    }
    assert bottleneck(values["time_share"]) == "worker: inference"
    # The next window begins at nothing, and all the run's seconds are still there.
    workload.add([info(2, 8, 0.0, 4.0)], report(0))
    values = workload.take(106.0, 3, restarts={}, away=[])
    assert values["per_s"] == [None, None, 2.0]
    assert values["time_share"]["worker"] == {"waiting": 0.0, "inference": 1.0}
    assert workload.seconds["worker"]["inference"] == 12.5


@pytest.mark.parametrize(
    ("name", "unit"),
    [("q-learning", "env_steps"), ("vae", "samples"), ("value-iteration", "batches")],
)
def test_a_run_says_what_its_workers_did(name, unit, tmp_path):
    run = read(train(name, tmp_path).dir)
    record = run.of("workers")[-1]
    assert record["unit"] == unit
    assert len(record["per_s"]) == len(record["busy"]) == len(record["lag"]) == 2
    assert all(speed > 0 for speed in record["per_s"])
    assert all(0 < share <= 1 for share in record["busy"])
    assert (record["restarts"], record["away"], record["lag"]) == ([0, 0], [], [0.0, 0.0])
    shares = record["time_share"]["worker"]
    assert sum(shares.values()) == pytest.approx(1, abs=0.01)
    assert record[run.clock] == run.summary[run.clock]
    assert set(run.summary["time_share"]) == {"worker", "learner"}


@pytest.mark.parametrize("every_s", [0, 1000])
def test_the_end_of_a_run_records_nothing_where_nothing_has_come_since(every_s, tmp_path):
    trained = train("q-learning", tmp_path, {"tracking.every_s": every_s})
    run = read(trained.dir)
    records = run.of("train")
    cycles = [record["cycles"] for record in records]
    assert cycles == sorted(set(cycles)) and cycles[-1] == trained.summary["cycles"]
    assert all(record["env_steps_per_s"] > 0 for record in records)
    assert all(rate > 0 for record in run.of("workers") for rate in record["per_s"])
    assert run.of("workers")


def test_the_longer_a_run_the_longer_between_its_records(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "OFTEN", 2)  # so the times of records double
    trained = train("q-learning", tmp_path, {"tracking.every_s": 1e-3})
    run = read(trained.dir)
    seconds = [record["seconds"] for record in run.of("train")][:-1]  # the last is the end's
    assert all(later > 1.5 * sooner for sooner, later in itertools.pairwise(seconds))
    assert trained.summary["cycles"] > 3 * len(seconds) > 0
