"""Several learners learn what one learns from the whole batch."""

from typing import Any

import numpy as np
import pytest
import ray
import torch
from experiments import TINY, train
from pooled import pooled_backend

import rlgen
from rlgen import registry
from rlgen.algorithm import Algorithm
from rlgen.backends import ray as ray_backend
from rlgen.config import resolve_experiment
from rlgen.errors import ConfigError, WorkerDied
from rlgen.learner import Learner
from rlgen.problem import role_seed

PLAIN = {"hyperparameters.mask": 0.0, "hyperparameters.kl": 0.0}
#: With changes after which an update draws no random numbers and takes means over rows alone.
EXACT: dict[str, dict[str, Any]] = {
    "autoencoder": PLAIN,
    "behaviour-cloning": {},
    "a2c": {},
    "impala": {},
    "dqn": {},
    "ddpg": {},
    "transformer-lm": {"hyperparameters.dropout": 0.0},
}


@pytest.fixture(scope="module")
def pool():
    with pooled_backend() as backend:
        yield backend


@pytest.fixture(autouse=True)
def _on_pooled_actors(monkeypatch, pool):
    monkeypatch.setattr(ray_backend, "RayBackend", pool)


def with_learners(name: str, tmp_path: Any, learners: int, **changes: Any) -> rlgen.Run:
    on_ray = {"scheduler.backend": "ray", "scheduler.mode": "sync"}
    return train(name, tmp_path, {**on_ray, "scheduler.learners": learners, **changes})


@pytest.mark.parametrize("name", EXACT)
def test_learners_share_what_one_would_learn_of_the_whole_batch(name, tmp_path):
    one, two = (with_learners(name, tmp_path, count, **EXACT[name]) for count in (1, 2))
    assert one.summary["updates"] == two.summary["updates"] > 1
    moved = np.abs(one.weights - fresh(one)).max()
    # Sums in another order: float32, and Adam's division by small second moments.
    assert np.abs(two.weights - one.weights).max() < 0.02 * moved


def fresh(run: rlgen.Run) -> np.ndarray:
    """The weights with which the run began."""
    torch.manual_seed(role_seed(run.experiment.seed, "learner"))
    return Learner(run.experiment, role_seed(run.experiment.seed, "learner")).weights()[0]


def test_parts_of_unequal_size_are_weighted_by_their_rows(tmp_path):
    # 100 rows for three learners are 33, 33 and 34; the last minibatch of an epoch is shorter.
    one, three = (with_learners("autoencoder", tmp_path, count, **PLAIN) for count in (1, 3))
    moved = np.abs(one.weights - fresh(one)).max()
    assert np.abs(three.weights - one.weights).max() < 0.02 * moved
    assert not np.array_equal(three.weights, one.weights)


def test_a_model_that_draws_noise_reaches_the_same_objective(tmp_path):
    longer = {"stop.epochs": 12, "hyperparameters.learning_rate": 3e-3}
    bounds = {
        (learners, workers): with_learners(
            "vae", tmp_path, learners, **longer, **{"scheduler.workers": workers}
        ).summary["evaluation"]["mean"]
        for learners, workers in ((1, 1), (1, 2), (2, 1), (2, 2))
    }
    assert bounds[1, 1] == bounds[1, 2]  # workers share a minibatch: the same bits
    untrained = with_learners("vae", tmp_path, 1, **{"stop.updates": 1}).summary
    gained = bounds[1, 1] - untrained["evaluation"]["mean"]
    assert gained > 1
    for of_two in (bounds[2, 1], bounds[2, 2]):
        assert abs(of_two - bounds[1, 1]) < 0.05 * gained


def test_a_run_of_two_learners_resumes_bit_for_bit(tmp_path):
    whole = with_learners("vae", tmp_path, 2)
    updates = whole.summary["updates"]
    half = with_learners("vae", tmp_path, 2, **{"stop.updates": updates // 2})
    rest = rlgen.resume(half.dir, {"stop.updates": updates})
    np.testing.assert_array_equal(rest.weights, whole.weights)


def test_a_lost_learner_ends_the_run_and_is_named(tmp_path, monkeypatch, pool):
    class Losing(pool):
        calls = 0

        def call(self, actor, method, *args, returns=1):
            answer = super().call(actor, method, *args, returns=returns)
            if method == "update":
                Losing.calls += 1
                if Losing.calls == 8:  # the fourth update's, of the second learner
                    self.taken.remove(actor)
                    ray.kill(actor)
            return answer

    monkeypatch.setattr(ray_backend, "RayBackend", Losing)
    with pytest.raises(WorkerDied, match="learner 1 died"):
        with_learners("vae", tmp_path, 2)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vae", {"backend": "inline"}, "learners=2 needs backend=ray, not inline"),
        ("value-iteration", {"backend": "ray"}, "value-iteration does not learn by gradients"),
        ("gaussian-mixture", {"backend": "ray"}, "gaussian-mixture does not learn by gradients"),
    ],
)
def test_runs_that_learners_cannot_share_are_refused(name, changes, message):
    plain = {"name": "shared", **TINY[name], "scheduler": {"learners": 2, **changes}}
    with pytest.raises(ConfigError, match=message):
        resolve_experiment(plain)


def test_every_algorithm_says_whether_learners_may_share_it():
    shared = {n for n in (*registry.AGENTS, *registry.MODELS) if registry.resolve(n).data_parallel}
    assert {"a2c", "dqn", "vae"} <= shared
    assert Algorithm.data_parallel is False
