"""Sampling from densities that are only known up to a constant, and how far to trust the draws.

Everything is vectorised over rows or chains, and takes log densities: the ratios are all that
counts, and the densities themselves underflow. See section 11.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, ndtri
from scipy.stats import rankdata

LogDensity = Callable[[np.ndarray], np.ndarray]  # of rows (n, d): (n,), up to a constant
Draw = Callable[[int, np.random.Generator], np.ndarray]  # so many rows (n, d)
#: Rows of the states to move to, from the present ones, both ``(c, d)``.
Propose = Callable[[np.ndarray, np.random.Generator], np.ndarray]

MAX_BATCH = 100_000  # proposals drawn at a time


class Accepted(NamedTuple):
    """Rows ``(n, d)``, or chains ``(n, c, d)``, and the share of the proposals accepted."""

    draws: np.ndarray
    rate: float


class Weighted(NamedTuple):
    """An expectation, its standard error, and the effective number of draws behind it."""

    value: float
    error: float
    ess: float


def rejection(
    log_p: LogDensity,
    draw: Draw,
    log_q: LogDensity,
    log_k: float,
    count: int,
    rng: np.random.Generator,
) -> Accepted:
    """Draw x ~ q until ``count`` are accepted, each with probability p(x) / (k q(x)).

    The rate comes to Z / k, with Z the integral of p where q is normalised.

    Source: Algorithm 11.1.

    Args:
        log_p: the density to draw from, up to a constant.
        draw: draws from the proposal q.
        log_q: the proposal's density.
        log_k: such that log p(x) <= log k + log q(x) everywhere.
        count: how many to accept.
        rng: the source of randomness.

    Raises:
        ValueError: an x was drawn where k q is below p: the draws would be of another density.
    """
    accepted: list[np.ndarray] = []
    found = proposed = 0
    size = min(count, MAX_BATCH)
    while found < count:
        x = draw(size, rng)
        log_ratio = log_p(x) - log_q(x) - log_k
        worst = int(log_ratio.argmax())
        if log_ratio[worst] > 1e-9:
            raise ValueError(
                f"log_k: {log_k:g} is too small: at {x[worst].tolist()} log p exceeds "
                f"log k + log q by {log_ratio[worst]:.3g}"
            )
        kept = np.flatnonzero(np.log1p(-rng.random(size)) <= log_ratio)[: count - found]
        accepted.append(x[kept])
        found += len(kept)
        # What comes after the last accepted one was never needed.
        proposed += size if found < count else int(kept[-1]) + 1
        wanted = (count - found) * proposed / max(found, 1)
        size = int(min(max(wanted, 1000), MAX_BATCH))
    return Accepted(np.concatenate(accepted), found / proposed)


def importance(
    f: Callable[[np.ndarray], np.ndarray],
    log_p: LogDensity,
    draw: Draw,
    log_q: LogDensity,
    count: int,
    rng: np.random.Generator,
    normalised: bool = False,
) -> Weighted:
    """The expectation of f under p, from draws x of q weighted by w = p(x) / q(x).

        normalised:  mean of f(x) w             p and q integrate to 1 (eq 11.48); unbiased
        else:        sum of f(x) w / sum of w   known up to constants (eq 11.53); biased by O(1/n)

    Source: section 11.3.3; error and effective size: Owen 2013, Monte Carlo theory, chapter 9.

    Args:
        f: of rows ``(n, d)``, ``(n,)``.
        log_p: the density of the expectation.
        draw: draws from the proposal q, which must reach everywhere that f p does.
        log_q: the proposal's density.
        count: draws.
        rng: the source of randomness.
        normalised: whether both densities are exact; else their constants cancel.
    """
    x = draw(count, rng)
    log_w, values = log_p(x) - log_q(x), f(x)
    share = np.exp(log_w - logsumexp(log_w))
    ess = 1 / float(np.square(share).sum())
    if normalised:
        terms = values * np.exp(log_w)
        return Weighted(float(terms.mean()), float(terms.std() / np.sqrt(count)), ess)
    value = float(share @ values)
    return Weighted(value, float(np.sqrt(np.square(share * (values - value)).sum())), ess)


def metropolis_hastings(
    log_p: LogDensity,
    propose: Propose,
    start: np.ndarray,
    count: int,
    rng: np.random.Generator,
    log_q: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    burn_in: int = 0,
    thin: int = 1,
) -> Accepted:
    """Chains that move from x to x' ~ q(. | x) with probability A, and else stay where they are.

        A(x', x) = min(1, p(x') q(x | x') / (p(x) q(x' | x)))

    Line 7 of the listing compares with an undefined alpha, meaning A; and its "not yet stationary,
    go on" is ``burn_in`` here: look at `r_hat` of what comes after.

    Source: Algorithm 11.2.

    Args:
        log_p: the density to draw from, up to a constant.
        propose: draws x' from q(. | x).
        start: ``(c, d)`` first states, one of each chain; better far apart.
        count: states to keep of each chain.
        rng: the source of randomness.
        log_q: ``log_q(to, from)`` of rows, ``(c,)``; None where q is symmetric (Metropolis).
        burn_in: first steps, which are not kept.
        thin: steps from one kept state to the next.

    Returns:
        Chains ``(count, c, d)``, and the share of the moves after burn-in that were made.
    """
    x = np.array(start, np.float64)
    here, chains, moves = log_p(x), np.empty((count, *x.shape)), 0
    for step in range(burn_in + count * thin):
        to = propose(x, rng)
        there = log_p(to)
        log_ratio = there - here
        if log_q is not None:
            log_ratio += log_q(x, to) - log_q(to, x)
        moved = np.log1p(-rng.random(len(x))) <= log_ratio
        x, here = np.where(moved[:, None], to, x), np.where(moved, there, here)
        kept, left = divmod(step + 1 - burn_in, thin)
        if step >= burn_in:
            moves += int(moved.sum())
            if left == 0:
                chains[kept - 1] = x
    return Accepted(chains, moves / (count * thin * len(x)))


def random_walk(scale: float | np.ndarray) -> Propose:
    """Symmetric proposals x' ~ N(x, diag(scale^2)), for `metropolis_hastings` without log_q."""
    return lambda x, rng: x + scale * rng.standard_normal(x.shape)


