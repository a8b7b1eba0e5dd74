"""Divergences by quadrature, where samples would only show them roughly (sections 13.3.5, E.3).

The examples of two figures of the book: distributions without a common support, on which the
gradient of a GAN vanishes, and a Gaussian fitted to a mixture of two in both directions of the
Kullback-Leibler divergence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp

CENTRES = np.array([[-2.0, -2.0], [2.0, 2.0]])  # of the mixture p, in equal parts
VARIANCE = 0.5  # of each of its components, in every direction
_POINTS = 40  # of a Gauss-Hermite rule, along each axis


def optimal_discriminator(x: np.ndarray, real: float, made: float) -> np.ndarray:
    """D*(x) = p_r(x) / (p_r(x) + p_theta(x)) of N(real, 1) and N(made, 1) (eq 13.36)."""
    return np.asarray(expit(_log_ratio(x, real, made)))


def js_of_shifted(shift: float) -> float:
    """The Jensen-Shannon divergence of N(0, 1) and N(shift, 1), in nats: at most log 2.

    By eq 13.41, E log D*(x) + E log(1 - D*(x~)) = 2 JS - 2 log 2; the two terms are equal here.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    # log D*, with -log(1 + exp(-t)) rather than the logarithm of a rounded 0.
    return float(np.log(2) + weights @ log_expit(_log_ratio(nodes, 0.0, shift)) / weights.sum())


def _log_ratio(x: np.ndarray, real: float, made: float) -> np.ndarray:
    return (np.square(x - made) - np.square(x - real)) / 2


@dataclass(frozen=True)
class Fit:
    """A Gaussian q fitted to p, and the divergence that is left, in nats."""

    mean: np.ndarray  # (2,)
    covariance: np.ndarray  # (2, 2)
    divergence: float


def log_mixture(x: np.ndarray) -> np.ndarray:
    """log p ``(...)`` of the mixture at points ``(..., 2)``."""
    squared = np.square(x[..., None, :] - CENTRES).sum(axis=-1)
    logs = -squared / (2 * VARIANCE) - np.log(2 * np.pi * VARIANCE)
    return np.asarray(logsumexp(logs, axis=-1) - np.log(len(CENTRES)))


def fit_gaussian(
    direction: Literal["forward", "reverse"], start: tuple[float, float] = (1.0, 0.5)
) -> Fit:
    """The Gaussian q nearest to the mixture: by KL(p || q) (forward) or KL(q || p) (reverse).

    Forward, the best q has the mean and covariance of p (eq 13.49). Reverse, it has no closed form
    and several local optima (eq 13.50): the search begins at ``start`` with the covariance I, and
    from a start between the modes it may end in a saddle between them.
    """
    if direction == "forward":
        mean = CENTRES.mean(axis=0)
        covariance = VARIANCE * np.eye(2) + np.cov(CENTRES.T, bias=True)
        x, weights = _rule(CENTRES[:, None], np.sqrt(VARIANCE) * np.eye(2))
        gaps = log_mixture(x) - log_gaussian(x, mean, covariance)
        return Fit(mean, covariance, float((weights * gaps).sum(axis=-1).mean()))

    def kl(parameters: np.ndarray) -> float:
        # q = N(mean, L L'), whose entropy is 1 + log 2 pi + log det L.
        x, weights = _rule(parameters[:2], _factor(parameters))
        entropy = 1 + np.log(2 * np.pi) + parameters[2] + parameters[3]
        return float(-entropy - weights @ log_mixture(x))

    found = minimize(kl, np.array([*start, 0.0, 0.0, 0.0]), method="BFGS")
    factor = _factor(found.x)
    return Fit(found.x[:2], factor @ factor.T, float(found.fun))


def log_gaussian(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """log N(x | mean, covariance) ``(...)`` at points ``(..., 2)``."""
    off = x - mean
    squared = np.einsum("...i,ij,...j", off, np.linalg.inv(covariance), off)
    return np.asarray(-squared / 2 - np.log(2 * np.pi) - np.linalg.slogdet(covariance)[1] / 2)


def _factor(parameters: np.ndarray) -> np.ndarray:
    """The lower Cholesky factor of (log L11, log L22, L21), the last three parameters."""
    return np.array([[np.exp(parameters[2]), 0.0], [parameters[4], np.exp(parameters[3])]])


def _rule(mean: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points ``(..., P, 2)`` and weights ``(P,)`` of an expectation under N(mean, L L')."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_POINTS)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    both = np.outer(weights, weights).ravel()
    return mean + grid @ factor.T, both / both.sum()
