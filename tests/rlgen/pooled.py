"""Ray actors that serve one run after the other: starting processes would cost seconds each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

    def process(self):
        return os.getpid()


@contextmanager
def pooled_backend() -> Iterator[Any]:
    """A cluster, and a backend class that keeps its actors from one run to the next."""
    cluster = ray_backend.RayBackend("local", 8.0, 0.0)
    vacant: list[Any] = []

    class Pooled(ray_backend.RayBackend):
        def __init__(self, address, cpus, gpus):
            self.taken = []

        def reserve(self, roles, say):
            pass  # they lie where the first run put them

        def spawn(self, target, args, seed, threads, cpus, **_):
            actor = vacant.pop() if vacant else ray.remote(Vacant).options(num_cpus=cpus).remote()
            self.taken.append(actor)
            actor.move_in.remote(target, args, seed, threads)
            return actor

        def kill(self, actor):
            self.taken.remove(actor)
            super().kill(actor)

        def shutdown(self):
            asked = {actor.process.remote(): actor for actor in self.taken}
            answers, silent = ray.wait(list(asked), num_returns=len(asked), timeout=10)
            for actor in (asked[answer] for answer in silent):
                ray.kill(actor)
            for answer in answers:
                with suppress(ray.exceptions.RayActorError):
                    ray.get(answer)
                    vacant.append(asked[answer])

    yield Pooled
    cluster.shutdown()
