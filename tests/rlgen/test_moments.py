"""Running moments of observations, merged over workers, reach the network."""

import numpy as np
import pytest
from experiments import train

from rlgen.checkpoint import read_part
from rlgen.moments import mean_and_scale, merge_moments, moments_of


def test_merged_moments_are_those_of_all_rows():
    rows = np.random.default_rng(0).normal(1e4, [1.0, 5.0], size=(1000, 2))  # far from zero
    parts = [moments_of(rows[a:b]) for a, b in ((0, 1), (1, 400), (400, 400), (400, 1000))]
    merged = parts[0]
    for part in parts[1:]:
        merged = merge_moments(merged, part)
    np.testing.assert_allclose(merged[0], 1000)
    np.testing.assert_allclose(merged[1], rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(merged[2] / 1000, rows.var(axis=0), rtol=1e-9)
    mean, scale = mean_and_scale(merged)
    assert mean.dtype == scale.dtype == np.float32
    np.testing.assert_allclose(scale, 1 / rows.std(axis=0), rtol=1e-5)


@pytest.mark.parametrize("name", ["a3c", "dqn"])
def test_the_network_standardises_by_what_the_workers_saw(name, tmp_path):
    run = train(name, tmp_path, {"env.normalize_observation": True})
    _, arrays = read_part(run.checkpoint, "learner")
    count, mean, squares = arrays["standardiser.moments"]
    # Every valid step's observation has been counted once, over two workers.
    assert set(count) == {run.summary["env_steps"]}
    encoder = run.algorithm.network.encoder
    np.testing.assert_allclose(encoder.mean.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(encoder.scale.numpy(), 1 / np.sqrt(squares / count), rtol=1e-5)
