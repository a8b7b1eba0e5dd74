"""Sweeps: points, trials, what is stopped, what goes on, and the best of it."""

import csv
import functools
import json
import os
import shutil
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


def alone(sweep):
    """Run what is to be run of a population, here and one after another."""
    for trial in sweep.to_run(print):
        sweeps.run_trial(sweep.folder, trial.number, trial.point, lambda ticks, mean: None)
        sweep.note(trial=trial.number, reached=sweep.generation)


POPULATION = {"method": "population", "trials": 4, "interval": 1}
WIDE = {"hyperparameters.learning_rate": {"log_uniform": [0.00001, 0.03]}}


def test_the_worst_of_a_population_goes_on_from_weights_of_the_best_with_another_rate(tmp_path):
    sweep = made(tmp_path, {**VAE, "stop": {"epochs": 2}}, **POPULATION, space=WIDE)
    drawn = sweep.search.points(0)
    alone(sweep)
    trials = sweep.trials()
    assert [(t.status, t.ticks, t.point) for t in trials] == [("running", 1.0, p) for p in drawn]
    order = sweeps.ranked(trials)
    best, worst = order[0], order[-1]
    kept = [rlgen.load(trial.run_dir) for trial in trials]
    sweep.to_run(print)
    assert sweep.generation == 1
    begun = sweep.lines()[-1]
    assert begun["donors"] == {str(worst.number): best.number}
    for trial, before in zip(trials, kept, strict=True):
        donor = kept[best.number] if trial.number == worst.number else before
        np.testing.assert_array_equal(rlgen.load(trial.run_dir).weights, donor.weights)
    # Killed before that was noted: it is decided and done once more, and the same.
    journal = sweep.folder / sweeps.JOURNAL
    *lines, _ = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines))
    sweep.to_run(print)
    assert sweep.lines()[-1] == begun
    new = sweep.trials()[worst.number].point
    rate = new["hyperparameters.learning_rate"]
    # What it does then is what the best one would do at that rate.
    copy = shutil.copytree(best.run_dir, tmp_path / "copy")
    alone(sweep)
    assert rlgen.load(worst.run_dir).experiment.hyperparameters.learning_rate == rate
    plain = rundir.read_plain(copy)
    plain["hyperparameters"]["learning_rate"] = rate
    rundir.write_config(copy, config.resolve_experiment(plain))
    at_its_rate = rlgen.resume(str(copy))
    np.testing.assert_array_equal(rlgen.load(worst.run_dir).weights, at_its_rate.weights)
    assert not np.array_equal(rlgen.load(best.run_dir).weights, at_its_rate.weights)
    assert [t.status for t in sweep.trials()] == ["finished"] * 4
    assert sweep.to_run(print) == []


def test_who_changes_in_a_population_and_how():
    space = {
        "hyperparameters.learning_rate": {"log_uniform": [0.001, 0.01]},
        "hyperparameters.rollout_steps": {"integer": [1, 9]},
        "hyperparameters.batch_size": [16, 32, 64],
    }
    plain = {**POPULATION, "quantile": 0.25, "space": space}
    nearby = search.parse({**plain, "resample": 0.0})
    points = search.parse({**plain, "trials": 8}).points(0)
    means = [3.0, 9.0, float("nan"), 5.0, 8.0, 1.0, 9.0, float("-inf")]
    standing = [(n, p, m) for n, (p, m) in enumerate(zip(points, means, strict=True))]
    seen = []
    for seed in range(40):
        changed = search.evolve(nearby, seed, 1, standing)
        assert changed == search.evolve(nearby, seed, 1, standing[::-1])
        assert set(changed) == {2, 7}  # no score is the worst one
        for donor, point in changed.values():
            assert donor in (1, 6)
            rate, steps, size = (point[key] for key in space)
            before = points[donor]
            was, had, width = (before[key] for key in space)
            assert rate in (
                search.Dimension.clip(nearby.space[next(iter(space))], was * f) for f in (0.8, 1.2)
            )
            assert abs(steps - had) == max(1, round(had / 5)) and 1 <= steps <= 9
            assert (
                abs(
                    space["hyperparameters.batch_size"].index(size)
                    - space["hyperparameters.batch_size"].index(width)
                )
                == 1
            )
            seen.append((donor, rate > was, steps > had))
    assert len(set(seen)) > 4  # both donors, both ways
    assert search.evolve(nearby, 0, 1, standing) != search.evolve(nearby, 0, 2, standing)
    anew = search.evolve(search.parse({**plain, "resample": 1.0}), 0, 1, standing)
    assert all(0.001 <= point[next(iter(space))] <= 0.01 for _, point in anew.values())
    assert search.evolve(nearby, 0, 1, standing[:1]) == {}


