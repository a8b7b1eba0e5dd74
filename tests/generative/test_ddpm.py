"""The diffusion model: its distributions against Bayes' rule, its sampler against closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, wasserstein_distance
from torch import Tensor, nn

from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig, load_experiment
from rlgen.errors import ConfigError
from rlgen.generative import data, diffusion
from rlgen.generative.ddpm import DDPM
from rlgen.generative.denoisers import make_denoiser
from rlgen.generative.densities import DENSITIES
from rlgen.generative.diffusion import Diffusion, betas, bound, decoder_log_prob
from rlgen.problem import build


def double(schedule: str, steps: int) -> Diffusion:
    """A diffusion in double precision."""
    result = Diffusion(schedule, steps)
    beta = torch.cat((torch.zeros(1, dtype=torch.float64), betas(schedule, steps)))
    result.beta, result.alpha_bar = beta, (1 - beta).cumprod(0)
    return result


def times(n: int, t: int) -> Tensor:
    return torch.full((n,), t)


def make(shape: tuple[int, ...] = (2,), hidden: tuple[int, ...] = (16,), **config: object) -> DDPM:
    torch.manual_seed(0)
    network = NetworkConfig.model_validate({"hidden": list(hidden), "activation": "silu"})
    problem = Problem(
        data_mean=np.zeros(math.prod(shape), np.float32), data_shape=shape, network=network
    )
    settings = {"steps": 50, "sampling_steps": 10, **config}
    return DDPM(DDPM.Config.model_validate(settings), problem, np.random.default_rng(0))


def test_the_schedules_have_the_papers_values() -> None:
    linear = betas("linear", 1000)
    assert float(linear[0]) == pytest.approx(1e-4)
    assert float(linear[-1]) == pytest.approx(0.02)
    # The figure that goes with Ho et al.'s schedule: what is left of a row after 1000 steps.
    assert float(Diffusion("linear", 1000).alpha_bar[-1]) == pytest.approx(4.0358e-5, rel=1e-3)
    cosine = Diffusion("cosine", 1000).alpha_bar
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(999)]
    torch.testing.assert_close(cosine[:999], torch.tensor(f) / f[0], rtol=1e-4, atol=1e-7)
    assert float(betas("cosine", 1000).max()) == 0.999
    # Fewer steps end as noisy.
    assert float(Diffusion("linear", 100).alpha_bar[-1]) == pytest.approx(3e-5, rel=0.5)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_many_steps_of_noise_are_one(schedule) -> None:
    """q(x_t | x_0) against composing q(x_s | x_{s-1}): mean factor and variance."""
    process = double(schedule, 200)
    factor, variance, zero = 1.0, 0.0, torch.zeros(1, 1, dtype=torch.float64)
    for t in range(1, 201):
        beta = float(process.beta[t])
        factor, variance = math.sqrt(1 - beta) * factor, (1 - beta) * variance + beta
        mean = process.noised(zero + 1, times(1, t), zero)
        deviation = process.noised(zero, times(1, t), zero + 1)
        assert float(mean) == pytest.approx(factor, rel=1e-9)
        assert float(deviation) ** 2 == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize(("t", "s"), [(2, 1), (7, 6), (20, 19), (13, 4), (20, 1)])
def test_the_posterior_is_that_of_bayes_rule(t, s) -> None:
    """q(x_s | x_t, x_0) prop. to q(x_t | x_s) q(x_s | x_0), normalised numerically on a grid."""
    process = double("linear", 20)
    x_0, x_t = 0.7, -0.4
    now, then = float(process.alpha_bar[t]), float(process.alpha_bar[s])
    grid = np.linspace(-8, 8, 400_001)
    log_density = norm(math.sqrt(then) * x_0, math.sqrt(1 - then)).logpdf(grid)
    log_density += norm(math.sqrt(now / then) * grid, math.sqrt(1 - now / then)).logpdf(x_t)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = (weight * grid).sum()
    rows = [torch.full((1, 1), v, dtype=torch.float64) for v in (x_0, x_t)]
    found, variance = process.posterior(rows[0], rows[1], times(1, t), times(1, s))
    assert float(found) == pytest.approx(mean, abs=1e-8)
    assert float(variance) == pytest.approx((weight * (grid - mean) ** 2).sum(), rel=1e-6)


def test_with_eta_1_ddim_takes_ddpms_steps() -> None:
    """Mean and variance of eq 6 and 7 of Ho et al., by their own formulas."""
    process = double("cosine", 30)
    x, x_t = torch.randn(2, 5, 3, dtype=torch.float64)
    for t in range(2, 31):
        beta, now, then = (float(v) for v in (process.beta[t], *process.alpha_bar[[t, t - 1]]))
        expected = math.sqrt(then) * beta / (1 - now) * x
        expected += math.sqrt(1 - beta) * (1 - then) / (1 - now) * x_t
        mean, variance = process.posterior(x, x_t, times(5, t), times(5, t - 1), 1.0)
        torch.testing.assert_close(mean, expected)
        expected_variance = torch.full((5, 1), (1 - then) / (1 - now) * beta, dtype=torch.float64)
        torch.testing.assert_close(variance, expected_variance)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_eta_keeps_the_distribution_of_each_time(eta) -> None:
    """The mean over x_t of q(x_s | x_t, x_0) is q(x_s | x_0): its linear map, and its variance."""
    process = double("linear", 50)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    for t, s in ((50, 20), (20, 19), (9, 1), (5, 0)):
        now, then = (float(process.alpha_bar[k]) for k in (t, s))
        steps = times(1, t), times(1, s)
        of_x0, variance = process.posterior(zero + 1, zero + math.sqrt(now), *steps, eta)
        of_noise, _ = process.posterior(zero, zero + math.sqrt(1 - now), *steps, eta)
        assert float(of_x0) == pytest.approx(math.sqrt(then))
        assert float(of_noise) ** 2 + float(variance) == pytest.approx(1 - then, abs=1e-12)
        assert (float(variance) == 0) == (eta == 0 or s == 0)


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 1000])
def test_sampling_goes_from_the_last_time_to_0(steps) -> None:
    pairs = Diffusion("linear", 1000).times(steps)
    assert len(pairs) == steps
    assert (pairs[0][0], pairs[-1][1]) == (1000, 0)
    assert all(now > then for now, then in pairs)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(pairs))


class OptimalDenoiser(nn.Module):
    """E[e | x_t] of data N(mean, diag(deviation^2)), in closed form."""

    def __init__(self, process: Diffusion, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.process, self.mean, self.deviation = process, mean, deviation

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        left = self.process.at(t)
        variance = left * self.deviation.square() + 1 - left
        noise: Tensor = (1 - left).sqrt() * (x_t - left.sqrt() * self.mean) / variance
        return noise


MEAN, DEVIATION = torch.tensor([0.1, -0.2]), torch.tensor([0.15, 0.25])


def gaussian(steps: int, **config: object) -> DDPM:
    algorithm = make(steps=steps, **config)
    algorithm.centre, algorithm.half = 0.5, 2.0
    algorithm.average = OptimalDenoiser(algorithm.diffusion, MEAN, DEVIATION)
    return algorithm


@pytest.mark.parametrize(
    ("steps", "sampling_steps", "eta", "schedule"),
    [
        (400, 400, 1.0, "linear"),
        (400, 400, 0.0, "linear"),
        (1000, 200, 0.0, "cosine"),
    ],
)
def test_the_optimal_denoiser_of_a_gaussian_samples_it(
    steps, sampling_steps, eta, schedule
) -> None:
    algorithm = gaussian(steps, sampling_steps=sampling_steps, eta=eta, schedule=schedule)
    torch.manual_seed(1)
    x = (algorithm.sample(20_000) - 0.5) / 2
    torch.testing.assert_close(x.mean(0), MEAN, atol=4e-3, rtol=0)
    torch.testing.assert_close(x.std(0), DEVIATION, atol=0, rtol=0.06)


def test_without_noise_a_code_is_one_row() -> None:
    algorithm = gaussian(1000, sampling_steps=200)
    z = algorithm.prior(100)
    x = algorithm.decode(z)
    torch.manual_seed(5)
    assert torch.equal(algorithm.decode(z), x)
    # For a Gaussian, the map of DDIM is the linear one (but for its 200 steps).
    torch.testing.assert_close((x - 0.5) / 2, MEAN + DEVIATION * z, atol=0.04, rtol=0.05)


def test_the_bound_of_a_gaussian_is_its_closed_form() -> None:
    """Every term of eq 5 has one where x_0 is Gaussian and the estimate of it E[x_0 | x_t].

    What the bound lacks of the exact density is mostly the variances of the first steps, which are
    those of q and not learned.
    """
    algorithm, process, count = gaussian(1000), double("linear", 1000), 20_000
    deviations = 0.6 * DEVIATION  # narrow: estimates are clipped at -1 and 1
    algorithm.average = OptimalDenoiser(algorithm.diffusion, MEAN, deviations)
    torch.manual_seed(2)
    rows = MEAN + deviations * torch.randn(count, 2)
    elbo = algorithm.measure({"x": 0.5 + 2 * rows})["elbo"].double()
    beta, alpha_bar = process.beta.numpy(), process.alpha_bar.numpy()
    expected = exact = 0.0
    for mean, deviation in zip(MEAN.tolist(), deviations.tolist(), strict=True):
        now, then = alpha_bar[1:], alpha_bar[:-1]
        left = deviation**2 * (1 - now) / (now * deviation**2 + 1 - now)  # variance of x_0 | x_t
        decoder = -0.5 * math.log(2 * math.pi * beta[1]) - left[0] / (2 * beta[1])
        weight = then * beta[1:] ** 2 / (1 - now) ** 2
        variance = (1 - then) / (1 - now) * beta[1:]
        steps = (weight[1:] * left[1:] / (2 * variance[1:])).sum()
        square, last = mean**2 + deviation**2, alpha_bar[-1]
        prior = 0.5 * (last * square - last - math.log(1 - last))
        expected += decoder - steps - prior - math.log(2)  # of rows that are twice as wide
        exact -= 0.5 * math.log(2 * math.pi * math.e * (2 * deviation) ** 2)
    error = float(elbo.std()) / count**0.5
    assert error < 0.1
    assert abs(float(elbo.mean()) - expected) < 4 * error
    assert exact - 1.0 < expected < exact
    # A worse estimate of the noise: a bound that is much lower.
    algorithm.average = OptimalDenoiser(algorithm.diffusion, MEAN + 0.1, deviations)
    worse = algorithm.measure({"x": 0.5 + 2 * rows})["elbo"]
    assert float(worse.mean()) < expected - 0.5


def test_the_drawn_terms_of_the_bound_are_unbiased(monkeypatch) -> None:
    process = Diffusion("linear", 60)
    optimal = OptimalDenoiser(process, MEAN + 0.1, DEVIATION)
    x = MEAN + DEVIATION * torch.randn(3000, 2)

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        return process.clean(x_t, t, optimal(x_t, t))

    means, errors = [], []
    for terms in (5, 1000):  # drawn, and all 59
        monkeypatch.setattr(diffusion, "TERMS", terms)
        found = bound(process, estimate, x).double()
        means.append(float(found.mean()))
        errors.append(float(found.std()) / len(x) ** 0.5)
    assert abs(means[0] - means[1]) < 4 * math.hypot(*errors)
    assert errors[1] < errors[0]


def test_the_decoder_of_levels_is_a_distribution() -> None:
    """Of the cells of 5 levels, scaled to [-1, 1], with scipy's normal distribution."""
    mean, scale, width = torch.tensor([[0.3]]), 0.4, 0.5
    levels = torch.linspace(-1, 1, 5)[:, None]
    found = decoder_log_prob(levels, mean.expand(5, 1), scale, width).exp().numpy()
    edges = [-np.inf, -0.75, -0.25, 0.25, 0.75, np.inf]
    np.testing.assert_allclose(found, np.diff(norm(0.3, scale).cdf(edges)), rtol=1e-5)
    far = decoder_log_prob(torch.tensor([[-1.0, 1.0]]), torch.tensor([[1.0, -1.0]]), 0.01, 2 / 255)
    assert bool(torch.isfinite(far).all())
    density = decoder_log_prob(levels, mean.expand(5, 1), scale, 0.0).numpy()
    np.testing.assert_allclose(density, norm(0.3, scale).logpdf(levels[:, 0]), rtol=1e-5)


