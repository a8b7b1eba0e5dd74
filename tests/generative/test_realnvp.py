"""RealNVP: its density against Jacobians, integrals and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor

from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig, load_experiment
from rlgen.errors import ConfigError
from rlgen.generative import data
from rlgen.generative.levels import dequantise, quantise
from rlgen.generative.realnvp import RealNVP
from rlgen.problem import build, load_problem


def make(shape: tuple[int, ...], spread: float = 0.5, **config: object) -> RealNVP:
    """A flow whose weights are moved at random: a new one only standardises."""
    torch.manual_seed(0)
    size = math.prod(shape)
    low, high = (0.0, 1.0) if config.get("levels") else (-2.0, 3.0)
    mean = np.linspace(low + 0.2, high - 0.3, size).astype(np.float32)
    network = NetworkConfig.model_validate({"hidden": [8], "activation": "tanh"})
    problem = Problem(
        data_mean=mean, data_range=(low, high), data_shape=shape, data_count=100, network=network
    )
    algorithm = RealNVP(RealNVP.Config.model_validate(config), problem, np.random.default_rng(0))
    with torch.no_grad():
        for parameter in algorithm.network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=spread / max(size, 8) ** 0.5)
        algorithm.average.load_state_dict(algorithm.network.state_dict())
    return algorithm


KINDS = [
    ((2,), {}),
    ((5,), {"couplings": 3}),
    ((3, 3), {"couplings": 4}),
    ((2, 2, 3), {"couplings": 5, "levels": 256}),
    ((3, 3), {"couplings": 4, "levels": 2, "margin": 0.01}),
]


@pytest.mark.parametrize(("shape", "config"), KINDS)
def test_log_prob_is_that_of_the_numeric_jacobian(shape, config) -> None:
    algorithm = make(shape, **config)
    algorithm.average.double()
    rows = torch.rand(6, math.prod(shape), dtype=torch.float64)
    for row, log_prob in zip(rows, algorithm.log_prob(rows).detach(), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: algorithm.encode(x[None])[0], row)
        assert isinstance(jacobian, Tensor)
        log_det = np.linalg.slogdet(jacobian.numpy())[1]
        z = algorithm.encode(row[None])[0].detach().numpy()
        expected = multivariate_normal(np.zeros(len(z))).logpdf(z) + log_det
        assert float(log_prob) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("shape", "config"), KINDS)
def test_every_value_is_moved_and_half_of_them_by_the_other_half(shape, config) -> None:
    algorithm = make(shape, **config)
    x = torch.rand(1, math.prod(shape))
    jacobian = torch.autograd.functional.jacobian(lambda v: algorithm.encode(v)[0], x)
    assert isinstance(jacobian, Tensor)
    assert int((jacobian.squeeze() != 0).sum()) > math.prod(shape) ** 2 / 2


@pytest.mark.parametrize(
    ("shape", "config", "low", "high"),
    [
        ((2,), {}, -25.0, 26.0),
        ((1, 2), {"levels": 3}, -0.25, 1.25),  # the cells of three levels
        ((2,), {"levels": 2}, -0.5, 1.5),
    ],
)
def test_the_density_integrates_to_one(shape, config, low, high) -> None:
    """Of pixels, to the share of the draws that lie within the cells: logits may lie beyond."""
    algorithm = make(shape, **config)
    count = 1000
    ticks = low + (high - low) * (torch.arange(count) + 0.5) / count  # midpoints
    with torch.no_grad():
        density = algorithm.log_prob(torch.cartesian_prod(ticks, ticks)).double().exp()
    integral = float(density.mean()) * (high - low) ** 2
    with torch.no_grad():
        samples = algorithm.decode(algorithm.prior(100_000))
    inside = float(((samples > low) & (samples < high)).all(1).float().mean())
    assert integral == pytest.approx(inside, abs=5e-3)  # four standard errors
    if not config:
        assert integral == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("shape", "config"), [*KINDS, ((28, 28), {"levels": 256})])
def test_decode_inverts_encode(shape, config) -> None:
    algorithm = make(shape, **config)
    x = torch.rand(20, math.prod(shape))
    with torch.no_grad():
        z = algorithm.encode(x)
        torch.testing.assert_close(algorithm.decode(z), x, atol=1e-5, rtol=0)
        assert z.shape == x.shape
        assert not torch.allclose(z, x, atol=0.1)


def test_the_halves_are_a_checkerboard() -> None:
    algorithm = make((3, 4))
    assert algorithm.network.sizes == (6, 6)
    first = set(algorithm.network.order[:6].tolist())
    assert first == {0, 2, 5, 7, 8, 10}  # row by row: x.x. / .x.x / x.x.


def test_the_bound_is_below_the_probability_of_the_cell() -> None:
    """P of each of the 9 rows of two 3-level pixels, by integrating the density over its cell."""
    algorithm = make((1, 2), levels=3, spread=0.5)
    count = 120
    inside = (torch.arange(count) + 0.5) / count - 0.5
    values = torch.tensor([0.0, 0.5, 1.0])
    rows = torch.cartesian_prod(values, values)
    offsets = torch.cartesian_prod(inside, inside) / 2
    with torch.no_grad():
        density = algorithm.log_prob((rows[:, None] + offsets).reshape(-1, 2)).double()
        exact = density.exp().reshape(9, -1).mean(1) / 4  # a cell's area
        draws = torch.stack(
            [algorithm.log_likelihood(algorithm.average, rows) for _ in range(2000)]
        ).double()
    expected = density.reshape(9, -1).mean(1) - 2 * math.log(2)
    error = 4 * draws.std(0) / 2000**0.5
    assert bool(((draws.mean(0) - expected).abs() < error).all())
    assert bool((expected < exact.log()).all())
    assert 0.2 < float(exact.sum()) <= 1.001


def test_dequantised_values_fill_their_cells() -> None:
    torch.manual_seed(0)
    x = torch.tensor([[0.0, 0.25, 1.0]]).repeat(20_000, 1)
    spread = (dequantise(x, 5) - x) * 4
    assert float(spread.min()) >= -0.5
    assert float(spread.max()) <= 0.5
    torch.testing.assert_close(spread.var(0), torch.full((3,), 1 / 12), atol=2e-3, rtol=0)
    assert torch.equal(quantise(dequantise(x, 5), 5), x)
    assert quantise(torch.tensor([[-3.0, 7.0]]), 5).tolist() == [[0.0, 1.0]]


def test_a_new_flow_standardises_pixels() -> None:
    """Of values between 0 and 1 none varies more than one that is either, of the same mean."""
    experiment = load_experiment("realnvp-digits")
    algorithm = build(experiment, 0)
    assert experiment.data is not None
    rows = data.load(experiment.data, 0)
    torch.manual_seed(0)
    x = dequantise(torch.from_numpy(rows.rows("train", np.arange(1000))), 17)
    with torch.no_grad():
        z = algorithm.encode(x)
    # The mean of the logit is not the logit of the mean: for pixels that are mostly gray it is off.
    assert float(z.std(0).max()) < 1.5
    assert 0.3 < float(z.std(0).median()) < 1.1
    assert float(z.mean(0).abs().max()) < 1.0


def test_a_gaussian_is_fitted_to_its_entropy() -> None:
    """The ceiling of the mean log density is minus the entropy, 1/2 log |2 pi e C|."""
    mean, covariance = np.array([1.0, -2.0]), np.array([[1.0, 0.8], [0.8, 2.0]])
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal(mean, covariance, 20_000).astype(np.float32)
    network = NetworkConfig.model_validate({"hidden": [16]})
    problem = Problem(
        data_mean=x.mean(0), data_range=(x.min(), x.max()), data_shape=(2,), network=network
    )
    torch.manual_seed(0)
    config = RealNVP.Config.model_validate({"couplings": 4, "learning_rate": 0.01})
    algorithm = RealNVP(config, problem, rng)
    for step in range(400):
        algorithm.update({"x": torch.from_numpy(x[step % 40 * 500 :][:500])})
    held_out = rng.multivariate_normal(mean, covariance, 20_000)
    with torch.no_grad():
        log_prob = algorithm.evaluate({"x": torch.from_numpy(held_out).float()})["log_likelihood"]
    true = multivariate_normal(mean, covariance).logpdf(held_out)
    assert isinstance(log_prob, Tensor)
    gap = float(true.mean() - log_prob.double().mean())  # the divergence KL(true || flow)
    assert -1e-3 < gap < 0.03
    entropy = 0.5 * np.log(np.linalg.det(2 * np.pi * np.e * covariance))
    assert float(log_prob.mean()) == pytest.approx(-entropy, abs=0.05)
    with torch.no_grad():
        samples = algorithm.sample(20_000).numpy()
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=0.2)


def two_moons_log_prob(x: np.ndarray) -> np.ndarray:
    """The true log density: two half circles, integrated over the angle, of deviation 0.05."""
    angle = np.pi * (np.arange(2000) + 0.5) / 2000
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    centres = np.concatenate([upper, np.array([1.0, 0.5]) - upper])
    squares = np.square(x[:, None] - centres).sum(-1)
    log_normal = -squares / (2 * 0.05**2) - np.log(2 * np.pi * 0.05**2)
    log_prob: np.ndarray = logsumexp(log_normal, axis=1) - np.log(len(centres))
    return log_prob


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))]
)
def test_two_moons_come_near_their_true_density(seed) -> None:
    """The mean log density of held-out rows under the truth is -0.29 nats."""
    experiment = load_experiment("realnvp-two-moons", [f"seed={seed}"])
    assert experiment.data is not None
    torch.manual_seed(seed)
    algorithm, rows = build(experiment, seed), data.load(experiment.data, seed)
    order = np.arange(rows.count("train"))
    size = experiment.hyperparameters.batch_size  # type: ignore[attr-defined]
    for _ in range(experiment.stop.epochs or 0):
        algorithm.rng.shuffle(order)
        for part in np.split(order, range(size, len(order), size)):
            algorithm.update({"x": torch.from_numpy(rows.rows("train", part))})
    held_out = rows.rows("validation", np.arange(rows.count("validation")))
    with torch.no_grad():
        found = algorithm.evaluate({"x": torch.from_numpy(held_out)})["log_likelihood"]
        samples = algorithm.sample(2000).numpy()
    assert isinstance(found, Tensor)
    true = two_moons_log_prob(held_out)
    assert -0.4 < true.mean() < -0.2
    assert true.mean() - 0.2 < float(found.mean()) < true.mean() + 0.02
    # Of the data 99.8 % have a density above exp(-5); the sparse bridge between the moons has not.
    assert (two_moons_log_prob(samples) > -5).mean() > 0.95


def test_digits_beat_independent_pixels() -> None:
    """Each pixel's own table of 17 frequencies needs 2.40 bits a pixel."""
    experiment = load_experiment("realnvp-digits")
    assert experiment.data is not None
    torch.manual_seed(0)
    algorithm, rows = build(experiment, 0), data.load(experiment.data, 0)
    shard = data.Shard(rows, 0, 64)
    while shard.epoch < 20:
        algorithm.update({k: torch.from_numpy(v) for k, v in shard.next().items()})
    train = np.rint(16 * rows.rows("train", np.arange(rows.count("train")))).astype(int)
    x = rows.rows("validation", np.arange(rows.count("validation")))
    counts = np.stack([np.bincount(column, minlength=17) for column in train.T]) + 1
    shares = counts / counts.sum(1, keepdims=True)
    chosen = shares[np.arange(64), np.rint(16 * x).astype(int)]
    with torch.no_grad():
        figures = algorithm.evaluate({"x": torch.from_numpy(x)})
        samples = algorithm.sample(50)
    bits = figures["bits_per_value"]
    assert isinstance(bits, Tensor)
    assert float(bits.mean()) < -np.log2(chosen).mean() - 0.1
    nats = figures["log_likelihood_bound"]
    torch.testing.assert_close(nats, -bits * 64 * math.log(2))
    assert torch.equal(quantise(samples, 17), samples)
    assert bool(((samples >= 0) & (samples <= 1)).all())


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        (
            "realnvp-two-moons",
            "hyperparameters.levels=256",
            r"levels: 256 needs data in \[0, 1\], not -?\d.* in row \d+, .*; set it to 0",
        ),
        ("realnvp-digits", "hyperparameters.levels=1", r"levels: one level holds no information"),
        (
            "realnvp-two-moons",
            "hyperparameters.margin=0.1",
            r"margin has an effect only with levels > 0",
        ),
        ("realnvp-two-moons", "hyperparameters.couplings=1", r"greater than or equal to 2"),
    ],
)
def test_what_contradicts_is_refused(config, override, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(load_experiment(config, [override]), 0)


@pytest.mark.parametrize("name", ["realnvp-digits", "ddpm-digits"])
@pytest.mark.parametrize("seed", range(3))  # the row is of another split with each
def test_rows_between_the_levels_are_refused_before_training(name, seed, tmp_path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8)) / 255
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32))
    changes = [f"data.name={tmp_path}/x.npz", "hyperparameters.levels=256", f"seed={seed}"]
    changes += ["data.validation=0.3", "data.test=0.3"]
    build(load_experiment(name, changes), 0)
    x[41, 2, 3] = 0.0625
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32))
    message = r"levels: 256 needs values k/255, not 0.0625 in row 41, pixel \(2, 3\); give the num"
    with pytest.raises(ConfigError, match=message):
        build(load_experiment(name, changes), 0)


def test_pixels_are_of_their_own_levels_and_no_others() -> None:
    build(load_experiment("realnvp-digits", ["data.binarize=true"]), 0)  # 0 and 1 are of any
    message = r"levels: 16 needs values k/15, not 0\.\d+ in row 0, pixel"
    with pytest.raises(ConfigError, match=message):
        build(load_experiment("realnvp-digits", ["hyperparameters.levels=16"]), 0)


def test_rows_of_one_value_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "one.npz", x=np.random.default_rng(0).random((50, 1)))
    experiment = load_experiment("realnvp-two-moons", [f"data.name={tmp_path}/one.npz"])
    with pytest.raises(ConfigError, match=r"data\.name: realnvp needs rows of at least 2 values"):
        load_problem(experiment)
