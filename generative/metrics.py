"""Distances between samples and data, and between distributions, in closed form or from rows.

A generative model without a likelihood is judged by samples only (section 13.4 leaves it open how).
No figure here says everything: the mean embedding and the sliced distance see the whole
distribution in the space they are given, the Fréchet distance its first two moments, precision and
recall tell bad samples from missing ones. All depend on the number of rows: compare models at the
same number, and with what other rows of the data themselves get.

Rows are ``(n, d)`` arrays or CPU tensors; the arithmetic is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.linalg
import scipy.special
from scipy.spatial.distance import pdist

from rlgen.generative.densities import MODE_SCALES, modes

Rows = Any  # what np.asarray takes
#: Bandwidths of the kernels in medians of the distance between two rows, each half the last.
BANDWIDTHS = (4.0, 2.0, 1.0, 0.5, 0.25)
AT_ONCE = 1_000  # rows whose distances to all others are held at a time
FOR_MEDIAN = 4_000  # rows between which the median distance is looked for
NEAR = 3.0  # standard deviations around a mode's centre that count as of that mode


def _rows(x: Rows) -> np.ndarray:
    return np.asarray(x, np.float64)


def squared_distances(x: Rows, y: Rows) -> np.ndarray:
    """The squared Euclidean distances ``(n, m)`` of rows ``(n, d)`` and ``(m, d)``."""
    a, b = _rows(x), _rows(y)
    centre = b.mean(axis=0)  # far from the origin the products would cancel
    a, b = a - centre, b - centre
    squared = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squared, 0.0, out=squared)


def _by_blocks(x: Rows, y: Rows) -> Iterator[tuple[slice, np.ndarray]]:
    """`squared_distances` of some rows of x to all of y at a time, and which ones they are."""
    for first in range(0, len(x), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        yield some, squared_distances(x[some], y)


# --- between samples and data -------------------------------------------------------------------


def median_distance(x: Rows) -> float:
    """The median Euclidean distance of two of the first 4,000 rows ``(n, d)``, n >= 2; 1 if 0."""
    return float(np.median(pdist(_rows(x[:FOR_MEDIAN])))) or 1.0


def squared_mmd(samples: Rows, data: Rows, bandwidth: float | None = None) -> float:
    """The squared maximum mean discrepancy |E phi(x) - E phi(y)|^2, estimated without bias.

    With k the mean of five Gaussian kernels exp(-|x - y|^2 / (2 s^2)),

        1 / (n (n - 1)) sum_{i != j} k(x_i, x_j) + 1 / (m (m - 1)) sum_{i != j} k(y_i, y_j)
        - 2 / (n m) sum_ij k(x_i, y_j)

    which is 0 on average, and then often negative, where both are of one distribution.

    Source: Gretton et al. 2012, JMLR 13, eq 3.

    Args:
        samples: ``(n, d)``, n >= 2.
        data: ``(m, d)``, m >= 2.
        bandwidth: the middle s; by default the median distance of two rows of the data, so that
            all models of one data set are measured alike.
    """
    x, y = _rows(samples), _rows(data)
    middle = median_distance(y) if bandwidth is None else bandwidth

    def kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
        total = 0.0
        for _, k in _by_blocks(a, b):
            k /= -2 * (BANDWIDTHS[0] * middle) ** 2
            total += float(np.exp(k, out=k).sum())
            for _ in BANDWIDTHS[1:]:  # a kernel half as wide is the fourth power
                np.square(k, out=k)
                np.square(k, out=k)
                total += float(k.sum())
        return total

    # The diagonal, where k = 1, is left out.
    n, m, each = len(x), len(y), len(BANDWIDTHS)
    within = (kernel_sum(x, x) / each - n) / (n * (n - 1))
    within += (kernel_sum(y, y) / each - m) / (m * (m - 1))
    return within - 2 * kernel_sum(x, y) / (each * n * m)


def wasserstein_1d(x: Rows, y: Rows, order: float = 2.0) -> np.ndarray:
    """The Wasserstein distance of each column: rows ``(n, c)`` and ``(m, c)`` give ``(c,)``.

    On a line the best plan keeps the order: the distance is that of the quantile functions.
    """
    a, b = np.sort(_rows(x), axis=0), np.sort(_rows(y), axis=0)
    n, m = len(a), len(b)
    steps = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # of 1 / (n m)
    width = np.diff(steps, prepend=0) / (n * m)
    gap = np.abs(a[(steps - 1) // m] - b[(steps - 1) // n])
    return (width @ gap**order) ** (1 / order)


def sliced_wasserstein(
    samples: Rows, data: Rows, rng: np.random.Generator, projections: int = 200
) -> float:
    """The sliced 2-Wasserstein distance: (mean over directions of W2^2)^(1/2), in the data's units.

    Source: Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3.

    Args:
        samples: ``(n, d)``.
        data: ``(m, d)``.
        rng: draws the directions on the unit sphere.
        projections: how many; for d = 1 one is enough.
    """
    x, y = _rows(samples), _rows(data)
    directions = rng.standard_normal((x.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    distances = wasserstein_1d(x @ directions, y @ directions)
    return float(np.sqrt(np.square(distances).mean()))


def frechet_distance(x: Rows, y: Rows) -> float:
    """`squared_w2` of the Gaussians with the moments of rows ``(n, d)`` and ``(m, d)``.

    Of the features of a classifier it is the Fréchet inception distance's formula (Heusel et al.
    2017, arXiv:1706.08500), which by custom is not square-rooted.
    """
    a, b = _rows(x), _rows(y)
    covariances = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (a, b))
    return squared_w2(a.mean(axis=0), next(covariances), b.mean(axis=0), next(covariances))


def precision_recall(samples: Rows, data: Rows, k: int = 3) -> tuple[float, float]:
    """Precision: the share of samples near the data; recall: the share of the data near samples.

    Near means within the distance of some row of the other set to its own k-th neighbour.

    Source: Kynkäänniemi et al. 2019, arXiv:1904.06991, eq 1-2.

    Args:
        samples: ``(n, d)``, n > k.
        data: ``(m, d)``, m > k.
        k: neighbours.
    """
    x, y = _rows(samples), _rows(data)

    def radii(rows: np.ndarray) -> np.ndarray:
        found = np.empty(len(rows))
        for some, squared in _by_blocks(rows, rows):
            own = np.arange(len(squared))
            squared[own, some.start + own] = np.inf
            squared.partition(k - 1, axis=1)
            found[some] = squared[:, k - 1]
        return found

    of_samples, of_data = radii(x), radii(y)
    precise, recalled = np.zeros(len(x), np.bool_), np.zeros(len(y), np.bool_)
    for some, across in _by_blocks(x, y):
        precise[some] = (across <= of_data).any(axis=1)
        recalled |= (across <= of_samples[some, None]).any(axis=0)
    return float(precise.mean()), float(recalled.mean())


def count_modes(points: Rows, name: str) -> tuple[int, float]:
    """How many modes of the density ``"ring"`` or ``"grid"`` were found, and how good points are.

    Args:
        points: ``(n, 2)`` samples.
        name: of the density.

    Returns:
        Modes with at least one point within 3 standard deviations, and the share of the points
        that are so near any mode (0.9889 of the density's own).
    """
    distance = np.sqrt(squared_distances(points, modes(name)))
    near = distance <= NEAR * MODE_SCALES[name]
    return int(near.any(axis=0).sum()), float(near.any(axis=1).mean())


def jackknife(
    statistics: Callable[..., Sequence[float]], *sets: Rows, groups: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of sets of rows ``(k,)``, and their standard errors, by leaving out rows.

        error^2 = (g - 1) / g sum_i (t_i - mean of t)^2,  t_i: all but the i-th group of each set

    A group is every g-th row. A bootstrap would repeat rows, and a repeated row is its own
    neighbour at distance 0: it misjudges kernels, radii and order statistics.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 11.
    """
    arrays = [_rows(rows) for rows in sets]
    kept = [
        statistics(*(rows[np.arange(len(rows)) % groups != group] for rows in arrays))
        for group in range(groups)
    ]
    errors = np.sqrt((groups - 1) * np.var(kept, axis=0))
    return np.asarray(statistics(*arrays), np.float64), errors


# --- codes --------------------------------------------------------------------------------------


def classify(
    codes: Rows, labels: np.ndarray, test_codes: Rows, test_labels: np.ndarray
) -> np.ndarray:
    """Which test codes a logistic regression on the codes gets right, ``(m,)`` bool.

    The codes are standardised by the moments of the training ones first.

    Args:
        codes: ``(n, k)`` of training rows.
        labels: ``(n,)`` integers, at least two different ones.
        test_codes: ``(m, k)``.
        test_labels: ``(m,)``.
    """
    from sklearn.linear_model import LogisticRegression

    train, test = _rows(codes), _rows(test_codes)
    scale = train.std(axis=0)
    scale[scale == 0] = 1.0
    classifier = LogisticRegression(max_iter=300)
    classifier.fit((train - train.mean(axis=0)) / scale, labels)
    right = classifier.predict((test - train.mean(axis=0)) / scale) == test_labels
    return np.asarray(right, np.bool_)


# --- between distributions ----------------------------------------------------------------------


def squared_w2(mean1: Rows, cov1: Rows, mean2: Rows, cov2: Rows) -> float:
    """The squared 2-Wasserstein distance of two Gaussians (eq E.21, which calls it the distance).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S2^(1/2) S1 S2^(1/2))^(1/2))

    Args:
        mean1: ``(d,)``; so is ``mean2``.
        cov1: ``(d, d)``, symmetric and without negative eigenvalues; so is ``cov2``.
    """
    s1, s2 = _rows(cov1), _rows(cov2)
    values, vectors = scipy.linalg.eigh(s2)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    inner = scipy.linalg.eigvalsh(root @ s1 @ root)
    shift = np.square(_rows(mean1) - _rows(mean2)).sum()
    return float(shift + np.trace(s1 + s2) - 2 * np.sqrt(np.maximum(inner, 0)).sum())


def kl_divergence(p: Rows, q: Rows) -> float:
    """KL(p || q) of discrete distributions ``(k,)``, in nats; infinite where q misses p."""
    return float(scipy.special.rel_entr(_rows(p), _rows(q)).sum())


def js_divergence(p: Rows, q: Rows) -> float:
    """The Jensen-Shannon divergence of discrete distributions ``(k,)``, in nats (that of eq 13.41).

    At most log 2, which all distributions without common support have (eq 13.42).
    """
    middle = (_rows(p) + _rows(q)) / 2
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2
