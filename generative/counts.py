"""Tables of n-grams: numbered, counted, and looked up by the sorted numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

EMPTY = np.iinfo(np.int64).max  # the number in places of a table that are not taken


class Level(NamedTuple):
    """The k-grams uw of one length, each array sorted by its numbers; u are their contexts.

    Attributes:
        keys: ``(m,)`` numbers of the k-grams.
        counts: ``(m,)`` c(uw).
        contexts: ``(l,)`` numbers of the contexts.
        totals: ``(l,)`` c(u), the sum of c(uw) over w.
        kinds: ``(l,)`` N(u.), the number of different w after u.
        discount: D = n_1 / (n_1 + 2 n_2) of the numbers of k-grams that are counted once and twice;
            0.75 where none is counted once.
    """

    keys: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray
    discount: float


def windows(rows: np.ndarray, n: int, start: int) -> np.ndarray:
    """The n-grams ``(m * T, n)`` that end in each token of rows ``(m, T)``, after start tokens."""
    padded = np.pad(rows.astype(np.int64), [(0, 0), (n - 1, 0)], constant_values=start)
    return np.lib.stride_tricks.sliding_window_view(padded, n, axis=1).reshape(-1, n)


def number(ngrams: np.ndarray, base: int) -> np.ndarray:
    """One number for each k-gram ``(m, k)``: its tokens are the digits."""
    return ngrams @ base ** np.arange(ngrams.shape[1], dtype=np.int64)[::-1]


def merge(table: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """A table ``(2, m)`` of sorted keys and their counts, with more keys counted."""
    both = np.concatenate([table[0], keys])
    weight = np.concatenate([table[1], np.ones_like(keys)])
    known, place = np.unique(both, return_inverse=True)
    return np.stack([known, np.bincount(place, weight).astype(np.int64)])


def levels(keys: np.ndarray, counts: np.ndarray, n: int, base: int) -> list[Level]:
    """The levels k = 1 ... n of sorted n-grams and their counts.

    In the shorter ones, c(uw) is the number of different tokens that stand in front of uw.
    """
    result: list[Level] = []
    for k in range(n, 0, -1):
        contexts, first, kinds = np.unique(keys // base, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first) if len(first) else counts
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        discount = once / (once + 2 * twice) if once else 0.75
        result.insert(0, Level(keys, counts, contexts, totals, kinds, discount))
        keys, counts = np.unique(keys % base ** (k - 1), return_counts=True)
    return result


def find(keys: np.ndarray, wanted: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values ``(m,)`` of the wanted ones among sorted keys; 0 for those not among them."""
    if not len(keys):
        return np.zeros(len(wanted))
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
