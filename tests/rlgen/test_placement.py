"""Where a plan's actors go: what fits on a node, the placement group, as many workers as fit."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from experiments import TINY, train
from nodes import simulated
from ray.util import placement_group, placement_group_table, remove_placement_group
from typer.testing import CliRunner

import rlgen
from rlgen import jobs, plan, rundir, sweeps, tracking
from rlgen.backends import placement
from rlgen.backends import ray as ray_backend
from rlgen.backends.inline import InlineBackend
from rlgen.backends.killing import kill_process
from rlgen.backends.nodes import node_of
from rlgen.backends.ray import RayBackend
from rlgen.cli import app
from rlgen.config import AUTO, load_experiment, resolve_experiment
from rlgen.errors import ConfigError

UNIT = placement.UNIT


def role(name: str, count: int, cpus: float, place: int, gpus: float = 0) -> Any:
    return SimpleNamespace(name=name, count=count, cpus=cpus, gpus=gpus, place=place)


def roles(workers: int, cpus: float = 1.0, gpus: float = 0) -> list[Any]:
    return [
        role("learner", 1, 1.0, 0, gpus),
        role("worker", workers, cpus, 2),
        role("evaluator", 1, 1.0, 1),
    ]


def node(cpus: float, gpus: float = 0, free: float | None = None, name: str = "10.0.0.1") -> Any:
    return placement.Node(name, cpus, gpus, cpus if free is None else free, gpus)


# --- what fits ----------------------------------------------------------------------------------


def every_way(spaces: Any, others: Any, bundle: Any) -> int:
    """As `placement.most`, by trying every way."""
    items = [size for size, count in others for _ in range(count)]
    best = -1
    for way in itertools.product(range(len(spaces)), repeat=len(items)):
        left = [list(space) for space in spaces]
        for item, where in zip(items, way, strict=True):
            left[where] = [a - b for a, b in zip(left[where], item, strict=True)]
        if min(min(space) for space in left) < 0:
            continue
        count = 0
        for space in left:
            while all(a >= b for a, b in zip(space, bundle, strict=True)):
                space[:] = [a - b for a, b in zip(space, bundle, strict=True)]
                count += 1
        best = max(best, count)
    return best


def test_what_fits_is_what_trying_every_way_finds():
    rng = random.Random(0)
    found = set()
    for _ in range(300):
        spaces = [(rng.randint(0, 6), rng.randint(0, 2)) for _ in range(rng.randint(1, 4))]
        others = [
            ((rng.randint(1, 3), rng.randint(0, 1)), rng.randint(0, 2)),
            ((rng.randint(1, 2), 0), rng.randint(0, 1)),
        ]
        bundle = (rng.randint(1, 4), rng.randint(0, 1))
        most = placement.most(spaces, others, bundle)
        assert most == every_way(spaces, others, bundle)
        found.add(most)
    assert {-1, 0, 1, 2, 3} <= found


def test_a_thousand_nodes_are_counted_at_once():
    others = [((UNIT, 0), 4), ((UNIT, 0), 1)]
    assert placement.most([(4 * UNIT, 0)] * 1000, others, (UNIT, 0)) == 4000 - 5
    # A learner of 3 CPUs leaves 1 on its node, where no worker of 2 fits.
    assert placement.most([(4 * UNIT, 0)] * 3, [((3 * UNIT, 0), 1)], (2 * UNIT, 0)) == 4


@pytest.mark.parametrize(
    ("there", "asked", "said"),
    [
        (
            [node(2), node(2, name="10.0.0.2")],
            roles(8),
            [
                "only 2 of 8 workers of 1 CPU fit beside the others",
                "asked for are 10 CPUs (1 learner of 1 CPU, 1 evaluator of 1 CPU, 8 workers of",
                "the nodes have 4 CPUs (10.0.0.1 2 CPUs, 10.0.0.2 2 CPUs)",
            ],
        ),
        (
            [node(8), node(8)],
            roles(1, gpus=1),
            ["a learner needs 1 CPU and 1 GPU, and no node has that", "have 16 CPUs ("],
        ),
        # 6 CPUs in all, but no two on a node that nobody else needs.
        ([node(3), node(3)], roles(2, 2.5), ["only 1 of 2 workers of 2.5 CPUs fit"]),
        ([], roles(1), ["a learner needs 1 CPU, and no node has that"]),
        ([node(1, name=f"n{i}") for i in range(12)], roles(20), ["n7 1 CPU, 4 nodes more)"]),
    ],
)
def test_what_can_never_fit_is_said_with_every_node(there, asked, said):
    with pytest.raises(ConfigError, match="can never run on this cluster") as error:
        placement.check(there, asked)
    for words in said:
        assert words in str(error.value)


def test_what_others_use_is_no_reason_to_refuse():
    placement.check([node(4, free=0)], roles(2))
    with pytest.raises(ConfigError):
        placement.check([node(4)], roles(3))


def test_what_is_waited_for_is_told_once(monkeypatch):
    """A group that is not there yet, on a cluster that changes between two looks at it."""
    busy, idle = [node(8, free=2)], [node(8)]
    looks = iter([busy, busy, busy, [node(8, free=3)], idle, idle, [node(2)]])
    removed: list[Any] = []
    group = SimpleNamespace(wait=lambda seconds: False)
    monkeypatch.setattr(placement, "nodes", lambda: next(looks))
    monkeypatch.setattr(placement, "placement_group", lambda bundles, strategy, name: group)
    monkeypatch.setattr(placement, "remove_placement_group", removed.append)
    monkeypatch.setattr(placement, "AGAIN_S", 0.0)
    said: list[str] = []
    with pytest.raises(ConfigError, match="can never run"):  # once a node has left
        placement.reserve(roles(3), said.append)
    assert removed == [group]
    assert [
        re.findall("free are (\\d) of 8 CPUs.*waiting until (others|Ray)", s) for s in said
    ] == [
        [("2", "others")],
        [("3", "others")],
        [("8", "Ray")],
    ]


# --- as many workers as fit ---------------------------------------------------------------------


def auto(name: str, **scheduler: Any) -> Any:
    plain = {"name": "auto", **TINY[name], "scheduler": {"workers": "auto", **scheduler}}
    return resolve_experiment(plain)


def test_auto_is_written_as_it_is_until_it_is_known():
    experiment = auto("dqn")
    assert experiment.scheduler.workers == AUTO
    assert experiment.dump()["scheduler"]["workers"] == "auto"
    assert resolve_experiment(experiment.dump()) == experiment
    with pytest.raises(ConfigError, match="positive integer, or 'auto' .got 'many'"):
        load_experiment("dqn-cartpole", ["scheduler.workers=many"])


@pytest.mark.parametrize(
    ("name", "cores", "scheduler", "workers"),
    [
        ("dqn", 16, {}, 1),  # inline workers take turns
        ("dqn", 16, {"backend": "ray"}, 14),
        ("dqn", 2, {"backend": "ray"}, 1),
        ("dqn", 16, {"backend": "ray", "worker_cpus": 0.5, "learner_cpus": 4}, 22),
        ("vae", 16, {"backend": "ray", "learners": 2}, 13),
        ("value-iteration", 64, {"backend": "ray"}, 16),  # FrozenLake's states
        ("vae", 999, {"backend": "ray"}, "batch_size"),
    ],
)
def test_auto_is_what_this_machine_has_left(name, cores, scheduler, workers, monkeypatch):
    monkeypatch.setattr(plan, "cores", lambda: cores)
    experiment = auto(name, **scheduler)
    if workers == "batch_size":
        workers = experiment.hyperparameters.batch_size
        assert workers < 900
    assert plan.fill(experiment).scheduler.workers == workers
    fixed = resolve_experiment({**experiment.dump(), "scheduler": {"workers": 3}})
    assert plan.fill(fixed) is fixed


def test_auto_counts_what_is_free_on_each_node_of_a_cluster(monkeypatch):
    there = [node(4, free=2.5), node(8, free=3.5), node(2, free=0)]
    monkeypatch.setattr(placement, "nodes", lambda: there)
    experiment = auto("dqn", backend="ray", address="auto", learner_cpus=2.0)
    # 2 + 1 for the others; of what is left, 0.5 and 2.5 or 1.5 and 1.5.
    assert plan.fill(experiment).scheduler.workers == 2
    there[:] = [node(4, free=0)]
    assert plan.fill(experiment).scheduler.workers == 1  # which then waits
    monkeypatch.setattr(placement, "nodes", lambda: [node(4, free=2.5), node(8, free=3.7)])
    assert placement.room(1.0) == 5
    assert InlineBackend().room(1.0) == 0


def test_the_number_of_workers_is_stored_and_kept(tmp_path):
    run = train("dqn", tmp_path, {"scheduler.workers": "auto", "stop.env_steps": 300})
    assert rundir.read_plain(run.dir)["scheduler"]["workers"] == 1
    resumed = rlgen.resume(run.dir, {"stop.env_steps": 400, "scheduler.workers": 2})
    assert rundir.read_plain(resumed.dir)["scheduler"]["workers"] == 2
    again = rlgen.resume(run.dir, {"stop.env_steps": 500, "scheduler.workers": "auto"})
    assert rundir.read_plain(again.dir)["scheduler"]["workers"] == 1
    told = [r.get("message") for r in tracking.read_metrics(run.dir)]
    assert told.count("scheduler.workers: auto: 1") == 2


def command(*arguments: Any, status: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.output
    return done.stderr if status else done.stdout


def test_show_tells_the_number_and_that_it_was_auto():
    shown = json.loads(command("show", "dqn-cartpole", "scheduler.workers=auto", "--json"))
    assert shown["auto"] and shown["config"]["scheduler"]["workers"] == 1
    said = command("show", "dqn-cartpole", "scheduler.workers=auto")
    assert "scheduler.workers: auto: 1\n" in said
    there = ("scheduler.backend=ray", "scheduler.address=10.0.0.1:6379")
    assert "as many as fit there" in command(
        "show", "dqn-cartpole", "scheduler.workers=auto", *there
    )
    wrong = command("show", "dqn-cartpole", "--address", "http://127.0.0.1:8265", status=2)
    assert "expected auto or HOST:PORT" in wrong


def test_auto_is_refused_where_the_number_must_be_known(tmp_path):
    said = command("deploy", "slurm", "dqn-cartpole", "-o", tmp_path, *AUTO_WORKERS, status=2)
    assert "give one, such as scheduler.workers=16" in said
    with pytest.raises(ConfigError, match="auto says nothing in a sweep"):
        sweeps.create(auto("dqn"), {})


AUTO_WORKERS = ("scheduler.workers=auto",)


def test_a_job_finds_out_by_itself(monkeypatch):
    sent: dict[str, Any] = {}

    def submit(name, entrypoint, own, modules, metadata):
        (file,) = own.glob("*.yaml")
        sent.update(text=file.read_text(), needs=metadata["CPU"])

    head = SimpleNamespace(
        address="http://head:8265",
        resources=lambda: ({"CPU": 8.0}, {"CPU": 8.0}, []),
        submit=submit,
    )
    monkeypatch.setattr(jobs, "_head", lambda address: head)
    said = command("submit", "dqn-cartpole", *AUTO_WORKERS)
    assert "workers: auto" in sent["text"] and sent["needs"] == "3"  # at least one
    assert "the job takes as many as fit" in said


# --- the placement group ------------------------------------------------------------------------


def bundle_of(actor: Any) -> tuple[str, int]:
    """The placement group that an actor lives in, and the number of its bundle there."""
    return ray.get(actor.call.remote("where"))


class Lodger:
    """Says where it lives."""

    def where(self) -> tuple[str, int]:
        group = ray.util.get_current_placement_group()
        held = ray.get_runtime_context().get_assigned_resources()
        return (group.id.hex() if group else "", int(held.get("CPU", 0)))


def settled(condition: Any, seconds: float = 60.0) -> None:
    """Wait until Ray has noticed."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def free() -> float:
    return sum(node.free_cpus for node in placement.nodes())


