"""``rlgen chaos`` kills processes, and says what that cost."""

import json
from typing import Any

import pytest
import yaml
from experiments import TINY
from typer.testing import CliRunner

from rlgen.backends import ray as ray_backend
from rlgen.chaos import _seconds
from rlgen.cli import app
from rlgen.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5.0), ("500ms", 0.5), ("1.5m", 90.0), ("2", 2.0), ("1h", 3600.0)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0s", "-1s", "5 days"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--every: expected a time such as 5s or 500ms, got"):
        _seconds(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scheduler.backend=inline"], "inline has no processes to kill"),
        (["--kill", "learner"], "checkpoint.every: 0, so a killed learner would begin anew"),
        (["--every", "now"], "--every: expected a time"),
    ],
)
def test_what_would_be_no_use_is_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["chaos", "q-learning-cliff", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "lost"),
    [
        ("q-learning", [], "the batches in flight, which were made again"),
        (
            "q-learning",
            ["--kill", "learner", "checkpoint.every=500"],
            "cycles since the checkpoints, which were done again",
        ),
        (
            "q-learning",
            ["--kill", "evaluator", "evaluation.every=500"],
            "the evaluations in flight, which were done again",
        ),
        ("dqn", ["scheduler.mode=async", "fault.backoff_s=0.1"], "batches in flight, or too old"),
    ],
)
def test_a_run_in_chaos_ends_as_an_undisturbed_one(
    name: str, arguments: list[str], lost: str, tmp_path: Any, pool: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(ray_backend, "RayBackend", pool)
    plain = {"scheduler": {"workers": 2}, **TINY[name], "evaluation": {"episodes": 3}}
    plain["stop"] = {"env_steps": 24_000}
    plain["hyperparameters"] = plain["hyperparameters"] | {"rollout_steps": 8}
    plain["run"] = {"dir": str(tmp_path / "runs")}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(plain))
    options = ["--every", "200ms", "--most", "2", "--quiet", "--json"]
    result = CliRunner().invoke(app, ["chaos", str(config), *options, *arguments])
    assert result.exit_code == 0, (result.stdout, result.stderr)
    answer = json.loads(result.stdout.splitlines()[-1])
    assert len(answer["kills"]) == 2 and answer["restarts"] >= 1
    assert answer["stop_reason"] == "env_steps"
    assert lost in result.stderr
    if name == "dqn":
        assert "not compared with an undisturbed run: an async run" in result.stderr
    else:
        assert answer["equal"] and "the same weights: yes" in result.stderr