def gibbs(
    conditionals: Sequence[Propose],
    start: np.ndarray,
    count: int,
    rng: np.random.Generator,
    burn_in: int = 0,
    thin: int = 1,
) -> np.ndarray:
    """Chains whose values are drawn in turn, each given all the others (section 11.3.4.3).

    Args:
        conditionals: d functions; the i-th draws x_i ``(c,)`` given states ``(c, d)``.
        start: ``(c, d)`` first states.
        count: states to keep of each chain.
        rng: the source of randomness.
        burn_in: first sweeps over all values, which are not kept.
        thin: sweeps from one kept state to the next.

    Returns:
        Chains ``(count, c, d)``.
    """
    x = np.array(start, np.float64)
    chains = np.empty((count, *x.shape))
    for sweep in range(burn_in + count * thin):
        for i, conditional in enumerate(conditionals):
            x[:, i] = conditional(x, rng)
        kept, left = divmod(sweep + 1 - burn_in, thin)
        if sweep >= burn_in and left == 0:
            chains[kept - 1] = x
    return chains


# --- diagnostics --------------------------------------------------------------------------------


def split_r_hat(chains: np.ndarray) -> np.ndarray:
    """The potential scale reduction of half chains: near 1 where the chains agree.

    With m half chains of n states, W the mean of their variances and B / n the variance of their
    means: sqrt(((n - 1) / n W + B / n) / W).

    Source: Gelman et al. 2013, Bayesian Data Analysis, section 11.4.

    Args:
        chains: ``(n, c, ...)``, n >= 4 states of each of c chains.

    Returns:
        ``(...)``; NaN where nothing ever moves.
    """
    halves = _halves(chains)
    within, total = _variances(halves)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(total / within)


