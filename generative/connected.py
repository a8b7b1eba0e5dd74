"""The fully connected network of binary units: energy, Gibbs sweeps, descent and annealing.

K units x in {0, 1}, symmetric weights ``(K, K)`` without self-connections and biases ``(K,)``; rows
are ``(n, K)``. What the Hopfield network and the Boltzmann machine share, and a search in itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rlgen.algorithm import Estimate
from rlgen.generative.boltzmann import ENUMERABLE, draw
from rlgen.generative.partition import exactly, inverse_temperatures, largest

SWEEPS = 1000  # of a recall, at most
SETTLING = 100  # rounds of the mean field, at most


def energy(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """E(x) = -(sum_(i<j) w_ij x_i x_j + sum_i b_i x_i) of each row ``(n,)`` (eq 12.1)."""
    return -(0.5 * ((x @ weight) * x).sum(-1) + x @ bias)


def sweep(
    weight: Tensor, bias: Tensor, x: Tensor, temperature: float, units: Tensor | None = None
) -> Tensor:
    """The rows ``(n, K)`` after each unit, in random order, was set once given all the others.

    At a temperature T > 0 it is drawn: p(x_i = 1 | rest) = sigmoid((sum_j w_ij x_j + b_i) / T) (eq
    12.16), the Boltzmann machine's Gibbs step. At T = 0 it is 1 where the input is at least 0, else
    0 (eq 12.17), the Hopfield network's rule: no step raises the energy.

    Args:
        weight: symmetric, with a zero diagonal.
        bias: of each unit.
        x: the rows, which stay as they are.
        temperature: T.
        units: those to set, ``(m,)`` int64; the others are clamped. None given: all.
    """
    order = torch.arange(len(bias), device=x.device) if units is None else units
    order = order[torch.randperm(len(order), device=x.device)]
    columns = x.T.contiguous()  # a unit of all rows is read and written at a time
    for i in order.tolist():
        inputs = weight[i] @ columns + bias[i]
        if temperature > 0:
            columns[i] = draw((inputs / temperature).sigmoid_())
        else:
            columns[i] = inputs >= 0
    return columns.T.contiguous()


def recall(weight: Tensor, bias: Tensor, x: Tensor) -> Iterator[Tensor]:
    """The rows ``(n, K)`` after each sweep at T = 0, until none of them changes.

    That comes, for each change lowers the energy, or keeps it and adds a 1; not after more than
    `SWEEPS` here, for rounding errors may make a difference of energies where there is none.
    """
    for _ in range(SWEEPS):
        after = sweep(weight, bias, x, 0.0)
        yield after
        if torch.equal(after, x):
            return
        x = after


def anneal(
    weight: Tensor, bias: Tensor, x: Tensor, temperatures: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Simulated annealing: a search for states of low energy (section 12.1.2).

    One sweep at each temperature, from hot to cold (see `geometric`), then a descent to the nearest
    minimum. The book names no schedule; only one as slow as c / log(sweeps) finds the least energy
    for certain (Geman & Geman 1984), so several rows are searched at once: take the best.

    Args:
        weight: symmetric, with a zero diagonal.
        bias: of each unit.
        x: where the searches start, ``(n, K)``.
        temperatures: of the sweeps, all positive.

    Returns:
        The lowest state that each search came by ``(n, K)``, and its energy ``(n,)``.
    """
    best, lowest = x, energy(weight, bias, x)
    for temperature in temperatures:
        x = sweep(weight, bias, x, temperature)
        best, lowest = _lower(best, lowest, x, energy(weight, bias, x))
    *_, x = recall(weight, bias, x)
    return _lower(best, lowest, x, energy(weight, bias, x))


def _lower(best: Tensor, lowest: Tensor, x: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    better = now < lowest
    return torch.where(better[:, None], x, best), torch.where(better, now, lowest)


def geometric(hot: float, cold: float, sweeps: int) -> list[float]:
    """Temperatures from ``hot`` to ``cold``, each the same share of the one before."""
    return torch.logspace(0, 1, sweeps, base=cold / hot, dtype=torch.float64).mul_(hot).tolist()


def mean_field(weight: Tensor, bias: Tensor, v: Tensor, temperature: float) -> Tensor:
    """The first d units as given ``(n, d)``, the others at their mean-field values: ``(n, K)``.

    Each of those is sigmoid(input / T), set one after the other until they stay: independent units
    of these means are, of all independent ones, a local best approximation of p(h | v).
    """
    d, units = v.shape[1], len(bias)
    x = torch.cat([v, v.new_full((len(v), units - d), 0.5)], 1)
    given = v @ weight[:d, d:] + bias[d:]
    for _ in range(SETTLING):
        before = x[:, d:].clone()
        for i in range(units - d):
            x[:, d + i] = ((given[:, i] + x[:, d:] @ weight[d:, d + i]) / temperature).sigmoid()
        if units == d or (x[:, d:] - before).abs().max() < 1e-5:
            break
    return x


def log_partition_of(
    weight: Tensor, bias: Tensor, base: Tensor, chains: int, steps: int
) -> Estimate:
    """log Z at T = 1: by enumeration of up to 2^20 states, else the largest AIS estimate.

    Annealed importance sampling as in `rlgen.generative.partition`, with one Gibbs sweep at each
    temperature, from two bases: the uniform distribution, and independent units with the biases
    ``base`` ``(K,)``.
    """
    units = len(bias)
    if units <= ENUMERABLE:
        parts, bits = [], torch.arange(units, device=bias.device)
        for states in torch.arange(2**units, device=bias.device).split(4096):
            parts.append(-energy(weight, bias, (states[:, None] >> bits & 1).to(bias)))
        return exactly(torch.cat(parts).logsumexp(0))
    weights = {}
    for name, start in (("uniform", torch.zeros_like(base)), ("data mean", base)):
        x = draw(start.sigmoid().repeat(chains, 1))
        log_w = softplus(start).sum().double().repeat(chains)
        for before, beta in pairwise(inverse_temperatures(steps).tolist()):
            # E at a step is that of weights beta W and biases (1 - beta) base + beta b.
            log_w += (beta - before) * -(energy(weight, bias, x) + x @ start)
            x = sweep(beta * weight, start + beta * (bias - start), x, 1.0)
        weights[name] = log_w
    return largest(weights, steps)
