"""Sparse coding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, Positive


class Dictionary(nn.Module):
    """The dictionary A ``(d, p)``, of unit columns, and the mean row ``(d,)``."""

    def __init__(self, mean: Tensor, atoms: int) -> None:
        super().__init__()
        columns = torch.randn(len(mean), atoms)
        self.atoms = nn.Buffer(columns / columns.norm(dim=0))
        self.mean = nn.Buffer(mean)


def fista(a: Tensor, x: Tensor, eta: float, steps: int) -> Tensor:
    """The codes ``(n, p)`` that minimise |x - A z|^2 + eta |z|_1 for rows ``(n, d)``.

    Proximal gradient steps with Nesterov's momentum, of the length that A'A allows: the error of
    the objective falls as 1 / steps^2 (Beck & Teboulle 2009, doi:10.1137/080716542).
    """
    gram, projected = a.T @ a, x @ a
    length = 1 / torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-12)  # of half of the gradient
    z = ahead = torch.zeros_like(projected)
    momentum = 1.0
    for _ in range(steps):
        moved = ahead - length * (ahead @ gram - projected)
        new = moved.sign() * (moved.abs() - 0.5 * eta * length).clamp(min=0)
        after = 0.5 * (1 + (1 + 4 * momentum**2) ** 0.5)
        ahead = new + (momentum - 1) / after * (new - z)
        z, momentum = new, after
    return z


class SparseCoding(Algorithm):
    """Sparse coding: rows as sums of few columns of a dictionary A, of more columns than values.

    Minimises, with means over the rows x (from which the mean row was taken),

        |x - A z|^2 + eta |z|_1    with |A_j| <= 1                              (eq 9.11, 9.16)

    alternately: the workers find the codes z of their rows by FISTA, the learner moves each column
    of A to its best place given the codes (eq 9.17), by the sums of z z' and x z' over all
    minibatches so far, which fade with age (Mairal et al. 2009). The bound on the columns stands
    for the book's lambda |A|^2: without either, A could grow and z shrink for nothing. The columns
    begin as rows of the first minibatch.

    The book prints a minus before eta in eq 9.16; it is a plus.

    Source: section 9.1.2; Olshausen & Field 1996; Mairal et al. 2009, doi:10.1145/1553374.1553463.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `SparseCoding`."""

        atoms: Count = 128  # p, columns of the dictionary
        eta: Positive = 0.2  # weight of |z|_1
        steps: Count = 100  # of FISTA
        sweeps: Count = 2  # over the columns, each update
        batch_size: Count = 128  # rows of a minibatch, over all workers

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        self.network = Dictionary(torch.from_numpy(problem.data_mean), config.atoms)
        self.codes = torch.zeros(config.atoms, config.atoms)  # faded mean of z z'
        self.rows = torch.zeros(len(problem.data_mean), config.atoms)  # and of x z'
        self.updates = 0

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``(n, p)`` of rows ``(n, d)``."""
        net = self.network
        return fista(net.atoms, x - net.mean, self.config.eta, self.config.steps)

    def decode(self, z: Tensor) -> Tensor:
        """Rows ``(n, d)`` of codes ``(n, p)``."""
        return z @ self.network.atoms.T + self.network.mean

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the codes of this worker's rows."""
        return batch | {"z": self.encode(batch["x"])}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Move each column to its best place, the others and the codes given."""
        x, z, a = batch["x"] - self.network.mean, batch["z"], self.network.atoms
        if self.updates == 0:  # from rows of the data, with a little noise to tell equal ones apart
            chosen = x[torch.randint(len(x), (self.config.atoms,), device=x.device)].T
            start = chosen / chosen.norm(dim=0).clamp(min=1e-6) + 0.1 * a
            a.copy_(start / start.norm(dim=0))
            z = self.encode(batch["x"])
        self.updates += 1
        # As if minibatch t counted t^2 times: the first codes, of poor columns, are forgotten.
        weight = min(1.0, 3.0 / self.updates)
        self.codes = torch.lerp(self.codes.to(z), z.T @ z / len(z), weight)
        self.rows = torch.lerp(self.rows.to(z), x.T @ z / len(z), weight)
        for _ in range(self.config.sweeps):
            for j in range(self.config.atoms):
                if self.codes[j, j] > 1e-10:  # a column that no code uses stays where it is
                    best = a[:, j] + (self.rows[:, j] - a @ self.codes[:, j]) / self.codes[j, j]
                    a[:, j] = best / best.norm().clamp(min=1.0)
        figures = self.figures(batch["x"], z)
        return {name: value.mean() for name, value in figures.items()}

    def figures(self, x: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Minus the objective, |x - A z|^2 and the share of zero codes of each row ``(n,)``."""
        error = (x - self.decode(z)).square().sum(-1)
        penalty = self.config.eta * z.abs().sum(-1)
        zeros = (z == 0).to(x).mean(-1)
        return {"minus_objective": -error - penalty, "squared_error": error, "zeros": zeros}

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """As `figures`, with codes found anew; minus the objective is the score."""
        return self.figures(batch["x"], self.encode(batch["x"]))

    def reconstruct(self, x: Tensor) -> Tensor:
        """A z and the mean ``(n, d)``."""
        return self.decode(self.encode(x))


if __name__ == "__main__":
    import rlgen

    rlgen.train("sparse-coding-digits")
