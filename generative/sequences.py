"""What models of token sequences have in common.

Rows are ``(n, T)`` places in a vocabulary of V tokens, as float32 from a data set (they are exact
below 2^24). A row begins with a token V of its own, which is never predicted: p(x) = prod_t
p(x_t | V, x_1 ... x_(t-1)), so that the probabilities of all V^T rows sum to one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlgen.algorithm import Estimate
from rlgen.generative.decoding import Predictor, ancestral
from rlgen.generative.text_metrics import bleu, perplexity

GROUPS, OF_GROUP = 10, 10  # samples whose BLEU is measured
LONGEST = 4  # n-grams of BLEU


def shifted(x: Tensor, start: int) -> Tensor:
    """What predicts rows ``(n, T)``: ``start``, then all but the last of their tokens."""
    return torch.cat([torch.full_like(x[:, :1], start), x[:, :-1]], 1)


def started(prefix: Tensor, start: int) -> Tensor:
    """Prefixes ``(n, t)``, t >= 0, with ``start`` in front, ``(n, t + 1)``."""
    return torch.cat([prefix.new_full((len(prefix), 1), start), prefix], 1)


def token_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x_t | x_<t) ``(n, T)`` of logits ``(n, T, V)`` and tokens ``(n, T)``, in nats."""
    return logits.log_softmax(-1).gather(-1, x[..., None]).squeeze(-1)


def sample(predict: Predictor, n: int, length: int) -> Tensor:
    """Draw rows ``(n, length)``, float32 as those of a data set."""
    return ancestral(predict, torch.zeros(n, 0, dtype=torch.int64), length).float()


def measure(
    x: Tensor, log_prob: Tensor, sample: Callable[[int], Tensor]
) -> dict[str, Tensor | Estimate]:
    """Perplexity of held-out rows ``(n, T)``, and BLEU of samples with these rows as references.

    Args:
        x: the rows.
        log_prob: their log p(x), ``(n,)``.
        sample: draws so many rows of the model.
    """
    references = x.long().tolist()
    drawn = sample(GROUPS * OF_GROUP).long().tolist()
    groups = [drawn[first : first + OF_GROUP] for first in range(0, len(drawn), OF_GROUP)]
    scores = torch.tensor(
        [bleu(group, [references] * len(group), LONGEST) for group in groups], dtype=torch.float64
    )
    mean, error = float(scores.mean()), float(scores.std()) / GROUPS**0.5
    note = f"{GROUPS} x {OF_GROUP} samples, all rows as references"
    return {
        "perplexity": perplexity(log_prob / x.shape[1]),
        f"bleu_{LONGEST}": Estimate(mean, mean - error, mean + error, note),
    }