def rank_normalise(chains: np.ndarray) -> np.ndarray:
    """Normal scores ``(n, c, ...)`` of the ranks over all chains: (rank - 3/8) / (S + 1/4)."""
    flat = np.asarray(chains).reshape(chains.shape[0] * chains.shape[1], -1)
    ranks = rankdata(flat, axis=0)
    return ndtri((ranks - 0.375) / (len(flat) + 0.25)).reshape(chains.shape)


def r_hat(chains: np.ndarray) -> np.ndarray:
    """The largest of `split_r_hat` of ranks, and of the ranks of distances from the median.

    Finds chains that differ in place or in spread, heavy tails or not; over 1.01 is suspect.

    Source: Vehtari et al. 2021, doi:10.1214/20-BA1221, section 4.

    Args:
        chains: ``(n, c, ...)``.

    Returns:
        ``(...)``.
    """
    halves = _halves(chains)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    scores = [rank_normalise(part) for part in (halves, folded)]
    within, total = zip(*map(_variances, scores), strict=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.maximum(*(t / w for t, w in zip(total, within, strict=True))))


def effective_sample_size(chains: np.ndarray) -> np.ndarray:
    """How many independent draws would give the mean of the chains the same error.

    m n / tau of the m half chains of n states, tau = 1 + 2 sum_t rho_t. The autocorrelation rho_t
    counts the variance between the chains, and the sum ends by Geyer's initial monotone sequence:
    rho_2t + rho_2t+1 must stay positive and not rise; of the first pair that is not positive,
    rho_2t counts once where it is. At most m n log10(m n). Of `rank_normalise(chains)` it is the
    bulk effective sample size.

    Source: Vehtari et al. 2021, doi:10.1214/20-BA1221, section 3; Geyer 1992,
    doi:10.1214/ss/1177011137.

    Args:
        chains: ``(n, c, ...)``, n >= 4.

    Returns:
        ``(...)``; NaN where nothing ever moves.
    """
    halves = _halves(chains)
    n, m, *rest = halves.shape
    flat = halves.reshape(n, m, -1)
    return np.array([_ess(flat[:, :, i]) for i in range(flat.shape[2])]).reshape(rest)


def _halves(chains: np.ndarray) -> np.ndarray:
    """``(n // 2, 2 c, ...)``: the first and the second halves, an odd state in the middle left out.

    Raises:
        ValueError: too few states.
    """
    array = np.asarray(chains, np.float64)
    if array.ndim < 2 or len(array) < 4:
        raise ValueError(
            f"chains: found shape {array.shape}, expected (states, chains, ...) with at least 4 "
            "states"
        )
    half = len(array) // 2
    return np.concatenate([array[:half], array[-half:]], axis=1)


def _variances(chains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean variance W within chains ``(n, m, ...)``, and (n - 1) / n W + B / n."""
    n = len(chains)
    within = chains.var(axis=0, ddof=1).mean(axis=0)
    return within, (n - 1) / n * within + chains.mean(axis=0).var(axis=0, ddof=1)


def _ess(chains: np.ndarray) -> float:
    """As `effective_sample_size`, of ``(n, m)`` values."""
    n, m = chains.shape
    within, total = _variances(chains)
    if total == 0:
        return float("nan")
    covariance = _autocovariance(chains).mean(axis=1)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    pairs = rho[: n // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    last = int(negative[0]) if len(negative) else len(pairs)
    tau = -1 + 2 * np.minimum.accumulate(pairs[:last]).sum()
    if last < len(pairs):
        tau += max(rho[2 * last], 0.0)
    return float(m * n / max(tau, 1 / np.log10(m * n)))


def _autocovariance(chains: np.ndarray) -> np.ndarray:
    """1 / n sum_s (x_s - mean) (x_s+t - mean) for t = 0 .. n - 1 of each column of ``(n, m)``."""
    n = len(chains)
    spectrum = np.fft.rfft(chains - chains.mean(axis=0), 2 * n, axis=0)
    return np.fft.irfft(spectrum * spectrum.conj(), 2 * n, axis=0)[:n] / n
