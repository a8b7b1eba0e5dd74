"""A NaN or an infinity is found where it comes in, and the run does with it what it was told."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from experiments import TINY, train

import rlgen
from rlgen import tracking
from rlgen.algorithm import read_weights
from rlgen.config import EnvConfig, FaultConfig, resolve_experiment
from rlgen.envs.vector import Environments
from rlgen.errors import BadGradient, ConfigError, Diverged, NotFinite
from rlgen.evaluation import Evaluator
from rlgen.finite import Finite, cut_before
from rlgen.generative.vae import VAE
from rlgen.learner import Learner

ACTIONS = np.zeros(3, np.int64)


def environments(
    policy: str = "error", vector: str = "", spoilt: int = 1, **kwargs: Any
) -> Environments:
    """Three environments, of which one breaks as ``kwargs`` say."""
    given = {"mode": vector} if vector else {}
    name = "spoilt_env:SpoiltVector-v0" if vector else "spoilt_env:Spoilt-v0"
    fault = FaultConfig(not_finite=policy)  # type: ignore[arg-type]
    finite = Finite("environment worker 7: environment", fault)
    envs = Environments(EnvConfig(id=name, kwargs=given), 3, seed=0, finite=finite)
    for key, value in kwargs.items():
        setattr(envs.env.envs[spoilt].unwrapped, key, value)  # type: ignore[attr-defined]
    return envs


def steps(envs: Environments, number: int) -> dict[str, np.ndarray]:
    """The columns ``(T, B, ...)`` of some steps; the first row of "seen" is the reset's."""
    rows = [envs.step(ACTIONS) for _ in range(number)]
    columns = {name: np.stack([getattr(r, name) for r in rows]) for name in rows[0]._fields}
    assert all(np.isfinite(column).all() for column in columns.values())
    return columns


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"at": 7}, r"observation\[1\] is nan in environment 1 at step 7 of its episode"),
        ({"at": 13}, r"observation\[1\] is nan in environment 1 at step 3 of its episode"),
        (
            {"at": 4, "where": "reward", "value": float("-inf")},
            "reward is -inf in environment 1 at step 4 of its episode",
        ),
        ({"at": 1, "where": "start"}, r"observation\[1\] is nan in environment 1 as an episode"),
        ({"at": 2, "where": "start"}, r"observation\[1\] is nan in environment 1 as an episode"),
        ({"at": 4, "where": "reward", "value": 1e300}, r"reward is 1e\+300"),  # no float32
    ],
)
def test_an_error_names_worker_environment_and_step(given: dict[str, Any], message: str) -> None:
    def play() -> None:
        envs.reset()
        steps(envs, 30)

    envs = environments(**given)
    with pytest.raises(NotFinite, match=f"^environment worker 7: environment: {message}"):
        play()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize(("at", "step"), [(7, 7), (10, 10), (13, None)])
def test_an_error_is_found_however_episodes_begin(mode: str, at: int, step: int | None) -> None:
    envs = environments(vector=mode, at=at)
    envs.reset()
    step = step or (at - 10)
    with pytest.raises(NotFinite, match=rf"in environment 1 at step {step} of its episode"):
        steps(envs, 30)


@pytest.mark.parametrize("where", ["observation", "reward"])
def test_a_dropped_transition_does_not_count_and_another_episode_begins(where: str) -> None:
    envs = environments("drop", at=7, where=where)
    envs.reset()
    columns = steps(envs, 16)
    expected = np.ones((16, 3), bool)
    expected[6, 1] = False
    np.testing.assert_array_equal(columns["valid"], expected)
    np.testing.assert_array_equal(np.argwhere(columns["truncated"]), [[6, 1]])
    # Row 1 begins anew at once, the others end after ten steps; the cut episode has no score.
    np.testing.assert_array_equal(np.argwhere(columns["terminated"]), [[9, 0], [9, 2]])
    assert columns["observation"][6, 1, 0] == 0.0
    steps(envs, 1)
    assert envs.finished == [(10.0, 10)] * 3
    assert envs.finite.tally.take() == (
        1,
        f"environment worker 7: environment: {where}{'[1]' if where == 'observation' else ''} is "
        "nan in environment 1 at step 7 of its episode",
    )
    assert envs.finite.tally.take() is None
    cut_before(columns)
    np.testing.assert_array_equal(np.argwhere(columns["truncated"]), [[5, 1], [6, 1]])


