"""What goes wrong is named, costs the batch in flight, and nothing more."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from experiments import train

import rlgen
from rlgen import checkpoint, scheduler, tracking
from rlgen.backends import ray as ray_backend
from rlgen.config import load_experiment
from rlgen.crew import START_TIMEOUT_S, Crew
from rlgen.errors import ConfigError, WorkerDied

FAULTY = {"env.id": "faulty_env:Faulty-v0", "env.num_envs": 1, "stop.env_steps": 400}


@pytest.fixture
def on_ray(pool, monkeypatch):
    monkeypatch.setattr(ray_backend, "RayBackend", pool)
    return {"scheduler.backend": "ray"}


def faulty(fault, tmp_path, kwargs=None, **changes):
    given = {"fault": fault, **(kwargs or {})}
    return train("q-learning", tmp_path, FAULTY | {"env.kwargs": given} | changes)


def events(run_dir):
    return [r["message"] for r in tracking.read_metrics(run_dir) if r["kind"] == "event"]


RAISED = (
    r"environment worker \d: environment 'faulty_env:Faulty-v0' \(seed \d+\) raised "
    r"ArithmeticError in step: the bridge is out"
)


def test_an_environment_that_raises_begins_anew_until_no_restart_is_left(tmp_path):
    with pytest.raises(WorkerDied, match=rf"{RAISED}; 2 restarts were allowed .*the first was: "):
        faulty("raise", tmp_path, **{"fault.max_restarts": 2})
    (run,) = tmp_path.glob("*/*")
    told = events(run)
    assert len([e for e in told if e.endswith("starting it anew")]) == 2
    assert "2 restarts were allowed" in told[-1]
    assert list(run.glob("checkpoints/*")), "what was learned is kept"


@pytest.mark.parametrize("fault", ["raise", "kill", "hang"])
def test_a_lost_worker_is_replaced_and_the_run_completes(fault, tmp_path, on_ray):
    kwargs = {"flag": str(tmp_path / "flag")}
    run = faulty(fault, tmp_path, kwargs, **on_ray, **{"fault.timeout_s": 10})
    assert (tmp_path / "flag").exists()
    assert run.summary["restarts"] == 1
    assert run.summary["stop_reason"] == "env_steps"
    reason = {"raise": "raised", "kill": "died", "hang": "no answer for 10 s"}[fault]
    (told,) = [e for e in events(run.dir) if "anew" in e]
    assert told.startswith("environment worker ") and reason in told


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_workers_that_die_again_and_again_end_the_run(mode, tmp_path, on_ray):
    changes = {"fault.max_restarts": 1, "scheduler.mode": mode, "fault.min_healthy": 2}
    name = {"sync": "1 restarts were allowed", "async": "1 workers are left"}[mode]
    with pytest.raises(WorkerDied, match=rf"environment worker \d died.*{name}.*rlgen resume"):
        train(
            "q-learning" if mode == "sync" else "dqn",
            tmp_path,
            FAULTY | {"env.kwargs": {"fault": "kill"}, "evaluation.episodes": 2} | on_ray | changes,
        )
    (run,) = tmp_path.glob("*/*")
    assert list(run.glob("checkpoints/*")), "what was learned is kept"


def test_a_ray_that_does_not_start_is_explained(tmp_path, monkeypatch):
    """On an overloaded machine Ray raises a bare Exception."""

    def late(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", late)
    monkeypatch.setattr("ray.shutdown", lambda: None)  # the cluster of the other tests
    with pytest.raises(ConfigError, match="Ray did not start on this machine .The current node"):
        train("q-learning", tmp_path, {"scheduler.backend": "ray"})
    assert not list(tmp_path.iterdir())


def test_a_clock_that_is_set_back_changes_no_rate(tmp_path, monkeypatch):
    """An hour back at every second look: what takes time is told by another clock."""
    real, looks = time.time, 0

    def set_back():
        nonlocal looks
        looks += 1
        return real() - 3600.0 * (looks // 2)

    monkeypatch.setattr(time, "time", set_back)
    journeys = []
    experiment = load_experiment(
        "q-learning-cliff",
        [f"run.dir={tmp_path}", "stop={env_steps: 6000}", "tracking.every_s=0", "evaluation={}"],
    )
    run = scheduler.Scheduler(experiment, trace=journeys.append)
    summary = run.run()
    assert looks > 100
    assert 0 < summary["seconds"] < 600 and summary["env_steps_per_s"] > 0
    shares = [v for parts in summary["time_share"].values() for v in parts.values()]
    assert all(0 <= share <= 1.001 for share in shares), summary["time_share"]
    assert 0 <= run.crew._average_s < 60 and run.crew.patience_s == 30.0
    records = [r for r in tracking.read_metrics(run.run_dir) if r["kind"] == "train"]
    assert len(records) > 10
    assert all(record["env_steps_per_s"] > 0 for record in records[:-1])
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)


@pytest.mark.slow
def test_a_straggler_takes_no_more_than_its_share(tmp_path, on_ray, monkeypatch):
    """Counted in batches: the others make as many while it makes one as it takes longer."""
    batches = dict.fromkeys(range(3), 0)
    observe = scheduler.Scheduler._observe

    def count(self, infos, report):
        for info in infos:
            batches[info["worker"]] += 1
        observe(self, infos, report)

    monkeypatch.setattr(scheduler.Scheduler, "_observe", count)
    env = {"id": "slow_env:Slow-v0", "num_envs": 1, "kwargs": {"folder": str(tmp_path)}}
    changes = {
        "env": env,
        "evaluation": {"episodes": 1, "max_steps": 2},
        "hyperparameters.rollout_steps": 8,
        "scheduler": {"workers": 3, "mode": "async", "backend": "ray"},
        "stop.env_steps": 1600,
    }
    run = train("dqn", tmp_path / "runs", changes)
    assert run.summary["stop_reason"] == "env_steps" and run.summary["restarts"] == 0
    slow, *others = sorted(batches.values())
    # Ten times slower; some of that is left for a machine that is busy with something else.
    assert min(others) >= 4 * slow, batches


def test_an_actor_that_hangs_is_not_taken_for_one_that_does_not_start():
    """Also with a time-out that equals the one of a start, the default."""
    experiment = load_experiment("q-learning-cliff", ["fault.timeout_s=300"])
    crew = Crew(experiment, SimpleNamespace(wait=lambda futures, timeout_s: []), {}, print)
    assert crew.fault.timeout_s == START_TIMEOUT_S == crew.patience_s
    with pytest.raises(WorkerDied, match=r"worker 0: no answer for 300 s \(fault.timeout_s\)"):
        crew.heard(0, None)
    with pytest.raises(WorkerDied, match="environment worker 0 did not start within 300 s"):
        crew.welcome(None, crew.name(0))


def children(pid):
    """The processes that a process has started, theirs too."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text()
        except OSError:
            continue
        parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_killed_driver_takes_its_cluster_along_and_the_run_goes_on(tmp_path):
    """SIGKILL, on Ray: its actors do not stay behind, and no weight is another one."""
    settings = {"evaluation.every": 0, "stop.target": "null"}
    overrides = [f"{key}={value}" for key, value in settings.items()]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "rlgen", "train", "q-learning-cliff", "-q", *overrides),
            *(f"run.dir={tmp_path}", "stop.env_steps=null", "stop.seconds=3600"),
            *("scheduler.backend=ray", "scheduler.workers=2", "checkpoint.every=1000"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        while not any(checkpoint.candidates(path) for path in tmp_path.glob("*/*/checkpoints")):
            assert process.poll() is None
            time.sleep(0.1)
        started = children(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(started) > 4  # workers, learner, evaluator, Ray's own
    while left := [pid for pid in started if running(pid)]:
        time.sleep(0.2)  # some seconds; a suite's own limit ends what never ends
    assert not left
    (run,) = tmp_path.glob("*/*")
    latest = checkpoint.latest(run / "checkpoints", print)
    done = checkpoint.read_part(latest, "run")[0]["counters"]["env_steps"]
    more = {"stop": {"env_steps": done + 1000}}
    resumed = rlgen.resume(run, more | {"scheduler.backend": "inline"})
    assert any(f"resumed from {latest}" in event for event in events(run))
    whole = rlgen.train(
        "q-learning-cliff",
        {"run.dir": str(tmp_path / "whole"), "scheduler.workers": 2, "evaluation.every": 0, **more},
    )
    np.testing.assert_array_equal(resumed.weights, whole.weights)
