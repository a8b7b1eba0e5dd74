"""The partition function Z of a Boltzmann machine: exact, or by annealed importance sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from rlgen.algorithm import Estimate
from rlgen.generative.boltzmann import (
    BoltzmannMachine,
    activation,
    draw_hidden,
    draw_visible,
    free_energy_given,
    hidden_input,
    log_partition,
    log_sum,
    visible_mean,
)

#: Importance samples of each base: one alone has no standard error.
Chains = Annotated[int, Field(ge=2)]
ERRORS = 3.0  # standard errors on either side of an estimate
# Where the inverse temperatures are dense: (end, share of the steps).
SCHEDULE = ((0.5, 1 / 29), (0.9, 8 / 29), (1.0, 20 / 29))


def inverse_temperatures(steps: int) -> Tensor:
    """From 0 to 1 in so many steps, dense towards 1: ``(steps + 1,)`` float64.

    In the proportions of Salakhutdinov & Murray 2008: 500 up to 0.5, 4,000 to 0.9, 10,000 to 1.
    """
    now = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    betas, start, first = torch.empty_like(now), 0.0, 0.0
    for end, share in SCHEDULE:
        chosen = now >= first
        betas[chosen] = start + (end - start) * (now[chosen] - first) / share
        start, first = end, first + share
    betas[-1] = 1.0
    return betas


def annealed_weights(rbm: BoltzmannMachine, base: Tensor, chains: int, steps: int) -> Tensor:
    """The log weights ``(*bases, chains)`` float64 of annealed importance sampling.

    The mean of their exponentials is an unbiased estimate of Z. Each chain starts at the machine
    without weights and hidden biases, whose visible biases are ``base`` ``(*bases, 1, m1)``, and
    walks to ``rbm`` along the path of `rlgen.generative.boltzmann`, one Gibbs step at a time; its
    weight is Z of the start times prod_k p_k(v_(k-1)) / p_(k-1)(v_(k-1)), p being unnormalised.

    Source: Neal 2001, "Annealed importance sampling"; Salakhutdinov & Murray 2008.
    """
    kind, none = rbm.hidden_kind, torch.zeros_like(rbm.hidden_bias)
    log_z = log_sum(rbm, rbm.visible_kind, base, base) + log_sum(rbm, kind, none, none)
    v = base.expand(*base.shape[:-2], chains, -1).clone()
    v = draw_visible(rbm, activation(rbm, rbm.visible_kind, v))
    weights = log_z.double().expand(v.shape[:-1]).clone()
    for before, beta in pairwise(inverse_temperatures(steps).tolist()):
        inputs = hidden_input(rbm, v)
        weights += free_energy_given(rbm, v, inputs, before, base)
        weights -= free_energy_given(rbm, v, inputs, beta, base)
        h = draw_hidden(rbm, activation(rbm, kind, inputs.mul_(beta)))
        v = draw_visible(rbm, visible_mean(rbm, h, beta, base))
    return weights


def log_mean(weights: Tensor) -> tuple[float, float, float]:
    """The log of the mean of exp(weights) ``(n,)``, and where it is `ERRORS` standard errors away.

    The lower end is minus infinity where the weights vary too much to say.
    """
    n, top = len(weights), weights.max()
    scaled = (weights - top).exp()
    mean, error = scaled.mean(), scaled.std() / math.sqrt(n)
    low, high = (mean - ERRORS * error).clamp(min=0), mean + ERRORS * error
    ends = torch.stack([mean, low, high]).log() + top
    return float(ends[0]), float(ends[1]), float(ends[2])


def estimate_log_partition(
    rbm: BoltzmannMachine, bases: Mapping[str, Tensor], chains: int, steps: int
) -> Estimate:
    """log Z by annealed importance sampling from several bases: the largest estimate.

    A base far from the model misses whole regions, and its chains agree on a log Z that is too
    small, with a small standard error (never too large, but for noise): so one base is not enough.

    Args:
        rbm: the machine.
        bases: visible biases ``(m1,)`` of each base, by its name.
        chains: importance samples of each base.
        steps: temperatures.
    """
    weights = annealed_weights(rbm, torch.stack(list(bases.values()))[:, None], chains, steps)
    return largest(dict(zip(bases, weights, strict=True)), steps)


def largest(weights: Mapping[str, Tensor], steps: int) -> Estimate:
    """The largest estimate of log Z, from the log weights ``(chains,)`` of each base."""
    found = {name: log_mean(rows) for name, rows in weights.items()}
    best = max(found, key=lambda name: found[name][0])
    each = ", ".join(f"{name} {value[0]:.2f}" for name, value in found.items())
    note = (
        f"AIS, {len(weights[best])} chains of {steps} temperatures; the largest, from base {best}, "
        f"and {ERRORS:g} standard errors; by base: {each}"
    )
    return Estimate(*found[best], note)


def exactly(log_z: Tensor) -> Estimate:
    """log Z without an error."""
    return Estimate(float(log_z), float(log_z), float(log_z), "exact, by enumeration")


def log_partition_of(rbm: BoltzmannMachine, data_base: Tensor, chains: int, steps: int) -> Estimate:
    """log Z: by enumeration where that is feasible, else the largest AIS estimate of three bases.

    They are the uniform distribution (N(0, s^2) of Gaussian units), that of the data's mean, with
    visible biases ``data_base``, and that of the machine's own visible biases.
    """
    if rbm.enumerable:
        return exactly(log_partition(rbm))
    bases = {
        "uniform": torch.zeros_like(data_base),
        "data mean": data_base,
        "visible bias": rbm.visible_bias,
    }
    return estimate_log_partition(rbm, bases, chains, steps)