def test_an_episode_that_ended_just_before_is_not_cut_once_more() -> None:
    envs = environments("drop", at=11)
    envs.reset()
    columns = steps(envs, 12)
    cut_before(columns)
    np.testing.assert_array_equal(np.argwhere(columns["truncated"]), [[10, 1]])
    assert columns["terminated"][9, 1]


def test_a_first_observation_that_is_dropped_costs_one_transition() -> None:
    envs = environments("drop", at=2, where="start")
    envs.reset()
    columns = steps(envs, 13)
    np.testing.assert_array_equal(np.argwhere(~columns["valid"]), [[10, 1]])
    assert columns["observation"][9, 1, 1] == 0.0  # mended


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_environments_that_reset_themselves_count_again_once_their_numbers_do(mode: str) -> None:
    envs = environments("drop", vector=mode, at=7)
    envs.reset()
    columns = steps(envs, 16)
    lost = {row for row, env in np.argwhere(~columns["valid"]) if env == 1}
    assert lost == ({6, 7, 10} if mode == "NextStep" else {6, 7})  # in, out, and the reset
    assert not columns["terminated"][6, 1]
    assert columns["terminated"][9].all()


def test_the_last_step_of_an_episode_may_break_too() -> None:
    for mode in ("NextStep", "SameStep"):
        envs = environments("drop", vector=mode, at=10)
        envs.reset()
        columns = steps(envs, 15)
        assert not columns["valid"][9, 1] and not columns["terminated"][9, 1]
        assert columns["terminated"][9, [0, 2]].all()
        assert columns["valid"][11:, 1].all()


def test_clipping_mends_and_the_episode_goes_on() -> None:
    for value, expected in (("nan", 0.0), ("inf", 1e6), ("-inf", -1e6)):
        envs = environments("clip", at=7, value=float(value))
        envs.reset()
        columns = steps(envs, 12)
        assert columns["next_observation"][6, 1, 1] == expected
        assert columns["observation"][6, 1, 1] == expected
        assert columns["valid"].all() and columns["terminated"][9].all()
        assert envs.finite.tally.take() is not None


def test_stacked_frames_begin_anew_where_an_episode_broke_off() -> None:
    config = EnvConfig(id="spoilt_env:Spoilt-v0", frame_stack=3)
    finite = Finite("environment", FaultConfig(not_finite="drop"))
    envs = Environments(config, 1, seed=0, finite=finite)
    envs.env.envs[0].unwrapped.at = 4  # type: ignore[attr-defined]
    envs.reset()
    columns = [envs.step(ACTIONS[:1]) for _ in range(5)]
    np.testing.assert_array_equal(columns[3].observation[0].reshape(3, 3)[:, 0], [0, 0, 0])
    np.testing.assert_allclose(columns[4].observation[0].reshape(3, 3)[:, 0], [0, 0, 0.1])


def test_nothing_but_broken_numbers_ends_the_run_in_the_end() -> None:
    envs = environments("drop", at=1, every=True)
    for env in envs.env.envs:  # type: ignore[attr-defined]
        env.unwrapped.at, env.unwrapped.every = 1, True
    envs.reset()
    with pytest.raises(NotFinite, match=r"nothing but .* in 1,000 steps, the first: .*is nan"):
        steps(envs, 1100)


# --- whole runs ---------------------------------------------------------------------------------


