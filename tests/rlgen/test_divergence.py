"""A run whose losses or weights are no longer numbers ends, and its last good checkpoint stays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlgen
from rlgen import checkpoint
from rlgen.config import load_experiment
from rlgen.errors import Diverged
from rlgen.generative import vae
from rlgen.scheduler import Scheduler

VAE = {
    "name": "diverging",
    "algorithm": "vae",
    "hyperparameters": {"decoder": "gaussian", "latent": 2, "batch_size": 100},
    "data": {"name": "two_moons", "size": 1000},
    "network": {"hidden": [8]},
    "scheduler": {"backend": "inline"},
    "stop": {"updates": 200},
    "evaluation": {"every": 0},
}


def diverge(plain: dict[str, Any], tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(Diverged) as caught:
        rlgen.train(plain, {"run.dir": str(tmp_path), **changes})
    return str(caught.value)


def only_run(tmp_path: Path) -> Path:
    (run,) = [path.parent for path in tmp_path.glob("*/*/config.yaml")]
    return run


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: Any
) -> None:
    plain = vae.VAE.update
    updates = 0

    def explode(self: Any, batch: dict[str, Any]) -> Any:
        nonlocal updates
        updates += 1
        metrics = dict(plain(self, batch))
        return metrics | {"elbo": metrics["elbo"] * float("nan")} if updates > 20 else metrics

    monkeypatch.setattr(vae.VAE, "update", explode)
    message = diverge(VAE, tmp_path, **{"checkpoint.every": 1, "tracking.every_s": 1e-6})
    run = only_run(tmp_path)
    # 800 training rows make 8 or 9 updates an epoch: two epochs are kept, the third is not.
    assert message.startswith("training diverged after 21 updates: elbo is nan; ")
    last = checkpoint.latest(run / "checkpoints", print)
    assert f"the last good checkpoint is {last}" in message
    assert np.isfinite(rlgen.load(run).weights).all()
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert events[-1]["message"] == message
    assert all(np.isfinite(e["elbo"]) for e in events if "elbo" in e)


def test_weights_that_are_not_finite_are_never_kept(tmp_path: Path) -> None:
    # The step itself overflows, and only the next loss would say so.
    message = diverge(
        VAE,
        tmp_path,
        **{"hyperparameters.learning_rate": 1e38, "checkpoint.every": 1, "tracking.every_s": 1e6},
    )
    assert "a weight is not a number, or infinite; " in message or " is " in message
    kept = list(only_run(tmp_path).glob("checkpoints/*"))
    assert not kept, "every weight from the first update on was broken"
    assert "no checkpoint was written before" in message


def test_an_agent_that_stumbles_over_its_weights_has_diverged(tmp_path: Path) -> None:
    plain = load_experiment(
        "ppo-cartpole",
        ["scheduler.backend=inline", "hyperparameters.learning_rate=1e38", f"run.dir={tmp_path}"],
    )
    with pytest.raises(Diverged, match="training diverged after"):
        Scheduler(plain, warn=lambda message: None).run()
