"""The recurrent language model."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor, nn

from rlgen.algorithm import Algorithm, Estimate, Metrics, Problem
from rlgen.config import Count, Decay, Fraction, Hyperparameters, NotNegative, Positive
from rlgen.generative import sequences
from rlgen.networks import clip_gradients
from rlgen.schedules import inverse_sigmoid

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
NEEDED = {"linear": "slope > 0, floor <= k <= 1", "exponential": "k < 1"}


class Recurrent(nn.Module):
    """Embedding, recurrent layers, and a linear layer to the logits of V tokens."""

    def __init__(self, config: RecurrentLM.Config, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size + 1, config.embedding)  # one more: before the first
        sizes = (config.embedding, config.hidden, config.layers)
        self.memory: nn.RNNBase = CELLS[config.cell](*sizes, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.hidden, size)

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits ``(n, t, V)`` after each of the tokens ``(n, t)``, and the state behind them."""
        features, state = self.memory(self.dropout(self.embedding(tokens)), state)
        return self.output(self.dropout(features)), state


class RecurrentLM(Algorithm):
    """Recurrent language model: an RNN, LSTM or GRU that predicts the next token.

    Maximises the mean of log p(x_t | x_<t) = log softmax(W h_t + b), with h_t = f(h_(t-1), e_t)
    and e_t the embedding of the token before (eq 15.21-15.30). In training, that is the true token
    (teacher forcing); or, by scheduled sampling, the true one with probability eps and else one
    drawn of the model's own prediction, with i the updates so far:

        linear  eps = max(floor, k - slope i);   exponential  eps = k^i, k < 1;
        inverse-sigmoid  eps = k / (k + exp(i / k)), k >= 1                   (section 15.5.1)

    The book calls eps a rate of replacement, but it is that of the true token. Scheduled sampling
    does not maximise the likelihood: expect a worse perplexity and less error when generating.

    Source: section 15.3; Mikolov et al. 2010; Bengio et al. 2015, arXiv:1506.03099.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `RecurrentLM`."""

        cell: Literal["rnn", "lstm", "gru"] = "lstm"
        embedding: Count = 32  # size of e
        hidden: Count = 128  # size of h
        layers: Count = 1  # one above the other
        dropout: Decay = 0.0  # of e and h
        learning_rate: Positive = 3e-3  # Adam's
        max_grad_norm: Positive = 1.0
        batch_size: Count = 32  # rows of a minibatch, over all workers
        schedule: Literal["none", "linear", "exponential", "inverse-sigmoid"] = "none"  # of eps
        k: Positive = 1.0  # of the schedule
        slope: NotNegative = 0.0  # of the linear one, an update
        floor: Fraction = 0.0  # of the linear one

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if self.schedule == "none":
                self.refuse_idle(("k",), "a schedule")
            if self.schedule != "linear":
                self.refuse_idle(("slope", "floor"), "schedule=linear")
            falls = self.slope > 0 and self.floor <= self.k <= 1
            right = {"linear": falls, "exponential": self.k < 1}.get(self.schedule, self.k >= 1)
            if not right:
                needed = NEEDED.get(self.schedule, "k >= 1")
                raise ValueError(f"schedule={self.schedule} needs {needed}")
            return self

        def true_tokens(self, i: int) -> float:
            """eps, the probability with which update ``i``, from 0, shows the true token."""
            if self.schedule == "linear":
                return max(self.floor, self.k - self.slope * i)
            if self.schedule == "inverse-sigmoid":
                return inverse_sigmoid(self.k, i)
            return self.k**i  # with no schedule, k is 1

    source = "data"
    batch_axis = 0
    data_parallel = True
    uses_text = True

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.size = len(problem.data_vocabulary)  # V
        self.network = Recurrent(config, self.size)
        parameters = self.network.parameters()
        self.optimizer = torch.optim.Adam(parameters, config.learning_rate, fused=True)
        self.updates = 0

    def scheduled(self, x: Tensor, true_tokens: float) -> Tensor:
        """Logits ``(n, T, V)`` after tokens that are true with that probability, else drawn."""
        token, state, outputs = torch.full_like(x[:, 0], self.size), None, []
        for t in range(x.shape[1]):
            logits, state = self.network(token[:, None], state)
            outputs.append(logits)
            own = logits[:, 0].detach().softmax(-1).multinomial(1)[:, 0]
            true = torch.rand(len(x), device=x.device) < true_tokens
            token = torch.where(true, x[:, t], own)
        return torch.cat(outputs, 1)

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of Adam up the mean log-likelihood of the tokens."""
        self.network.train()
        x, true_tokens = batch["x"].long(), self.config.true_tokens(self.updates)
        if self.config.schedule == "none":
            logits = self.network(sequences.shifted(x, self.size))[0]
        else:
            logits = self.scheduled(x, true_tokens)
        log_likelihood = sequences.token_log_prob(logits, x).mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(-log_likelihood)
        norm = clip_gradients(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.updates += 1
        figures = {"log_likelihood": log_likelihood.detach(), "gradient_norm": norm}
        return {**figures, "true_tokens": true_tokens}

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of rows ``(n, T)``, ``(n,)`` nats."""
        logits = self.network.eval()(sequences.shifted(x.long(), self.size))[0]
        return sequences.token_log_prob(logits, x.long()).sum(1)

    def next_log_prob(self, prefix: Tensor) -> Tensor:
        """Log probabilities ``(n, V)`` of the token after prefixes ``(n, t)``."""
        logits = self.network.eval()(sequences.started(prefix, self.size))[0]
        return logits[:, -1].log_softmax(-1)

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

    rlgen.train("recurrent-lm-fables")