def test_actors_live_in_the_group_and_leave_nothing_behind():
    """On a private cluster, as every run on Ray does."""
    backend = RayBackend("local", 6.0, 0.0)
    try:
        total = sum(node.cpus for node in placement.nodes())
        backend.reserve(roles(2), print)
        settled(lambda: free() == total - 4 and backend.room(1.0) == total - 4)
        target = "test_placement:Lodger"
        inside, outside = (
            backend.spawn(target, (), 0, 1, cpus=1.0, place=place) for place in (2, None)
        )
        for actor in (inside, outside):
            backend.host(actor, "start")
        group = backend.group.id.hex()
        assert bundle_of(inside) == (group, 1) and bundle_of(outside) == ("", 1)
        settled(lambda: free() == total - 5)  # the one outside took another CPU
        backend.kill(inside)
        again = backend.spawn(target, (), 0, 1, cpus=1.0, place=2)
        backend.host(again, "start")
        assert bundle_of(again) == (group, 1)
        backend.kill(outside)
        settled(lambda: free() == total - 4)
        placement.release(backend.group)
        settled(lambda: free() == total)
        with pytest.raises(ConfigError, match="only 1 of 2 workers of .* fit beside"):
            backend.reserve(roles(2, total - 2), print)
    finally:
        backend.shutdown()


