"""Samplers against closed forms, and their diagnostics against an AR(1) chain and ArviZ."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from rlgen.generative import samplers

RNG = np.random.default_rng


def log_two_bumps(x: np.ndarray) -> np.ndarray:
    """0.3 N(-2, 0.5) + 0.7 N(1, 1), times 10: unnormalised, Z = 10."""
    z = x[:, 0]
    parts = 0.6 * np.exp(-2 * (z + 2) ** 2) + 0.7 * np.exp(-((z - 1) ** 2) / 2)
    return np.log(10 * parts / np.sqrt(2 * np.pi))


def two_bumps_cdf(x: np.ndarray) -> np.ndarray:
    return 0.3 * scipy.stats.norm.cdf(x, -2, 0.5) + 0.7 * scipy.stats.norm.cdf(x, 1, 1)


def draw_wide(count: int, rng: np.random.Generator) -> np.ndarray:
    return 3 * rng.standard_normal((count, 1))


def log_wide(x: np.ndarray) -> np.ndarray:
    return -((x[:, 0] / 3) ** 2) / 2 - np.log(3 * np.sqrt(2 * np.pi))


# --- rejection ----------------------------------------------------------------------------------


def test_rejection_draws_from_the_density_at_the_rate_z_over_k() -> None:
    k = 40.0
    draws, rate = samplers.rejection(log_two_bumps, draw_wide, log_wide, np.log(k), 20_000, RNG(0))
    assert draws.shape == (20_000, 1)
    assert scipy.stats.kstest(draws[:, 0], two_bumps_cdf).pvalue > 0.01
    deviation = np.sqrt(0.25 * 0.75 / 80_000)
    assert rate == pytest.approx(10 / k, abs=4 * deviation)


def test_rejection_of_few_counts_the_proposals_that_it_needed() -> None:
    """The number of proposals to the first acceptance is geometric: its mean is k / Z."""
    needed = [
        1 / samplers.rejection(log_two_bumps, draw_wide, log_wide, np.log(40), 1, RNG(seed)).rate
        for seed in range(400)
    ]
    assert np.mean(needed) == pytest.approx(4.0, abs=4 * np.sqrt(12 / 400))


def test_rejection_refuses_a_k_that_is_too_small() -> None:
    with pytest.raises(ValueError, match=r"log_k: 2\.3.* is too small: at \[-?[\d.]+\] log p exc"):
        samplers.rejection(log_two_bumps, draw_wide, log_wide, np.log(10), 100, RNG(0))


# --- importance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [True, False])
def test_importance_gives_the_moments(normalised: bool) -> None:
    """E x^2 = 0.3 (4 + 0.25) + 0.7 (1 + 1) = 2.675; the constant 10 cancels if need be."""

    def log_p(x: np.ndarray) -> np.ndarray:
        return log_two_bumps(x) - normalised * np.log(10)

    def estimate(seed: int) -> samplers.Weighted:
        return samplers.importance(
            lambda x: x[:, 0] ** 2, log_p, draw_wide, log_wide, 2000, RNG(seed), normalised
        )

    found = [estimate(seed) for seed in range(200)]
    values = np.array([w.value for w in found])
    errors = np.array([w.error for w in found])
    assert values.mean() == pytest.approx(2.675, abs=4 * values.std() / np.sqrt(200))
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)
    # n / E_q w^2 of exact weights, by quadrature.
    x = np.linspace(-15, 15, 20_001)[:, None]
    second = np.trapezoid(np.exp(2 * (log_two_bumps(x) - np.log(10)) - log_wide(x)), x[:, 0])
    assert np.mean([w.ess for w in found]) == pytest.approx(2000 / second, rel=0.02)


def test_the_constants_only_cancel_where_they_are_not_asked_for() -> None:
    def first(normalised: bool) -> float:
        return samplers.importance(
            lambda x: np.ones(len(x)), log_two_bumps, draw_wide, log_wide, 5000, RNG(0), normalised
        ).value

    assert first(normalised=False) == pytest.approx(1.0)
    assert first(normalised=True) == pytest.approx(10, rel=0.05)


# --- Markov chains ------------------------------------------------------------------------------

START = np.linspace(-4, 4, 40)[:, None]


def test_metropolis_reaches_the_density_from_anywhere() -> None:
    chains, rate = samplers.metropolis_hastings(
        log_two_bumps, samplers.random_walk(2.5), START, 400, RNG(0), burn_in=200, thin=10
    )
    assert chains.shape == (400, 40, 1)
    assert 0.3 < rate < 0.6
    assert samplers.r_hat(chains)[0] < 1.01
    size = samplers.effective_sample_size(chains)[0]
    assert 8000 < size < 18_000
    # E x = 0.1 and var x = 2.665; the mean is as exact as the effective size says.
    assert chains.mean() == pytest.approx(0.1, abs=4 * np.sqrt(2.665 / size))
    independent = chains[::4].ravel()
    assert scipy.stats.kstest(independent, two_bumps_cdf).pvalue > 0.01


def test_hastings_corrects_a_proposal_that_is_not_symmetric() -> None:
    """Steps x' = x exp(noise) on Gamma(3, 1): without the ratio of q the draws are of Gamma(2)."""

    def log_gamma(x: np.ndarray) -> np.ndarray:
        return 2 * np.log(x[:, 0]) - x[:, 0]

    def scaled(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return x * np.exp(rng.standard_normal(x.shape))

    def log_q(to: np.ndarray, origin: np.ndarray) -> np.ndarray:
        steps = np.log(to[:, 0] / origin[:, 0])
        return -(steps**2) / 2 - np.log(to[:, 0])  # log-normal, up to a constant

    start = np.geomspace(0.1, 20, 40)[:, None]
    for given, shape in ((log_q, 3.0), (None, 2.0)):
        chains, _ = samplers.metropolis_hastings(
            log_gamma, scaled, start, 300, RNG(0), given, burn_in=100, thin=10
        )
        error = np.sqrt(shape / samplers.effective_sample_size(chains)[0])
        assert chains.mean() == pytest.approx(shape, abs=4 * error)
        assert error < 0.05


def test_one_step_of_metropolis_by_hand() -> None:
    """p = (1, 2, 3, 4) / 10 on 0..3, proposals to the right: A = 1 up, 1/4 from 3 to 0."""

    def log_p(x: np.ndarray) -> np.ndarray:
        return np.log(x[:, 0] + 1)

    start = np.repeat(np.arange(4.0), 10_000)[:, None]
    chains, rate = samplers.metropolis_hastings(log_p, lambda x, _: (x + 1) % 4, start, 1, RNG(0))
    moved = (chains[0] != start).reshape(4, -1).mean(axis=1)
    np.testing.assert_array_equal(moved[:3], 1.0)
    assert moved[3] == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 10_000))
    assert rate == pytest.approx(moved.mean())
    stays = samplers.metropolis_hastings(
        lambda x: np.where(x[:, 0] > 3, -np.inf, 0.0), lambda x, _: x + 1, start, 5, RNG(0)
    )
    assert stays.draws.max() == 3  # where p is 0 nothing goes


