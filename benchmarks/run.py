"""Speed of the platform beside bare loops, measured in the same run: ``make bench``.

Three cases, each repeated in turn with its bare loop; the ratio is that of the medians of the
repetitions, and the spread of the pairs is printed beside it. Absolute times depend on the machine
and on what else runs there: quote the ratios.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from sampler import draw, network

from rlgen.agents.dqn import DQN
from rlgen.algorithm import read_weights
from rlgen.config import Experiment, resolve_experiment
from rlgen.learner import Learner
from rlgen.plan import connect, make_plan, spawn
from rlgen.rollout import RolloutWorker

ENVS = 1024
STEPS = 64  # per call: Ray's 2 ms a call and 0.3 ms a megabyte must be few beside the work


def sampling(backend: str = "inline", workers: int = 1) -> Experiment:
    """1,024 CartPole environments per worker with the network of the peers' measurements."""
    return resolve_experiment(
        {
            "name": "bench",
            "algorithm": "sampler:Sampler",
            "hyperparameters": {"rollout_steps": STEPS},
            "env": {"id": "CartPole-v1", "num_envs": ENVS},
            "scheduler": {"backend": backend, "workers": workers},
            "stop": {"seconds": 1},
        }
    )


def bare_rollouts() -> Callable[[], int]:
    """Gymnasium's native vector environment and the network, with nothing kept."""
    env = gym.make_vec("CartPole-v1", num_envs=ENVS)
    observation, _ = env.reset(seed=0)
    policy = network()

    def run() -> int:
        nonlocal observation
        with torch.no_grad():
            for _ in range(STEPS):
                action = draw(policy(torch.from_numpy(observation))).numpy()
                observation, *_ = env.step(action)
        return ENVS * STEPS

    return run


def inline_rollouts() -> Callable[[], int]:
    """One rollout worker in this process, batches and all."""
    worker = RolloutWorker(sampling(), 0, 0)
    weights = read_weights(worker.algorithm)

    def run() -> int:
        batch, _ = worker.produce(weights, 0, 0)
        return int(batch["valid"].size)

    return run


def ray_rollouts(backend: Any, experiment: Experiment, cycles: int = 16) -> Callable[[], int]:
    """Two workers on Ray, two requests each in flight, their batches left in the object store."""
    roles = {role.name: role for role in make_plan(experiment)}
    workers = [spawn(backend, experiment, roles["worker"], index) for index in range(2)]
    for started in [backend.start(worker) for worker in workers]:
        backend.get(started)
    weights = backend.put(read_weights(RolloutWorker(sampling(), 0, 0).algorithm))

    def run() -> int:
        flights: dict[Any, tuple[Any, Any]] = {}
        asked = done = 0
        while done < 2 * cycles:
            for worker in workers:
                mine = sum(owner is worker for owner, _ in flights.values())
                while mine < 2 and asked < 2 * cycles:
                    batch, info = backend.call(worker, "produce", weights, 0, 0, returns=2)
                    flights[info] = (worker, batch)
                    asked, mine = asked + 1, mine + 1
            for info in backend.wait(list(flights), 60):
                backend.get(info)
                del flights[info]
                done += 1
        return done * ENVS * STEPS

    return run


def learning() -> Experiment:
    """A DQN learner that owes one update of 64 transitions for each of a batch's 256 steps."""
    return resolve_experiment(
        {
            "name": "bench",
            "algorithm": "dqn",
            "hyperparameters": {"batch_size": 64, "train_every": 1, "updates": 1},
            "network": {"hidden": [64, 64]},
            "env": {"id": "CartPole-v1", "num_envs": 8},
            "stop": {"updates": 1},
        }
    )


def rollout_batch() -> dict[str, np.ndarray]:
    """A rollout of 32 steps in 8 environments with columns as the worker makes them."""
    rng = np.random.default_rng(0)
    shape = (32, 8)
    return {
        "observation": rng.normal(size=(*shape, 4)).astype(np.float32),
        "next_observation": rng.normal(size=(*shape, 4)).astype(np.float32),
        "action": rng.integers(2, size=shape),
        "reward": np.ones(shape, np.float32),
        "terminated": rng.random(shape) < 0.05,
        "truncated": np.zeros(shape, bool),
        "valid": np.ones(shape, bool),
    }


