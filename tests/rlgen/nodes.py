"""Clusters of several simulated nodes, each a raylet of its own, of which any may be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from rlgen.backends import cluster
from rlgen.backends.nodes import node_of
from rlgen.backends.ray import RayBackend

#: Ray notices a dead node after 2 s instead of 15, a silent one after 20 s instead of 65.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 4,
}
#: No process that nobody has asked for, and those at no lower priority than what else runs here.
ALWAYS = {"prestart_worker_first_driver": False, "worker_niceness": 0}


STORE = 100 * 2**20  # bytes of a node's object store
TRIES = 3


class Nodes:
    """A head on which no actor fits unless it is said, and as many nodes as a test asks for."""

    def __init__(self, system: dict[str, Any], cpus: int, **head: Any) -> None:
        self.cluster = Cluster(
            initialize_head=True,
            connect=False,
            head_node_args={
                "num_cpus": cpus,
                "include_dashboard": False,
                "object_store_memory": STORE,
                "_system_config": ALWAYS | system,
                **head,
            },
        )
        self.apart: list[subprocess.Popen[bytes]] = []

    def have(self, count: int, cpus: int = 2) -> None:
        """Start nodes until there are so many."""
        while len(self.cluster.worker_nodes) < count:
            self.add(cpus)

    def add(self, cpus: int = 2) -> None:
        """Start one more."""
        before = len(self.cluster.worker_nodes)
        for _ in range(TRIES):
            with contextlib.suppress(Exception):  # a bare one, on a busy machine after 30 s
                self.cluster.add_node(num_cpus=cpus, object_store_memory=STORE)
                break
        assert len(self.cluster.worker_nodes) == before + 1, "no node has started"

    def join(self, *inside: str, cpus: int = 2, address: str | None = None) -> None:
        """Start a node by a command within another, such as one that gives it other mounts."""
        command = [
            *inside, str(Path(sys.executable).parent / "ray"), "start", "--block",
            "--disable-usage-stats", f"--address={self.cluster.address}", f"--num-cpus={cpus}",
            f"--object-store-memory={STORE}",
            *([f"--node-ip-address={address}"] if address else []),
        ]  # fmt: skip
        before, due, process = len(self.alive()), time.monotonic() + 180, None
        while len(self.alive()) == before:
            assert time.monotonic() < due, f"{command}: no node has joined"
            # Ray gives up where a node takes 30 s to start, as it may on a busy machine.
            if process is None or process.poll() is not None:
                process = subprocess.Popen(
                    command,
                    env=os.environ | {"RAY_AUTH_MODE": "disabled"},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                self.apart.append(process)
            time.sleep(0.5)

    def alive(self) -> list[str]:
        """The nodes that Ray knows."""
        return list(self.cluster.global_state._live_node_ids())

    def end(self) -> None:
        """End all of them, and whatever they started."""
        for process in (each for each in self.apart if each.poll() is None):
            for pid in family_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        self.cluster.shutdown()

    def kill(self, actor: Any) -> None:
        """SIGKILL to the raylet of the node that an actor runs on; its processes follow soon."""
        name = name_of(actor)
        (node,) = (node for node in self.cluster.worker_nodes if node.node_id == name)
        self.cluster.remove_node(node, allow_graceful=False)

    def on(self, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """The changes of a run here, two workers to a node."""
        return {
            "scheduler.backend": "ray",
            "scheduler.address": self.cluster.address,
            "scheduler.worker_cpus": 0.5,
            "scheduler.learner_cpus": 0.5,
            **(changes or {}),
        }


def family_of(pid: int) -> list[int]:
    """A process and all that it has started, and these have."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
    family = [pid]
    for each in family:
        family += [child for child, parent in parents.items() if parent == each]
    return family


@contextlib.contextmanager
def simulated(system: dict[str, Any] | None = None, cpus: int = 0, **head: Any) -> Iterator[Nodes]:
    """A head of so many CPUs, and the nodes that a test adds."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="rl", ignore_cleanup_errors=True) as folder,
    ):
        patch.setenv("RAY_TMPDIR", folder)  # where 'ray.init()' of others does not find it
        patch.setitem(cluster._GIVEN, "RAY_AUTH_MODE", "disabled")
        cluster.authenticate()  # else the token of an earlier private cluster may be in force
        nodes = Nodes(QUICK if system is None else system, cpus, **head)
        try:
            yield nodes
        finally:
            ray.shutdown()
            nodes.end()


def name_of(actor: Any) -> str:
    """The id of the node that an actor runs on."""
    node = node_of(actor)
    assert node is not None
    return str(node["NodeID"])


class Killing(RayBackend):
    """Kills the node of some actor once, before a call.

    Attributes:
        nodes: of which one is killed.
        victim: the class whose first actor's node it is, but never the learner's unless it says so.
        before: the method, and which of its calls.
        actors: all that were started, by the names of their classes.
        killed: the number of nodes that have been.
    """

    nodes: Nodes
    victim = "RolloutWorker"
    before = ("produce", 40)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls = 0
        self.killed = 0
        self.actors: dict[str, list[Any]] = {}
        type(self).latest = self

    def spawn(self, target: str, *args: Any, **needs: Any) -> Any:
        actor = super().spawn(target, *args, **needs)
        self.actors.setdefault(target.partition(":")[2], []).append(actor)
        return actor

    def call(self, actor: Any, method: str, *args: Any, returns: int = 1) -> Any:
        if method == self.before[0]:
            self.calls += 1
            if self.calls == self.before[1]:
                self.kill_node(args)
        return super().call(actor, method, *args, returns=returns)

    def kill_node(self, args: Any) -> None:
        """Kill it, once what the call is given has been made."""
        made = [arg for arg in args if isinstance(arg, ray.ObjectRef)]
        ray.wait(made, num_returns=len(made), timeout=60, fetch_local=False)
        (learner,) = self.actors["Learner"]
        home = name_of(learner)
        away = [a for a in self.actors[self.victim] if name_of(a) != home]
        victim = learner if self.victim == "Learner" else away[0]
        self.nodes.kill(victim)
        self.killed += 1
