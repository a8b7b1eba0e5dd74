"""The truth is on disk line by line; a sink gets the same records and never stops a run."""

import fcntl
import json
import socket
import sys
import threading
import time
import types

import pytest
from experiments import train

from rlgen import history, sinks, tracking
from rlgen.config import read_config, resolve_experiment
from rlgen.errors import ConfigError


class FakeRun:
    """What `wandb.init` returns, as far as it is used."""

    def __init__(self, fails_at: int) -> None:
        self.logged: list[dict[str, float]] = []
        self.summary: dict[str, object] = {}
        self.fails_at = fails_at
        self.metrics: list[tuple[str, str]] = []
        self.exit_code: int | None = None
        self.url = "https://example.invalid/run"

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        if len(self.logged) == self.fails_at:
            raise ConnectionError("the service is away")
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package; `wandb.run` is its one run."""
    fake = types.ModuleType("wandb")
    fake.run = FakeRun(fails_at=10**9)
    fake.given = {}
    fake.logged_in = True

    def init(**given):
        fake.given.update(given)
        return fake.run

    fake.init, fake.Settings, fake.setup = init, lambda **_: None, lambda _: None
    fake.login = lambda prompt, verify: fake.logged_in and not prompt
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


OFFLINE = {"tracking.wandb": "offline", "tracking.every_s": 0, "evaluation.every": 1000}


def test_a_sink_gets_what_the_file_gets(wandb, tmp_path):
    run = train("q-learning", tmp_path, OFFLINE)
    records = tracking.read_metrics(run.dir)
    assert [r["kind"] for r in records][-1] == "summary"
    assert len(wandb.run.logged) == len(records) - 1  # the summary has a place of its own
    trained = [r for r in records if r["kind"] == "train"]
    logged = [values for values in wandb.run.logged if "train/env_steps" in values]
    assert [v["train/env_steps"] for v in logged] == [r["env_steps"] for r in trained]
    assert all(v["env_steps"] == v["train/env_steps"] for v in logged)
    assert [v["_timestamp"] for v in logged] == [r["time"] for r in trained]
    assert wandb.run.metrics == [("*", "env_steps")]
    assert wandb.run.exit_code == 0
    assert wandb.run.summary["env_steps"] == run.summary["env_steps"]
    assert (wandb.given["mode"], wandb.given["group"]) == ("offline", "q-learning")
    assert wandb.given["tags"] == ("q-learning", "rlgen/Cliff-v0")
    assert wandb.given["id"] == (run.dir / "id").read_text()
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


@pytest.fixture
def tracker(tmp_path):
    """Begins to record a run in one and the same folder."""
    experiment = resolve_experiment(read_config("value-iteration-cliff"))
    return lambda: tracking.Tracker(tmp_path, experiment, print)


def test_a_run_that_goes_on_after_a_line_cut_short_loses_no_other_line(tracker, tmp_path):
    (tmp_path / tracking.METRICS).write_text('{"kind": "train", "number": 0}\n{"kind": "tr')
    resumed = tracker()
    for number in (1, 2):
        resumed.record("train", {"number": number})
    resumed.close(None)
    assert [record["number"] for record in tracking.read_metrics(tmp_path)] == [0, 1, 2]


def test_a_look_at_the_moment_a_run_begins_does_not_hide_that_it_goes_on(
    tracker, tmp_path, monkeypatch
):
    looking = (tmp_path / tracking.METRICS).open("w")
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(tracking.time, "sleep", lambda _: looking.close())
    running = tracker()
    assert history.is_running(tmp_path)
    running.close(None)
    assert not history.is_running(tmp_path)


def test_a_second_writer_of_one_run_is_refused(tracker, tmp_path):
    first = tracker()
    with pytest.raises(ConfigError, match="another process writes this run; wait for its end"):
        tracker()
    first.close(None)
    tracker().close(None)


@pytest.mark.parametrize("moment", ["init", "finish"])
def test_a_service_that_is_away_costs_one_warning(moment, wandb, tmp_path, capsys, monkeypatch):
    def away(*args, **kwargs):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(wandb if moment == "init" else wandb.run, moment, away)
    run = train("q-learning", tmp_path, OFFLINE | {"tracking.wandb": "online"})
    assert run.summary["stop_reason"] == "env_steps"
    assert capsys.readouterr().err.count("tracking.wandb: ConnectionError: nobody answers") == 1
    assert "summary" in [record["kind"] for record in tracking.read_metrics(run.dir)[-2:]]


@pytest.mark.parametrize("logged_in", [True, False])
def test_online_without_a_key_is_offline(logged_in, wandb, tmp_path, capsys):
    wandb.logged_in = logged_in
    run = train("value-iteration", tmp_path, {"tracking.wandb": "online"})
    assert wandb.given["mode"] == ("online" if logged_in else "offline")
    told = f"so the run is kept offline; after 'wandb login', 'rlgen sync {run.dir} --to wandb'"
    assert capsys.readouterr().err.count(told) == (0 if logged_in else 1)


class Stuck:
    """A sink that takes the first record and then nothing until it is let."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.taken: list[object] = []

    def record(self, record: object) -> None:
        self.begun.set()
        self.go_on.wait()
        self.taken.append(record)

    def close(self, summary: object) -> None:
        self.taken.append("closed")


