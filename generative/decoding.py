"""Sequences of a model that gives the next token's probabilities: greedy, ancestral, beam search.

Prefixes are ``(n, t)`` int64 tokens, and a `Predictor` gives the log probabilities ``(n, V)`` of
the token after each of them. With an ``end``, a sequence that has come to this token is finished:
what follows is filled up with it and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Predictor = Callable[[Tensor], Tensor]


def _finish(log_prob: Tensor, prefix: Tensor, end: int | None, new: int) -> Tensor:
    """Leave to the finished of the sequences one continuation, ``end`` itself, of probability 1.

    Only the ``new`` last tokens count: an ``end`` in the prompt ends nothing.
    """
    if end is None or new == 0:
        return log_prob
    finished = (prefix[:, -new:] == end).any(1)
    only = torch.full_like(log_prob, -torch.inf)
    only[:, end] = 0.0
    return torch.where(finished[:, None], only, log_prob)


def without(predict: Predictor, token: int) -> Predictor:
    """The model that never gives ``token``, whose probability the others share in proportion."""

    def others(prefix: Tensor) -> Tensor:
        log_prob = predict(prefix).index_fill(-1, torch.tensor(token), -torch.inf)
        # Where it was certain, the others are alike.
        certain = torch.isneginf(log_prob).all(-1, keepdim=True)
        alike = torch.zeros_like(log_prob).index_fill(-1, torch.tensor(token), -torch.inf)
        return torch.where(certain, alike, log_prob).log_softmax(-1)

    return others


def ancestral(
    predict: Predictor,
    prefix: Tensor,
    steps: int,
    temperature: float = 1.0,
    end: int | None = None,
) -> Tensor:
    """Draw token by token x_t ~ p(x_t | x_<t)^(1 / temperature), normalised (section 15.1.1).

    Args:
        predict: the model.
        prefix: ``(n, t)``, what is given; t may be 0.
        steps: tokens added.
        temperature: 1 draws from the model; below, likelier tokens are taken more often; towards
            0, always the likeliest.
        end: the token that ends a sequence.

    Returns:
        ``(n, t + steps)``.
    """
    for new in range(steps):
        log_prob = _finish(predict(prefix), prefix, end, new) / temperature
        token = log_prob.softmax(-1).multinomial(1)
        prefix = torch.cat([prefix, token], 1)
    return prefix


def greedy(predict: Predictor, prefix: Tensor, steps: int, end: int | None = None) -> Tensor:
    """Take the likeliest token each time, argmax p(x_t | x_<t) (eq 15.7); as `ancestral`."""
    for new in range(steps):
        token = _finish(predict(prefix), prefix, end, new).argmax(-1, keepdim=True)
        prefix = torch.cat([prefix, token], 1)
    return prefix


def beam_search(
    predict: Predictor, prefix: Tensor, steps: int, width: int, end: int | None = None
) -> tuple[Tensor, Tensor]:
    """Keep the ``width`` likeliest of all one-token continuations each time (eq 15.8).

    With width 1 this is `greedy`; with width V^(steps - 1) or more nothing is ever lost, and the
    first sequence is the likeliest of all. Longer sequences are less likely: without an ``end`` all
    are equally long.

    Args:
        predict: the model.
        prefix: ``(t,)``, the one prompt.
        steps: tokens added.
        width: K.
        end: the token that ends a sequence.

    Returns:
        ``(k, t + steps)`` sequences, likeliest first, and the log probability ``(k,)`` of what was
        added to the prompt; k is the width, or as many as there are.
    """
    beams, score = prefix[None], torch.zeros(1, dtype=torch.float64, device=prefix.device)
    for new in range(steps):
        log_prob = _finish(predict(beams).double(), beams, end, new)
        total = score[:, None] + log_prob  # (k, V)
        possible = int((total > -torch.inf).sum())
        score, chosen = total.flatten().topk(min(width, possible))
        parent, token = chosen // total.shape[1], chosen % total.shape[1]
        beams = torch.cat([beams[parent], token[:, None]], 1)
    return beams, score
