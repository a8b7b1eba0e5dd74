"""How fast the dashboard opens: 200 runs with 120,000 records, in Chromium.

    python benchmarks/dashboard.py [-o benchmarks/results/dashboard.json]

Each round starts the command anew and opens the page in a new browser without a cache; measured are
the seconds until the command says its address, and from then until the whole table, and the curves
of the experiment that was begun last, are drawn. ``load_before`` says how quiet the machine was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from playwright.sync_api import BrowserType, sync_playwright

EXPERIMENTS, SEEDS, RECORDS = 40, 5, 600
ROUNDS = 5


def write_runs(root: Path) -> None:
    """Runs as they are on disk: learning curves with noise."""
    for experiment in range(EXPERIMENTS):
        for seed in range(SEEDS):
            folder = root / f"agent-{experiment:02}" / f"20260101-{experiment:02}0000-seed{seed}"
            folder.mkdir(parents=True)
            write_run(folder, f"agent-{experiment:02}", seed, 1e9 + 3600 * experiment + seed)


def write_run(folder: Path, name: str, seed: int, began: float) -> None:
    """One run; every sixth record is an evaluation."""
    noise = random.Random(f"{name} {seed}")
    config = {
        "name": name, "algorithm": "dqn", "seed": seed, "env": {"id": "CartPole-v1"},
        "hyperparameters": {"learning_rate": 0.001, "gamma": 0.99, "batch_size": 64},
        "network": {"hidden": [256, 256]}, "scheduler": {"workers": 2, "mode": "sync"},
        "stop": {"env_steps": 100 * RECORDS, "target": 475.0},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "versions.json").write_text("{}")
    last: dict[str, object] = {}
    with (folder / "metrics.jsonl").open("w") as file:
        for i in range(1, RECORDS):
            counters = {"env_steps": 100 * i, "updates": 50 * i, "epochs": 0.0, "seconds": 0.2 * i}
            score = 500 / (1 + math.exp(4 - i / 60)) + noise.gauss(0, 30)
            last = {"time": began + 0.2 * i, **counters}
            kind = {"kind": "evaluation", "metric": "return", "mean": score, "std": 9.0}
            if i % 6:
                speed = {"env_steps_per_s": 500.0, "episode_length": score}
                learned = {"loss": noise.random(), "q": score / 5}
                kind = {"kind": "train", "episode_return": score, **speed, **learned}
            file.write(json.dumps(kind | last) + "\n")
        summary = last | {
            "stop_reason": "env_steps",
            "evaluation": {"metric": "return", "mean": score},
        }
        file.write(json.dumps({"kind": "summary", **summary}) + "\n")
    (folder / "summary.json").write_text(json.dumps(summary))


def measure(root: Path, chromium: BrowserType) -> dict[str, float]:
    """One round; seconds."""
    command = [sys.executable, "-m", "rlgen", "dashboard", str(root), "--port", "0", "--json"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        up = time.perf_counter()
        browser = chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        opened = time.perf_counter()
        page.set_default_timeout(120_000)
        page.goto(url)
        page.wait_for_selector(f"#runs [aria-rowcount='{EXPERIMENTS * SEEDS + 1}'] .ag-row")
        table = time.perf_counter()
        page.wait_for_selector("#graph .scatterlayer .trace")
        drawn = time.perf_counter()
        browser.close()
        server.terminate()
    return {
        "start": up - began,
        "table": table - opened,
        "curves": drawn - opened,
    }


def main() -> None:
    """Print the medians and write them with all rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        write_runs(Path(folder))
        load = os.getloadavg()[0]
        rounds = [measure(Path(folder), playwright.chromium) for _ in range(ROUNDS)]
    found = {
        "runs": EXPERIMENTS * SEEDS,
        "records": EXPERIMENTS * SEEDS * RECORDS,
        "cores": os.cpu_count(),
        "load_before": round(load, 1),
        "median_s": {
            name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]
        },
        "rounds_s": [{name: round(value, 2) for name, value in one.items()} for one in rounds],
    }
    text = json.dumps(found, indent=1)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
