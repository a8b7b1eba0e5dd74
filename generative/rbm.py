"""The restricted Boltzmann machine."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, NotNegative, Positive
from rlgen.errors import ConfigError
from rlgen.generative.boltzmann import (
    BoltzmannMachine,
    draw,
    free_energy,
    gibbs,
    hidden_input,
    pseudo_log_likelihood,
    visible_input,
)


class RBM(Algorithm):
    """Restricted Boltzmann machine of binary units, trained by k-step contrastive divergence.

    A Gibbs chain from each row v_0 ends at v_k after k steps; with means over the rows

        W <- W + lr <v_0 p(h | v_0)' - v_k p(h | v_k)'>
        a <- a + lr <v_0 - v_k>,    b <- b + lr <p(h | v_0) - p(h | v_k)>    (Algorithm 12.1)

    and momentum, and weight decay on W. The workers run the chains. The statistics take
    probabilities of h where the listing draws it (less noise, the same mean), and W starts at
    N(0, 0.01^2), a at the data's log odds: from the listing's W = 0 all hidden units would stay the
    same. CD is not the gradient of the likelihood; when the free energies of training and held-out
    rows part, it overfits. Values between 0 and 1 are taken as probabilities: see data.binarize.

    Source: section 12.2; Hinton 2002, doi:10.1162/089976602760128018, and 2010, UTML TR 2010-003.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `RBM`."""

        hidden: Count = 256  # hidden units
        k: Count = 1  # Gibbs steps of the negative phase
        learning_rate: Positive = 0.05
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
        weight_decay: NotNegative = 1e-4  # of W
        batch_size: Count = 100  # rows of a minibatch, over all workers
        sample_steps: Count = 1000  # Gibbs steps of a sample

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        mean = torch.from_numpy(problem.data_mean)
        self.network = rbm = BoltzmannMachine(len(mean), config.hidden)
        rbm.weight.normal_(std=0.01)
        rbm.visible_bias.copy_(mean.clamp(0.01, 0.99).logit())
        biases: dict[str, Any] = {"params": [rbm.visible_bias, rbm.hidden_bias]}
        weight: dict[str, Any] = {"params": [rbm.weight], "weight_decay": config.weight_decay}
        self.optimizer = torch.optim.SGD(
            [weight, biases], config.learning_rate, config.momentum, fused=True
        )

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse data that are not in [0, 1]."""
        low, high = problem.data_range
        if low < 0 or high > 1:
            raise ConfigError(
                f"data.name: rbm needs values in [0, 1], such as binarised pixels, not in "
                f"[{low:g}, {high:g}]"
            )

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the chains' ends ``(n, d)`` and p(h | v) ``(n, m2)`` of both phases."""
        hidden = hidden_input(self.network, batch["x"]).sigmoid_()
        fantasy, fantasy_hidden = gibbs(self.network, hidden, self.config.k)
        return batch | {"hidden": hidden, "fantasy": fantasy, "fantasy_hidden": fantasy_hidden}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step along the difference of the two phases' statistics."""
        rbm, x, hidden, n = self.network, batch["x"], batch["hidden"], len(batch["x"])
        negative = batch["fantasy"].T @ batch["fantasy_hidden"]
        rbm.weight.grad = torch.addmm(negative, x.T, hidden, beta=1 / n, alpha=-1 / n)
        difference = batch["fantasy"] - x
        rbm.visible_bias.grad = difference.mean(0)
        rbm.hidden_bias.grad = (batch["fantasy_hidden"] - hidden).mean(0)
        self.optimizer.step()
        error = difference.square().mean()
        return {"reconstruction_error": error, "hidden_activity": hidden.mean()}

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """Pseudo-log-likelihood (the score) and free energy of each row ``(n,)``, in nats."""
        score = pseudo_log_likelihood(self.network, batch["x"])
        return {
            "pseudo_log_likelihood": score,
            "free_energy": free_energy(self.network, batch["x"]),
        }

    def sample(self, n: int) -> Tensor:
        """p(v | h) ``(n, d)`` at the end of chains that start at coin tosses."""
        hidden = torch.full((n, self.config.hidden), 0.5, device=self.network.weight.device)
        for _ in range(self.config.sample_steps):
            visible = visible_input(self.network, draw(hidden)).sigmoid_()
            hidden = hidden_input(self.network, draw(visible)).sigmoid_()
        return visible

    def reconstruct(self, x: Tensor) -> Tensor:
        """One mean-field step ``(n, d)``: p(v | h) at h = p(h | x)."""
        return visible_input(self.network, hidden_input(self.network, x).sigmoid_()).sigmoid_()


if __name__ == "__main__":
    import rlgen

    rlgen.train("rbm-digits")
