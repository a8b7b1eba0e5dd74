"""The results page says what its runs did, and nothing else."""

import json
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

import rlgen
from rlgen import cli, config, model_results, registry, results, tracking
from rlgen.errors import ConfigError
from rlgen.scheduler import Scheduler

QUICK = ("q-learning-cliff", "value-iteration-frozenlake")


def bench(*arguments):
    given = ["bench", "results", "--quiet", *map(str, arguments)]
    return CliRunner().invoke(cli.app, given)


def answer(*arguments):
    done = bench(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_interval_is_the_bootstraps():
    """A plain loop over resampled means, and the two ends of the percentile method."""
    values = np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0], [9.0, 5.0]])
    rng = np.random.default_rng(3)
    means = [values[rng.integers(4, size=4)].mean(axis=0) for _ in range(20_000)]
    low, high = results.interval(values)
    expected = np.percentile(means, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(low, expected[0], atol=0.3)
    np.testing.assert_allclose(high, expected[1], atol=0.3)
    assert (low[1], high[1]) == (5.0, 5.0)  # four equal values leave no doubt
    assert results.interval(np.array([7.0])) == (7.0, 7.0)


def written_run(folder, points):
    folder.mkdir()
    lines = [
        {"kind": "evaluation", "metric": "return", "env_steps": steps, "mean": mean}
        for steps, mean in points
    ]
    (folder / tracking.METRICS).write_text("\n".join(map(json.dumps, lines)))
    return {"run_dir": str(folder)}


def test_a_run_that_has_ended_keeps_its_last_value(tmp_path):
    experiment = config.load_experiment("q-learning-cliff")
    first = written_run(
        tmp_path / "a",
        [(100, 0.0), (200, 10.0), (300, 10.0), (350, 10.0), (400, 10.0), (600, 30.0)],
    )
    second = written_run(
        tmp_path / "b", [(50, 4.0), (60, 4.0), (70, 4.0), (80, 4.0), (100, 4.0), (300, 8.0)]
    )
    figure, ticks, curves = results.curves_of(experiment, [first, second])
    assert figure == "greedy return"
    assert (ticks[0], ticks[-1]) == (100.0, 600.0)  # from where both have a value
    assert curves.shape == (2, results.POINTS)
    assert curves[:, -1].tolist() == [30.0, 8.0]
    assert curves[:, 0].tolist() == [0.0, 4.0]
    middle = np.searchsorted(ticks, 500.0)
    assert curves[0, middle] == pytest.approx(10.0 + (ticks[middle] - 400.0) / 10.0)


def test_a_curve_shows_what_changes(tmp_path):
    """Every way to the goal is worth 1: so the length of the episodes is what was learned."""
    experiment = config.load_experiment("options-four-rooms")
    summary = written_run(tmp_path / "a", [(step, 1.0) for step in range(100, 900, 100)])
    with (tmp_path / "a" / tracking.METRICS).open("a") as file:
        for steps, length in ((100, 300.0), (500, 20.0)):
            train = {"kind": "train", "env_steps": steps, "episode_return": 1.0}
            file.write("\n" + json.dumps(train | {"episode_length": length}))
    figure, ticks, curves = results.curves_of(experiment, [summary])
    assert figure == "episode length"
    assert (ticks[0], ticks[-1]) == (100.0, 500.0)
    assert (curves[0, 0], curves[0, -1]) == (300.0, 20.0)


def test_the_page_says_what_the_runs_did_and_finished_runs_are_used_again(tmp_path):
    where = ("-o", tmp_path / "out", "--runs", tmp_path / "runs", "--seeds", 2)
    measured = answer(*QUICK, *where)["measured"]
    page = (tmp_path / "out" / "results.md").read_text()
    steps = sorted(summary["env_steps"] for summary in measured["q-learning-cliff"])
    row = next(line for line in page.splitlines() if line.startswith("| [q-learning-cliff]"))
    assert "| -8 [-8, -8] | 2 of 2 (-8) |" in row
    assert f"{np.median(steps):,.0f}" in row
    assert f"{measured['value-iteration-frozenlake'][0]['updates']} updates" in page
    for name in QUICK:
        picture = tmp_path / "out" / "images" / "results" / f"{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"![{name}](images/results/{name}.png)" in page
    runs = sorted(tmp_path.glob("runs/*/*"))
    again = answer(*QUICK, *where)["measured"]
    assert again == measured
    assert sorted(tmp_path.glob("runs/*/*")) == runs
    assert len(runs) == 4


def test_a_quick_look_claims_nothing_and_leaves_the_docs_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measured = answer("--quick", *QUICK)
    assert measured["page"] == "runs/bench/quick/results.md"
    assert "These numbers claim nothing" in (tmp_path / measured["page"]).read_text()
    assert not (tmp_path / "docs").exists()
    (summary,) = measured["measured"]["q-learning-cliff"]
    assert summary["env_steps"] < 3_000 < config.load_experiment(QUICK[0]).stop.env_steps


def test_an_interrupted_run_is_gone_on_with(tmp_path):
    def stopped(experiment, earlier):
        assert earlier is None
        scheduler = Scheduler(experiment, display=lambda progress: scheduler.interrupt())
        return scheduler.run()

    def goes_on(experiment, earlier):
        assert earlier is not None
        return rlgen.resume(earlier).summary

    measure = partial(results.measure, "q-learning-cliff", range(1), False, tmp_path)
    assert measure(stopped) is None
    result = measure(goes_on)
    assert [summary["stop_reason"] for summary in result.summaries] == ["target"]
    assert result.scores.tolist() == [-8.0]
    assert len(list(tmp_path.glob("*/*"))) == 1


def test_what_cannot_be_run_is_said(tmp_path, monkeypatch):
    real = results.measure

    def measure(name, *rest):
        if name == QUICK[0]:
            raise ConfigError("env.id: needs a package that is not installed")
        return real(name, *rest)

    monkeypatch.setattr(results, "measure", measure)
    done = answer(*QUICK, "--quick", "-o", tmp_path, "--runs", tmp_path / "runs")
    assert done["missing"] == {QUICK[0]: "env.id: needs a package that is not installed"}
    assert f"- {QUICK[0]}: env.id: needs a package" in (tmp_path / "results.md").read_text()


def test_bad_use_is_answered_in_one_line(tmp_path):
    done = bench("dqn-cartpol")
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "rlgen: bench results: no ready configuration 'dqn-cartpol'; did you mean 'dqn-cartpole'?"
    ]
    (tmp_path / "file").touch()
    done = bench("--quick", QUICK[1], "--runs", tmp_path / "runs", "-o", tmp_path / "file")
    assert done.exit_code == 2
    assert "-o: cannot write to" in done.stderr