@pytest.fixture(scope="module")
def cluster():
    """Three nodes: 4, 2 and 2 CPUs."""
    with simulated({}) as nodes:
        nodes.add(4.0)
        nodes.have(3)
        yield nodes


@pytest.fixture
def there(cluster, monkeypatch):
    """The changes of a run there, and all backends that it had."""
    had = []

    class Noted(RayBackend):
        others = 0.0  # CPUs of a node that others use when the plan asks

        def __init__(self, *args):
            super().__init__(*args)
            self.actors = {}
            had.append(self)

        def reserve(self, roles, say):
            if not self.others:
                return super().reserve(roles, say)
            blocker = placement_group([{"CPU": self.others}])
            assert blocker.wait(30)

            def told(message):
                say(message)
                self.interrupted(blocker)

            return super().reserve(roles, told)

        def interrupted(self, blocker):
            remove_placement_group(blocker)

        def spawn(self, target, *args, **needs):
            actor = super().spawn(target, *args, **needs)
            self.actors.setdefault(target.rpartition(":")[2], []).append(actor)
            return actor

        def shutdown(self):
            self.homes = {  # while Ray knows them
                name: [node_of(actor)["NodeID"] for actor in actors]
                for name, actors in self.actors.items()
            }
            self.bundles = placement_group_table(self.group) if self.group else {}
            super().shutdown()

    monkeypatch.setattr(ray_backend, "RayBackend", Noted)
    ours = {"scheduler.backend": "ray", "scheduler.address": cluster.cluster.address}
    return SimpleNamespace(changes=ours, had=had, backend=Noted)


