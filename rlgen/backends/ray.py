"""The ray backend: every actor a Ray actor, on a private cluster or on a given one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from rlgen.backends import cluster, nodes, placement
from rlgen.backends.host import Host
from rlgen.errors import WorkerDied


class RayBackend:
    """Actors are Ray actors; futures are object references, so payloads never pass the driver.

    Raises:
        ConfigError: there is no cluster at the address.
    """

    group: Any = None  # the places of the plan's actors, once they are reserved

    def __init__(self, address: str, cpus: float, gpus: float) -> None:
        cluster.connect(address, cpus, gpus)

    def reserve(self, roles: Sequence[Any], say: Callable[[str], None]) -> None:
        """Keep a place for every actor of the plan: see `placement.reserve`."""
        self.group = placement.reserve(roles, say)

    def room(self, cpus: float) -> int:
        """How many more actors of so many CPUs would start now, beside the plan's."""
        return placement.room(cpus)

    def spawn(
        self, target: str, args: tuple[Any, ...], seed: int, threads: int, **needs: Any
    ) -> Any:
        """Start the actor ``package.module:Class``. Restarts and timeouts are the scheduler's.

        Its ``needs`` are `placement.options`': ``cpus``, ``gpus``, ``place``, its number in the
        plan (None, for an actor beside it), and ``avoid``, an actor whose node is not to be used.
        """
        actor = ray.remote(Host).options(**placement.options(self.group, **needs))
        return actor.remote(target, args, seed, threads)

    def call(self, actor: Any, method: str, *args: Any, returns: int = 1) -> Any:
        """Start a method; ``returns`` results as as many object references."""
        return actor.call.options(num_returns=returns).remote(method, *args)

    def put(self, value: Any) -> Any:
        """Store a value once; the reference may ride in any number of calls."""
        return ray.put(value)

    def wait(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """The futures that are ready: at least one, unless the time runs out first."""
        ready, rest = ray.wait(list(futures), timeout=timeout_s, fetch_local=False)
        if ready and rest:  # whatever else is ready by now
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)
            ready += more
        return list(ready)

    def get(self, future: Any) -> Any:
        """The value of a future that is ready.

        Raises:
            WorkerDied: the actor's process ended, or its node went with the value.
            BatchLost: what the actor was given went with a node.
            RlgenError: whatever the actor raised of ours; other errors as they were.
        """
        try:
            return ray.get(future)
        except RayTaskError as error:
            raise cluster.cause_of(error) from error
        except (RayActorError, GetTimeoutError, ObjectLostError) as error:
            raise WorkerDied(" ".join(str(error).split())[:300]) from error

    def host(self, actor: Any, method: str, *args: Any) -> Any:
        """Call a method of the actor's `Host`: ``start``, ``random`` or ``set_random``."""
        return getattr(actor, method).remote(*args)

    def gone(self, actor: Any) -> bool:
        """Whether the node of an actor has left, or nobody answers there."""
        return nodes.gone(actor)

    def kill(self, actor: Any) -> None:
        """End the actor's process."""
        ray.kill(actor)

    def shutdown(self) -> None:
        """Give the places back, and leave the cluster, or end it where it is our own."""
        placement.release(self.group)
        ray.shutdown()
