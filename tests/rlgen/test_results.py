"""The results page says what its runs did, and nothing else."""

import json
from functools import partial

import numpy as np
from typer.testing import CliRunner

import rlgen
from rlgen import cli, config, model_results, registry, results
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
