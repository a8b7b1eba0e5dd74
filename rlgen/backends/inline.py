"""The inline backend: every actor in this process, every call made at once. Needs no Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rlgen.backends.host import Host
from rlgen.errors import RlgenError


class Done:
    """A call's result, already there; passed on by reference like an object of Ray's store."""

    def __init__(self, value: Any, error: RlgenError | None = None) -> None:
        self.value = value
        self.error = error  # which shows when the value is asked for, as it would on Ray


class InlineBackend:
    """Actors are plain objects; futures are results."""

    def reserve(self, roles: Sequence[Any], say: Callable[[str], None]) -> None:
        """Nothing to reserve: all share this process."""

    def room(self, cpus: float) -> int:
        """No more actors than the plan's: they would only take turns."""
        return 0

    def spawn(self, target: str, args: tuple[Any, ...], seed: int, threads: int, **_: Any) -> Host:
        """The host of ``package.module:Class``, wherever its place in the plan is."""
        return Host(target, args, seed, threads)

    def call(self, actor: Host, method: str, *args: Any, returns: int = 1) -> Any:
        """Call a method now; ``returns`` results as as many futures."""
        given = [arg.value if isinstance(arg, Done) else arg for arg in args]
        try:
            result = actor.call(method, *given)
        except RlgenError as error:
            failed = Done(None, error)
            return [failed] * returns if returns > 1 else failed
        return [Done(part) for part in result] if returns > 1 else Done(result)

    def put(self, value: Any) -> Done:
        """A future of a value that the driver has."""
        return Done(value)

    def wait(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """The futures that are ready: all of them."""
        return list(futures)

    def get(self, future: Done) -> Any:
        """The value of a future.

        Raises:
            RlgenError: whatever the actor raised of ours; other errors come up in the call.
        """
        if future.error is not None:
            raise future.error
        return future.value

    def host(self, actor: Host, method: str, *args: Any) -> Done:
        """Call a method of the actor's `Host`: ``start``, ``random`` or ``set_random``."""
        return Done(getattr(actor, method)(*args))

    def gone(self, actor: Host) -> bool:
        """Never: this process is the only node."""
        return False

    def kill(self, actor: Host) -> None:
        """Nothing to end: the actor shares this process."""

    def shutdown(self) -> None:
        """Nothing was started."""
