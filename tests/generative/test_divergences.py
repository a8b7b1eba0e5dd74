"""Divergences by quadrature against other quadratures, and the figures that show them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm
from typer.testing import CliRunner

import rlgen
from rlgen.cli import app
from rlgen.generative.densities import MODE_SCALES, modes
from rlgen.generative.divergences import (
    fit_gaussian,
    js_of_shifted,
    log_gaussian,
    log_mixture,
    optimal_discriminator,
)


def invoke(*arguments: object) -> tuple[int, str, str]:
    """The exit status, what went to stdout and what to stderr."""
    result = CliRunner().invoke(app, ["plot", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("shift", [0.3, 2.0, 5.0])
def test_js_of_shifted_gaussians(shift: float) -> None:
    def integrand(x: float) -> float:
        p, q = norm.pdf(x), norm.pdf(x, shift)
        return float(0.5 * p * np.log(2 * p / (p + q)) + 0.5 * q * np.log(2 * q / (p + q)))

    expected, _ = quad(integrand, -12, 12 + shift, limit=400)
    assert js_of_shifted(shift) == pytest.approx(expected, abs=1e-7)


def test_js_is_log_2_and_flat_without_a_common_support() -> None:
    assert js_of_shifted(0.0) == pytest.approx(0.0, abs=1e-15)
    assert js_of_shifted(40.0) == pytest.approx(math.log(2), abs=1e-15)  # eq 13.42
    assert js_of_shifted(41.0) - js_of_shifted(40.0) == 0.0
    x = np.linspace(-3, 5, 9)
    p, q = norm.pdf(x, 2.0), norm.pdf(x, -1.0)
    np.testing.assert_allclose(optimal_discriminator(x, 2.0, -1.0), p / (p + q))


def test_densities_against_scipy() -> None:
    x = np.random.default_rng(0).normal(size=(7, 2)) * 3
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    expected = multivariate_normal([1.0, -1.0], covariance).logpdf(x)
    np.testing.assert_allclose(log_gaussian(x, np.array([1.0, -1.0]), covariance), expected)
    parts = [multivariate_normal(centre, 0.5 * np.eye(2)).pdf(x) for centre in ([-2, -2], [2, 2])]
    np.testing.assert_allclose(log_mixture(x), np.log(np.mean(parts, axis=0)))


def grid_kl(mean: np.ndarray, covariance: np.ndarray, reverse: bool) -> float:
    """KL(p || q), or KL(q || p), by a sum over a fine grid of the plane."""
    ticks = np.linspace(-14, 14, 561)
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    p, q = log_mixture(points), multivariate_normal(mean, covariance).logpdf(points)
    first, second = (q, p) if reverse else (p, q)
    return float((np.exp(first) * (first - second)).sum() * 0.05**2)


def test_the_forward_fit_covers_both_modes() -> None:
    fit = fit_gaussian("forward")
    assert fit.mean.tolist() == [0, 0]  # the mixture's moments
    assert fit.covariance.tolist() == [[4.5, 4.0], [4.0, 4.5]]
    assert fit.divergence == pytest.approx(0.7236, abs=1e-4)
    assert fit.divergence == pytest.approx(grid_kl(fit.mean, fit.covariance, False), abs=1e-4)
    for change in ([[0.2, 0], [0, 0]], [[0, 0.2], [0.2, 0]]):  # no neighbour is nearer
        assert grid_kl(fit.mean, fit.covariance + change, False) > fit.divergence
    assert grid_kl(fit.mean + 0.2, fit.covariance, False) > fit.divergence


def test_the_reverse_fit_seeks_one_mode() -> None:
    for start in ((1.0, 0.5), (-1.0, -2.0)):
        fit = fit_gaussian("reverse", start)
        np.testing.assert_allclose(fit.mean, 2 * np.sign(start), atol=0.01)
        np.testing.assert_allclose(fit.covariance, 0.5 * np.eye(2), atol=0.01)
        assert fit.divergence == pytest.approx(math.log(2), abs=2e-4)
        assert fit.divergence == pytest.approx(grid_kl(fit.mean, fit.covariance, True), abs=1e-4)
    saddle = fit_gaussian("reverse", (0.0, 0.0))  # from between them it finds neither
    np.testing.assert_allclose(saddle.mean, 0, atol=1e-3)
    assert saddle.divergence == pytest.approx(1.870, abs=2e-3)


def test_plot_kl_and_vanishing_gradient(tmp_path: Path) -> None:
    file = tmp_path / "kl.png"
    status, output, _ = invoke("kl", "-o", file, "--json")
    assert status == 0, output
    answer = json.loads(output.splitlines()[-1])
    assert answer["forward"]["kl"] == pytest.approx(0.7236, abs=1e-4)
    assert answer["reverse"]["kl"] == pytest.approx(0.6931, abs=2e-4)
    assert np.asarray(Image.open(file)).std() > 10
    file = tmp_path / "vanishing.png"
    status, output, _ = invoke("vanishing-gradient", "-o", file, "--json")
    assert status == 0, output
    assert json.loads(output.splitlines()[-1])["js"] == pytest.approx(math.log(2), abs=1e-3)
    assert np.asarray(Image.open(file)).std() > 10


def test_plot_modes_counts_what_a_model_found(tmp_path: Path) -> None:
    plain = {
        "name": "fit",
        "algorithm": "gaussian-mixture",
        "hyperparameters": {"components": 8, "batch_size": 2000},
        "data": {"name": "ring", "size": 2000},
        "stop": {"epochs": 60},
    }
    run = rlgen.train(plain, {"run.dir": str(tmp_path)})
    torch.manual_seed(3)
    samples = run.sample(500)
    distance = np.linalg.norm(samples[:, None] - modes("ring"), axis=-1)
    near = distance <= 3 * MODE_SCALES["ring"]
    file = tmp_path / "modes.png"
    status, output, _ = invoke("modes", run.dir, "-o", file, "-n", 500, "--seed", 3, "--json")
    assert status == 0, output
    answer = json.loads(output.splitlines()[-1])
    assert answer["modes"] == near.any(axis=0).sum() > 2
    assert answer["near"] == pytest.approx(near.any(axis=1).mean())
    assert np.asarray(Image.open(file)).std() > 10


def test_plot_modes_needs_data_with_known_modes(tmp_path: Path) -> None:
    plain = {
        "name": "moons",
        "algorithm": "gaussian",
        "hyperparameters": {"batch_size": 100},
        "data": {"name": "two_moons", "size": 200},
        "stop": {"epochs": 1},
    }
    run = rlgen.train(plain, {"run.dir": str(tmp_path)})
    status, _, output = invoke("modes", run.dir, "-o", tmp_path / "a.png")
    assert status == 2
    assert "is not of the data ring or grid, whose modes are known" in output
    status, _, output = invoke("kl", "-o", tmp_path / "a.pdf")
    assert status == 2
    assert "expected a name that ends in .png" in output
