"""Sweeps: points, trials, what is stopped, what goes on, and the best of it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import rlgen
from rlgen import config, rundir, search, sweeps
from rlgen.backends import tune
from rlgen.cli import app
from rlgen.errors import CheckpointError, ConfigError
from rlgen.tracking import read_metrics

VAE = {
    "name": "tiny-vae",
    "algorithm": "vae",
    "hyperparameters": {"latent": 2, "batch_size": 128},
    "network": {"hidden": [16]},
    "data": {"name": "digits"},
    "stop": {"epochs": 4},
    "evaluation": {"every": 1},
}
DQN = {
    "name": "tiny-dqn",
    "algorithm": "dqn",
    "hyperparameters": {"learning_starts": 100, "batch_size": 16, "rollout_steps": 8},
    "network": {"hidden": [8]},
    "env": {"id": "CartPole-v1", "num_envs": 2},
    "stop": {"env_steps": 800},
    "evaluation": {"every": 200, "episodes": 2, "max_steps": 50},
}
RATES = {"hyperparameters.learning_rate": {"log_uniform": [0.0001, 0.03]}}


def made(tmp_path, base, **plain):
    experiment = config.resolve_experiment({**base, "run": {"dir": str(tmp_path)}})
    return sweeps.create(experiment, {"space": RATES, "parallel": 2, **plain})


def command(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "rlgen", "sweep", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def one_cluster():
    """A cluster for every sweep that runs in this process."""
    tune.cluster.connect("local", 2, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune.cluster, "connect", lambda *args: None)
        real = tune.ray.shutdown
        patch.setattr(tune.ray, "shutdown", lambda: None)
        yield
    real()


# --- what is searched -----------------------------------------------------------------------------


def test_points_lie_in_their_space_and_depend_on_the_seed_alone():
    wanted = search.parse(
        {
            "trials": 200,
            "space": {
                "seed": [1, 2, 3],
                "hyperparameters.gamma": {"uniform": [0.5, 0.9]},
                "hyperparameters.learning_rate": {"log_uniform": [1e-4, 1e-1]},
                "hyperparameters.batch_size": {"integer": [2, 4]},
                "hyperparameters.buffer_size": {"log_integer": [1, 1000]},
                "network.hidden": [[8], [8, 8]],
            },
        }
    )
    points = wanted.points(3)
    assert points == wanted.points(3) != wanted.points(4)
    columns = {key: [point[key] for point in points] for key in wanted.space}
    assert {*columns["seed"]} == {1, 2, 3} and {*columns["hyperparameters.batch_size"]} == {2, 3, 4}
    assert all(0.5 <= v <= 0.9 for v in columns["hyperparameters.gamma"])
    rates, sizes = (columns[f"hyperparameters.{k}"] for k in ("learning_rate", "buffer_size"))
    assert all(1e-4 <= v <= 1e-1 for v in rates) and all(1 <= v <= 1000 for v in sizes)
    # Half of a range of decades lies below its geometric mean.
    assert 60 <= sum(v < 10**-2.5 for v in rates) <= 140
    assert 60 <= sum(v < 31.6 for v in sizes) <= 140


def test_a_grid_is_every_combination():
    space = {"seed": [0, 1], "network.hidden": [[8], [16], [8, 8]]}
    points = search.parse({"method": "grid", "space": space}).points(0)
    assert len(points) == 6
    assert {(p["seed"], tuple(p["network.hidden"])) for p in points} == {
        (s, h) for s in (0, 1) for h in ((8,), (16,), (8, 8))
    }


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (None, "search: missing"),
        ({"space": RATES, "trails": 3}, "search.trails: unknown key; did you mean 'trials'?"),
        ({"space": {}}, "search.space"),
        ({"space": {"run.dir": ["a", "b"]}}, "'run.dir' cannot be searched"),
        ({"space": {"seed": {"uniforn": [0, 1]}}}, "uniform, log_uniform"),
        ({"space": {"seed": {"integer": [4, 2]}}}, "expected [low, high]"),
        ({"space": {"seed": {"uniform": ["1e-4", 1]}}}, "1.0e-4"),
        ({"space": {"seed": {"log_uniform": [0, 1]}}}, "low must be above 0"),
        ({"space": RATES, "method": "grid"}, "a grid needs a list of values"),
        ({"space": RATES, "interval": 3}, "interval has an effect only with method=population"),
        ({"space": {"seed": [1]}, "method": "grid", "trials": 3}, "trials has no effect"),
    ],
)
def test_a_wrong_search_is_one_message(plain, message):
    with pytest.raises(ConfigError) as error:
        search.parse(plain)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "plain", "message"),
    [
        ({}, {"space": {"hyperparameters.latnt": [1]}}, "did you mean 'latent'"),
        ({}, {"space": {"hyperparameters.latent": [2, 0]}}, "0 cannot be"),
        ({"evaluation": {}}, {"space": RATES, "method": "halving"}, "evaluation.every"),
        ({"stop": {"seconds": 5}}, {"space": RATES, "method": "population"}, "stop.epochs"),
    ],
)
def test_a_search_that_does_not_fit_its_experiment_is_refused(changes, plain, message):
    experiment = config.resolve_experiment({**VAE, **changes})
    with pytest.raises(ConfigError) as error:
        search.check(search.parse(plain), experiment)
    assert message in str(error.value)


@pytest.mark.parametrize("name", config.sweep_names())
def test_the_ready_ones_fit(name):
    plain = config.read_config(name)
    wanted = search.parse(plain.pop("search"))
    assert wanted.trials == 16 and wanted.method == "halving"
    experiment = config.resolve_experiment(plain)
    search.check(wanted, experiment)
    for point in wanted.points(0):
        config.resolve_experiment(config.set_keys(experiment.dump(), point))
    with pytest.raises(ConfigError, match="rlgen sweep"):
        config.load_experiment(name)


def test_the_rungs_remember_what_earlier_trials_had_reached():
    wanted = search.parse({"method": "halving", "reduction": 2, "space": RATES})
    past = [({}, [(1.0, float(mean))]) for mean in range(8)]
    from types import SimpleNamespace

    for mean, action in ((1.0, "STOP"), (6.5, "CONTINUE")):
        scheduler = tune._scheduler(wanted, past, 1, 4)
        scheduler.on_trial_add(None, SimpleNamespace(trial_id="new"))
        result = {tune.TICKS: 1, tune.SCORE: mean}
        assert scheduler.on_trial_result(None, SimpleNamespace(trial_id="new"), result) == action


def test_an_early_glimpse_does_not_win_over_a_result():
    kinds = [("stopped", 9.0, 1), ("finished", 5.0, 4), ("finished", 7.0, 4), ("finished", 7.0, 2)]
    trials = [
        sweeps.Trial(i, {}, status, mean=mean, ticks=ticks)
        for i, (status, mean, ticks) in enumerate(kinds)
    ]
    trials.append(sweeps.Trial(4, {}, "failed", mean=None))
    trials.append(sweeps.Trial(5, {}, "finished", mean=float("nan")))
    assert [trial.number for trial in sweeps.ranked(trials)] == [3, 2, 1, 5, 0, 4]


# --- what runs ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_population_goes_on_from_its_best_with_other_rates(tmp_path, one_cluster):
    base = {**VAE, "stop": {"epochs": 6}}
    space = {"hyperparameters.learning_rate": [0.00001, 0.003, 0.01]}
    sweep = made(
        tmp_path, base, method="population", trials=2, interval=1, quantile=0.5, space=space
    )
    drawn = sweep.search.points(0)
    assert drawn[0] != drawn[1]
    trials = sweep.run(lambda message: None)
    assert [t.status for t in trials] == ["finished"] * 2
    assert all(trial.ticks == 6 for trial in trials)
    # Whoever went on from another's weights says so in its records.
    resumed = [
        record["message"]
        for trial in trials
        for record in read_metrics(Path(trial.run_dir))
        if record["kind"] == "event" and "resumed from" in record["message"]
    ]
    assert resumed
    assert [t.point for t in trials] != drawn
    for trial in trials:
        run = rlgen.load(trial.run_dir)
        rate = trial.point["hyperparameters.learning_rate"]
        assert run.experiment.hyperparameters.learning_rate == rate


@pytest.mark.slow
def test_bayesian_trials_learn_from_the_earlier_ones(tmp_path, one_cluster):
    space = {**RATES, "network.hidden": [[8], [16]]}
    sweep = made(tmp_path, VAE, method="bayesian", trials=3, parallel=1, space=space)
    trials = sweep.run(lambda message: None)
    assert [t.status for t in trials] == ["finished"] * 3
    assert [t.number for t in trials] == [0, 1, 2]
    assert all(rlgen.load(t.run_dir).experiment.network.hidden in ([8], [16]) for t in trials)
    past = [(t.point, sweeps.evaluations_of(Path(t.run_dir), "epochs")) for t in trials]
    chooser = tune._bayesian(sweep.search, 0, [], past)
    assert sorted(chooser._ot_study.trials_dataframe()["value"]) == pytest.approx(
        sorted(t.mean for t in trials)
    )


@pytest.mark.slow
def test_a_trial_that_diverges_or_crashes_is_a_failed_one(tmp_path, one_cluster):
    space = {"hyperparameters.learning_rate": [0.003, 1.0e38]}
    sweep = made(tmp_path, DQN, method="grid", parallel=1, space=space)
    good, bad = sweep.run(lambda message: None)
    assert (good.status, bad.status) == ("finished", "failed")
    assert "diverged" in bad.reason or "finite" in bad.reason
    assert json.loads((sweep.folder / sweeps.RESULTS).read_text())["best"] == 0
    # The best one is a configuration that does what its trial did.
    again = rlgen.train(str(sweep.folder / sweeps.BEST), {"run.dir": str(tmp_path / "again")})
    assert again.summary["evaluation"] == rundir.read_summary(Path(good.run_dir))["evaluation"]
    np.testing.assert_array_equal(again.weights, rlgen.load(good.run_dir).weights)


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_and_does_nothing_twice(tmp_path):
    killed_and_resumed(tmp_path, {**VAE, "stop": {"epochs": 30}, "evaluation": {"every": 3}}, 4, 1)


def killed_and_resumed(tmp_path, base, count, ended):
    """A sweep of ``count`` trials, killed when ``ended`` of them have ended, and gone on with."""
    plain = {
        **base,
        "run": {"dir": str(tmp_path)},
        "search": {
            "method": "halving", "trials": count, "parallel": 2, "reduction": 2, "space": RATES,
        },
    }  # fmt: skip
    file = tmp_path / f"{base['name']}.yaml"
    file.write_text(yaml.safe_dump(plain))
    process = command(str(file))
    try:
        while True:
            found = [path.parent for path in tmp_path.glob("*/sweep-*/sweep.yaml")]
            trials = sweeps.open_sweep(str(found[0]), print).trials() if found else []
            if sum(trial.ended for trial in trials) >= ended:
                break
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.5)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    sweep = sweeps.open_sweep(str(found[0]), print)
    before = [trial for trial in sweep.trials() if trial.ended]
    assert len(before) < count, "it had ended before it could be killed"
    lengths = {t.number: len(read_metrics(Path(t.run_dir))) for t in before}

    process = command("--resume", str(sweep.folder), "--json")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert f"{len(before)} trials have ended already" in output
    answer = json.loads(output.splitlines()[-1])
    after = {trial["number"]: trial for trial in answer["trials"]}
    assert sorted(after) == list(range(count))
    assert all(trial["status"] in ("finished", "stopped") for trial in after.values())
    for trial in before:  # not touched
        now = after[trial.number]
        assert (now["status"], now["mean"], now["ticks"]) == (
            trial.status, trial.mean, trial.ticks,
        )  # fmt: skip
        assert len(read_metrics(Path(trial.run_dir))) == lengths[trial.number]
    best = answer["trials"][0]
    assert best["status"] == "finished"
    with (sweep.folder / sweeps.TABLE).open() as table:
        rows = list(csv.DictReader(table))
    assert [int(row["trial"]) for row in rows] == [t["number"] for t in answer["trials"]]
    assert float(rows[0]["mean"]) == best["mean"]
    wanted = config.load_experiment(answer["best"]).hyperparameters.learning_rate
    assert wanted == best["point"]["hyperparameters.learning_rate"]
    return before, after


@pytest.mark.slow
@pytest.mark.parametrize("name", config.sweep_names())
def test_the_ready_sweeps_of_16_trials_killed_and_resumed(name, tmp_path):
    base = config.read_config(name)
    wanted = base.pop("search")
    shorter = {"env_steps": 4_000} if "env" in base else {"epochs": 12}
    base |= {"name": name, "stop": shorter}  # no target: trials of the same length
    if "env" in base:
        base["evaluation"] = {"every": 500, "episodes": 5, "max_steps": 200}
    global RATES
    rates, RATES = RATES, wanted["space"]
    try:
        before, after = killed_and_resumed(tmp_path, base, 16, 4)
    finally:
        RATES = rates
    assert len(before) >= 4
    stopped = [trial for trial in after.values() if trial["status"] == "stopped"]
    assert len(stopped) >= 4  # halving did halve
    assert all(trial["ticks"] < next(iter(shorter.values())) for trial in stopped)


# --- the command ----------------------------------------------------------------------------------


def said(*arguments):
    result = CliRunner().invoke(app, ["sweep", *arguments])
    return result.exit_code, result.output


def test_mistakes_are_one_message(in_tmp):
    assert said() == (2, "rlgen: sweep: give a configuration, or --resume SWEEP\n")
    status, output = said("vae-digits")
    assert status == 2 and "search: missing" in output
    status, output = said("sweep-vae-digits", "search.trials=0")
    assert status == 2 and "search.trials" in output
    status, output = said("--resume", "nowhere")
    assert status == 2 and "'nowhere' is not a sweep" in output
    status, output = said("--resume", "a", "sweep-vae-digits")
    assert status == 2 and "give nothing beside it" in output
    assert not list(in_tmp.iterdir())


def test_the_search_may_stand_in_a_file_of_its_own(in_tmp):
    from rlgen.sweeping import _read

    Path("search.yaml").write_text(yaml.safe_dump({"search": {"space": RATES, "trials": 2}}))
    experiment, wanted = _read("vae-digits", ["stop.epochs=3"], Path("search.yaml"))
    assert experiment.stop.epochs == 3 and wanted["trials"] == 2
    with pytest.raises(ConfigError, match="has a section"):
        _read("sweep-vae-digits", [], Path("search.yaml"))


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a sweep"):
        sweeps.open_sweep(str(tmp_path), print)


def test_without_the_extra_the_message_has_the_line_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlgen\[sweep\]'"):
        tune.check_installed(bayesian=True)