def test_an_update_follows_the_gradient_of_the_papers_loss() -> None:
    """The loss of eq 14 at a new network, whose estimate is nearly 0, is E e^2 = 1."""
    algorithm = make(shape=(4, 4), hidden=(8,), denoiser="unet")
    x = torch.rand(500, 16)
    assert float(algorithm.update({"x": x})["denoising_loss"]) == pytest.approx(1.0, abs=0.1)
    for _ in range(60):
        last = algorithm.update({"x": x[:100]})
    assert float(last["denoising_loss"]) < 0.8
    assert float(last["gradient_norm"]) > 0


def test_evaluations_and_samples_are_of_the_averaged_weights() -> None:
    algorithm = make(average=0.9, max_grad_norm=0.5)
    first = next(algorithm.network.parameters()).detach().clone()
    expected = first.clone()
    x = torch.rand(50, 2)
    for update in range(120):
        algorithm.update({"x": x})
        keep = min(0.9, (1 + update) / (10 + update))
        expected = keep * expected + (1 - keep) * next(algorithm.network.parameters()).detach()
    average = next(algorithm.average.parameters())
    torch.testing.assert_close(average, expected, atol=1e-6, rtol=1e-4)
    assert not torch.equal(average, next(algorithm.network.parameters()))

    def shown() -> list[Tensor]:
        torch.manual_seed(3)
        score = algorithm.evaluate({"x": x})["minus_denoising_loss"]
        assert isinstance(score, Tensor)
        return [score, algorithm.sample(5), algorithm.measure({"x": x})["elbo"]]

    with torch.no_grad():
        before = shown()
        for parameter in algorithm.network.parameters():
            parameter.add_(1.0)
        assert all(torch.equal(a, b) for a, b in zip(before, shown(), strict=True))
        for parameter in algorithm.average.parameters():
            parameter.add_(1.0)
        assert not any(torch.equal(a, b) for a, b in zip(before, shown(), strict=True))


