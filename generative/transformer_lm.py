"""The Transformer language model."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from rlgen.algorithm import Algorithm, Estimate, Metrics, Problem
from rlgen.config import Count, Decay, Hyperparameters, Positive
from rlgen.generative import sequences
from rlgen.networks import clip_gradients


def positions(length: int, size: int) -> Tensor:
    """Encodings ``(length, size)`` of places, sines and cosines by turns (eq 15.113)."""
    rate = torch.exp(-math.log(1e4) / size * torch.arange(0, size, 2))
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class Block(nn.Module):
    """Causal self-attention of several heads, then a perceptron at every place."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.qkv = nn.Linear(size, 3 * size)
        self.join = nn.Linear(size, size)
        self.perceptron = nn.Sequential(
            nn.Linear(size, 4 * size), nn.ReLU(), nn.Linear(4 * size, size)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, t, d)`` to the same; place t sees the places up to t."""
        n, t, d = x.shape
        q, k, v = (
            part.view(n, t, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norms[0](x)).chunk(3, -1)
        )
        # softmax(QK'/sqrt(d_k), the later places masked) V
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.join(seen.transpose(1, 2).reshape(n, t, d)))
        return x + self.dropout(self.perceptron(self.norms[1](x)))


class Transformer(nn.Module):
    """Embeddings of tokens and places, blocks, and a linear layer to the logits of V tokens."""

    def __init__(self, config: TransformerLM.Config, size: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size + 1, config.size)  # one more: before the first
        self.positions = nn.Buffer(positions(length, config.size))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(
            *(Block(config.size, config.heads, config.dropout) for _ in range(config.layers))
        )
        self.norm = nn.LayerNorm(config.size)
        self.output = nn.Linear(config.size, size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(n, t, V)`` after each of the tokens ``(n, t)``."""
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        return self.output(self.norm(self.blocks(self.dropout(x))))


class TransformerLM(Algorithm):
    """Transformer language model: causal self-attention over the tokens so far.

    Maximises the mean of log p(x_t | x_<t). With H the embeddings of the tokens before, plus those
    of their places, each of the blocks makes

        H <- H + W concat_heads(softmax(Q K' / sqrt(d_k) + mask) V),    (Q, K, V) = W_qkv norm(H)
        H <- H + W_2 relu(W_1 norm(H) + b_1) + b_2                       (eq 15.107-15.115)

    where the mask hides the places to come. The book makes K and V of X where it means H, scales by
    sqrt(d_h), and joins places to tokens by the sign it uses for concatenation; they are added. The
    norms stand before their sublayers (Xiong et al. 2020, arXiv:2002.04745), not behind them as in
    the book, which needs a warm-up of the learning rate. It sees no more than a row's T tokens.

    Source: section 15.6.3; Vaswani et al. 2017, arXiv:1706.03762.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `TransformerLM`."""

        size: Annotated[int, Field(ge=2, multiple_of=2)] = 64  # of an embedding
        heads: Count = 4
        layers: Count = 2
        dropout: Decay = 0.1  # of embeddings and sublayers
        learning_rate: Positive = 2e-3  # Adam's
        max_grad_norm: Positive = 1.0
        batch_size: Count = 32  # rows of a minibatch, over all workers

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if self.size % self.heads:
                raise ValueError(f"size={self.size} is no multiple of heads={self.heads}")
            return self

    source = "data"
    batch_axis = 0
    data_parallel = True
    uses_text = True

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.size, self.length = len(problem.data_vocabulary), problem.data_shape[0]  # V, T
        self.network = Transformer(config, self.size, self.length)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), config.learning_rate, fused=True
        )

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of Adam up the mean log-likelihood of the tokens."""
        x = batch["x"].long()
        logits = self.network.train()(sequences.shifted(x, self.size))
        log_likelihood = sequences.token_log_prob(logits, x).mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(-log_likelihood)
        norm = clip_gradients(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return {"log_likelihood": log_likelihood.detach(), "gradient_norm": norm}

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of rows ``(n, T)``, ``(n,)`` nats."""
        logits = self.network.eval()(sequences.shifted(x.long(), self.size))
        return sequences.token_log_prob(logits, x.long()).sum(1)

    def next_log_prob(self, prefix: Tensor) -> Tensor:
        """Log probabilities ``(n, V)`` of the token after prefixes ``(n, t)``, of the last T."""
        tokens = sequences.started(prefix, self.size)[:, -self.length :]
        return self.network.eval()(tokens)[:, -1].log_softmax(-1)

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """The log-likelihood of each row ``(n,)``, the mean over its tokens."""
        return {"log_likelihood": self.log_prob(batch["x"]) / batch["x"].shape[1]}

    def measure(self, batch: dict[str, Any]) -> dict[str, Tensor | Estimate]:
        """As `sequences.measure`."""
        return sequences.measure(batch["x"], self.log_prob(batch["x"]), self.sample)

    def sample(self, n: int) -> Tensor:
        """``(n, T)`` draws."""
        return sequences.sample(self.next_log_prob, n, self.length)


if __name__ == "__main__":
    import rlgen

    rlgen.train("transformer-lm-fables")
