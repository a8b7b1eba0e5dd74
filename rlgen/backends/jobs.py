"""Ray's Jobs API: submit, look, follow, stop; and what a cluster has."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from rlgen.backends import cluster
from rlgen.errors import ConfigError, did_you_mean

LARGEST = GCS_STORAGE_MAX_SIZE  # bytes of an upload, which the head keeps in memory
_OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # which Ray prefers to a given address
_TALKERS = (
    "ray._private.runtime_env.packaging",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)
_PENDING_S = 5
_STOP_S = 120  # for a last checkpoint, before Ray kills


class Head:
    """The Jobs API of a cluster, with every failure as one message.

    Args:
        address: of the head's dashboard, ``http://HOST:8265``.
        say: is told of a token's file that others could read.

    Raises:
        ConfigError: nobody answers there, or it refuses the token.
    """

    def __init__(self, address: str, say: Callable[[str], None]) -> None:
        if importlib.util.find_spec("aiohttp") is None:
            raise ConfigError(
                "jobs need Ray's own extra, which is missing: pip install 'ray[default]', or "
                "rlgen's extra 'cluster'"
            )
        self.address = address if "://" in address else f"http://{address}"
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"--address: expected the head's dashboard, http://HOST:8265, got {address!r}"
            )
        cluster.authenticate(say)
        for talker in _TALKERS:
            logging.getLogger(talker).setLevel(logging.ERROR)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with self._explained(), _without(_OVERRIDING):
            cluster._check_reachable(f"{parts.hostname}:{port}")
            self._client = JobSubmissionClient(self.address)

    def submit(
        self,
        job: str,
        entrypoint: str,
        working_dir: Path,
        modules: list[Path],
        metadata: dict[str, str],
    ) -> None:
        """Ship the files and start the job.

        Raises:
            ConfigError: there is such a job, or the cluster refuses it.
        """
        with self._explained():
            known = {info.submission_id for info in self._client.list_jobs()}
            if job in known:  # which Ray answers with an internal error
                raise ConfigError(f"--job: this cluster has had a job {job!r}; give another name")
            environment: dict[str, Any] = {
                "working_dir": str(working_dir),
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S)},
            }
            if modules:  # Ray stumbles over an empty list
                environment["py_modules"] = [str(module) for module in modules]
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=job,
                metadata=metadata,
                runtime_env=environment,
            )

    def jobs(self) -> list[Any]:
        """What is known of every submitted job, the latest first."""
        with self._explained():
            found = [info for info in self._client.list_jobs() if info.submission_id]
        return sorted(found, key=lambda info: info.start_time or 0, reverse=True)

    def job(self, name: str) -> Any:
        """What is known of a job: Ray's ``JobDetails``.

        Raises:
            ConfigError: there is none of this name.
        """
        with self._explained():
            try:
                return self._client.get_job_info(name)
            except RuntimeError as error:
                if "404" not in str(error):
                    raise
            known = [info.submission_id for info in self.jobs()]
            raise ConfigError(f"{self.address} knows no job {name!r}{did_you_mean(name, known)}")

    def log(self, job: str) -> str:
        """All that a job has printed."""
        with self._explained():
            log: str = self._client.get_job_logs(job)
        return log

    def follow(self, job: str, write: Callable[[str], object]) -> Any:
        """Hand on what a job prints, from its beginning until it ends; what is known of it then.

        A connection that breaks is taken up again.
        """
        import aiohttp

        written = 0

        async def copy() -> None:
            nonlocal written
            position = 0
            async for text in self._client.tail_job_logs(job):
                new = text[max(written - position, 0) :]
                position += len(text)
                if new:
                    written = position
                    write(new)

        while True:
            # The job goes on without us.
            with contextlib.suppress(OSError, RuntimeError, aiohttp.ClientError):
                asyncio.run(copy())
            info = self.job(job)
            if info.status.is_terminal():
                if rest := self.log(job)[written:]:
                    write(rest)
                return info
            time.sleep(1.0)

    def stop(self, job: str) -> Any:
        """Let a job end with a checkpoint, and wait for it; what is known of it then."""
        with self._explained():
            self._client.stop_job(job)
        began = time.monotonic()
        while not (info := self.job(job)).status.is_terminal():
            patience = _PENDING_S if info.status.value == "PENDING" else _STOP_S + 10
            if time.monotonic() > began + patience:
                break
            time.sleep(0.5)
        return info

    def forget(self, job: str) -> None:
        """Take a job that has ended off the list."""
        with self._explained():
            self._client.delete_job(job)

    def resources(self) -> tuple[dict[str, float], dict[str, float], list[str]]:
        """What the cluster has in all, what of it is free, and what its actors wait for.

        All are empty for the first seconds of a cluster.
        """
        with self._explained():
            response = self._client._do_request("GET", "/api/cluster_status")
            response.raise_for_status()
            status = (response.json().get("data") or {}).get("clusterStatus") or {}
        report = status.get("loadMetricsReport") or {}
        usage = {key: report.get("usage", {}).get(key) for key in ("CPU", "GPU")}
        there = {key: pair for key, pair in usage.items() if pair}
        waiting = [
            f"{count} x {', '.join(f'{size:g} {key}' for key, size in demand.items())}"
            for demand, count in report.get("resourceDemand") or []
        ]
        total = {key: pair[1] for key, pair in there.items()}
        return total, {key: pair[1] - pair[0] for key, pair in there.items()}, waiting

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what Ray and HTTP raise into one message."""
        try:
            yield
        except ConfigError:
            raise
        except AuthenticationError as error:
            raise ConfigError(self._refused("Missing" in str(error))) from error
        except (ConnectionError, requests.ConnectionError, requests.Timeout) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"--address: no head answers at {self.address} ({reason}); is the dashboard there? "
                "'ray start --head' prints its address"
            ) from error
        except (RuntimeError, requests.RequestException, ValueError) as error:
            reason = " ".join(str(error).split())[-400:]
            raise ConfigError(f"{self.address}: {reason}") from error

    def _refused(self, without: bool) -> str:
        if not without:
            return (
                f"{self.address} refuses the token that is used here; it must be the one that the "
                "head was started with (RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, or "
                "~/.ray/auth_token)"
            )
        if (cluster._GIVEN["RAY_AUTH_MODE"] or "").lower() == "disabled":
            return (
                f"{self.address} asks for a token, but RAY_AUTH_MODE=disabled is set here; unset "
                "it, or set RAY_AUTH_MODE=token"
            )
        return (
            f"{self.address} asks for a token, and there is none here; copy the head's to "
            "~/.ray/auth_token, mode 0600, or name its file in RAY_AUTH_TOKEN_PATH"
        )


@contextlib.contextmanager
def _without(keys: tuple[str, ...]) -> Iterator[None]:
    """Take variables out of the environment for as long as the block runs."""
    before = {key: os.environ.pop(key) for key in keys if key in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)
