"""How good generated sequences are: perplexity, BLEU and ROUGE (section 15.4).

Sequences are of any tokens that can be compared: words, characters or numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from torch import Tensor

from rlgen.algorithm import Estimate

Tokens = Sequence[Hashable]


def perplexity(log_prob: Tensor) -> Estimate:
    """exp(-mean log p(x_t | x_<t)), from means in nats ``(n,)`` of rows of one length (eq 15.36).

    The interval is that of the mean plus or minus one standard error over the rows. A uniform
    model's perplexity is the size of its vocabulary.
    """
    mean = float(log_prob.double().mean())
    rows = len(log_prob)
    error = float(log_prob.double().std()) / math.sqrt(rows) if rows > 1 else math.nan
    ends = torch.tensor([-mean, -mean - error, -mean + error], dtype=torch.float64)
    return Estimate(*ends.exp().tolist())


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[Hashable, ...]]:
    """How often each n-gram occurs."""
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def most(references: Sequence[Tokens], n: int) -> Counter[tuple[Hashable, ...]]:
    """How often each n-gram occurs in that reference in which it occurs most often."""
    counts: Counter[tuple[Hashable, ...]] = Counter()
    for reference in references:  # counts |= would go through all of them for every reference
        for found, times in ngrams(reference, n).items():
            if times > counts[found]:
                counts[found] = times
    return counts


def bleu(
    candidates: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    n: int = 4,
    length: Literal["closest", "shortest"] = "closest",
) -> float:
    """BLEU-n of generated sequences, in [0, 1]: the more of their n-grams are in the references.

        BLEU-n = BP exp(1/n sum_k log P_k),    BP = min(1, exp(1 - l_s / l_x))    (eq 15.39-15.41)

    P_k is the share of the candidates' k-grams that are found in a reference, each counted at most
    as often as in the reference that has it most often. Counts and lengths are summed over all
    candidates before they are divided (Papineni et al. 2002, doi:10.3115/1073083.1073135). Without
    a match of some length it is 0.

    Args:
        candidates: the sequences.
        references: of each candidate, one or more.
        n: the longest n-grams.
        length: which reference gives l_s: the one closest in length (of two, the shorter), as is
            standard, or the shortest, as the book has it.
    """
    matched, total = [0] * n, [0] * n
    own = best = 0
    most_of: dict[int, list[Counter[tuple[Hashable, ...]]]] = {}  # by the list of references
    for tokens, known in zip(candidates, references, strict=True):
        own += len(tokens)
        lengths = sorted(map(len, known))
        closest = min(lengths, key=lambda size: abs(size - len(tokens)))
        best += closest if length == "closest" else lengths[0]
        if id(known) not in most_of:
            most_of[id(known)] = [most(known, k + 1) for k in range(n)]
        for k, allowed in enumerate(most_of[id(known)]):
            counts = ngrams(tokens, k + 1)
            matched[k] += (counts & allowed).total()
            total[k] += counts.total()
    if not all(matched):
        return 0.0
    precision = sum(math.log(m / t) for m, t in zip(matched, total, strict=True)) / n
    return math.exp(min(0.0, 1 - best / own) + precision)


def rouge(candidate: Tokens, references: Sequence[Tokens], n: int = 2) -> float:
    """ROUGE-n, in [0, 1]: the share of the references' n-grams that the candidate has (eq 15.42).

    Each n-gram counts at most as often as it occurs in the candidate. References without any
    n-gram give 0 (Lin 2004, "ROUGE: a package for automatic evaluation of summaries").
    """
    counts = ngrams(candidate, n)
    known = [ngrams(reference, n) for reference in references]
    total = sum(reference.total() for reference in known)
    return sum((counts & reference).total() for reference in known) / total if total else 0.0
