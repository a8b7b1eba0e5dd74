"""Ray clusters: a private one on this machine, or one that is already there."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray._raylet import AuthenticationTokenLoader, Config
from ray.exceptions import ObjectLostError, ObjectStoreFullError, OutOfDiskError, RayTaskError

from rlgen.backends.tokens import choose_mode
from rlgen.errors import BatchLost, ConfigError, StoreFull

_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_GIVEN = {key: os.environ.get(key) for key in _AUTHENTICATION}
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default; the old one warns
    "RAY_enable_metrics_collection": "0",
}


def connect(address: str, cpus: float, gpus: float) -> None:
    """Start a private cluster (``"local"``), or join the one at an address.

    Args:
        address: ``"local"``, ``"auto"`` or ``host:port``.
        cpus, gpus: what a private cluster must have in all.

    Raises:
        ConfigError: there is no cluster at the address.
    """
    os.environ.update(_QUIET)
    on_sigterm = signal.getsignal(signal.SIGTERM)
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
            # The raylet's environment is its workers': what can be imported here can be there.
            path = os.pathsep.join(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))
            with _environment("PYTHONPATH", path):
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
            authenticate()
            _check_reachable(address)
            ray.init(address=address, **options)
    except ConfigError:
        raise
    except Exception as error:  # Ray's own are of every kind, a node that is late a bare Exception
        ray.shutdown()
        reason = " ".join(str(error).split())[:200]
        if address == "local":
            message = (
                f"scheduler.backend: Ray did not start on this machine ({reason}); is it busy, or "
                "out of memory? Try again, or use scheduler.backend=inline"
            )
        else:
            remedy = "start one with 'ray start --head', or use scheduler.address=local"
            if "Failed to connect" in reason:  # though somebody answers there
                remedy = (
                    "does it ask for another token than is used here (RAY_AUTH_TOKEN, the file of "
                    "RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token)?"
                )
            message = (
                f"scheduler.address: no Ray cluster could be used at {address!r} ({reason}); "
                f"{remedy}"
            )
        raise ConfigError(message) from error
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        # Ray has set its own, which would end the run without a checkpoint.
        signal.signal(signal.SIGTERM, on_sigterm)


def authenticate(say: Callable[[str], None] = lambda message: None) -> None:
    """Use the token for clusters that are not our own, wherever there is one.

    Raises:
        ConfigError: a token is asked for, and there is none.
    """
    _authenticate(choose_mode(_GIVEN, say), _GIVEN["RAY_AUTH_TOKEN"])


def cause_of(error: RayTaskError) -> Exception:
    """What an actor raised; with what to do where the object store had no room for its answer."""
    cause = error.cause
    if isinstance(cause, ObjectLostError):  # of what it was given
        return BatchLost(" ".join(str(cause).split())[:100])
    if isinstance(cause, ObjectStoreFullError | OutOfDiskError):
        return StoreFull(
            "the object store of a node is full, and so is its disk; make batches smaller "
            "(hyperparameters.rollout_steps or batch_size, env.num_envs, scheduler.workers), or "
            "start the cluster with more: 'ray start --object-store-memory BYTES'"
        )
    return cause if isinstance(cause, Exception) else error


def node_address() -> str:
    """The IP address of the node that this actor runs on."""
    address: str = ray.util.get_node_ip_address()
    return address


@contextlib.contextmanager
def _environment(key: str, value: str) -> Iterator[None]:
    """Set an environment variable for as long as the block runs."""
    before = os.environ.get(key)
    os.environ[key] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


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


def check_total(cpus: float, gpus: float) -> None:
    """Refuse what a connected cluster could not run, and leave it.

    Raises:
        ConfigError: it has fewer CPUs or GPUs in all.
    """
    there = ray.cluster_resources()
    for key, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > there.get(key, 0.0):
            ray.shutdown()
            raise ConfigError(
                f"scheduler: {wanted:g} {key}s are asked for, the cluster has "
                f"{there.get(key, 0.0):g}; use fewer trials at a time (search.parallel)"
            )
