"""The truth is on disk line by line; a sink gets the same records and never stops a run."""

import json
import socket
import sys
import types

import pytest
from experiments import train

from rlgen import tracking


class FakeRun:
    """What `wandb.init` returns, as far as it is used."""

    def __init__(self, fails_at: int) -> None:
        self.logged: list[dict[str, float]] = []
        self.summary: dict[str, object] = {}
        self.fails_at = fails_at
        self.metrics: list[tuple[str, str]] = []
        self.finished = False

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        if len(self.logged) == self.fails_at:
            raise ConnectionError("the service is away")
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package; `wandb.run` is its one run."""
    fake = types.ModuleType("wandb")
    fake.run = FakeRun(fails_at=10**9)
    fake.given = {}

    def init(**given):
        fake.given.update(given)
        return fake.run

    fake.init, fake.Settings = init, lambda **_: None
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


OFFLINE = {"tracking.wandb": "offline", "tracking.every_s": 0, "evaluation.every": 1000}


def test_a_sink_gets_what_the_file_gets(wandb, tmp_path):
    run = train("q-learning", tmp_path, OFFLINE)
    records = tracking.read_metrics(run.dir)
    assert [r["kind"] for r in records][-1] == "summary"
    assert len(wandb.run.logged) == len(records)
    trained = [r for r in records if r["kind"] == "train"]
    assert [v["train/env_steps"] for v in wandb.run.logged if "train/env_steps" in v] == [
        r["env_steps"] for r in trained
    ]
    assert wandb.run.metrics == [("*", "train/env_steps")]
    assert wandb.run.finished
    assert wandb.run.summary["env_steps"] == run.summary["env_steps"]
    assert (wandb.given["mode"], wandb.given["group"]) == ("offline", "q-learning")
    assert wandb.given["config"] == run.experiment.dump()


def test_a_sink_that_fails_warns_once_and_the_run_goes_on(wandb, tmp_path, capsys):
    wandb.run.fails_at = 3
    run = train("q-learning", tmp_path, OFFLINE)
    assert run.summary["stop_reason"] == "env_steps"
    assert len(wandb.run.logged) == 3
    said = capsys.readouterr().err
    assert said.count("tracking.wandb: ConnectionError: the service is away") == 1


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    run = train("value-iteration", tmp_path)
    file = run.dir / tracking.METRICS
    lines = file.read_text().splitlines()
    assert all(json.loads(line)["time"] > 0 for line in lines)
    file.write_text("\n".join([*lines, lines[-1][:20]]))
    assert len(tracking.read_metrics(run.dir)) == len(lines)


@pytest.mark.parametrize("moment", ["init", "finish"])
def test_a_service_that_is_away_costs_one_warning(moment, wandb, tmp_path, capsys, monkeypatch):
    def away(*args, **kwargs):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(wandb if moment == "init" else wandb.run, moment, away)
    run = train("q-learning", tmp_path, OFFLINE | {"tracking.wandb": "online"})
    assert run.summary["stop_reason"] == "env_steps"
    assert capsys.readouterr().err.count("tracking.wandb: ConnectionError: nobody answers") == 1
    assert "summary" in [record["kind"] for record in tracking.read_metrics(run.dir)[-2:]]


@pytest.mark.slow
def test_the_real_package_with_its_service_away(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    with socket.socket() as listening:  # a port that nobody listens at
        listening.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = train("q-learning", tmp_path / "runs", OFFLINE | {"tracking.wandb": "online"})
    assert run.summary["stop_reason"] == "env_steps"
    assert capsys.readouterr().err.count("rlgen: tracking.wandb: ") == 1
    assert "summary" in [record["kind"] for record in tracking.read_metrics(run.dir)[-2:]]
