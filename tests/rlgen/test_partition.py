"""Machines that see less of each other than usual: a node cut off, a disk that is not shared.

Network and mount namespaces make them on one machine; they need root.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import train
from nodes import Killing, node_of, simulated

import rlgen
from rlgen import checkpoint, crew, tracking
from rlgen.backends import ray as ray_backend

pytestmark = pytest.mark.slow  # nodes take seconds to start, and silence to be noticed

ROOT = os.geteuid() == 0 and shutil.which("ip") and shutil.which("unshare")
PATIENCE_S = 15.0


def do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def link() -> Iterator[tuple[str, str]]:
    """A network namespace and this end of its only link, from 10.213.7.1 to 10.213.7.2."""
    name = f"rl{secrets.token_hex(3)}"
    if not ROOT or subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        pytest.skip("network namespaces need root")
    try:
        inside = ("ip", "netns", "exec", name)
        do("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
        do("ip", "link", "set", f"{name}b", "netns", name)
        do("ip", "address", "add", "10.213.7.1/24", "dev", f"{name}a")
        do("ip", "link", "set", f"{name}a", "up")
        do(*inside, "ip", "address", "add", "10.213.7.2/24", "dev", f"{name}b")
        do(*inside, "ip", "link", "set", f"{name}b", "up")
        do(*inside, "ip", "link", "set", "lo", "up")
        yield name, f"{name}a"
    finally:
        subprocess.run(["ip", "link", "delete", f"{name}a"], capture_output=True)
        do("ip", "netns", "delete", name)


def test_workers_of_a_node_that_is_cut_off_are_replaced_before_ray_notices(
    link: tuple[str, str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, interface = link
    monkeypatch.setattr(crew, "LEAST_PATIENCE_S", PATIENCE_S)
    with simulated({}, cpus=2, node_ip_address="10.213.7.1") as nodes:
        nodes.join("ip", "netns", "exec", namespace, cpus=1, address="10.213.7.2")

        class Cutting(Killing):  # type: ignore[misc]
            before = ("produce", 60)

            def kill_node(self, args: Any) -> None:
                nodes.add(1)
                assert (
                    node_of(self.actors["RolloutWorker"][-1])["NodeManagerAddress"] == "10.213.7.2"
                )
                do("ip", "link", "set", interface, "down")
                self.killed += 1

        monkeypatch.setattr(ray_backend, "RayBackend", Cutting)
        changes = {"scheduler.workers": 3, "hyperparameters.rollout_steps": 8}
        run = train("q-learning", tmp_path, nodes.on(changes))
    told = [r["message"] for r in tracking.read_metrics(run.dir) if r["kind"] == "event"]
    silent = [event for event in told if f"no answer for {PATIENCE_S:g} s" in event]
    assert silent, told
    assert all("on another node (its own does not answer)" in event for event in silent), told
    np.testing.assert_array_equal(run.weights, train("q-learning", tmp_path, changes).weights)


@pytest.mark.skipif(not ROOT, reason="mount namespaces need root")
def test_a_learner_that_does_not_see_the_disk_hands_its_parts_over(
    tmp_path: Path,
) -> None:
    """On a node that has an empty disk in the place of the driver's runs."""
    mount = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
    changes = {"checkpoint.every": 500}
    with simulated() as nodes:
        nodes.join(
            "unshare", "-m", "--propagation", "private", "sh", "-c", mount, str(tmp_path), cpus=3
        )
        first = {"stop.env_steps": 700, **changes}
        run = train("dqn", tmp_path, nodes.on(first))
        assert set(json.loads((run.checkpoint / "manifest.json").read_text())["sha256"]) == {
            f"{part}.{suffix}"
            for part in ("learner", "replay", "run", "weights", "worker-0", "worker-1")
            for suffix in ("json", "safetensors")
        }
        assert checkpoint.damage(run.checkpoint) is None

        more = rlgen.resume(run.dir, {"stop.env_steps": 1500})
    undisturbed = train("dqn", tmp_path, changes)
    np.testing.assert_array_equal(more.weights, undisturbed.weights)
