"""Schedules of hyper-parameters over the absolute counters of a run."""

from __future__ import annotations


def linear(start: float, end: float, steps: int, now: int) -> float:
    """From ``start`` at 0 to ``end`` at ``steps`` in a straight line, and ``end`` from there on."""
    if now >= steps:
        return end
    return start + (end - start) * now / steps
