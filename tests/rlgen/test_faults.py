"""What goes wrong is named, costs the batch in flight, and nothing more."""

import pytest
from experiments import train

from rlgen import tracking
from rlgen.errors import ConfigError, EnvironmentFailure, WorkerDied

FAULTY = {"env.id": "faulty_env:Faulty-v0", "env.num_envs": 1, "stop.env_steps": 400}


def faulty(fault, tmp_path, **changes):
    kwargs = {"fault": fault, **changes.pop("kwargs", {})}
    return train("q-learning", tmp_path, FAULTY | {"env.kwargs": kwargs} | changes)


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_an_environment_that_raises_is_named_with_worker_and_seed(backend, tmp_path):
    message = (
        r"environment worker \d: environment 'faulty_env:Faulty-v0' \(seed \d+\) raised "
        r"ArithmeticError in step: the bridge is out"
    )
    with pytest.raises(EnvironmentFailure, match=message):
        faulty("raise", tmp_path, **{"scheduler.backend": backend})


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_a_lost_worker_is_replaced_and_the_run_completes(fault, tmp_path):
    run = faulty(
        fault,
        tmp_path,
        kwargs={"flag": str(tmp_path / "flag")},
        **{"scheduler.backend": "ray", "fault.timeout_s": 10},
    )
    assert (tmp_path / "flag").exists()
    assert run.summary["restarts"] == 1
    assert run.summary["stop_reason"] == "env_steps"
    events = [r["message"] for r in tracking.read_metrics(run.dir) if r["kind"] == "event"]
    reason = "no answer for 10 s" if fault == "hang" else "died"
    assert any("environment worker" in e and reason in e and "anew" in e for e in events)


def test_workers_that_die_again_and_again_end_the_run(tmp_path):
    with pytest.raises(WorkerDied, match=r"environment worker \d died.*1 restarts were allowed"):
        faulty("kill", tmp_path, **{"scheduler.backend": "ray", "fault.max_restarts": 1})


def test_a_ray_that_does_not_start_is_explained(tmp_path, monkeypatch):
    """On an overloaded machine Ray raises a bare Exception."""

    def late(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", late)
    with pytest.raises(ConfigError, match="Ray did not start on this machine .The current node"):
        train("q-learning", tmp_path, {"scheduler.backend": "ray"})
    assert not list(tmp_path.iterdir())
