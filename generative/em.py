"""What the mixtures share: rows to start from, and statistics summed over an epoch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Start = Literal["k-means++", "random"]
Sums = dict[str, Tensor]


def first_shares(x: Tensor, components: int, start: Start) -> Tensor:
    """Which component each of the rows ``(n, d)`` begins in, as ``(n, K)`` zeros and ones.

    Rows are drawn as seeds, and every row goes to the nearest: with ``"k-means++"`` each next seed
    with a probability in proportion to the squared distance from those before it (Arthur &
    Vassilvitskii 2007), else all alike.
    """
    rows = x.double()
    if start == "random":
        seeds = rows[torch.randperm(len(rows), device=x.device)[:components]]
    else:
        chosen = [torch.randint(len(rows), (), device=x.device)]
        nearest = (rows - rows[chosen[0]]).square().sum(-1)
        for _ in range(components - 1):
            even = torch.ones_like(nearest) if nearest.sum() == 0 else nearest
            chosen.append(torch.multinomial(even, 1)[0])
            nearest = torch.minimum(nearest, (rows - rows[chosen[-1]]).square().sum(-1))
        seeds = rows[torch.stack(chosen)]
    return one_hot(torch.cdist(rows, seeds).argmin(1), components).double()


def add(totals: Sums, batch: Sums) -> Sums:
    """The totals so far (empty at the start) and those of a batch ``(w, ...)`` of w workers."""
    summed = {name: part.sum(0, keepdim=True) for name, part in batch.items()}
    return {name: part + totals[name].to(part) if totals else part for name, part in summed.items()}
