"""Errors that a user can act on: one short message, no traceback."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class RlgenError(Exception):
    """A mistake or a mishap that one message explains; the command line exits with status 2."""


class ConfigError(RlgenError):
    """A configuration that cannot run: names the key, the value, what was expected."""


class DataError(RlgenError):
    """A data set that is missing or damaged."""


class CheckpointError(RlgenError):
    """A checkpoint that is missing, damaged or of another experiment."""


class EnvironmentFailure(RlgenError):
    """An environment that raised: names the worker, the environment and the seed."""


@contextlib.contextmanager
def blaming(who: str, doing: str) -> Iterator[None]:
    """Around a call of an environment: whatever that raises names it.

    Raises:
        EnvironmentFailure: anything but our own errors came up.
    """
    try:
        yield
    except RlgenError:
        raise
    except Exception as error:
        raised = f"{type(error).__name__} in {doing}: {error}"
        raise EnvironmentFailure(f"{who} raised {raised}") from error


class NotFinite(RlgenError):
    """A NaN or an infinity in an observation or a reward: names worker, environment and step."""


class BadGradient(RlgenError):
    """A gradient with a NaN or an infinity: names the parameter and the update."""


class Diverged(RlgenError):
    """A run whose losses or weights are no longer numbers: names its last good checkpoint."""


class WorkerDied(RlgenError):
    """An actor's process ended, or it did not answer in time."""


class LearnerDied(WorkerDied):
    """The process of a learner ended, or it did not answer in time."""


class BatchLost(RlgenError):
    """A batch, or weights, went with the node that held them, before who needed them had them."""


class StoreFull(RlgenError):
    """The object store of a node, and its disk, have no room for a batch or for weights."""


class PeerLost(WorkerDied):
    """A learner that lost touch with the others: the cause lies with one of those."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` with the nearest known name, or all where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
