"""Several learners learn what one learns from the whole batch."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from experiments import TINY, train

import rlgen
from rlgen import registry
from rlgen.algorithm import Algorithm
from rlgen.backends import ray as ray_backend
from rlgen.config import resolve_experiment
from rlgen.errors import ConfigError, WorkerDied
from rlgen.learner import Learner
from rlgen.peers import Peers
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
    "ppo": {},
    "ppo-lstm": {},
    "gail": {},
    "drqn": {},
    "stacked-autoencoder": {},  # whose mask is drawn for the whole minibatch
}


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


@pytest.mark.parametrize(
    ("name", "learners", "changes"),
    [
        ("ppo", 3, {"hyperparameters.minibatch_size": 50}),  # of 64 rows each
        # Of one sequence or two: of one, both take the same. Longer, an action comes out otherwise.
        ("ppo-lstm", 2, {"hyperparameters.minibatch_size": 32, "stop.updates": 8}),
    ],
)
def test_minibatches_that_an_algorithm_cuts_itself_are_shared(name, learners, changes, tmp_path):
    one, several = (with_learners(name, tmp_path, count, **changes) for count in (1, learners))
    moved = np.abs(one.weights - fresh(one)).max()
    assert np.abs(several.weights - one.weights).max() < 0.02 * moved
    for metric, value in one.summary["metrics"].items():
        if metric.startswith("episode_"):
            continue
        assert several.summary["metrics"][metric] == pytest.approx(value, rel=0.02, abs=1e-3)


def curve(run: rlgen.Run, metric: str) -> np.ndarray:
    """The figure of every cycle that learned."""
    lines = (run.dir / "metrics.jsonl").read_text().splitlines()
    records = [record for line in lines if (record := json.loads(line))["kind"] == "train"]
    assert all(record["rows_learned_per_s"] >= 0 for record in records)
    return np.array([record[metric] for record in records if metric in record])


CURVES = {"vae": "elbo", "dqn": "loss", "ppo": "value_loss"}


@pytest.mark.parametrize("name", CURVES)
def test_two_learners_have_the_loss_curve_of_one(name, tmp_path):
    longer = {"stop.epochs": 6} if name == "vae" else {}
    runs = [with_learners(name, tmp_path, n, **{"tracking.every_s": 0, **longer}) for n in (1, 2)]
    one, two = (curve(run, CURVES[name]) for run in runs)
    assert len(one) == len(two) > 5
    if name == "vae":  # which draws other noise: the means of thirty minibatches each
        one, two = (c[: len(c) // 30 * 30].reshape(-1, 30).mean(1) for c in (one, two))
        np.testing.assert_allclose(two, one, atol=0.15 * np.ptp(one))
    else:
        np.testing.assert_allclose(two, one, rtol=0.02, atol=0.01 * np.ptp(one))
    said = [run.summary for run in runs]
    learned = {"vae": "samples", "ppo": "env_steps"}
    for summary in said:  # DQN's minibatches are of 32 rows
        rows = summary[learned[name]] if name in learned else 32 * summary["updates"]
        assert summary["rows_learned"] == rows
        per_s = rows / summary["rows_learned_per_s"]
        assert per_s == pytest.approx(summary["updates"] / summary["updates_per_s"])
    assert said[0]["rows_learned"] == said[1]["rows_learned"]


def test_a_part_without_a_valid_row_weighs_nothing(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight])
    peers = Peers(SimpleNamespace(optimizer=optimizer, batch_axis=1, replay=None), 1, 2)
    valid = torch.tensor([[True, False], [True, False]])
    part = peers.part({"x": torch.ones(2, 2), "valid": valid}, 1)
    assert part["x"].shape == (2, 1) and peers.share == 0
    ((part["x"] * weight[:1])[part["valid"]].mean() + weight.sum() * torch.nan).backward()
    assert weight.grad is not None and weight.grad.tolist() == [0, 0]


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


@pytest.mark.parametrize("name", ["vae", "ppo"])
def test_a_run_of_two_learners_resumes_bit_for_bit(name, tmp_path):
    whole = with_learners(name, tmp_path, 2)
    updates = whole.summary["updates"]
    half = with_learners(name, tmp_path, 2, **{"stop.updates": updates // 2})
    rest = rlgen.resume(half.dir, {"stop.updates": updates})
    np.testing.assert_array_equal(rest.weights, whole.weights)


def test_learners_that_join_later_draw_what_the_first_one_does(tmp_path):
    whole = with_learners("ppo", tmp_path, 1)
    updates = whole.summary["updates"]
    half = with_learners("ppo", tmp_path, 1, **{"stop.updates": updates // 2})
    rest = rlgen.resume(half.dir, {"stop.updates": updates, "scheduler.learners": 2})
    moved = np.abs(whole.weights - fresh(whole)).max()
    assert np.abs(rest.weights - whole.weights).max() < 0.02 * moved


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
    assert {"a2c", "dqn", "ppo", "vae"} <= shared
    assert Algorithm.data_parallel is False
    assert {"gail"} <= {name for name in shared if registry.resolve(name).whole_batch}
