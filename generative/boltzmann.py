"""The Boltzmann machine with two layers: its energy, conditionals and likelihoods.

Pure functions of a `BoltzmannMachine`, in the conventions of section 12.2; rows are ``(n, m1)``
visible or ``(n, m2)`` hidden values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

EXACT, DRAWN = 64, 40  # values of a row scored exactly, and drawn of a longer row


class BoltzmannMachine(nn.Module):
    """Binary v ``(m1,)`` and h ``(m2,)`` with energy E(v, h) = -a'v - b'h - v'Wh (eq 12.29)."""

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(visible, hidden), requires_grad=False)  # W
        self.visible_bias = nn.Parameter(torch.zeros(visible), requires_grad=False)  # a
        self.hidden_bias = nn.Parameter(torch.zeros(hidden), requires_grad=False)  # b


def hidden_input(rbm: BoltzmannMachine, v: Tensor) -> Tensor:
    """W'v + b ``(n, m2)``, so that p(h = 1 | v) is its sigmoid."""
    return torch.addmm(rbm.hidden_bias, v, rbm.weight)


def visible_input(rbm: BoltzmannMachine, h: Tensor) -> Tensor:
    """Wh + a ``(n, m1)``, so that p(v = 1 | h) is its sigmoid."""
    return torch.addmm(rbm.visible_bias, h, rbm.weight.T)


def draw(probability: Tensor) -> Tensor:
    """Zeros and ones (three times as fast as torch.bernoulli)."""
    return torch.rand_like(probability).lt_(probability)


def gibbs(rbm: BoltzmannMachine, hidden: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Chains of ``steps`` times h -> v, from p(h = 1 | v_0): v_k, and p(h = 1 | v_k)."""
    for _ in range(steps):
        v = draw(visible_input(rbm, draw(hidden)).sigmoid_())
        hidden = hidden_input(rbm, v).sigmoid_()
    return v, hidden


def free_energy(rbm: BoltzmannMachine, v: Tensor) -> Tensor:
    """F(v) = -log sum_h exp(-E(v, h)) of each row, so that p(v) = exp(-F(v)) / Z (eq 12.43)."""
    return -v @ rbm.visible_bias - softplus(hidden_input(rbm, v)).sum(-1)


def log_partition(rbm: BoltzmannMachine) -> Tensor:
    """The exact log Z, by a sum over all 2^m2 hidden states (m2 of up to about 20)."""
    bits, parts = torch.arange(rbm.hidden_bias.numel()), []
    for states in torch.arange(2 ** len(bits)).split(4096):
        h = (states[:, None] >> bits & 1).to(rbm.weight)
        parts.append(h @ rbm.hidden_bias + softplus(visible_input(rbm, h)).sum(-1))
    return torch.cat(parts).logsumexp(0)


def pseudo_log_likelihood(rbm: BoltzmannMachine, v: Tensor) -> Tensor:
    """sum_i log p(v_i | the other values) of each row, ``(n,)`` nats.

    Exact for rows of up to 64 values, else an unbiased estimate from 40 values drawn of each row.
    """
    (n, d), hidden = v.shape, hidden_input(rbm, v)
    if d <= EXACT:
        chosen = torch.arange(d, device=v.device)[:, None].expand(d, n)
    else:
        chosen = torch.randint(d, (DRAWN, n), device=v.device)
    rows, summed, total = torch.arange(n, device=v.device), softplus(hidden).sum(-1), v.new_zeros(n)
    for i in chosen:
        change = 1 - 2 * v[rows, i]  # v_i becomes 1 - v_i
        flipped = softplus(hidden + change[:, None] * rbm.weight[i]).sum(-1)
        # log p(v_i | others) = log sigmoid(F(flipped v) - F(v))
        total += logsigmoid(summed - flipped - change * rbm.visible_bias[i])
    return total * (d / len(chosen))
