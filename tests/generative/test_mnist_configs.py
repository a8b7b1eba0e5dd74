"""Every ready configuration of MNIST builds its model for MNIST."""

from __future__ import annotations

import os

import numpy as np
import pytest

from rlgen import registry
from rlgen.algorithm import read_weights
from rlgen.config import config_names, load_experiment
from rlgen.problem import build

NAMES = [name for name in config_names() if name.endswith("-mnist")]


@pytest.mark.skipif("RLGEN_DATA" not in os.environ, reason="needs MNIST in the folder RLGEN_DATA")
@pytest.mark.parametrize("name", NAMES)
def test_it_builds_its_model(name) -> None:
    experiment = load_experiment(name)
    assert experiment.algorithm in registry.MODELS
    assert experiment.data is not None
    algorithm = build(experiment, 0)
    assert algorithm.problem.data_shape == (28, 28)
    assert np.isfinite(read_weights(algorithm)).all()
