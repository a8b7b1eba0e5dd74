"""The Boltzmann machine with two layers: its energy, conditionals and likelihoods.

Pure functions of a `BoltzmannMachine`, in the conventions of section 12.2; rows are ``(..., m1)``
visible or ``(..., m2)`` hidden values. Those with a ``beta`` take the machine with weights beta W,
hidden biases beta b and visible biases (1 - beta) base + beta a: at 0 its units are independent, at
1 it is the machine itself. Tempering and annealing walk along this path.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid, one_hot, softplus

from rlgen import schedules
from rlgen.algorithm import Problem
from rlgen.errors import ConfigError

EXACT, DRAWN = 64, 40  # values of a row scored exactly, and drawn of a longer row
ENUMERABLE = 20  # units whose states are summed one by one

Kind = Literal["bernoulli", "gaussian", "multinomial"]
Units = Literal[  # visible and hidden
    "bernoulli-bernoulli", "gaussian-bernoulli", "bernoulli-gaussian", "multinomial-bernoulli"
]


class BoltzmannMachine(nn.Module):
    """v ``(m1,)`` and h ``(m2,)`` with an energy of units and pairs (eq 12.29, 12.59-60, 12.67).

        E(v, h) = A(v) + B(h) - v'Wh / s
        A(v) = -a'v   or   |v - a|^2 / (2 s^2);    B(h) = -b'h   or   |h - b|^2 / (2 s^2)

    The second forms are those of Gaussian units. Multinomial ones stand in groups of ``levels``
    binary values, of which one is 1.
    """

    def __init__(
        self,
        visible: int,
        hidden: int,
        visible_kind: Kind = "bernoulli",
        hidden_kind: Kind = "bernoulli",
        sigma: float = 1.0,
        levels: int = 1,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(visible, hidden), requires_grad=False)  # W
        self.visible_bias = nn.Parameter(torch.zeros(visible), requires_grad=False)  # a
        self.hidden_bias = nn.Parameter(torch.zeros(hidden), requires_grad=False)  # b
        self.visible_kind, self.hidden_kind = visible_kind, hidden_kind
        self.sigma, self.levels = sigma, levels
        #: What W'v is multiplied by in `hidden_input`, and Wh is divided by in `visible_input`.
        self.gain = sigma if hidden_kind == "gaussian" else 1 / sigma

    @property
    def enumerable(self) -> bool:
        """Whether `log_partition` has few enough states to sum."""
        summed = self.visible_bias if self.hidden_kind == "gaussian" else self.hidden_bias
        return len(summed) <= ENUMERABLE


def machine_for(
    problem: Problem, units: Units, hidden: int, sigma: float, levels: int
) -> BoltzmannMachine:
    """A machine of ``units``, visible and hidden with a hyphen, for the rows of a problem.

    W and b are 0; each visible unit has the mean of its data (with more than two levels, nearly).

    Raises:
        ConfigError: the rows are not in [0, 1], but the visible units are discrete.
    """
    assert problem.data_mean is not None
    visible_kind, hidden_kind = units.split("-")
    bias = torch.from_numpy(problem.data_mean)
    if visible_kind != "gaussian":
        if outside := problem.outside(0, 1):
            raise ConfigError(
                f"hyperparameters.units: {units} needs values in [0, 1], such as binarised pixels, "
                f"not {outside}; gaussian-bernoulli takes others"
            )
        bias = bias.clamp(0.01, 0.99).logit()
    if visible_kind == "multinomial":
        bias = torch.outer(bias, torch.linspace(0, 1, levels)).flatten()
    else:
        levels = 1
    kinds: tuple[Any, Any] = (visible_kind, hidden_kind)
    rbm = BoltzmannMachine(len(bias), hidden, *kinds, sigma, levels)
    rbm.visible_bias.copy_(bias)
    return rbm


def units_of(rbm: BoltzmannMachine, x: Tensor) -> Tensor:
    """Visible units ``(n, m1)`` of rows ``(n, d)`` of data; levels are rounded to the nearest."""
    if rbm.levels == 1:
        return x
    return one_hot((x * (rbm.levels - 1)).round().long(), rbm.levels).to(x).flatten(-2)


def values_of(rbm: BoltzmannMachine, v: Tensor) -> Tensor:
    """Rows ``(n, d)`` of data of visible units or their means ``(n, m1)``."""
    if rbm.levels == 1:
        return v
    return v.unflatten(-1, (-1, rbm.levels)) @ torch.linspace(0, 1, rbm.levels).to(v)


def hidden_input(rbm: BoltzmannMachine, v: Tensor) -> Tensor:
    """W'v + b ``(..., m2)``, so that p(h = 1 | v) is its sigmoid (the mean of Gaussian units)."""
    return linear(v if rbm.gain == 1 else v * rbm.gain, rbm.weight.T, rbm.hidden_bias)