def test_the_score_does_not_depend_on_chance() -> None:
    algorithm = make()
    x = torch.rand(70, 2)
    with torch.no_grad():
        scores = [algorithm.evaluate({"x": x})["minus_denoising_loss"] for _ in range(2)]
    assert isinstance(scores[0], Tensor)
    assert torch.equal(torch.as_tensor(scores[0]), torch.as_tensor(scores[1]))
    # A network that is asked for noise only and knows none of it errs by 1 in the mean.
    assert -1.3 < float(scores[0].mean()) < -0.7


def test_a_chain_goes_from_noise_to_a_sample() -> None:
    algorithm = make(steps=50, sampling_steps=10)
    algorithm.centre, algorithm.half = 0.5, 0.5
    with torch.no_grad():
        states = list(algorithm.chain(200))
        assert len(states) == 11
        assert {state.shape for state in states} == {(200, 2)}
        assert float(states[0].std()) == pytest.approx(0.5, abs=0.1)
        assert bool(((states[-1] >= 0) & (states[-1] <= 1)).all())
        torch.manual_seed(3)
        *_, last = algorithm.chain(4)
        torch.manual_seed(3)
        assert torch.equal(algorithm.sample(4), last)


def test_samples_are_of_the_levels() -> None:
    algorithm = make(shape=(4, 4), hidden=(8,), denoiser="unet", levels=3)
    with torch.no_grad():
        assert set(algorithm.sample(20).unique().tolist()) <= {0.0, 0.5, 1.0}
        figures = algorithm.measure({"x": torch.randint(0, 3, (30, 16)) / 2})
    torch.testing.assert_close(figures["elbo"], -figures["bits_per_value"] * 16 * math.log(2))
    assert float(figures["elbo"].max()) < 0  # a probability


