"""The stacked auto-encoder."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Decay, Hyperparameters, Positive, Whole


class Stack(nn.Module):
    """Layers d -> hidden -> ... -> k downwards, and their mirror image."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(m, n) for m, n in pairwise(sizes))
        self.up = nn.ModuleList(nn.Linear(n, m) for m, n in pairwise(sizes))


class StackedAutoencoder(Algorithm):
    """Stacked auto-encoder: layers trained greedily, one after the other, then together.

    Layer l is an auto-encoder of what layer l - 1 gives, with sigmoid units throughout:

        z_l = s(W_l z_(l-1) + b_l),   minimise mean |z_(l-1) - s(V_l z_l + c_l)|^2,   z_0 = x

    for `layer_epochs` epochs, the layers below it staying as they are; once all are trained, Adam
    goes down mean |x - g(f(x))|^2 through all of them (the fine-tuning). With `mask`, the input of
    the layer in training loses that share of its values (stacked denoising, Vincent et al. 2010).

    Source: section 9.1.5; Bengio et al. 2007, "Greedy layer-wise training of deep networks".
    """

    class Config(Hyperparameters):
        """Hyper-parameters; the layers between x and z are ``sizes``, the last one that of z."""

        sizes: list[Count] = Field([128, 32], min_length=1)
        layer_epochs: Whole = 20  # for each layer; 0: together from the start
        mask: Decay = 0.0  # share of a layer's inputs hidden
        learning_rate: Positive = 1e-3  # Adam's
        batch_size: Count = 128  # rows of a minibatch, over all workers

    source = "data"
    batch_axis = 0
    data_parallel = whole_batch = True

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        self.network = Stack([len(problem.data_mean), *config.sizes])
        self.rows = 0  # seen so far
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), config.learning_rate, fused=True
        )

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse data that are not in [0, 1]."""
        problem.check_unit_interval("stacked-autoencoder")

    @property
    def layer(self) -> int:
        """The layer in training, counted from 0; their number, when all are trained together."""
        each = self.config.layer_epochs * self.problem.data_count
        return min(self.rows // each, len(self.config.sizes)) if each else len(self.config.sizes)

    def encode(self, x: Tensor, layers: int | None = None) -> Tensor:
        """Codes ``(n, k)`` of rows ``(n, d)``; with ``layers``, what so many layers give."""
        for layer in list(self.network.down)[:layers]:
            x = torch.sigmoid(layer(x))
        return x

    def decode(self, z: Tensor) -> Tensor:
        """Rows ``(n, d)`` of codes ``(n, k)``."""
        for layer in reversed(self.network.up):
            z = torch.sigmoid(layer(z))
        return z

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of Adam for the layer in training, or for all."""
        layer, x = self.layer, batch["x"]
        greedy = layer < len(self.config.sizes)
        with torch.no_grad():
            clean = self.encode(x, layer) if greedy else x
        hidden = torch.rand_like(clean) < self.config.mask
        part = self.part({"clean": clean, "hidden": hidden}, 0)
        clean, keep = part["clean"], ~part["hidden"]
        if greedy:
            code = torch.sigmoid(self.network.down[layer](clean * keep))
            shown = torch.sigmoid(self.network.up[layer](code))
        else:
            shown = self.decode(self.encode(clean * keep))
        error = (shown - clean).square().sum(-1).mean()
        self.optimizer.zero_grad()  # to None: Adam leaves the other layers alone
        torch.autograd.backward(error)
        self.optimizer.step()
        self.rows += len(x)
        return {"squared_error": error.detach(), "layer": float(layer)}

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """Minus |x - g(f(x))|^2 of each row ``(n,)``, the score."""
        error = (self.reconstruct(batch["x"]) - batch["x"]).square().sum(-1)
        return {"minus_squared_error": -error}

    def reconstruct(self, x: Tensor) -> Tensor:
        """g(f(x)) of rows ``(n, d)``."""
        return self.decode(self.encode(x))


if __name__ == "__main__":
    import rlgen

    rlgen.train("stacked-autoencoder-digits")