@pytest.fixture
def stuck(monkeypatch):
    sink = Stuck()
    monkeypatch.setattr(sinks, "open_sink", lambda *_: sink)
    yield sink
    sink.go_on.set()


def test_a_sink_that_hangs_does_not_hold_the_run(stuck, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "FINISH_S", 0.1)
    monkeypatch.setattr(tracking, "WAITING", 5)
    run = train("q-learning", tmp_path, OFFLINE)
    assert run.summary["stop_reason"] == "env_steps"
    assert stuck.taken == []
    assert capsys.readouterr().err.count("tracking.wandb: not through after 0.1 s; ") == 1


def test_a_slow_sink_is_given_what_it_can_take_and_the_rest_is_counted(
    stuck, tmp_path, monkeypatch
):
    monkeypatch.setattr(tracking, "WAITING", 5)
    about = sinks.about(tmp_path, {"name": "x", "algorithm": "dqn"}, "env_steps")
    feed = tracking.Feed("wandb", about, "offline")
    feed.put({"number": 0})
    assert stuck.begun.wait(60)
    for number in range(1, 21):
        feed.put({"number": number})
    stuck.go_on.set()
    deadline = time.monotonic() + 60
    feed.finish({}, deadline)
    feed.join(deadline)
    assert stuck.taken == [*({"number": number} for number in range(6)), "closed"]
    assert list(feed.messages) == [
        "wandb: too slow, 15 records were left out; "
        f"'rlgen sync {tmp_path} --to wandb' brings it there"
    ]


def test_a_sink_that_was_slow_and_then_fails_warns_once(stuck, tmp_path, monkeypatch):
    def fail(summary):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(tracking, "WAITING", 5)
    monkeypatch.setattr(stuck, "close", fail)
    folder = tmp_path / "my runs"
    folder.mkdir()
    about = sinks.about(folder, {"name": "x", "algorithm": "dqn"}, "env_steps")
    feed = tracking.Feed("wandb", about, "offline")
    for number in range(21):
        feed.put({"number": number})
    stuck.go_on.set()
    deadline = time.monotonic() + 60
    feed.finish({}, deadline)
    feed.join(deadline)
    assert feed._left_out
    assert list(feed.messages) == [
        "wandb: ConnectionError: nobody answers; going on without it; "
        f"'rlgen sync '{folder}' --to wandb' brings it there"
    ]


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_extra_is_told_before_anything_is_written(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda package: None)
    told = f"tracking.{name}: {name} is missing; install it with: pip install 'rlgen\\[{name}\\]'"
    with pytest.raises(ConfigError, match=told):
        train("value-iteration", tmp_path / "runs", {f"tracking.{name}": True})
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_real_package_with_its_service_away(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.setattr(sinks, "START_S", 5.0)
    with socket.socket() as listening:  # a port that nobody listens at
        listening.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = train("q-learning", tmp_path / "runs", OFFLINE | {"tracking.wandb": "online"})
    assert run.summary["stop_reason"] == "env_steps"
    assert capsys.readouterr().err.count("rlgen: tracking.wandb: ") == 1
    assert "summary" in [record["kind"] for record in tracking.read_metrics(run.dir)[-2:]]