@pytest.mark.parametrize(
    ("kind", "shape", "hidden"),
    [
        ("mlp", (2,), [8]),
        ("unet", (8, 8), [4, 8]),
        ("unet", (28, 28), [8, 8]),
        ("unet", (6, 10, 3), [8, 4]),
        ("unet", (32, 20, 3), [4]),
        ("unet", (7, 5), [4]),
    ],
)
def test_denoisers_see_the_row_and_the_time(kind, shape, hidden) -> None:
    torch.manual_seed(0)
    net = make_denoiser(kind, NetworkConfig(hidden=hidden), shape, 100)
    x, t = torch.randn(3, math.prod(shape)), torch.tensor([1, 50, 100])
    assert float(net(x, t).detach().square().mean()) < 0.01  # starts near no noise at all
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    noise = net(x, t)
    assert noise.shape == x.shape
    assert not torch.allclose(net(x, t - 1 + 2 * (t == 1)), noise)
    torch.testing.assert_close(net(x[1:2], t[1:2]), noise[1:2])  # a row by itself
    # Every value of the estimate depends on the row, each of a picture on those around it.
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v, t[:1])[0], x[:1])
    assert isinstance(jacobian, Tensor)
    dependent = (jacobian.squeeze() != 0).sum(1)
    assert int(dependent.min()) >= min(4, math.prod(shape))