def test_a_line_of_the_journal_that_was_cut_short_takes_no_other_along(tmp_path):
    sweep = made(tmp_path, VAE, **POPULATION)
    sweep.note(trial=0, reached=0)
    with (sweep.folder / sweeps.JOURNAL).open("a") as journal:
        journal.write('{"trial": 1, "rea')
    sweep.note(generation=1, donors={}, points={})
    assert [sorted(line) for line in sweep.lines()] == [
        ["reached", "trial"],
        ["donors", "generation", "points"],
    ]
    assert sweep.generation == 1


def test_an_end_that_was_not_told_is_made_again(tmp_path):
    sweep = made(tmp_path, {**VAE, "stop": {"epochs": 2}}, trials=1)
    run = functools.partial(sweeps.run_trial, sweep.folder, 0, sweep.trials()[0].point)
    run(lambda ticks, mean: None)
    (trial,) = sweep.trials()
    weights = rlgen.load(trial.run_dir).weights
    (Path(trial.run_dir) / rundir.SUMMARY).unlink()  # killed after its last checkpoint
    assert sweep.trials()[0].status == "running"
    reports = []
    run(lambda ticks, mean: reports.append((ticks, mean)))
    assert sweep.trials() == [trial] and trial.status == "finished"
    np.testing.assert_array_equal(rlgen.load(trial.run_dir).weights, weights)
    assert reports == sweeps.evaluations_of(Path(trial.run_dir), "epochs")


@pytest.mark.slow
def test_a_population_is_the_same_however_it_was_run(tmp_path, one_cluster):
    """One trial at a time, or two, killed in between: the same decisions and the same weights."""
    base = {**VAE, "stop": {"epochs": 40}, "evaluation": {"every": 5}}
    calm = made(tmp_path / "calm", base, **POPULATION, space=WIDE, parallel=1)
    told = []
    undisturbed = calm.run(told.append)
    assert [t.status for t in undisturbed] == ["finished"] * 4
    assert sum("goes on from" in line for line in told) == 7
    plain = {
        **base,
        "run": {"dir": str(tmp_path)},
        "search": {**POPULATION, "space": WIDE, "parallel": 2},
    }
    file = tmp_path / "population.yaml"
    file.write_text(yaml.safe_dump(plain))
    sweep = killed(file, lambda sweep: sweep.generation >= 3)
    assert sweep.generation < 7 and not all(trial.ended for trial in sweep.trials())
    process = command("--resume", str(sweep.folder))
    output, _ = process.communicate()
    assert process.returncode == 0, output

    def decisions(of):
        return [line for line in of.lines() if "generation" in line]

    assert decisions(sweep) == decisions(calm) and len(decisions(sweep)) == 7
    for one, other in zip(undisturbed, sweep.trials(), strict=True):
        assert (one.point, one.mean, one.ticks) == (other.point, other.mean, other.ticks)
        here, there = rlgen.load(one.run_dir), rlgen.load(other.run_dir)
        np.testing.assert_array_equal(here.weights, there.weights)


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
    base = {**VAE, "stop": {"epochs": 30}, "evaluation": {"every": 3}}
    killed_and_resumed(tmp_path, base, 4, 1, RATES)


def killed(file, when):
    """A sweep whose driver was killed as soon as ``when`` was true of it."""
    process = command(str(file))
    try:
        while True:
            found = [path.parent for path in file.parent.glob("*/sweep-*/sweep.yaml")]
            if found and when(sweep := sweeps.open_sweep(str(found[0]), print)):
                break
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return sweep


def killed_and_resumed(tmp_path, base, count, ended, space):
    """A sweep of ``count`` trials, killed when ``ended`` of them have ended, and gone on with."""
    plain = {
        **base,
        "run": {"dir": str(tmp_path)},
        "search": {
            "method": "halving", "trials": count, "parallel": 2, "reduction": 2, "space": space,
        },
    }  # fmt: skip
    file = tmp_path / f"{base['name']}.yaml"
    file.write_text(yaml.safe_dump(plain))
    sweep = killed(file, lambda sweep: sum(trial.ended for trial in sweep.trials()) >= ended)
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
    before, after = killed_and_resumed(tmp_path, base, 16, 4, wanted["space"])
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