def visible_input(rbm: BoltzmannMachine, h: Tensor) -> Tensor:
    """Wh + a ``(..., m1)``, so that p(v = 1 | h) is its sigmoid (the mean of Gaussian units)."""
    return linear(h if rbm.gain == 1 else h / rbm.gain, rbm.weight, rbm.visible_bias)


def hidden_mean(rbm: BoltzmannMachine, v: Tensor, beta: Tensor | float = 1.0) -> Tensor:
    """The mean ``(..., m2)`` of p(h | v)."""
    return activation(rbm, rbm.hidden_kind, _between(0.0, hidden_input(rbm, v), beta))


def visible_mean(
    rbm: BoltzmannMachine, h: Tensor, beta: Tensor | float = 1.0, base: Tensor | float = 0.0
) -> Tensor:
    """The mean ``(..., m1)`` of p(v | h)."""
    return activation(rbm, rbm.visible_kind, _between(base, visible_input(rbm, h), beta))


def _between(base: Tensor | float, end: Tensor, beta: Tensor | float) -> Tensor:
    """The point at ``beta`` on the way from ``base`` to ``end``; ``end`` itself at 1."""
    if isinstance(beta, float) and beta == 1:
        return end
    return (1 - beta) * base + beta * end


def activation(rbm: BoltzmannMachine, kind: Kind, inputs: Tensor) -> Tensor:
    """The mean of units of these inputs ``(..., m)``, which may be overwritten."""
    if kind == "bernoulli":
        return inputs.sigmoid_()
    if kind == "multinomial":
        return inputs.unflatten(-1, (-1, rbm.levels)).softmax(-1).flatten(-2)
    return inputs


def draw(probability: Tensor) -> Tensor:
    """Zeros and ones (three times as fast as torch.bernoulli)."""
    return torch.rand_like(probability).lt_(probability)


def draw_hidden(rbm: BoltzmannMachine, mean: Tensor) -> Tensor:
    """h ``(..., m2)`` given its mean."""
    return _draw(rbm, rbm.hidden_kind, mean)


def draw_visible(rbm: BoltzmannMachine, mean: Tensor) -> Tensor:
    """v ``(..., m1)`` given its mean."""
    return _draw(rbm, rbm.visible_kind, mean)


def _draw(rbm: BoltzmannMachine, kind: Kind, mean: Tensor) -> Tensor:
    if kind == "bernoulli":
        return draw(mean)
    if kind == "gaussian":
        return mean + rbm.sigma * torch.randn_like(mean)
    cumulative = mean.unflatten(-1, (-1, rbm.levels)).cumsum(-1)
    # The last sum may be a rounding error away from 1.
    chosen = (torch.rand_like(cumulative[..., :1]) >= cumulative[..., :-1]).sum(-1)
    return one_hot(chosen, rbm.levels).to(mean).flatten(-2)


