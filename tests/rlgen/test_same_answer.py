"""One seed and two workers give the same bits after every interruption, and on a real cluster."""

import numpy as np
import pytest
from experiments import TINY, train

import rlgen
from rlgen import api, rundir, tracking
from rlgen.config import CLOCKS


def test_a_cluster_of_its_own_gives_the_same_bits_as_inline(tmp_path):
    """For every algorithm on actors that the runs share, see test_same_bits.py."""
    inline = train("dqn", tmp_path)
    on_ray = train("dqn", tmp_path, {"scheduler.backend": "ray"})
    np.testing.assert_array_equal(inline.weights, on_ray.weights)


@pytest.mark.parametrize("name", TINY)
def test_stopped_and_resumed_equals_uninterrupted(name, tmp_path):
    whole = train(name, tmp_path)
    clock = CLOCKS[whole.experiment.source]
    budget = TINY[name]["stop"][clock]
    half = train(name, tmp_path, {f"stop.{clock}": budget // 2})
    assert half.summary["cycles"] < whole.summary["cycles"]
    resumed = rlgen.resume(half.dir, {f"stop.{clock}": budget})
    np.testing.assert_array_equal(whole.weights, resumed.weights)
    for key in ("cycles", "env_steps", "samples", "updates"):
        assert whole.summary[key] == resumed.summary[key]
    assert rundir.read_plain(half.dir)["stop"][clock] == budget
    events = [r for r in tracking.read_metrics(half.dir) if r["kind"] == "event"]
    assert any("resumed from" in event["message"] for event in events)


@pytest.mark.parametrize("changes", [{"scheduler.workers": 1}, {"scheduler.backend": "ray"}])
def test_dqn_goes_on_with_other_workers_or_another_backend(changes, tmp_path):
    half = train("dqn", tmp_path, {"stop.env_steps": 900})
    _, folder = api.prepare_resume(half.dir, {"stop.env_steps": 1500, **changes})
    stored = {"replay", "learner"}
    assert stored <= {path.stem for path in folder.glob("*.json")}
    resumed = rlgen.resume(half.dir, {"stop.env_steps": 1500, **changes})
    assert resumed.summary["env_steps"] >= 1500 > half.summary["env_steps"]
    assert resumed.summary["updates"] > half.summary["updates"]


def test_the_number_of_data_workers_changes_no_minibatch(tmp_path):
    """Two workers' parts joined are one worker's minibatch: the same weights, bit for bit."""
    one = train("vae", tmp_path, {"scheduler.workers": 1})
    two = train("vae", tmp_path, {"scheduler.workers": 2})
    np.testing.assert_array_equal(one.weights, two.weights)
    half = train("vae", tmp_path, {"scheduler.workers": 1, "stop.epochs": 1})
    resumed = rlgen.resume(half.dir, {"scheduler.workers": 2, "stop.epochs": 2})
    np.testing.assert_array_equal(one.weights, resumed.weights)


def test_the_result_is_the_weights_that_reached_the_target(tmp_path):
    changes = {"env.kwargs": {}, "evaluation.every": 1000, "stop": {"target": -8.0}}
    inline = train("q-learning", tmp_path, changes)
    ray = train("q-learning", tmp_path, {**changes, "scheduler.backend": "ray"})
    assert inline.summary["stop_reason"] == ray.summary["stop_reason"] == "target"
    np.testing.assert_array_equal(inline.weights, ray.weights)
    assert inline.evaluate()["mean"] == -8.0
    with pytest.raises(rlgen.api.ConfigError, match=r"stop.target: this run is already there"):
        rlgen.resume(inline.dir)
