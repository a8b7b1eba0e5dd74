"""The ray backend: every actor a Ray actor, on a local cluster of our own or on a given one."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Sequence
from typing import Any

import ray
from ray._raylet import AuthenticationTokenLoader, Config
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from rlgen.backends.host import Host
from rlgen.errors import ConfigError, RlgenError, WorkerDied

_GIVEN = {key: os.environ.get(key) for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default; the old one warns
    "RAY_DEDUP_LOGS": "0",
    "RAY_enable_metrics_collection": "0",
}


class RayBackend:
    """Actors are Ray actors; futures are object references, so payloads never pass the driver.

    Raises:
        ConfigError: there is no cluster at the address, or the plan does not fit on it.
    """

    def __init__(self, address: str, cpus: float, gpus: float) -> None:
        os.environ.update(_QUIET)
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.CRITICAL,
            "configure_logging": False,
        }
        try:
            if address == "local":
                # Plain ray.init would join whatever cluster runs on a shared host. Ray's ports are
                # reachable from other machines, so even a private cluster asks for a token.
                _authenticate("token", secrets.token_hex(32))
                ray.init(
                    address="local",
                    # Logical CPUs: a small machine may still run every actor of the plan.
                    num_cpus=max(os.cpu_count() or 1, int(cpus) + 1),
                    num_gpus=int(gpus),
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    **options,
                )
            else:
                _authenticate(_GIVEN["RAY_AUTH_MODE"] or "disabled", _GIVEN["RAY_AUTH_TOKEN"])
                _check_reachable(address)
                ray.init(address=address, **options)
                self._check_fits(cpus, gpus)
        except (ConnectionError, RayError, ValueError, RuntimeError) as error:
            self.shutdown()
            raise ConfigError(
                f"scheduler.address: no Ray cluster could be used at {address!r} "
                f"({' '.join(str(error).split())[:200]}); start one with 'ray start --head', or "
                "use address=local"
            ) from error
        except RlgenError:
            self.shutdown()
            raise

    def _check_fits(self, cpus: float, gpus: float) -> None:
        there = ray.cluster_resources()
        for key, wanted in (("CPU", cpus), ("GPU", gpus)):
            if wanted > there.get(key, 0.0):
                raise ConfigError(
                    f"scheduler: the plan needs {wanted:g} {key}s, the cluster has "
                    f"{there.get(key, 0.0):g}; use fewer workers or smaller worker_cpus"
                )

    def spawn(
        self,
        name: str,
        target: str,
        args: tuple[Any, ...],
        seed: int,
        threads: int,
        cpus: float = 1.0,
        gpus: float = 0.0,
    ) -> Any:
        """Start the actor ``package.module:Class``. Restarts and timeouts are the scheduler's."""
        actor = ray.remote(Host).options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )
        return actor.remote(target, args, seed, threads)

    def start(self, actor: Any) -> Any:
        """Construct the actor inside its host."""
        return actor.start.remote()

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
            WorkerDied: the actor's process ended.
            RlgenError: whatever the actor raised of ours; other errors as they were.
        """
        try:
            return ray.get(future)
        except RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, Exception) else error) from error
        except (RayActorError, GetTimeoutError) as error:
            raise WorkerDied(" ".join(str(error).split())[:300]) from error

    def random(self, actor: Any) -> Any:
        """The actor's torch random state."""
        return actor.random.remote()

    def set_random(self, actor: Any, state: Any) -> None:
        """Set the actor's torch random state."""
        actor.set_random.remote(state)

    def kill(self, actor: Any) -> None:
        """End the actor's process."""
        ray.kill(actor)

    def shutdown(self) -> None:
        """Leave the cluster, or end it where it is our own."""
        ray.shutdown()


def _authenticate(mode: str, token: str | None) -> None:
    """Set Ray's authentication for this process and for what it starts.

    Ray reads the environment once, when it is imported: tell it to read again.
    """
    os.environ["RAY_AUTH_MODE"] = mode
    if token is None:
        os.environ.pop("RAY_AUTH_TOKEN", None)
    else:
        os.environ["RAY_AUTH_TOKEN"] = token
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _check_reachable(address: str) -> None:
    """Fail within seconds where nobody listens (Ray itself would try for a minute)."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # 'auto' and the like: Ray knows
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise ConnectionError(f"nobody answers at {host}:{port}: {error}") from error