def nobody_holds(address: str) -> None:
    """Everything of the cluster is free again."""
    backend = RayBackend(address, 0, 0)
    try:
        settled(lambda: free() == 8.0)
    finally:
        backend.shutdown()


@pytest.mark.slow
def test_a_run_fills_the_cluster_and_gives_it_back(cluster, there, tmp_path):
    run = train("q-learning", tmp_path, {**there.changes, "scheduler.workers": "auto"})
    assert rundir.read_plain(run.dir)["scheduler"]["workers"] == 6
    (backend,) = there.had
    homes = backend.homes
    assert homes["Learner"] == homes["Evaluator"] and len(set(homes["RolloutWorker"])) == 3
    nodes = backend.bundles["bundles_to_node_id"]
    workers = [nodes[place] for place in range(2, 8)]
    assert homes["RolloutWorker"] == workers and homes["Learner"] == [nodes[0]]
    nobody_holds(cluster.cluster.address)


@pytest.mark.slow
def test_a_plan_that_can_never_fit_ends_before_it_begins(cluster, there, tmp_path):
    # 8 CPUs would do, if one could cut them as one likes.
    changes = {**there.changes, "scheduler.workers": 2, "scheduler.worker_cpus": 3.0}
    with pytest.raises(ConfigError, match="only 1 of 2 workers of 3 CPUs fit beside the others"):
        train("q-learning", tmp_path, changes)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="a learner needs 1 CPU and 1 GPU, and no node has that"):
        train("dqn", tmp_path, {**there.changes, "scheduler.learner_gpus": 1})
    nobody_holds(cluster.cluster.address)


