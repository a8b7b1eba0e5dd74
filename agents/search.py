"""What gradient-free policy search shares: candidate policies, tried on a worker's environments.

No algorithm of its own. A candidate is a vector of all parameters of a `SearchPolicy`, or what such
a vector is made of; its fitness is the return of one whole episode. Every environment tries a
candidate of its own, all in one batched forward.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector

from rlgen.algorithm import Problem
from rlgen.networks import make_encoder, make_mlp, policy_head

OPEN, COMPLETE, LOST = 0, 1, 2


class SearchPolicy(nn.Module):
    """A deterministic policy: encoder, perceptron and the mode of a policy head.

    Attributes:
        size: P, the number of its parameters.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.encoder = make_encoder(problem)
        self.head = policy_head(problem.action_space)
        self.layers = make_mlp(problem.network, self.encoder.size, self.head.size)
        # All parameters but those of the head, which its mode does not look at.
        names = [name for name, _ in self.named_parameters() if not name.startswith("head.")]
        self.shapes = {name: self.get_parameter(name).shape for name in names}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.size = sum(self.sizes)

    def searched(self) -> list[nn.Parameter]:
        """The parameters that a candidate replaces."""
        return [self.get_parameter(name) for name in self.shapes]

    def vector(self) -> Tensor:
        """The same as one vector ``(P,)`` (a copy)."""
        return parameters_to_vector(self.searched()).detach()

    def forward(self, observation: Tensor) -> Tensor:
        """Actions ``(..., *shape)`` of observations."""
        return self.head.mode(self.layers(self.encoder(observation)))

    def forward_each(self, vectors: Tensor, observation: Tensor) -> Tensor:
        """Actions ``(B, ...)``, row b by the parameters ``vectors[b]`` of ``(B, P)``."""
        parts = zip(self.shapes.items(), vectors.split(self.sizes, dim=1), strict=True)
        each = {name: part.view(-1, *shape) for (name, shape), part in parts}
        return vmap(lambda own, row: functional_call(self, own, (row,)))(each, observation)


class Trials:
    """The candidates of one worker, numbered in the order in which their episodes began.

    They leave in that order too, when all that began before have ended: whichever ends first would
    favour the short episodes. What is not complete by then, for its environment began anew (a
    resumed run), is left out.

    Attributes:
        first: number of the first candidate that is kept.
        drawn: ``(n, P)``, what was drawn for each that is kept.
        fitness: ``(n,)`` float64, rewards so far.
        status: ``(n,)`` int8: open, complete or lost.
        running: ``(B,)`` int64, which candidate each environment runs.
        vectors: ``(B, P)``, the parameters of those.
    """

    def __init__(self, size: int) -> None:
        self.first = 0
        self.drawn = torch.empty(0, size)
        self.fitness = np.empty(0)
        self.status = np.empty(0, np.int8)
        self.running = np.empty(0, np.int64)
        self.vectors = torch.empty(0, size)
        self._started = np.zeros(1, np.bool_)
        self._over = np.zeros(1, np.bool_)

    def begin(self, starts: np.ndarray, draw: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        """Draw a candidate for every environment in which an episode begins.

        Args:
            starts: ``(B,)`` bool, as the platform sets it (`rlgen.algorithm.Algorithm.starts`).
            draw: gives for a number n what is kept of each candidate and its parameters,
                ``(n, P)`` both.
        """
        # An environment that resets by a step of its own starts twice running: one candidate.
        rows = np.flatnonzero(starts & (~self._started | self._over))
        self._started = starts.copy()
        if not rows.size:
            return
        drawn, vectors = draw(len(rows))
        if not self.running.size:
            self.running, self.vectors = np.full(len(starts), -1), torch.empty_like(vectors)
            self._over = np.zeros(len(starts), np.bool_)
        self.running[rows] = self.first + len(self.drawn) + np.arange(len(rows))
        self.vectors[rows] = vectors
        self._over[rows] = False
        self.drawn = torch.cat([self.drawn, drawn])
        self.fitness = np.append(self.fitness, np.zeros(len(rows)))
        self.status = np.append(self.status, np.full(len(rows), OPEN, np.int8))

    def collect(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Count the rewards of a rollout ``(T, B)`` with its column ``candidate``.

        Returns:
            ``drawn`` ``(n, P)`` and ``fitness`` ``(n,)`` float32 of the candidates that leave.
        """
        columns = {k: batch[k].numpy() for k in ("candidate", "reward", "valid")}
        ends = (batch["terminated"] | batch["truncated"]).numpy()
        for t, candidate in enumerate(columns["candidate"]):
            kept = np.maximum(candidate - self.first, 0)
            counts = (candidate >= self.first) & columns["valid"][t] & (self.status[kept] == OPEN)
            self.fitness[kept[counts]] += columns["reward"][t, counts]
            self.status[kept[counts & ends[t]]] = COMPLETE
            broken = (candidate >= self.first) & ends[t] & ~columns["valid"][t]
            self.status[kept[broken]] = LOST  # its last step did not count: neither does its score
        numbers = self.first + np.arange(len(self.status))
        lost = (self.status == OPEN) & ~np.isin(numbers, self.running)
        self.status[lost] = LOST
        self._over = ~np.isin(self.running, numbers[self.status == OPEN])
        still_open = np.flatnonzero(self.status == OPEN)
        count = int(still_open[0]) if still_open.size else len(self.status)
        complete = self.status[:count] == COMPLETE
        leaving = {
            "drawn": self.drawn[:count][torch.from_numpy(complete)],
            "fitness": torch.from_numpy(self.fitness[:count][complete]).float(),
        }
        self.first += count
        self.drawn = self.drawn[count:].clone()
        self.fitness, self.status = self.fitness[count:], self.status[count:]
        return leaving


class Population:
    """The learner's side: candidates gathered until they are enough for an update."""

    def __init__(self, size: int) -> None:
        self.drawn = torch.empty(0, size)
        self.fitness = torch.empty(0)

    def gather(self, batch: dict[str, Tensor], least: int) -> bool:
        """Add the rows of a batch; whether there are at least so many now."""
        device = batch["drawn"].device
        self.drawn = torch.cat([self.drawn.to(device), batch["drawn"]])
        self.fitness = torch.cat([self.fitness.to(device), batch["fitness"]])
        return len(self.fitness) >= least

    def take(self) -> tuple[Tensor, Tensor]:
        """All that were gathered, ``(n, P)`` and ``(n,)``; none are left."""
        taken = self.drawn, self.fitness
        self.drawn, self.fitness = self.drawn[:0], self.fitness[:0]
        return taken
