"""The n-gram language model."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from rlgen.algorithm import Algorithm, Estimate, Metrics, Problem
from rlgen.config import Count, Hyperparameters, Rate
from rlgen.errors import ConfigError
from rlgen.generative import counts, sequences


class NGram(Algorithm):
    """n-gram model: the next token depends on the n - 1 before it, by smoothed counts.

    With m(u) the count of u in the training text, and u its last n - 1 tokens:

        additive     p(w | u) = (m(uw) + delta) / (m(u) + delta |V|)              (eq 15.20)
        Kneser-Ney   p_k(w | u) = max(c(uw) - D, 0)/c(u) + D N(u.)/c(u) p_(k-1)(w | u'),
                     p_0 = 1/|V|,    D = n_1 / (n_1 + 2 n_2)

    u' is u without its first token, N(u.) the number of different successors of u; c is m in the
    longest n-grams, and in a shorter one the number of different tokens in front of it; n_1, n_2
    k-grams have c = 1, 2. After a context that was never seen, p_k = p_(k-1). The book calls the
    model of order n an n-order Markov chain; it is one of order n - 1. An epoch is all it takes.

    Source: section 15.2; Kneser & Ney 1995; Chen & Goodman 1999, doi:10.1006/csla.1999.0128.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `NGram`."""

        order: Count = 4  # n
        smoothing: Literal["kneser-ney", "additive"] = "kneser-ney"
        delta: Rate = 1.0  # of additive smoothing
        batch_size: Count = 100_000  # rows at a time

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if self.smoothing != "additive":
                self.refuse_idle(("delta",), "smoothing=additive")
            return self

    source = "data"
    batch_axis = 0
    shared = "table"
    uses_text = True

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.size = len(problem.data_vocabulary)  # |V|; V itself stands before the first token
        self.base, n = self.size + 1, config.order
        if self.base**n > counts.EMPTY:
            raise ConfigError(
                f"hyperparameters.order: {n}-grams of {self.size} tokens are too many to number; "
                "use a smaller order"
            )
        tokens = problem.data_count * problem.data_shape[0]
        shape = (2, min(self.base ** (n - 1) * self.size, tokens))
        self.table = np.zeros(shape, np.int64)  # the n-grams, sorted, and their counts
        self.table[0] = counts.EMPTY
        self.counted = np.zeros((2, 0), np.int64)  # those of this epoch
        self.rows = 0  # of this epoch
        self.levels_of = np.zeros((2, 0), np.int64)  # the table of which the levels are
        self.levels: list[counts.Level] = []

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Count; at the end of the epoch, publish."""
        found = counts.windows(batch["x"], self.config.order, self.size)
        self.counted = counts.merge(self.counted, counts.number(found, self.base))
        self.rows += len(batch["x"])
        ngrams = self.counted.shape[1]
        if self.rows >= self.problem.data_count:
            self.table[0], self.table[1] = counts.EMPTY, 0
            self.table[:, :ngrams] = self.counted
            self.counted, self.rows = np.zeros((2, 0), np.int64), 0
        return {"ngrams": float(ngrams)}

    def known(self) -> list[counts.Level]:
        """The k-grams of k = 1 ... n, as the table has them now."""
        if not np.array_equal(self.levels_of, self.table):
            keys, count = self.table[:, self.table[0] < counts.EMPTY]
            self.levels = counts.levels(keys, count, self.config.order, self.base)
            self.levels_of = self.table.copy()
        return self.levels

    def probability(self, ngrams: np.ndarray) -> np.ndarray:
        """p(w | u) ``(m,)`` of n-grams ``(m, n)``, w their last tokens and u the others."""
        n, delta = self.config.order, self.config.delta
        p, levels = np.full(len(ngrams), 1 / self.size), self.known()
        for k in range(n if self.config.smoothing == "additive" else 1, n + 1):
            level, key = levels[k - 1], counts.number(ngrams[:, n - k :], self.base)
            count = counts.find(level.keys, key, level.counts)
            total = counts.find(level.contexts, key // self.base, level.totals)
            if self.config.smoothing == "additive":
                return (count + delta) / (total + delta * self.size)
            kinds = counts.find(level.contexts, key // self.base, level.kinds)
            kept = np.maximum(count - level.discount, 0) + level.discount * kinds * p
            p = np.where(total > 0, kept / np.maximum(total, 1), p)
        return p

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of rows ``(n, T)``, ``(n,)`` nats."""
        p = self.probability(counts.windows(x.numpy(), self.config.order, self.size))
        return torch.from_numpy(np.log(p).reshape(x.shape).sum(1))

    def next_log_prob(self, prefix: Tensor) -> Tensor:
        """Log probabilities ``(n, V)`` of the token after prefixes ``(n, t)``."""
        n, rows = self.config.order, len(prefix)
        last = np.pad(prefix.numpy(), [(0, 0), (n, 1)], constant_values=self.size)[:, -n:]
        ngrams = np.repeat(last, self.size, axis=0)
        ngrams[:, -1] = np.tile(np.arange(self.size), rows)
        return torch.from_numpy(np.log(self.probability(ngrams)).reshape(rows, self.size))

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """The log-likelihood of each row ``(n,)``, the mean over its tokens."""
        return {"log_likelihood": self.log_prob(batch["x"]) / batch["x"].shape[1]}

    def measure(self, batch: dict[str, Any]) -> dict[str, Tensor | Estimate]:
        """As `sequences.measure`."""
        return sequences.measure(batch["x"], self.log_prob(batch["x"]), self.sample)

    def sample(self, n: int) -> Tensor:
        """``(n, T)`` draws."""
        return sequences.sample(self.next_log_prob, n, self.problem.data_shape[0])


if __name__ == "__main__":
    import rlgen

    rlgen.train("ngram-fables")