def spoilt(name: str, tmp_path: Any, policy: str, **kwargs: Any) -> rlgen.Run:
    changes = {
        "env": {"id": "spoilt_env:Spoilt-v0", "num_envs": 3, "kwargs": kwargs},
        "fault.not_finite": policy,
        "evaluation.episodes": 2,
    }
    return train(name, tmp_path, changes)


def events(run: rlgen.Run) -> list[str]:
    return [r["message"] for r in tracking.read_metrics(run.dir) if r["kind"] == "event"]


def test_a_run_ends_with_the_place_and_with_what_was_learned(tmp_path: Any) -> None:
    place = r"environment worker 0: environment 'spoilt_env:Spoilt-v0' \(seed \d+\): observation"
    with pytest.raises(NotFinite, match=place + r".*at step 3 of its episode .*'rlgen resume"):
        spoilt("a2c", tmp_path, "error", at=153)
    (run,) = tmp_path.glob("*/*")
    assert np.isfinite(rlgen.load(run).weights).all()
    again = rlgen.resume(run, {"fault.not_finite": "clip"})
    assert again.summary["stop_reason"] == "env_steps"


@pytest.mark.parametrize("policy", ["drop", "clip"])
@pytest.mark.parametrize("name", ["a2c", "dqn", "reinforce", "cross-entropy"])
def test_a_run_goes_on_and_counts(name: str, policy: str, tmp_path: Any) -> None:
    run = spoilt(name, tmp_path, policy, at=37, every=True, value="inf")
    assert run.summary["stop_reason"] == "env_steps"
    assert np.isfinite(run.weights).all()
    # 2 x 3 environments; what dropped steps take is not in env_steps.
    taken = run.summary["env_steps"] / 6
    assert run.summary["not_finite"] == pytest.approx(6 * taken / 37, rel=0.25)
    (told,) = [e for e in events(run) if "observation" in e]
    assert "is inf in environment 0 at step" in told and f"not_finite={policy}" in told


@pytest.mark.parametrize("policy", ["error", "drop"])
def test_an_evaluation_is_checked_too(policy: str) -> None:
    plain = {"name": "a2c", **TINY["a2c"], "evaluation": {"episodes": 2}}
    plain["env"] = {"id": "spoilt_env:Spoilt-v0", "kwargs": {"at": 5, "where": "reward"}}
    plain["fault"] = {"not_finite": policy}
    evaluator = Evaluator(resolve_experiment(plain), seed=0)
    weights = read_weights(evaluator.algorithm)
    if policy == "error":
        with pytest.raises(NotFinite, match=r"the evaluator: environment 'spoilt.*reward is nan"):
            evaluator.evaluate(weights, 0)
    else:
        evaluation = evaluator.evaluate(weights, 0)
        assert evaluation["mean"] == 9.0 and evaluation["not_finite"] == 2


# --- gradients ----------------------------------------------------------------------------------

FINE = {"x": np.random.default_rng(0).random((50, 64), np.float32)}
SPOILT = {"x": np.where(np.arange(50)[:, None] == 3, np.float32("nan"), FINE["x"])}


def learner(policy: str) -> Learner:
    plain = {"name": "vae", **TINY["vae"], "fault": {"not_finite": policy}}
    torch.manual_seed(0)
    return Learner(resolve_experiment(plain), seed=0)


def learn(own: Learner, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, Any]:
    weights, report = own.update([{"version": own.version, "worker": 0}], batch)
    return weights, report["not_finite"]


def test_a_gradient_that_is_not_finite_names_parameter_and_update() -> None:
    own = learner("error")
    learn(own, FINE)
    others = r"\(and those of \d+ other parameters\)"
    with pytest.raises(
        BadGradient, match=rf"^the gradient of network\.\S+ {others} is nan in update 2$"
    ):
        learn(own, SPOILT)


