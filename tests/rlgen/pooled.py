"""Ray actors that serve one run after the other: starting processes would cost seconds each."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from rlgen.backends import ray as ray_backend
from rlgen.backends.host import Host


class Vacant(Host):
    """A host whose actor comes later, and then another one."""

    def __init__(self):
        pass

    def move_in(self, *arguments):
        Host.__init__(self, *arguments)


@contextmanager
def pooled_backend() -> Iterator[Any]:
    """A cluster, and a backend class that keeps its actors from one run to the next."""
    cluster = ray_backend.RayBackend("local", 8.0, 0.0)
    vacant: list[Any] = []

    class Pooled(ray_backend.RayBackend):
        def __init__(self, address, cpus, gpus):
            self.taken = []

        def spawn(self, target, args, seed, threads, cpus=1.0, gpus=0.0):
            actor = vacant.pop() if vacant else ray.remote(Vacant).options(num_cpus=cpus).remote()
            self.taken.append(actor)
            actor.move_in.remote(target, args, seed, threads)
            return actor

        def shutdown(self):
            vacant.extend(self.taken)

    yield Pooled
    cluster.shutdown()
