"""Errors that a user can act on: one short message, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


class Diverged(RlgenError):
    """A run whose losses or weights are no longer numbers: names its last good checkpoint."""


class WorkerDied(RlgenError):
    """An actor's process ended, or it did not answer in time."""


class LearnerDied(WorkerDied):
    """The process of a learner ended, or it did not answer in time."""


class BatchLost(RlgenError):
    """A batch went with the node that held it, before the learner had it."""


class PeerLost(WorkerDied):
    """A learner that lost touch with the others: the cause lies with one of those."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` with the nearest known name, or all where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
