"""A2C and PPO with a memory, against a loop over single steps; and on masked observations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments import train
from gymnasium import spaces
from torch import Tensor

import rlgen
from rlgen import tracking
from rlgen.agents.a2c import A2C
from rlgen.agents.policies import shuffled
from rlgen.agents.ppo import PPO
from rlgen.algorithm import Algorithm, Problem
from rlgen.config import NetworkConfig

GAMMA, VALUE, ENTROPY = 0.9, 0.7, 0.1
WITHOUT = {"network.memory": "none", "network.memory_size": 64}


def make(kind: type[Algorithm], memory: str, **hyperparameters: Any) -> Any:
    torch.manual_seed(0)
    network = NetworkConfig(hidden=[5], memory=memory, memory_size=4)
    problem = Problem(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), network=network)
    coefficients = {"value_coefficient": VALUE, "entropy_coefficient": ENTROPY}
    given = {"gamma": GAMMA, **coefficients, "max_gradient_norm": 1e9, **hyperparameters}
    algorithm: Any = kind(kind.Config(**given), problem, np.random.default_rng(0))
    with torch.no_grad():
        for parameter in algorithm.network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    algorithm.optimizer = torch.optim.SGD(algorithm.network.parameters(), lr=1.0)
    return algorithm


def rollout(algorithm: Any, steps: int, rows: int) -> dict[str, Tensor]:
    """A rollout in which episodes end both ways, and rows that only reset follow some ends."""
    columns: list[dict[str, Tensor]] = []
    algorithm.starts = np.zeros(rows, np.bool_)
    algorithm.state = torch.randn(rows, 4 if algorithm.problem.network.memory == "gru" else 8)
    following = torch.randn(rows, 3)
    over = torch.zeros(rows, dtype=torch.bool)
    for _ in range(steps):
        observation = following
        with torch.no_grad():
            acted = algorithm.act(observation, greedy=False)
        valid = ~(over & (torch.rand(rows) < 0.5))
        ends = (torch.rand(rows) < 0.3) & valid
        terminated = ends & (torch.rand(rows) < 0.5)
        successor = torch.randn(rows, 3)
        following = torch.where(ends[:, None], torch.randn(rows, 3), successor)
        columns.append(
            {
                **acted,
                "observation": observation,
                "next_observation": successor,
                "reward": torch.randn(rows),
                "terminated": terminated,
                "truncated": ends & ~terminated,
                "valid": valid,
            }
        )
        over = ends
        algorithm.starts = (ends | ~valid).numpy()
    return {name: torch.stack([row[name] for row in columns]) for name in columns[0]}


def slow_gradient(algorithm: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """Of the loss of eq 14.72 and 14.73 with n-step returns, one environment and step at a time."""
    net = algorithm.network
    terms = []
    steps, rows = batch["reward"].shape

    def step(observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        features, state = net.memory.step(observation[None], state)
        return features, state

    for b in range(rows):
        state = batch["state"][0, b][None]
        outputs, values, after = [], [], []
        for t in range(steps):
            if t and (
                batch["terminated"][t - 1, b]
                or batch["truncated"][t - 1, b]
                or not batch["valid"][t - 1, b]
            ):
                state = torch.zeros_like(state)
            features, state = step(batch["observation"][t, b], state)
            outputs.append(net.policy(features)[0])
            values.append(net.value(features)[0, 0])
            after.append(state)
        return_ = torch.zeros(())
        for t in reversed(range(steps)):
            if batch["terminated"][t, b]:
                return_ = batch["reward"][t, b]
            elif batch["truncated"][t, b] or t == steps - 1:
                features, _ = step(batch["next_observation"][t, b], after[t])
                value = net.value(features)[0, 0].detach()
                return_ = batch["reward"][t, b] + GAMMA * value
            else:
                return_ = batch["reward"][t, b] + GAMMA * return_
            if batch["valid"][t, b]:
                policy = torch.distributions.Categorical(logits=outputs[t])
                advantage = return_ - values[t]
                terms.append(
                    -policy.log_prob(batch["action"][t, b]) * advantage.detach()
                    + VALUE * advantage.square()
                    - ENTROPY * policy.entropy()
                )
    loss = torch.stack(terms).mean()
    return list(torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("memory", ["gru", "lstm"])
@pytest.mark.parametrize("kind", [A2C, PPO])
def test_the_update_is_the_gradient_of_a_loop_over_single_steps(
    kind: type[Algorithm], memory: str
) -> None:
    """PPO's first step of one minibatch has a ratio of 1 everywhere: A2C's gradient."""
    extra: dict[str, Any] = {"gae_lambda": 1.0}
    if kind is PPO:
        extra |= {"epochs": 1, "minibatch_size": 10**6, "normalize_advantage": False}
    algorithm = make(kind, memory, **extra)
    batch = rollout(algorithm, steps=21, rows=4)
    assert batch["truncated"][:-1].sum() > 3 and batch["terminated"].sum() > 3
    assert not batch["valid"].all()
    expected = slow_gradient(algorithm, batch)
    before = [p.detach().clone() for p in algorithm.network.parameters()]
    metrics = algorithm.update(batch)
    for old, new, gradient in zip(before, algorithm.network.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new.detach(), gradient, rtol=1e-3, atol=1e-5)
    norm = torch.cat([g.flatten() for g in expected]).norm()
    torch.testing.assert_close(metrics["gradient_norm"], norm, rtol=1e-4, atol=1e-5)


def test_what_acted_is_what_is_learned_from() -> None:
    """The log-probabilities of the worker's single steps are those of the learner's rollout."""
    algorithm = make(PPO, "lstm")
    batch = rollout(algorithm, steps=50, rows=6)
    outputs, _ = algorithm.network(batch)
    log_prob = algorithm.network.head.log_prob(outputs, batch["action"])
    torch.testing.assert_close(log_prob, batch["log_prob"])


def test_minibatches_are_whole_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Tensor]] = []
    algorithm = make(PPO, "gru", epochs=2, minibatch_size=16, normalize_advantage=False)
    batch = rollout(algorithm, steps=8, rows=6)
    real = algorithm._step

    def watched(part: dict[str, Tensor]) -> Any:
        seen.append(part)
        return real(part)

    monkeypatch.setattr(algorithm, "_step", watched)
    algorithm.update(batch)
    transitions = int(batch["valid"].sum())
    assert len(seen) == 2 * (transitions // 16)
    for epoch in (seen[: len(seen) // 2], seen[len(seen) // 2 :]):
        found = torch.cat([part["observation"] for part in epoch], dim=1)
        order = [int((found[0, :, 0] == x).nonzero()) for x in batch["observation"][0, :, 0]]
        torch.testing.assert_close(found[:, order], batch["observation"])
        states = torch.cat([part["state"][0] for part in epoch])
        torch.testing.assert_close(states[order], batch["state"][0])
    # More minibatches than environments there cannot be.
    seen.clear()
    few = make(PPO, "gru", epochs=1, minibatch_size=1)
    monkeypatch.setattr(few, "_step", seen.append)
    few.update(rollout(few, steps=8, rows=3))
    assert [part["action"].shape for part in seen] == [(8, 1)] * 3


def test_shuffled_parts_along_time_major_columns() -> None:
    columns = {"x": torch.arange(12).reshape(3, 4)}
    parts = [part["x"] for part in shuffled(columns, 2, axis=1)]
    assert [part.shape for part in parts] == [(3, 2), (3, 2)]
    assert sorted(torch.cat(parts, dim=1)[0].tolist()) == [0, 1, 2, 3]
    assert all(torch.equal(part[1] - part[0], torch.full((2,), 4)) for part in parts)


@pytest.mark.parametrize("kind", [A2C, PPO])
def test_gradients_can_be_clipped_by_value(kind: type[Algorithm]) -> None:
    algorithm = make(kind, "gru", max_gradient_value=1e-3)
    batch = rollout(algorithm, steps=8, rows=3)
    if kind is PPO:
        algorithm.config = algorithm.config.model_copy(update={"epochs": 1})
    before = [p.detach().clone() for p in algorithm.network.parameters()]
    algorithm.update(batch)
    changes = [
        (old - new.detach()).abs().max().item()
        for old, new in zip(before, algorithm.network.parameters(), strict=True)
    ]
    assert max(changes) == pytest.approx(1e-3, rel=1e-3)


def test_a_run_on_disk_remembers_its_episode(tmp_path: Path) -> None:
    run = train("ppo-lstm", tmp_path)
    first, second = np.array([[0.1, 9, 0.2, 9], [0.2, 9, 0.1, 9]], np.float32)
    states = []
    for observation, start in ((first, True), (second, False), (second, True), (first, True)):
        assert run.act(observation, start) in (0, 1)
        states.append(run.algorithm.state.clone())  # type: ignore[attr-defined]
    memory, encoder = run.algorithm.network.memory, run.algorithm.network.encoder  # type: ignore[union-attr]
    state = torch.zeros(1, memory.state_size)
    for observation, expected in zip((first, second), states, strict=False):
        with torch.no_grad():
            _, state = memory.step(encoder(torch.from_numpy(observation[[0, 2]])[None]), state)
        torch.testing.assert_close(state, expected)
    assert torch.equal(states[3], states[0])
    assert not torch.equal(states[2], states[1])


def test_a_run_on_disk_masks_each_of_its_frames(tmp_path: Path) -> None:
    run = train("a2c-gru", tmp_path, {"env.frame_stack": 2, "stop.env_steps": 100})
    frames = np.arange(8, dtype=np.float32).reshape(2, 4) / 10
    run.act(frames, start=True)
    net: Any = run.algorithm.network  # type: ignore[attr-defined]
    features = net.encoder(torch.tensor([[[0.0, 0.2], [0.4, 0.6]]]))
    with torch.no_grad():
        _, expected = net.memory.step(features, torch.zeros(1, net.memory.state_size))
    torch.testing.assert_close(run.algorithm.state, expected)  # type: ignore[attr-defined]


def scores(config: str, tmp_path: Path, seed: int, **changes: Any) -> list[float]:
    run = rlgen.train(config, {"run.dir": str(tmp_path), "seed": seed, **changes})
    records = tracking.read_metrics(run.dir)
    return [r["mean"] for r in records if r["kind"] == "evaluation"]


def test_a_memory_makes_up_for_hidden_velocities(tmp_path: Path) -> None:
    """The beginning of the bar below, at a seventh of its steps: about 315 against 50."""
    budget = {"stop.env_steps": 21_000}
    assert max(scores("ppo-masked-cartpole", tmp_path, 4, **budget)) >= 120
    assert max(scores("ppo-masked-cartpole", tmp_path, 4, **budget, **WITHOUT)) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ppo_with_a_memory_solves_cartpole_without_velocities(seed: int, tmp_path: Path) -> None:
    """At least 400 of 500; the same PPO without a memory stays below 200 within the same budget."""
    assert scores("ppo-masked-cartpole", tmp_path, seed)[-1] >= 400
    assert max(scores("ppo-masked-cartpole", tmp_path, seed, **WITHOUT)) < 200


@pytest.mark.parametrize("kind", [A2C, PPO])
def test_images_go_through_a_torso_before_the_memory(kind: type[Algorithm]) -> None:
    torch.manual_seed(0)
    network = NetworkConfig(hidden=[5], memory="lstm", memory_size=4)
    space = spaces.Box(0, 255, (10, 10, 2), np.uint8)
    problem = Problem(space, spaces.Discrete(2), network=network)
    algorithm: Any = kind(kind.Config(), problem, np.random.default_rng(0))
    images = torch.randint(0, 256, (6, 3, 10, 10, 2), dtype=torch.uint8)
    ends = torch.zeros(6, 3, dtype=torch.bool)
    ends[2, 1] = True
    with torch.no_grad():
        acted = []
        for t in range(6):
            algorithm.starts = ends[t - 1].numpy() if t else np.ones(3, np.bool_)
            acted.append(algorithm.act(images[t], greedy=False))
    batch = {name: torch.stack([row[name] for row in acted]) for name in acted[0]}
    batch |= {"observation": images, "next_observation": images.roll(-1, 0), "terminated": ends}
    batch |= {"truncated": ends & False, "valid": ends | True, "reward": torch.randn(6, 3)}
    before = {n: p.detach().clone() for n, p in algorithm.network.named_parameters()}
    algorithm.update(batch)
    for name, parameter in algorithm.network.named_parameters():
        assert not torch.equal(parameter, before[name]), name
