"""Schedules of hyper-parameters over the absolute counters of a run."""

from __future__ import annotations

import math

import numpy as np


def linear(start: float, end: float, steps: int, now: int) -> float:
    """From ``start`` at 0 to ``end`` at ``steps`` in a straight line, and ``end`` from there on."""
    if now >= steps:
        return end
    return start + (end - start) * now / steps


def inverse_sigmoid(k: float, now: int) -> float:
    """k / (k + exp(now / k)) for k >= 1: from k / (k + 1) at 0, slowly and then steeply, to 0."""
    return k / (k + math.exp(min(now / k, 700.0)))  # a larger power is too large for a float


def glie(start: float, half: int, visits: np.ndarray) -> np.ndarray:
    """``start * half / (half + visits)``: exploration that ends in the limit but never stops.

    For visits ``(...)`` of each state; ``half`` of them halve it. As 1/N it goes to zero so slowly
    that every action is still tried infinitely often (Singh et al., *Convergence results for
    single-step on-policy reinforcement-learning algorithms*, 2000).
    """
    shares: np.ndarray = start * half / (half + visits)
    return shares


def power_law(start: float, power: float, count: float) -> float:
    """``start / count ** power`` for the ``count``-th use, from 1 on.

    Of step sizes, the sum diverges and that of the squares does not for a power in (1/2, 1]: the
    conditions of Robbins and Monro, *A stochastic approximation method*, 1951. With ``start`` and
    ``power`` 1, steps towards samples make their mean.
    """
    return start / count**power
