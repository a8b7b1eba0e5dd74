"""The nodes that actors run on: which they are, and whether they are still there."""

from __future__ import annotations

import socket
from typing import Any

import ray
from ray._private import state  # the public one asks a dashboard, which not every cluster has

ANSWER_S = 2.0  # until a node that does not take a connection counts as gone


def node_of(actor: Any) -> dict[str, Any] | None:
    """What Ray knows of the node that an actor runs on, or ran on; None where it never did."""
    known = state.actors(actor._actor_id.hex())
    if not known:
        return None
    return next((n for n in ray.nodes() if n["NodeID"] == known["Address"]["NodeID"]), None)


def gone(actor: Any) -> bool:
    """Whether the node of an actor has left, or nobody answers there.

    Ray takes some 15 s to notice a node that has died, and about a minute for one that is cut off.
    """
    node = node_of(actor)
    if node is None:
        return False
    if not node["Alive"]:
        return True
    try:
        address = node["NodeManagerAddress"], node["NodeManagerPort"]
        socket.create_connection(address, timeout=ANSWER_S).close()
    except OSError:
        return True
    return False
