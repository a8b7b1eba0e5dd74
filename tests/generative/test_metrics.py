"""Distances of samples: closed forms, scipy's and brute force's answers, and known rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
from scipy.spatial.distance import cdist

from rlgen.generative import metrics
from rlgen.generative.densities import DENSITIES, modes

RNG = np.random.default_rng


def normal(rows: int, columns: int, seed: int) -> np.ndarray:
    return RNG(seed).standard_normal((rows, columns))


def test_squared_distances_far_from_the_origin() -> None:
    x, y = normal(7, 3, 0) + 1e6, normal(5, 3, 1) + 1e6
    expected = cdist(x, y, "sqeuclidean")
    np.testing.assert_allclose(metrics.squared_distances(x, y), expected, rtol=1e-6)


# --- MMD ----------------------------------------------------------------------------------------


def test_mmd_is_its_definition_term_by_term() -> None:
    x, y, s = normal(6, 2, 0), normal(4, 2, 1) + 0.5, 0.7

    def k(a: np.ndarray, b: np.ndarray) -> float:
        squared = float(np.square(a - b).sum())
        return float(np.mean([np.exp(-squared / (2 * (f * s) ** 2)) for f in metrics.BANDWIDTHS]))

    def within(rows: np.ndarray) -> float:
        return float(np.mean([k(a, b) for a, b in itertools.permutations(rows, 2)]))

    across = float(np.mean([k(a, b) for a in x for b in y]))
    expected = within(x) + within(y) - 2 * across
    assert metrics.squared_mmd(x, y, s) == pytest.approx(expected, rel=1e-12)


def test_mmd_of_gaussians_has_its_closed_form() -> None:
    """N(0, 1) and N(a, 1): E k = s / sqrt(s^2 + 2) exp(-a^2 / (2 (s^2 + 2))) for each kernel."""
    a, width, draws = 1.0, 0.8, []

    def expected_kernel(shift: float) -> float:
        squares = np.square(np.array(metrics.BANDWIDTHS) * width)
        return float(
            np.mean(np.sqrt(squares / (squares + 2)) * np.exp(-(shift**2) / (2 * (squares + 2))))
        )

    expected = 2 * expected_kernel(0.0) - 2 * expected_kernel(a)
    for seed in range(80):
        x, y = normal(100, 1, seed), normal(80, 1, 1000 + seed) + a
        draws.append(metrics.squared_mmd(x, y, width))
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws) - expected) < 3 * error
    assert error < 0.06 * expected


def test_mmd_is_unbiased_and_its_default_width_is_the_datas() -> None:
    values = [
        metrics.squared_mmd(normal(30, 5, seed), normal(20, 5, 500 + seed)) for seed in range(100)
    ]
    assert min(values) < 0 < max(values)  # what a biased estimate never is
    assert abs(np.mean(values)) < 3 * np.std(values) / 10
    x, y = normal(9, 2, 0), normal(8, 2, 1)
    distances = [float(np.linalg.norm(a - b)) for a, b in itertools.combinations(y, 2)]
    assert metrics.median_distance(y) == pytest.approx(np.median(distances))
    assert metrics.squared_mmd(x, y) == metrics.squared_mmd(x, y, float(np.median(distances)))
    assert metrics.median_distance(np.zeros((5, 2))) == 1.0
    assert metrics.squared_mmd(np.zeros((4, 2)), np.zeros((5, 2))) == pytest.approx(0.0)


# --- Wasserstein --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(6, 6), (7, 4), (3, 10), (1, 5)])
def test_on_a_line_it_is_scipys(n: int, m: int) -> None:
    x, y = normal(n, 3, n), 2 * normal(m, 3, m) + 1
    expected = [scipy.stats.wasserstein_distance(x[:, i], y[:, i]) for i in range(3)]
    np.testing.assert_allclose(metrics.wasserstein_1d(x, y, order=1), expected, rtol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (6, 4)])
def test_on_a_line_it_is_the_linear_programs(n: int, m: int) -> None:
    x, y = normal(n, 1, 3), normal(m, 1, 4)
    cost = np.square(x - y.T).ravel()
    ones = [np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))]
    masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    plan = scipy.optimize.linprog(cost, A_eq=np.concatenate(ones), b_eq=masses)
    assert metrics.wasserstein_1d(x, y)[0] ** 2 == pytest.approx(plan.fun, rel=1e-9)


def test_sliced_wasserstein_of_a_shift() -> None:
    """Rows moved by a: the mean of (a'u)^2 over directions is |a|^2 / d."""
    x, shift = normal(50, 4, 0), np.array([1.0, -2.0, 0.5, 3.0])
    value = metrics.sliced_wasserstein(x + shift, x, RNG(0), projections=20_000)
    assert value == pytest.approx(np.linalg.norm(shift) / 2, rel=0.02)
    assert metrics.sliced_wasserstein(x[::-1], x, RNG(0)) == pytest.approx(0.0, abs=1e-12)
    one = metrics.sliced_wasserstein(x[:, :1], 3 * x[:, :1], RNG(0), projections=1)
    assert one == pytest.approx(metrics.wasserstein_1d(x[:, :1], 3 * x[:, :1])[0])


# --- Fréchet ------------------------------------------------------------------------------------

GAUSSIANS = ([0, 0], [[2, 0.5], [0.5, 1]], [3, 4], [[1, -0.3], [-0.3, 1.5]])


def test_w2_of_two_gaussians_has_its_golden_value() -> None:
    """25.463471 squared, 5.046134: computed by eq E.21, beside scipy's matrix square roots."""
    value = metrics.squared_w2(*GAUSSIANS)
    assert value == pytest.approx(25.463471, abs=5e-7)
    assert np.sqrt(value) == pytest.approx(5.046134, abs=5e-7)
    s1, s2 = np.array(GAUSSIANS[1]), np.array(GAUSSIANS[3])
    root = scipy.linalg.sqrtm(s2)
    cross = scipy.linalg.sqrtm(root @ s1 @ root)
    assert value == pytest.approx(25 + np.trace(s1 + s2 - 2 * cross).real, rel=1e-12)


def test_w2_of_points_and_of_itself() -> None:
    zero = np.zeros((2, 2))  # of no variance: the Euclidean distance
    assert metrics.squared_w2([0, 0], zero, [3, 4], zero) == pytest.approx(25)
    mean, cov, *_ = GAUSSIANS
    assert metrics.squared_w2(mean, cov, mean, cov) == pytest.approx(0, abs=1e-12)
    flat = np.diag([1.0, 0.0])  # singular ones are allowed: (2 - 1)^2 along the only axis
    assert metrics.squared_w2([0, 0], flat, [0, 0], 4 * flat) == pytest.approx(1.0)


def test_the_frechet_distance_takes_the_moments_of_rows() -> None:
    x, y = normal(40, 3, 0) @ normal(3, 3, 1), normal(50, 3, 2) + 1
    expected = metrics.squared_w2(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert metrics.frechet_distance(x, y) == pytest.approx(expected)
    assert metrics.frechet_distance(x[:, :1], y[:, :1]) == pytest.approx(
        (x[:, 0].mean() - y[:, 0].mean()) ** 2 + (x[:, 0].std(ddof=1) - y[:, 0].std(ddof=1)) ** 2
    )


# --- precision and recall -----------------------------------------------------------------------


def test_precision_and_recall_by_a_loop() -> None:
    x, y, k = normal(25, 2, 0) + 1, normal(30, 2, 1), 3

    def share_near(points: np.ndarray, others: np.ndarray) -> float:
        near = 0
        for point in points:
            for other in others:
                radius = sorted(np.linalg.norm(other - o) for o in others)[k]  # [0] is itself
                if np.linalg.norm(point - other) <= radius:
                    near += 1
                    break
        return near / len(points)

    precision, recall = metrics.precision_recall(x, y, k)
    assert precision == share_near(x, y)
    assert recall == share_near(y, x)
    assert 0.3 < precision < 1


def test_precision_sees_bad_samples_and_recall_missing_ones() -> None:
    data = np.concatenate([normal(200, 2, 0), normal(200, 2, 1) + 20])
    one_mode = normal(400, 2, 2)
    precision, recall = metrics.precision_recall(one_mode, data)
    assert precision > 0.9
    assert 0.4 < recall < 0.55  # the other half of the data is far from every sample
    half_bad = np.concatenate([data[::2] + 0.01, normal(200, 2, 3) - 50])
    precision, recall = metrics.precision_recall(half_bad, data)
    assert precision == pytest.approx(0.5, abs=0.02)
    assert recall > 0.9


# --- modes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("ring", 8), ("grid", 25)])
def test_the_density_itself_has_all_modes(name: str, count: int) -> None:
    points, component = DENSITIES[name](5000, RNG(0))
    found, good = metrics.count_modes(points, name)
    assert found == count
    # In the plane a share 1 - exp(-3^2 / 2) lies within three deviations.
    assert good == pytest.approx(1 - np.exp(-4.5), abs=3 * np.sqrt(0.0111 / 5000))
    assert metrics.count_modes(points[component < 3], name)[0] == 3


def test_a_mode_is_found_by_a_point_within_three_deviations() -> None:
    centres = modes("ring")  # of deviation 0.01
    outward = centres[:2] * [[1.029], [1.031]]
    assert metrics.count_modes(outward, "ring") == (1, 0.5)
    assert metrics.count_modes(np.zeros((10, 2)), "ring") == (0, 0.0)


# --- error bars ---------------------------------------------------------------------------------


def test_the_jackknife_of_means_is_the_standard_error() -> None:
    """Of a mean with a row to each group it is exactly std / sqrt(n)."""
    x = normal(50, 1, 0)
    values, errors = metrics.jackknife(lambda rows: (rows.mean(), 7.0), x, groups=50)
    np.testing.assert_allclose(values, [x.mean(), 7.0])
    np.testing.assert_allclose(errors, [x.std(ddof=1) / np.sqrt(50), 0.0], atol=1e-12)


def test_the_jackknife_tells_how_much_a_distance_varies() -> None:
    def distance(x: np.ndarray, y: np.ndarray) -> tuple[float]:
        return (metrics.frechet_distance(x, y),)

    found = [
        metrics.jackknife(distance, normal(200, 2, seed) + 1, normal(200, 2, 99 + seed))
        for seed in range(60)
    ]
    spread = np.std([value[0] for value, _ in found])
    assert np.mean([error[0] for _, error in found]) == pytest.approx(spread, rel=0.25)


# --- codes --------------------------------------------------------------------------------------


def test_codes_are_classified_by_a_line() -> None:
    labels = RNG(0).integers(3, size=300)
    codes = np.eye(3)[labels] * [[1000, 1, 0.001]] + 0.0
    codes = np.concatenate([codes, np.full((300, 1), 5.0)], axis=1)  # a constant one harms nothing
    right = metrics.classify(codes[:200], labels[:200], codes[200:], labels[200:])
    assert right.shape == (100,)
    assert right.all()  # scales apart by a million are standardised
    guesses = metrics.classify(normal(200, 3, 1), labels[:200], normal(100, 3, 2), labels[200:])
    assert guesses.mean() < 0.5


# --- between distributions ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_optimal_discriminator_measures_jensen_shannon(seed: int) -> None:
    """Eq 13.41 and 13.47, on random distributions of six points."""
    real, made = RNG(seed).dirichlet(np.ones(6), size=2)
    best = real / (real + made)
    js = metrics.js_divergence(real, made)
    saturating = real @ np.log(best) + made @ np.log(1 - best)
    assert saturating == pytest.approx(2 * js - 2 * np.log(2), abs=1e-14)
    kl = metrics.kl_divergence(made, real)
    expected = -kl + 2 * js - 2 * np.log(2) - real @ np.log(best)
    assert made @ np.log(best) == pytest.approx(expected, abs=1e-14)
    assert kl == pytest.approx(scipy.stats.entropy(made, real))


def test_divergences_of_disjoint_distributions() -> None:
    p, q = [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.1, 0.9]
    assert metrics.js_divergence(p, q) == pytest.approx(np.log(2))
    assert metrics.kl_divergence(p, q) == np.inf
    assert metrics.kl_divergence(p, p) == 0


def test_blocks_of_rows_change_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 3)), rng.normal(size=(31, 3))
    whole = (metrics.squared_mmd(x, y, 1.5), *metrics.precision_recall(x, y))
    monkeypatch.setattr(metrics, "AT_ONCE", 5)
    in_blocks = (metrics.squared_mmd(x, y, 1.5), *metrics.precision_recall(x, y))
    assert in_blocks == pytest.approx(whole, rel=1e-12)
    assert 0 < whole[1] < 1 and 0 < whole[2] < 1
