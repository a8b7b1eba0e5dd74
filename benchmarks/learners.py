"""Two learners beside one: rows per second through the updates of a VAE, measured in turn.

Two pay where an update is dear beside the sum of its gradients, and where each has a core of its
own. The processors' time of an update says what that costs whatever else the machine does: where
all learners have free cores, the ratio of one's to each of two's is the most that can be gained.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from run import compare

from rlgen.config import Experiment, resolve_experiment
from rlgen.generative import data
from rlgen.learner import Learner
from rlgen.peers import PeerLearner
from rlgen.plan import connect, make_plan
from rlgen.problem import role_seed

#: Layers of the encoder and of the decoder, and rows of a batch.
CASES = {
    "layers of 1,024 and 1,024, 2,048 rows": ([1024, 1024], 2_048),
    "a layer of 256, 512 rows": ([256], 512),
    "a layer of 64, 128 rows": ([64], 128),
}


class TimedLearner(Learner):
    """A learner that also says what an update cost."""

    def update(self, *given: Any) -> Any:
        """As a learner's, and the seconds of the processor's time."""
        began = time.process_time()
        weights, report = super().update(*given)
        return weights, report | {"cpu_s": time.process_time() - began}


class TimedPeer(TimedLearner, PeerLearner):
    """One of several such learners."""


def learning(learners: int, hidden: list[int], rows: int) -> Experiment:
    """A VAE on the digits, on Ray, one thread for each learner."""
    return resolve_experiment(
        {
            "name": "bench",
            "algorithm": "vae",
            "hyperparameters": {"latent": 16, "batch_size": rows},
            "network": {"hidden": hidden},
            "data": {"name": "digits"},
            "scheduler": {"backend": "ray", "learners": learners},
            "stop": {"updates": 1},
        }
    )


def start(backend: Any, experiment: Experiment) -> list[Any]:
    """The learners of an experiment, without its workers."""
    seed, count = role_seed(experiment.seed, "learner"), experiment.scheduler.learners
    if count == 1:
        learners = [backend.spawn("learners:TimedLearner", (experiment, seed), seed, 1)]
    else:
        learners = [
            backend.spawn("learners:TimedPeer", (experiment, rank, seed), seed, 1)
            for rank in range(count)
        ]
    for started in [backend.host(learner, "start") for learner in learners]:
        finished(backend, started)
    if count > 1:
        address = finished(backend, backend.call(learners[0], "open"))
        for joined in [backend.call(learner, "join", address) for learner in learners]:
            finished(backend, joined)
    return learners


def finished(backend: Any, future: Any) -> Any:
    """The value of a future, waited for."""
    backend.wait([future], 300.0)
    return backend.get(future)


def updates(
    backend: Any, experiment: Experiment, learners: list[Any], cpu_s: list[float]
) -> Callable[[], int]:
    """One update by all learners, of one batch that is sent once; what it cost each, on average."""
    assert experiment.data is not None
    rng, rows = np.random.default_rng(0), data.load(experiment.data, 0)
    count: int = experiment.hyperparameters.batch_size  # type: ignore[attr-defined]
    batch = backend.put(rows.columns("train", rng.integers(rows.count("train"), size=count)))

    def run() -> int:
        asked = [
            backend.call(learner, "update", [{"version": 0}], batch, returns=2)
            for learner in learners
        ]
        reports = [finished(backend, report) for _, report in asked]
        cpu_s.append(statistics.mean(report["cpu_s"] for report in reports))
        return count

    return run


def main() -> int:
    """Run the cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    largest = learning(2, *next(iter(CASES.values())))
    backend = connect(largest, make_plan(largest))
    results: dict[str, Any] = {}
    try:
        for case, (hidden, rows) in CASES.items():
            experiments = [learning(count, hidden, rows) for count in (2, 1)]
            learners = [start(backend, experiment) for experiment in experiments]
            costs: list[list[float]] = [[], []]
            runs = [updates(backend, *of) for of in zip(experiments, learners, costs, strict=True)]
            results[case] = compare(runs[0], runs[1], arguments.repeats, seconds=1.0)
            two, one = (statistics.median(cost[1:]) for cost in costs)
            results[case] |= {"cpu_s": two, "bare_cpu_s": one, "cpu_ratio": one / two}
            for learner in itertools.chain(*learners):
                backend.kill(learner)
    finally:
        backend.shutdown()
    results["load"] = os.getloadavg()[0]
    print(
        f"{'':38} {'rows/s':>8} {'of one':>8} {'ratio':>6} {'CPU s':>7} {'of one':>7} {'ratio':>6}"
    )
    for case in CASES:
        r = results[case]
        print(
            f"{case:38} {r['rate']:8,.0f} {r['bare_rate']:8,.0f} {r['ratio']:6.2f} "
            f"{r['cpu_s']:7.4f} {r['bare_cpu_s']:7.4f} {r['cpu_ratio']:6.2f}"
        )
    print(f"load of the machine at the end: {results['load']:.1f}, cores: {os.cpu_count()}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