def test_burn_in_and_thinning_keep_the_states_that_they_say() -> None:
    start = np.zeros((2, 1))

    def up(x: np.ndarray, _: np.random.Generator) -> np.ndarray:
        return x + 1  # under a flat density always accepted

    chains, rate = samplers.metropolis_hastings(
        lambda x: np.zeros(len(x)), up, start, 3, RNG(0), lambda a, b: np.zeros(2), 5, thin=2
    )
    assert chains[:, 0, 0].tolist() == [7, 9, 11]
    assert rate == 1
    counted = samplers.gibbs([lambda x, _: x[:, 0] + 1], start, 3, RNG(0), burn_in=5, thin=2)
    assert counted[:, 0, 0].tolist() == [7, 9, 11]


def test_gibbs_of_a_correlated_gaussian() -> None:
    """x | y ~ N(r y, 1 - r^2): mean 0, covariance r; each coordinate is an AR(1) of phi = r^2."""
    r = 0.8

    def given(other: int) -> samplers.Propose:
        def conditional(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return r * x[:, other] + np.sqrt(1 - r**2) * rng.standard_normal(len(x))

        return conditional

    start = np.array([[-5.0, 5.0], [5.0, 5.0], [-5.0, -5.0], [0.0, 0.0]])
    chains = samplers.gibbs([given(1), given(0)], start, 10_000, RNG(0), burn_in=50)
    np.testing.assert_allclose(np.cov(chains.reshape(-1, 2).T), [[1, r], [r, 1]], atol=0.05)
    size = samplers.effective_sample_size(chains)
    expected = 40_000 * (1 - r**2) / (1 + r**2)
    np.testing.assert_allclose(size, expected, rtol=0.1)
    assert samplers.r_hat(chains).max() < 1.01


# --- diagnostics --------------------------------------------------------------------------------


def autoregression(phi: float, count: int, chains: int, shift: float = 0.0) -> np.ndarray:
    noise = RNG(0).standard_normal((count, chains))
    x = np.empty_like(noise)
    x[0] = noise[0]
    for t in range(1, count):
        x[t] = phi * x[t - 1] + noise[t]
    x[:, 0] += shift
    return x


@pytest.mark.parametrize(
    ("phi", "split", "ranks", "mean", "bulk"),
    [
        (0.0, 1.0005839748348015, 1.0005854497424216, 1811.6051609564688, 1832.4255980343723),
        (0.6, 1.007169675557861, 1.0070734124556113, 451.2170182311526, 452.63156510651737),
        (0.9, 1.037471511015688, 1.0378402018968886, 126.22995462639743, 126.95700462653063),
        (-0.5, 0.9988773748553472, 0.9990606252718035, 5913.729725511162, 5890.325161261704),
    ],
)
def test_the_diagnostics_are_arvizs(
    phi: float, split: float, ranks: float, mean: float, bulk: float
) -> None:
    """ArviZ 0.23.4's rhat (split, rank) and ess (mean, bulk) of the same four chains."""
    x = autoregression(phi, 500, 4)
    assert samplers.split_r_hat(x) == pytest.approx(split, rel=1e-12)
    assert samplers.r_hat(x) == pytest.approx(ranks, rel=1e-12)
    assert samplers.effective_sample_size(x) == pytest.approx(mean, rel=1e-9)
    scores = samplers.rank_normalise(x)
    assert samplers.effective_sample_size(scores) == pytest.approx(bulk, rel=1e-9)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_the_effective_size_of_an_autoregression(phi: float) -> None:
    """Of an AR(1) chain it is n (1 - phi) / (1 + phi)."""
    x = autoregression(phi, 50_000, 4)
    expected = x.size * (1 - phi) / (1 + phi)
    assert samplers.effective_sample_size(x) == pytest.approx(expected, rel=0.1)


def test_split_r_hat_by_hand() -> None:
    """Halves (0, 2), (2, 4), (1, 3), (5, 7): W = 2, their means 1, 3, 2, 6: B / n = 14 / 3."""
    x = np.array([[0.0, 1.0], [2.0, 3.0], [2.0, 5.0], [4.0, 7.0]])
    assert samplers.split_r_hat(x) == pytest.approx(np.sqrt((0.5 * 2 + 14 / 3) / 2))


def test_r_hat_finds_chains_that_disagree_in_place_spread_or_time() -> None:
    same, apart = RNG(1).standard_normal((1000, 4)), np.array([0, 0, 0, 1])
    assert samplers.r_hat(same) < 1.01
    assert samplers.r_hat(same + apart) > 1.05
    assert samplers.r_hat(same + np.linspace(0, 2, 1000)[:, None]) > 1.05  # by splitting
    spread = same * [1, 1, 1, 4]
    assert samplers.split_r_hat(spread) < 1.01  # which only the folded ranks see
    assert samplers.r_hat(spread) > 1.05
    both = np.stack([same, same + apart], axis=2)
    np.testing.assert_allclose(
        samplers.r_hat(both), [samplers.r_hat(same), samplers.r_hat(same + apart)]
    )
    assert samplers.effective_sample_size(both)[1] < 0.02 * samplers.effective_sample_size(same)


def test_chains_that_say_nothing() -> None:
    still = np.ones((10, 2))
    assert np.isnan(samplers.split_r_hat(still))
    assert np.isnan(samplers.r_hat(still))
    assert np.isnan(samplers.effective_sample_size(still))
    with pytest.raises(ValueError, match=r"chains: found shape \(3, 2\), expected .* at least 4"):
        samplers.r_hat(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"chains: found shape \(10,\)"):
        samplers.effective_sample_size(np.zeros(10))