def test_models_are_measured_on_their_test_rows_and_shown(tmp_path):
    where = ("-o", tmp_path / "out", "--runs", tmp_path / "runs", "--quick")
    (summary,) = answer("vae-digits", *where)["measured"]["vae-digits"]
    page = (tmp_path / "out" / "results.md").read_text()
    assert "## Agents" not in page
    test = rlgen.load(summary["run_dir"]).evaluate(split="test")
    error = test["std"] / np.sqrt(test["rows"])
    row = next(line for line in page.splitlines() if line.startswith("| [vae-digits]"))
    assert f"| vae | digits | elbo | {test['mean']:.5g} ± {error:.2g} |" in row
    assert row.endswith("| 1 epochs |")
    for shown in ("samples", "reconstructions"):
        copied = tmp_path / "out" / "images" / "results" / f"vae-digits-{shown}.png"
        assert copied.read_bytes() == next(tmp_path.glob(f"runs/*/*/*/{shown}.png")).read_bytes()
        assert f"(images/results/vae-digits-{shown}.png)" in page
    assert "| importance weighted bound |" in page
    # A run of the same settings counts, wherever and however often it wrote.
    again = answer("vae-digits", *where)["measured"]["vae-digits"]
    assert again == [summary]
    assert len(list(tmp_path.glob("runs/*/*"))) == 1


def test_every_model_has_a_ready_configuration():
    used = {config.read_config(n)["algorithm"] for n in model_results.model_configs()}
    assert used == set(registry.MODELS)


def test_every_agent_has_a_ready_configuration_and_the_long_ones_are_left_out():
    names = results.agent_configs()
    assert {config.read_config(n)["algorithm"] for n in names} == set(registry.AGENTS)
    assert set(results.LONG) < set(names)