@pytest.mark.slow
def test_a_plan_waits_for_what_others_use(cluster, there, tmp_path):
    there.backend.others = 4.0
    run = train("q-learning", tmp_path, {**there.changes, "scheduler.workers": 4})
    events = [r["message"] for r in tracking.read_metrics(run.dir) if r["kind"] == "event"]
    assert any("needs 6 CPUs" in e and "free are 4 of 8 CPUs" in e for e in events)
    assert run.summary["stop_reason"] == "env_steps"


@pytest.mark.slow
def test_ctrl_c_ends_the_waiting(cluster, there, tmp_path, monkeypatch):
    monkeypatch.setattr(there.backend, "others", 4.0)
    monkeypatch.setattr(
        there.backend, "interrupted", lambda self, blocker: os.kill(os.getpid(), signal.SIGINT)
    )
    changes = [f"{key}={value}" for key, value in there.changes.items()]
    done = CliRunner().invoke(
        app, ["train", "q-learning-cliff", *changes, "scheduler.workers=4", f"run.dir={tmp_path}"]
    )
    assert done.exit_code == 130, done.output
    assert "stopped before the training began" in done.stderr and not list(tmp_path.iterdir())
    nobody_holds(cluster.cluster.address)


@pytest.mark.slow
def test_a_killed_worker_gets_its_place_again(cluster, there, tmp_path, monkeypatch):
    calls = itertools.count()

    def call(self, actor, method, *args, returns=1):
        if method == "produce" and next(calls) == 20:
            assert kill_process(self.actors["RolloutWorker"][1])
        return RayBackend.call(self, actor, method, *args, returns=returns)

    monkeypatch.setattr(there.backend, "call", call)
    # The group holds all of the cluster: outside of it there is no room for another.
    run = train("q-learning", tmp_path, {**there.changes, "scheduler.workers": 6})
    assert run.summary["restarts"] == 1
    (backend,) = there.had
    nodes = backend.bundles["bundles_to_node_id"]
    assert len(backend.homes["RolloutWorker"]) == 7
    assert backend.homes["RolloutWorker"][6] == nodes[3]
    nobody_holds(cluster.cluster.address)


@pytest.mark.slow
def test_a_killed_driver_leaves_nothing_reserved(cluster, tmp_path):
    changes = ("scheduler.backend=ray", f"scheduler.address={cluster.cluster.address}")
    long = ("scheduler.workers=6", "stop.env_steps=1000000000", "stop.target=null")
    driver = subprocess.Popen(
        [sys.executable, "-m", "rlgen", "train", "q-learning-cliff", *changes, *long, "--quiet"],
        cwd=tmp_path,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    try:
        settled(lambda: list(tmp_path.glob("runs/*/*")), 240.0)
    finally:
        driver.kill()
        driver.wait()
    nobody_holds(cluster.cluster.address)


@contextlib.contextmanager
def used_by_others(address: str, cpus: float) -> Iterator[None]:
    """So many CPUs of one node are in use, whoever is connected."""
    backend = RayBackend(address, 0, 0)
    group = placement_group([{"CPU": cpus}], lifetime="detached")
    assert group.wait(30)
    settled(lambda: free() == 8.0 - cpus)
    backend.shutdown()
    try:
        yield
    finally:
        backend = RayBackend(address, 0, 0)
        remove_placement_group(group)
        backend.shutdown()


@pytest.mark.slow
def test_show_holds_a_plan_against_a_cluster(cluster, there):
    def shown(*changes):
        address = cluster.cluster.address
        return json.loads(command("show", "dqn-cartpole", *changes, "--address", address, "--json"))

    all_ = shown("scheduler.workers=auto")
    assert all_["auto"] and all_["config"]["scheduler"]["workers"] == 6
    assert all_["cluster"]["fits"] and all_["cluster"]["fits_now"]
    assert sorted(n["cpus"] for n in all_["cluster"]["nodes"]) == [0, 2, 2, 4]
    many = shown("scheduler.workers=9")["cluster"]
    assert not many["fits"] and many["places"] == {"learner": 1, "evaluator": 1, "worker": 6}
    with used_by_others(cluster.cluster.address, 4.0):
        now = shown("scheduler.workers=6")["cluster"]
        assert now["fits"] and not now["fits_now"] and now["places_now"]["worker"] == 2
        assert shown("scheduler.workers=auto")["config"]["scheduler"]["workers"] == 2