def gibbs(rbm: BoltzmannMachine, hidden: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Chains of ``steps`` times h -> v, from E[h | v_0] ``(..., m2)``: v_k and E[h | v_k]."""
    for _ in range(steps):
        v = draw_visible(rbm, visible_mean(rbm, draw_hidden(rbm, hidden)))
        hidden = hidden_mean(rbm, v)
    return v, hidden


def follow(
    rbm: BoltzmannMachine,
    optimizer: torch.optim.Optimizer,
    rate: float,
    phases: Sequence[Tensor],
    push: Tensor | float = 0.0,
) -> None:
    """One step up the log-likelihood, along the difference of two phases' mean statistics.

    Args:
        rbm: the machine.
        optimizer: its `momentum_sgd`.
        rate: the learning rate of this step.
        phases: visible rows ``(n, m1)`` of the data, with E[h | v] ``(n, m2)``, and rows
            ``(m, m1)`` of the model, with theirs.
        push: added to the direction of the hidden biases, ``(m2,)``.
    """
    x, hidden, fantasy, ended = phases
    s, (n, m) = rbm.sigma, (len(x), len(fantasy))
    # An optimiser descends, so these are the gradients with the opposite sign.
    negative = fantasy.T @ ended
    rbm.weight.grad = torch.addmm(negative, x.T, hidden, beta=1 / (s * m), alpha=-1 / (s * n))
    scale = {kind: 1 / s**2 if kind == "gaussian" else 1.0 for kind in get_args(Kind)}
    rbm.visible_bias.grad = (fantasy.mean(0) - x.mean(0)) * scale[rbm.visible_kind]
    difference = ended.mean(0) - hidden.mean(0)
    rbm.hidden_bias.grad = difference * scale[rbm.hidden_kind] - push
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def falling(rate: float, rows: int, seen: int) -> float:
    """A learning rate that goes to 0 in a straight line over so many rows; 0 rows: constant."""
    return schedules.linear(rate, 0.0, rows, seen) if rows else rate


def momentum_sgd(
    machines: Iterable[BoltzmannMachine], momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """The optimiser of `follow`, with weight decay on W alone; machines without gradients stay."""
    own = list(machines)
    weights: dict[str, Any] = {"params": [m.weight for m in own], "weight_decay": weight_decay}
    biases: dict[str, Any] = {"params": [b for m in own for b in (m.visible_bias, m.hidden_bias)]}
    # A fused step of several machines would ask all of them for gradients, or none.
    return torch.optim.SGD([weights, biases], 1.0, momentum, fused=len(own) == 1)


def begin(rbm: BoltzmannMachine, temperatures: int, chains: int) -> Tensor:
    """Chains ``(temperatures, chains, m1)`` drawn as if there were no weights."""
    bias = rbm.visible_bias.expand(temperatures, chains, -1).clone()
    return draw_visible(rbm, activation(rbm, rbm.visible_kind, bias))


def temper(
    rbm: BoltzmannMachine, chains: Tensor, betas: Tensor, base: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Parallel tempering: Gibbs steps of chains ``(T, n, m1)``, each followed by swaps.

    Chains of neighbouring temperatures, ``betas`` ``(T, 1, 1)``, change places with probability
    min(1, p_r(v') p_r'(v) / (p_r(v) p_r'(v'))): all of them keep their distributions (Desjardins et
    al. 2010, "Tempered MCMC for training of restricted Boltzmann machines").

    Returns:
        The chains, and the share of swaps that were accepted.
    """
    accepted = []
    for _ in range(steps):
        h = draw_hidden(rbm, hidden_mean(rbm, chains, betas))
        chains = draw_visible(rbm, visible_mean(rbm, h, betas, base))
        for first in (0, 1):
            pairs = (len(betas) - first) // 2
            low, high = (slice(first + i, first + i + 2 * pairs, 2) for i in (0, 1))
            inputs = hidden_input(rbm, chains)
            v, w = (chains[low], inputs[low]), (chains[high], inputs[high])
            gain = free_energy_given(rbm, *v, betas[low], base) + free_energy_given(
                rbm, *w, betas[high], base
            )
            gain -= free_energy_given(rbm, *w, betas[low], base) + free_energy_given(
                rbm, *v, betas[high], base
            )
            swap = (torch.rand_like(gain).log() < gain)[..., None]
            swapped = torch.where(swap, w[0], v[0]), torch.where(swap, v[0], w[0])
            chains[low], chains[high] = swapped
            accepted.append(swap.float().mean())
    return chains, torch.stack(accepted).nanmean()


def energy(rbm: BoltzmannMachine, v: Tensor, h: Tensor) -> Tensor:
    """E(v, h) of each pair of rows ``(...,)``."""
    pairs = ((v @ rbm.weight) * h).sum(-1) / rbm.sigma
    own = _own(rbm, rbm.visible_kind, v, rbm.visible_bias)
    return own + _own(rbm, rbm.hidden_kind, h, rbm.hidden_bias) - pairs


def _own(rbm: BoltzmannMachine, kind: Kind, units: Tensor, bias: Tensor) -> Tensor:
    """A(v), or B(h)."""
    if kind == "gaussian":
        return (units - bias).square().sum(-1) / (2 * rbm.sigma**2)
    return -(units * bias).sum(-1)


def log_sum(rbm: BoltzmannMachine, kind: Kind, inputs: Tensor, bias: Tensor) -> Tensor:
    """The log of the sum (or integral) over all states of units of these inputs ``(..., m)``."""
    if kind == "bernoulli":
        return softplus(inputs).sum(-1)
    if kind == "multinomial":
        return inputs.unflatten(-1, (-1, rbm.levels)).logsumexp(-1).sum(-1)
    own = (inputs.square() - bias.square()).sum(-1) / (2 * rbm.sigma**2)
    return own + inputs.shape[-1] * math.log(rbm.sigma * math.sqrt(2 * math.pi))


def free_energy(
    rbm: BoltzmannMachine, v: Tensor, beta: Tensor | float = 1.0, base: Tensor | float = 0.0
) -> Tensor:
    """F(v) = -log sum_h exp(-E(v, h)) of each row, so that p(v) = exp(-F(v)) / Z (eq 12.43)."""
    return free_energy_given(rbm, v, hidden_input(rbm, v), beta, base)


def free_energy_given(
    rbm: BoltzmannMachine, v: Tensor, inputs: Tensor, beta: Tensor | float, base: Tensor | float
) -> Tensor:
    """F(v) of rows of which `hidden_input` is known."""
    own = _own(rbm, rbm.visible_kind, v, _between(base, rbm.visible_bias, beta))
    return own - log_sum(rbm, rbm.hidden_kind, beta * inputs, beta * rbm.hidden_bias)


def log_partition(rbm: BoltzmannMachine) -> Tensor:
    """The exact log Z, by a sum over all states of the binary layer, up to about 2^20 of them.

    That layer is the hidden one, or the visible one of Gaussian hidden units.
    """
    over_visible = rbm.hidden_kind == "gaussian"
    units = rbm.visible_bias if over_visible else rbm.hidden_bias
    bits, parts = torch.arange(len(units), device=units.device), []
    for states in torch.arange(2 ** len(bits), device=units.device).split(4096):
        rows = (states[:, None] >> bits & 1).to(rbm.weight)
        if over_visible:
            parts.append(-free_energy(rbm, rows))
        else:
            inputs = visible_input(rbm, rows)
            parts.append(rows @ units + log_sum(rbm, rbm.visible_kind, inputs, rbm.visible_bias))
    return torch.cat(parts).logsumexp(0)


def pseudo_log_likelihood(rbm: BoltzmannMachine, v: Tensor) -> Tensor:
    """sum_i log p(v_i | the other values) of each row ``(n, m1)`` of discrete units, ``(n,)`` nats.

    Exact for rows of up to 64 values, else an unbiased estimate from 40 values drawn of each row.
    """
    levels = rbm.levels if rbm.visible_kind == "multinomial" else 1
    n, d = len(v), v.shape[1] // levels
    if d <= EXACT:
        chosen = torch.arange(d, device=v.device)[:, None].expand(d, n)
    else:
        chosen = torch.randint(d, (DRAWN, n), device=v.device)
    score = _binary_conditional if levels == 1 else _level_conditional
    hidden = hidden_input(rbm, v)
    total = torch.stack([score(rbm, v, hidden, i) for i in chosen]).sum(0)
    return total * (d / len(chosen))


def _binary_conditional(rbm: BoltzmannMachine, v: Tensor, hidden: Tensor, i: Tensor) -> Tensor:
    """log p(v_i | others) = log sigmoid(F(flipped v) - F(v)), for one i of each row."""
    change = 1 - 2 * v[torch.arange(len(v), device=v.device), i]  # v_i becomes 1 - v_i
    flipped = hidden + (change * rbm.gain)[:, None] * rbm.weight[i]
    kind, bias = rbm.hidden_kind, rbm.hidden_bias
    gain = log_sum(rbm, kind, hidden, bias) - log_sum(rbm, kind, flipped, bias)
    return logsigmoid(gain - change * rbm.visible_bias[i])


def _level_conditional(rbm: BoltzmannMachine, v: Tensor, hidden: Tensor, i: Tensor) -> Tensor:
    """The same of a group of levels: a softmax over the free energies of all of them."""
    rows = torch.arange(len(v), device=v.device)
    group = i[:, None] * rbm.levels + torch.arange(rbm.levels, device=v.device)  # (n, levels)
    weight = rbm.weight[group]  # (n, levels, m2)
    current = v[rows[:, None], group]
    without = hidden - (current[:, None] @ weight).squeeze(1)
    inputs = without[:, None] + weight
    scores = rbm.visible_bias[group] + log_sum(rbm, rbm.hidden_kind, inputs, rbm.hidden_bias)
    return (scores.log_softmax(-1) * current).sum(-1)


def score_matching(rbm: BoltzmannMachine, v: Tensor) -> Tensor:
    """Minus the score-matching objective of each row ``(n,)``, for Gaussian visible units.

    With psi = grad_v log p(v), which needs no Z, it is -(|psi|^2 / 2 + div psi): its mean over the
    data is largest for the density of the data (Hyvarinen 2005, "Estimation of non-normalized
    statistical models by score matching").
    """
    hidden = hidden_mean(rbm, v)
    psi = (visible_input(rbm, hidden) - v) / rbm.sigma**2
    spread = hidden * (1 - hidden)
    trace = (spread @ rbm.weight.square().sum(0) - v.shape[1]) / rbm.sigma**2
    return -(0.5 * psi.square().sum(-1) + trace)
