"""Workers that join where there is room, and leave with their nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from experiments import TINY, train
from nodes import Killing, Nodes, name_of, simulated

from rlgen import crew, scheduler, tracking
from rlgen.backends import ray as ray_backend
from rlgen.backends.inline import Done, InlineBackend
from rlgen.config import resolve_experiment, set_keys
from rlgen.errors import ConfigError, WorkerDied

ELASTIC = {
    "scheduler.backend": "ray",
    "scheduler.address": "127.0.0.1:6379",
    "scheduler.mode": "async",
    "scheduler.elastic": True,
}


WAITING = object()


class Simulated(InlineBackend):
    """A cluster in one process: nodes with room for a worker each come, and go with theirs."""

    def __init__(self, come: list[int], go: list[tuple[int, int]]) -> None:
        self.come = come  # produce calls at which a node comes
        self.go = go  # produce calls at which one goes, and with which worker
        self.room_now = self.calls = 0
        self.left: list[Any] = []
        self.started: list[tuple[int, int]] = []  # numbers and seeds of workers
        self.numbers: dict[Any, int] = {}
        self.closed = False  # whether no actor can start any more

    def spawn(
        self, target: str, args: tuple[Any, ...], seed: int, threads: int, **needs: Any
    ) -> Any:
        actor = super().spawn(target, args, seed, threads, **needs)
        if "Worker" in target:
            self.numbers[actor] = args[1]
            self.started.append((args[1], seed))
            self.room_now -= needs["place"] is None
        return actor

    def wait(self, futures: Any, timeout_s: float) -> list[Any]:
        ready = [future for future in futures if future.value is not WAITING]
        if not ready:
            time.sleep(min(timeout_s, 0.02))
        return ready

    def host(self, actor: Any, method: str, *args: Any) -> Done:
        if self.closed and method == "start":
            return Done(WAITING)
        return super().host(actor, method, *args)

    def room(self, cpus: float) -> int:
        return self.room_now

    def gone(self, actor: Any) -> bool:
        return actor in self.left

    def call(self, actor: Any, method: str, *args: Any, returns: int = 1) -> Any:
        if actor in self.left:
            return [Done(None, WorkerDied("its node has died"))] * returns
        if method == "produce":
            self.calls += 1
            self.room_now += self.come.count(self.calls)
            self.left += [a for a, n in self.numbers.items() if (self.calls, n) in self.go]
        return super().call(actor, method, *args, returns=returns)


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    monkeypatch.setattr(crew, "ROOM_S", 0.0)

    def run(come: list[int], go: list[tuple[int, int]], **changes: Any) -> Any:
        backend = Simulated(come, go)
        monkeypatch.setattr(scheduler, "connect", lambda *_: backend)
        given = {"stop.env_steps": 1500, "tracking.every_s": 0, **changes}
        return backend, train("dqn", tmp_path, ELASTIC | given)

    return run


def records(run: Any, kind: str) -> list[dict[str, Any]]:
    return [record for record in tracking.read_metrics(run.dir) if record["kind"] == kind]


def workers(run: Any) -> list[int]:
    """How many there were, whenever that changed."""
    told = [record["workers"] for record in records(run, "train")]
    return [n for before, n in zip([None, *told], told, strict=False) if n != before]


def test_workers_join_up_to_the_stated_number(simulate: Any) -> None:
    backend, run = simulate([10, 20, 30], [], **{"scheduler.max_workers": 4})
    assert workers(run) == [2, 3, 4]
    assert [number for number, _ in backend.started] == [0, 1, 2, 3]
    told = [event["message"] for event in records(run, "event")]
    assert "there is room for more: environment worker 2 joins" in told
    assert run.summary["restarts"] == 0
    assert max(v for part in run.summary["time_share"].values() for v in part.values()) <= 1


def test_who_leaves_with_a_node_is_no_restart_and_comes_back_with_new_episodes(
    simulate: Any,
) -> None:
    backend, run = simulate([8, 22], [(15, 2)])
    assert workers(run) == [2, 3, 2, 3]
    (first, again) = (seed for number, seed in backend.started if number == 2)
    assert first != again
    assert run.summary["restarts"] == 0
    assert any("its node has left, going on with 2" in e["message"] for e in records(run, "event"))


def test_a_place_of_the_plan_is_taken_again(simulate: Any) -> None:
    backend, run = simulate([], [(22, 1)], **{"fault.max_restarts": 0})
    assert [number for number, _ in backend.started] == [0, 1, 1]
    assert backend.started[1] != backend.started[2]  # whose episodes would be the same again
    assert workers(run)[-1] == 2
    assert run.summary["restarts"] == 0


def test_who_finds_no_room_after_all_is_no_restart(
    simulate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "START_TIMEOUT_S", 0.0)
    host = Simulated.host

    def taken(self: Any, actor: Any, method: str, *args: Any) -> Done:
        waits = method == "start" and self.numbers.get(actor, 0) >= 2
        return Done(WAITING) if waits else host(self, actor, method, *args)

    monkeypatch.setattr(Simulated, "host", taken)
    backend, run = simulate([10], [], **{"fault.max_restarts": 0})
    assert [number for number, _ in backend.started] == [0, 1, 2]
    assert workers(run) == [2]
    told = [event["message"] for event in records(run, "event")]
    assert "environment worker 2 does not join: others have taken its room" in told


def test_a_run_without_any_worker_waits_and_then_ends_with_a_checkpoint(
    simulate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(crew, "START_TIMEOUT_S", 0.2)
    closing = Simulated.call

    def call(self: Any, *args: Any, **more: Any) -> Any:
        self.closed = self.closed or bool(self.left)
        return closing(self, *args, **more)

    monkeypatch.setattr(Simulated, "call", call)
    with pytest.raises(WorkerDied, match=r"all workers have left .*first loss was: .*resume"):
        simulate([], [(22, 0), (22, 1)])
    assert list(tmp_path.glob("*/*/checkpoints/*"))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dqn", {"scheduler.mode": "sync"}, "needs mode=async: what a sync run learns depends"),
        ("dqn", {"scheduler.address": "local"}, "the address of a cluster"),
        ("dqn", {"scheduler.elastic": False, "scheduler.max_workers": 4}, "needs elastic=true"),
        ("dqn", {"scheduler.workers": 4, "scheduler.max_workers": 3}, "less than workers=4"),
        ("value-iteration", {}, "share out the states by their number"),
    ],
)
def test_elastic_is_refused_where_it_makes_no_sense(
    name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_experiment(set_keys({"name": name, **TINY[name]}, ELASTIC | changes))


# --- on a real cluster ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with simulated() as nodes:
        yield nodes


@pytest.mark.slow
def test_nodes_that_come_and_go(
    cluster: Nodes, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One node at first; another comes, and one of the workers that joined leaves with it."""
    cluster.have(1, 3)  # just the plan
    happened: list[str] = []
    events: list[str] = []

    class Watched(Killing):  # type: ignore[misc]
        nodes = cluster
        before = ("never", 0)

        def call(self, actor: Any, method: str, *args: Any, returns: int = 1) -> Any:
            if method == "produce":
                self.calls += 1
                self.look(actor)
            return super().call(actor, method, *args, returns=returns)

        def look(self, actor: Any) -> None:
            (learner,) = self.actors["Learner"]
            if not happened:
                happened.append("comes")
                self.nodes.add(1)
            elif happened == ["comes"] and actor in self.actors["RolloutWorker"][2:]:
                if name_of(actor) != name_of(learner):
                    happened.append("goes")
                    self.nodes.kill(actor)
                    self.calls = 0
            elif happened[1:] and any("has left" in e for e in events) and self.calls > 100:
                run.interrupt()

    monkeypatch.setattr(ray_backend, "RayBackend", Watched)
    changes = {
        "scheduler.mode": "async",
        "scheduler.workers": 2,
        "scheduler.elastic": True,
        "scheduler.max_workers": 4,
        "scheduler.learner_cpus": 1.0,
        "stop.env_steps": 10**9,
        "stop.seconds": 500,
        "tracking.every_s": 0.2,
        "fault.max_restarts": 0,
        "run.dir": str(tmp_path),
        "evaluation.episodes": 1,
    }
    plain = set_keys({"name": "dqn", **TINY["dqn"]}, {**cluster.on(changes), **changes})
    run = scheduler.Scheduler(resolve_experiment(plain), warn=events.append)
    summary = run.run()
    assert happened == ["comes", "goes"]
    assert summary["stop_reason"] == "interrupted"
    assert summary["restarts"] == 0
    assert any("joins" in event for event in events), events
    assert any("its node has left" in event for event in events), events
    told = [r["workers"] for r in tracking.read_metrics(run.run_dir) if r["kind"] == "train"]
    assert told[0] == 2 and max(told) > 2 and told[-1] < max(told), told
