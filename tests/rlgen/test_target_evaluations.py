"""``stop.target_evaluations``: several evaluations in a row have to reach the target."""

import pytest
from experiments import train

import rlgen
from rlgen import tracking
from rlgen.config import load_experiment
from rlgen.errors import ConfigError

# Q-learning on the cliff without slipping: the greedy policy is bad, then right. A cycle has 2
# workers x 3 environments x 16 steps = 96 steps, so that every third one is evaluated.
CHANGES = {"env.kwargs": {}, "evaluation.every": 288}
STOP = {"target": -8.0, "env_steps": 50_000}


def means(run):
    records = tracking.read_metrics(run.dir)
    return [record["mean"] for record in records if record["kind"] == "evaluation"]


def ends(scores, target, needed):
    """After how many evaluations the run should end: the first time that all of the last reach."""
    rows = range(needed, len(scores) + 1)
    return next(n for n in rows if min(scores[n - needed : n]) >= target)


def test_the_run_ends_at_the_last_of_them_on_every_backend(tmp_path):
    stop = {**STOP, "target_evaluations": 3}
    inline, ray = (
        train("q-learning", tmp_path, {**CHANGES, "stop": stop, "scheduler.backend": backend})
        for backend in ("inline", "ray")
    )
    for run in (inline, ray):
        assert run.summary["stop_reason"] == "target"
        assert ends(means(run), -8.0, 3) == len(means(run))
        assert run.evaluate()["mean"] == -8.0
    assert means(inline) == means(ray)
    assert inline.weights.tolist() == ray.weights.tolist()
    with pytest.raises(ConfigError, match=r"stop.target: this run is already there"):
        rlgen.resume(inline.dir)


def test_one_that_fails_begins_the_count_anew(tmp_path):
    """Three in a row of slippery, short evaluations: an earlier pair does not count."""
    changes = {
        "evaluation.every": 96,
        "evaluation.episodes": 2,
        "env.kwargs": {"slip": 0.1},
        "stop": {"target": -20.0, "target_evaluations": 3, "env_steps": 20_000},
    }
    run = train("q-learning", tmp_path, changes)
    scores = means(run)
    assert run.summary["stop_reason"] == "target"
    assert ends(scores, -20.0, 3) == len(scores)
    assert sum(score >= -20.0 for score in scores) > 3  # there were some before


def test_the_count_outlives_an_interruption(tmp_path):
    """Some before and one after: the resumed run stops when the whole one does."""
    stop = {**STOP, "target_evaluations": 4}
    whole = train("q-learning", tmp_path, {**CHANGES, "stop": stop})
    records = tracking.read_metrics(whole.dir)
    steps = [record["env_steps"] for record in records if record["kind"] == "evaluation"][-2]
    half = train("q-learning", tmp_path, {**CHANGES, "stop": {**stop, "env_steps": steps}})
    assert half.summary["stop_reason"] == "env_steps"
    resumed = rlgen.resume(half.dir, {"stop.env_steps": 50_000})
    assert resumed.summary["stop_reason"] == "target"
    assert resumed.summary["env_steps"] == whole.summary["env_steps"]
    assert means(resumed) == means(whole)


def test_it_needs_a_target():
    message = r"stop.target_evaluations: 2 of what\? Give stop.target too"
    with pytest.raises(ConfigError, match=message):
        load_experiment("q-learning-frozenlake", ["stop.target_evaluations=2"])


def test_it_is_no_stop_condition_of_its_own():
    with pytest.raises(ConfigError, match=r"stop: give at least one condition"):
        load_experiment("q-learning-frozenlake", ["stop={target_evaluations: 2}"])
