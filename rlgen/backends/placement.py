"""Where a plan's actors go: what fits on the nodes of a cluster, and the placement group."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.util import placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import (
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)

from rlgen.backends.nodes import node_of
from rlgen.errors import ConfigError

UNIT = 10_000  # Ray counts CPUs and GPUs in ten-thousandths
SOON_S = 2.0  # until a group that fits is there, or the user is told why not
AGAIN_S = 30.0  # between two messages of waiting
NODE_ID = "ray.io/node-id"  # the label that every node has
LISTED = 8  # nodes that a message names

Size = tuple[int, int]  # CPUs and GPUs, in units


@dataclass(frozen=True)
class Node:
    """A node of a cluster: what it has in all, and what of it nobody uses."""

    address: str
    cpus: float
    gpus: float
    free_cpus: float
    free_gpus: float

    @property
    def total(self) -> Size:
        """All of it, in units."""
        return _size(self.cpus, self.gpus)

    @property
    def free(self) -> Size:
        """What is free, in units."""
        return _size(self.free_cpus, self.free_gpus)


def nodes() -> list[Node]:
    """The nodes that are alive; what is free may be a second old."""
    free = available_resources_per_node()
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            total, now = node["Resources"], free.get(node["NodeID"], {})
            found.append(
                Node(
                    node["NodeManagerAddress"],
                    *(total.get(key, 0.0) for key in ("CPU", "GPU")),
                    *(now.get(key, 0.0) for key in ("CPU", "GPU")),
                )
            )
    return found


def room(cpus: float) -> int:
    """How many more actors of so many CPUs would start now, outside of any group.

    Each must fit on one node: what is left on two of them does not add up.
    """
    return sum(_times(node.free, _size(cpus, 0.0)) for node in nodes())


def most(spaces: Iterable[Size], others: Sequence[tuple[Size, int]], bundle: Size) -> int:
    """How many bundles of a size fit beside others, each wholly on one node; exact.

    Args:
        spaces: what every node has to give.
        others: the sizes of other bundles, and how many of each must fit.
        bundle: the size in question.

    Returns:
        Their number; -1 where not even the others fit.
    """
    best = {tuple(count for _, count in others): 0}  # others that are left to place: most bundles
    for space in spaces:
        after: dict[tuple[int, ...], int] = {}
        for left, found in best.items():
            ranges = (
                range(min(count, _times(space, size)) + 1)
                for count, (size, _) in zip(left, others, strict=True)
            )
            for taken in itertools.product(*ranges):
                cpus, gpus = (
                    space[i] - sum(n * size[i] for n, (size, _) in zip(taken, others, strict=True))
                    for i in (0, 1)
                )
                if cpus < 0 or gpus < 0:
                    continue
                key = tuple(count - n for count, n in zip(left, taken, strict=True))
                total = found + _times((cpus, gpus), bundle)
                after[key] = max(after.get(key, 0), total)
        best = after
    return best.get((0,) * len(others), -1)


def beside(roles: Sequence[Any], name: str) -> int:
    """How many actors of a role would fit now beside those of all others; at least 0."""
    others = [(_size(r.cpus, r.gpus), r.count) for r in roles if r.name != name]
    (wanted,) = (_size(r.cpus, r.gpus) for r in roles if r.name == name)
    return max(most([node.free for node in nodes()], others, wanted), 0)


def placed(spaces: Sequence[Size], roles: Sequence[Any]) -> dict[str, int]:
    """How many actors of each role have a place: in the order of their places, workers last."""
    found: dict[str, int] = {}
    before: list[tuple[Size, int]] = []
    for role in _in_order(roles):
        size = _size(role.cpus, role.gpus)
        found[role.name] = max(min(role.count, most(spaces, before, size)), 0)
        before.append((size, found[role.name]))
    return found


def lack(there: Sequence[Node], roles: Sequence[Any]) -> str:
    """What has no place on these nodes even if nobody else used them; empty where all has."""
    spaces = [node.total for node in there]
    found = placed(spaces, roles)
    for role in _in_order(roles):
        if found[role.name] == role.count:
            continue
        each = _words(role.cpus, role.gpus)
        if not most(spaces, [], _size(role.cpus, role.gpus)):
            missing = f"a {role.name} needs {each}, and no node has that"
        else:
            beside = "" if role.name == "learner" else " beside the others"
            missing = f"only {found[role.name]} of {role.count} {role.name}s of {each} fit{beside}"
        return f"{missing}; asked for are {_asked(roles)}, the nodes have {describe(there)}"
    return ""


def check(there: Sequence[Node], roles: Sequence[Any]) -> None:
    """Refuse a plan that these nodes could not hold even if nobody else used them.

    Raises:
        ConfigError: says what has no place, and what every node has.
    """
    if missing := lack(there, roles):
        raise ConfigError(
            f"scheduler: the plan can never run on this cluster: {missing}; use fewer workers "
            "(scheduler.workers=auto: as many as fit) or smaller ones (scheduler.worker_cpus), or "
            "add nodes"
        )


def describe(there: Sequence[Node], free: bool = False) -> str:
    """The nodes in words: what they have in all, or what is free of it."""
    cpus, gpus = sum(node.cpus for node in there), sum(node.gpus for node in there)
    if free:
        left = sum(node.free_cpus for node in there), sum(node.free_gpus for node in there)
        said = [f"{left[0]:g} of {cpus:g} CPUs"]
        said += [f"{left[1]:g} of {gpus:g} GPUs"] if gpus else []
    else:
        said = [_words(cpus, gpus)]
    largest = sorted(there, key=lambda node: (node.gpus, node.cpus), reverse=True)
    each = [
        f"{node.address} "
        + (_words(node.free_cpus, node.free_gpus) if free else _words(node.cpus, node.gpus))
        for node in largest[:LISTED]
    ]
    each += [f"{len(there) - LISTED} nodes more"] if len(there) > LISTED else []
    return f"{' and '.join(said)} ({', '.join(each)})"


def reserve(roles: Sequence[Any], say: Callable[[str], None]) -> PlacementGroup:
    """The placement group of a plan: one bundle for every actor, all of them or none.

    Two runs that start at once can so never hold half of what each needs. PACK, because a batch
    and new weights travel between the learner, its workers and the evaluator at every update:
    on one node they pass through shared memory. What does not fit there goes to further nodes,
    which for workers is what nodes are for (STRICT_PACK would refuse it, SPREAD cause it). Ray
    places the bundles of a node that has died anew.

    A plan that fits but for what others use waits for them, without an end: `say` tells for what.

    Raises:
        ConfigError: the plan can never fit on this cluster.
    """
    check(nodes(), roles)
    sizes = [{"CPU": r.cpus, "GPU": r.gpus} for r in _in_order(roles) for _ in range(r.count)]
    bundles = [{key: size for key, size in each.items() if size} for each in sizes]
    group = placement_group(bundles, strategy="PACK", name="rlgen")
    told, due, fitted = "", time.monotonic(), math.inf
    try:
        while not group.wait(SOON_S):
            there, now = nodes(), time.monotonic()
            check(there, roles)
            fitted = min(fitted, now) if _fit_now(there, roles) else math.inf
            if now < due or (fitted < math.inf and now < fitted + AGAIN_S):
                continue
            free = describe(there, free=True)
            why = "others on this cluster have ended" if fitted == math.inf else "Ray places it"
            words = f"the plan needs {_asked(roles)}; free are {free}; waiting until {why}"
            if words != told:
                say(f"{words} (Ctrl-C stops)")
                told, due = words, now + AGAIN_S
    except BaseException:
        remove_placement_group(group)
        raise
    return group


def release(group: PlacementGroup | None) -> None:
    """Give back what a group holds."""
    if group is not None and ray.is_initialized():
        remove_placement_group(group)


def options(
    group: PlacementGroup | None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    place: int | None = None,
    avoid: Any = None,
) -> dict[str, Any]:
    """Ray's options of an actor.

    Args:
        group: of the plan, where there is one.
        cpus, gpus: what the actor needs.
        place: the number of its bundle in the group; None for an actor outside of it.
        avoid: an actor whose node is gone. Until Ray knows, the bundle stays there: so this one
            goes to another node, outside of the group.
    """
    chosen: dict[str, Any] = {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
    }
    node = None if avoid is None else node_of(avoid)
    if node is not None and node["Alive"]:
        elsewhere = {NODE_ID: NotIn(node["NodeID"])}
        chosen["scheduling_strategy"] = NodeLabelSchedulingStrategy(elsewhere)
    elif group is not None and place is not None:
        chosen["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, place)
    return chosen


def _fit_now(there: Sequence[Node], roles: Sequence[Any]) -> bool:
    found = placed([node.free for node in there], roles)
    return all(found[role.name] == role.count for role in roles)


def _in_order(roles: Sequence[Any]) -> list[Any]:
    return sorted(roles, key=lambda role: role.place)


def _size(cpus: float, gpus: float) -> Size:
    return round(cpus * UNIT) or int(cpus > 0), round(gpus * UNIT)


def _times(space: Size, size: Size) -> int:
    """How often a size goes into a space."""
    return min(have // need for have, need in zip(space, size, strict=True) if need)


def _words(cpus: float, gpus: float) -> str:
    words = f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    return f"{words} and {gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus else words


def _asked(roles: Sequence[Any]) -> str:
    """What a plan asks for, in words."""
    each = ", ".join(
        f"{role.count} {role.name}{'' if role.count == 1 else 's'} of "
        f"{_words(role.cpus, role.gpus)}"
        for role in _in_order(roles)
    )
    total = _words(sum(r.count * r.cpus for r in roles), sum(r.count * r.gpus for r in roles))
    return f"{total} ({each})"
