"""Ends the processes of actors as a crash would, wherever in the cluster they run."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import ray
from ray._private import state  # the public one asks a dashboard, which not every cluster has
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

REACH_S = 60.0  # until a task has started on another node


def kill_process(actor: Any) -> bool:
    """SIGKILL to the process of an actor; whether there was one."""
    known = state.actors(actor._actor_id.hex())
    if not known or known["State"] != "ALIVE":
        return False
    node, pid = known["Address"]["NodeID"], known["Pid"]
    if node == ray.get_runtime_context().get_node_id():
        return _end(pid)
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ending = ray.remote(_end).options(num_cpus=0, scheduling_strategy=there)
    with contextlib.suppress(ray.exceptions.RayError):  # the node has gone meanwhile
        return bool(ray.get(ending.remote(pid), timeout=REACH_S))
    return False


def _end(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