def test_a_dropped_gradient_leaves_weights_and_optimiser_as_they_are() -> None:
    own = learner("drop")
    before, found = learn(own, FINE)
    assert found is None
    optimizer = copy.deepcopy(own.algorithm.optimizer.state_dict())
    metrics = own.metrics()
    after, found = learn(own, SPOILT)
    np.testing.assert_array_equal(after, before)
    assert found is not None and found[0] == 1 and "is nan in update 2" in found[1]
    assert own.metrics() == metrics  # the loss was no number
    now = own.algorithm.optimizer.state_dict()["state"]
    for number, state in optimizer["state"].items():
        assert all(torch.equal(value, now[number][key]) for key, value in state.items())
    later, found = learn(own, FINE)
    assert found is None and not np.array_equal(later, after)


def test_a_clipped_gradient_makes_a_step_of_what_was_finite() -> None:
    own = learner("clip")
    bias = next(p for p in own.algorithm.network.parameters() if p.shape == (16,))
    seen: list[torch.Tensor] = []

    def update(batch: Any) -> dict[str, float]:
        own.algorithm.optimizer.zero_grad()
        (batch["x"][0, :16] * bias).sum().backward()
        seen.append(bias.grad.clone())  # type: ignore[union-attr]
        own.algorithm.optimizer.step()
        return {"loss": float("nan")}

    own.algorithm.update = update  # type: ignore[method-assign]
    batch = {"x": FINE["x"].copy()}
    batch["x"][0, :3] = float("inf"), float("nan"), 5.0
    before = bias.detach().clone()
    _, found = learn(own, batch)
    assert found is not None and found[0] == 2
    assert seen[0][:3].tolist() == [1e6, 0.0, 5.0]  # before a norm could be taken of it
    assert own.metrics() == {}
    assert torch.isfinite(bias).all() and (bias != before).sum() == 15


def test_a_gradient_written_by_hand_is_seen_too() -> None:
    own = learner("clip")
    parameter = next(own.algorithm.network.parameters())

    def update(batch: Any) -> dict[str, float]:
        for each in own.algorithm.network.parameters():
            each.grad = torch.full_like(each, float("-inf"))
        own.algorithm.optimizer.step()
        return {}

    own.algorithm.update = update  # type: ignore[method-assign]
    _, found = learn(own, FINE)
    assert parameter.grad is not None and (parameter.grad == -1e6).all()
    assert found is not None and found[0] == sum(
        p.numel() for p in own.algorithm.network.parameters()
    )


def spoil(monkeypatch: Any, *updates: int) -> None:
    """Have some updates of a VAE see a NaN."""
    plain, count = VAE.update, 0

    def update(self: Any, batch: dict[str, Any]) -> Any:
        nonlocal count
        count += 1
        if count in updates:
            batch = batch | {"x": torch.where(torch.arange(64) == 5, torch.nan, batch["x"])}
        return plain(self, batch)

    monkeypatch.setattr(VAE, "update", update)


def test_a_run_that_meets_a_bad_gradient_has_diverged(tmp_path: Any, monkeypatch: Any) -> None:
    spoil(monkeypatch, 40)
    with pytest.raises(
        Diverged,
        match=r"training diverged after 39 updates: the gradient of network\..* is nan in update "
        r"40; the last good checkpoint is .*checkpoints/\d+",
    ):
        train("vae", tmp_path, {"checkpoint.every": 1})


@pytest.mark.parametrize("policy", ["drop", "clip"])
def test_a_run_survives_bad_gradients(policy: str, tmp_path: Any, monkeypatch: Any) -> None:
    spoil(monkeypatch, 10, 40)
    run = train("vae", tmp_path, {"fault.not_finite": policy, "tracking.every_s": 0})
    assert run.summary["stop_reason"] == "epochs"
    assert np.isfinite(run.weights).all()
    assert run.summary["not_finite"] >= 2
    assert len([e for e in events(run) if "in update 10 (fault.not_finite=" in e]) == 1
    assert all(np.isfinite(value) for value in run.summary["metrics"].values())


def test_a_bound_that_nothing_uses_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="largest=10 needs not_finite=clip"):
        train("vae", tmp_path, {"fault.largest": 10})
