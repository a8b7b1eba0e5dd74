"""Folders of runs as they are on disk, without training."""

import json

import yaml


def write_run(folder, *, name="demo", seed=0, evaluations=(1.0, 2.0), ended=True, **config):
    """A run with one evaluation and two training records per value of ``evaluations``."""
    folder.mkdir(parents=True)
    plain = {
        "name": name,
        "algorithm": "q-learning",
        "hyperparameters": {"gamma": 0.9},
        "env": {"id": "rlgen/Cliff-v0"},
        "network": None,
        "scheduler": {"workers": 2, "backend": "inline", "mode": "sync"},
        "stop": {"env_steps": 1000, "target": None},
        "seed": seed,
        **config,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    (folder / "versions.json").write_text(json.dumps({"rlgen": "0.1.0", "torch": "2.13.0"}))
    records = []
    for i, mean in enumerate(evaluations):
        records += [train(2 * i + 1, seed), train(2 * i + 2, seed), evaluation(2 * i + 2, mean)]
    last = counters(2 * len(evaluations))
    if ended:
        summary = {"stop_reason": "env_steps", "evaluation": evaluation(0, evaluations[-1])}
        records.append({"kind": "summary", "time": 3e5, **last, **summary})
        (folder / "summary.json").write_text(json.dumps(last | summary))
    append(folder, *records)
    return folder


def counters(tick):
    return {
        "cycles": tick,
        "env_steps": 100 * tick,
        "updates": 10 * tick,
        "epochs": 0.0,
        "seconds": 0.5 * tick,
    }


def train(tick, seed=0):
    figures = {"env_steps_per_s": 200.0, "episode_return": tick + 0.25 * seed, "loss": 1 / tick}
    return {"kind": "train", "time": 2e5 + 0.5 * tick, **counters(tick), **figures}


def evaluation(tick, mean):
    return {"kind": "evaluation", "time": 2e5, **counters(tick), "metric": "return", "mean": mean}


def append(folder, *records):
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