def learner_updates() -> Callable[[], int]:
    """The learner host: ingest, account, replay, DQN's update, new weights."""
    learner, batch = Learner(learning(), 0), rollout_batch()
    for _ in range(8):
        learner.update([{"version": learner.version}], batch)

    def run() -> int:
        before = learner.updates
        learner.update([{"version": learner.version}], batch)
        return learner.updates - before

    return run


def bare_updates() -> Callable[[], int]:
    """The same arithmetic in a bare loop: index, forward, backward, clip, Adam, target copy."""
    hyper = learning().hyperparameters
    assert isinstance(hyper, DQN.Config)
    period = hyper.target_period
    assert period is not None  # the default configuration copies, it does not average
    rows = {name: c.reshape(-1, *c.shape[2:]) for name, c in rollout_batch().items()}
    rows = {name: np.concatenate([column] * 8) for name, column in rows.items()}
    sizes = [4, 64, 64, 2]
    online, target = (_mlp(sizes) for _ in range(2))
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3, fused=True)
    rng = np.random.default_rng(0)
    count = 0

    def run() -> int:
        nonlocal count
        for _ in range(256):
            index = rng.integers(len(rows["reward"]), size=64)
            names = ("observation", "action", "reward", "next_observation", "terminated")
            x, a, r, x1, end = (torch.from_numpy(rows[name][index]) for name in names)
            with torch.no_grad():
                y = r + 0.99 * ~end * target(x1).amax(dim=1)
            loss = functional.smooth_l1_loss(online(x).gather(1, a[:, None]).squeeze(1), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(online.parameters(), 10.0)
            optimizer.step()
            count += 1
            if count % period == 0:
                target.load_state_dict(online.state_dict())
        return 256

    return run


def _mlp(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def compare(
    ours: Callable[[], int], bare: Callable[[], int], repeats: int, seconds: float = 0.5
) -> dict[str, float]:
    """Rates of both, measured in turn; medians, their ratio and the least and largest pair."""
    rates = [(_rate(ours, seconds), _rate(bare, seconds)) for _ in range(repeats + 1)][1:]
    pairs = [left / right for left, right in rates]
    return {
        "rate": statistics.median(left for left, _ in rates),
        "bare_rate": statistics.median(right for _, right in rates),
        "ratio": statistics.median(pairs),
        "ratio_min": min(pairs),
        "ratio_max": max(pairs),
    }


def _rate(run: Callable[[], int], seconds: float) -> float:
    done, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        done += run()
    return done / elapsed


def main() -> int:
    """Run the cases; the exit status is 1 where a ratio is under its bar."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    results = {
        "rollouts inline / bare loop": compare(
            inline_rollouts(), bare_rollouts(), arguments.repeats
        ),
        "learner updates / bare loop": compare(
            learner_updates(), bare_updates(), arguments.repeats
        ),
    }
    experiment = sampling("ray", workers=2)
    backend = connect(experiment, make_plan(experiment))
    try:
        results["rollouts, two Ray workers / one inline"] = compare(
            ray_rollouts(backend, experiment), inline_rollouts(), arguments.repeats
        )
    finally:
        backend.shutdown()

    bars = {"rollouts inline / bare loop": 0.7, "rollouts, two Ray workers / one inline": 1.2}
    print(f"{'case':42} {'ratio':>7} {'min':>6} {'max':>6}  {'per second':>12} {'beside':>12}")
    for case, r in results.items():
        bar = f"  (bar {bars[case]})" if case in bars else ""
        print(
            f"{case:42} {r['ratio']:7.2f} {r['ratio_min']:6.2f} {r['ratio_max']:6.2f}  "
            f"{r['rate']:12,.0f} {r['bare_rate']:12,.0f}{bar}"
        )
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(results[case]["ratio"] < bar for case, bar in bars.items()))


if __name__ == "__main__":
    sys.exit(main())