def sliced_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over 50 directions of the distance of the projections (scipy's)."""
    angles = np.pi * (np.arange(50) + 0.5) / 50
    directions = np.stack([np.cos(angles), np.sin(angles)])
    distances = [wasserstein_distance(p, q) for p, q in zip((a @ directions).T, (b @ directions).T)]  # noqa: B905
    return float(np.mean(distances))


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))]
)
def test_two_moons_are_sampled_as_the_data_are(seed) -> None:
    experiment = load_experiment("ddpm-two-moons", [f"seed={seed}"])
    assert experiment.data is not None
    torch.manual_seed(seed)
    algorithm, rows = build(experiment, seed), data.load(experiment.data, seed)
    shard = data.Shard(rows, seed, experiment.hyperparameters.batch_size)  # type: ignore[attr-defined]
    while shard.epoch < (experiment.stop.epochs or 0):
        algorithm.update({k: torch.from_numpy(v) for k, v in shard.next().items()})
    fresh = [DENSITIES["two_moons"](2000, np.random.default_rng(k))[0] for k in range(2)]
    base = sliced_wasserstein(*fresh)  # of two draws of the data
    with torch.no_grad():
        samples = algorithm.sample(2000).numpy()
        algorithm.config = algorithm.config.model_copy(update={"eta": 0.0, "sampling_steps": 20})
        quick = algorithm.sample(2000).numpy()
        held_out = rows.rows("validation", np.arange(rows.count("validation")))
        elbo = algorithm.measure({"x": torch.from_numpy(held_out)})["elbo"]
    found = [sliced_wasserstein(fresh[0], made) for made in (samples, quick)]
    assert max(found) < 3.5 * base
    # How far a sample is from the curve of the moons: the data's deviation is 0.05.
    angle = np.pi * np.arange(500) / 499
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    curve = np.concatenate([upper, np.array([1.0, 0.5]) - upper])
    distance = np.sqrt(np.square(samples[:, None] - curve).sum(-1)).min(1)
    assert (distance < 0.2).mean() > 0.9
    assert -2.0 < float(elbo.mean()) < -0.28  # never above minus the entropy


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (
            "ddpm-two-moons",
            ["hyperparameters.denoiser=unet"],
            r"hyperparameters\.denoiser: 'unet' needs pictures, but the rows have shape \(2,\)",
        ),
        (
            "ddpm-two-moons",
            ["hyperparameters.sampling_steps=1001"],
            r"sampling_steps=1001 is more than steps=1000",
        ),
        (
            "ddpm-two-moons",
            ["hyperparameters.levels=2"],
            r"hyperparameters\.levels: 2 needs data in \[0, 1\]",
        ),
        (
            "ddpm-digits",
            ["network.hidden=[8,8,8,8,8]"],
            r"network\.hidden: 5 levels need sides that are divisible by 16, but the pictures are "
            r"8 x 8; give fewer",
        ),
        ("ddpm-digits", ["network.hidden=[]"], r"network\.hidden: a unet needs the channels of"),
        ("ddpm-digits", ["network.layer_norm=true"], r"network\.layer_norm: a unet normalises"),
        ("ddpm-digits", ["hyperparameters.schedule=sigmoid"], r"'linear' or 'cosine'"),
    ],
)
def test_what_contradicts_is_refused(config, overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(load_experiment(config, overrides), 0)
