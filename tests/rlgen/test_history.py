"""Runs read from their folders: status, curves, seeds joined, intervals."""

import fcntl
import json

import numpy as np
import pytest
import scipy.stats
from recorded import append, evaluation, train, write_run

from rlgen import history, rundir
from rlgen.errors import CheckpointError, ConfigError


def test_a_run_is_running_while_its_records_are_locked(tmp_path):
    folder = write_run(tmp_path / "run", ended=False)
    with (folder / "metrics.jsonl").open("ab") as records:
        fcntl.flock(records, fcntl.LOCK_EX)
        assert history.read(folder).status == history.RUNNING
    assert history.read(folder).status == history.BROKEN


def test_a_run_that_went_on_after_its_end_and_was_killed_has_not_ended(tmp_path):
    folder = write_run(tmp_path / "run")
    assert history.read(folder).status == history.ENDED
    append(folder, train(9))
    assert history.read(folder).status == history.BROKEN


def test_only_what_is_new_is_read_and_damaged_lines_are_counted(tmp_path):
    folder = write_run(tmp_path / "run", evaluations=(1.0,), ended=False)
    run = history.read(folder)
    assert [record["kind"] for record in run.records] == ["train", "train", "evaluation"]
    assert not run.refresh()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra\n[1]\n\n' + json.dumps(evaluation(4, 7.0)) + '\n{"kind": "ev')
    assert run.refresh()  # two damaged lines; an empty one; the last one is being written
    assert (run.skipped, len(run.records), run.latest("evaluation/mean")) == (2, 4, 7.0)
    x, y = run.curve("evaluation/mean")
    assert (x.tolist(), y.tolist()) == ([200.0, 400.0], [1.0, 7.0])
    assert run.curve("evaluation/mean", "updates")[0].tolist() == [20.0, 40.0]


def test_figures_are_what_is_worth_a_curve(tmp_path):
    folder = write_run(tmp_path / "run", evaluations=(1.0,), ended=False)
    counted = {"rows_learned": 5, "dropped": 0, "restarts": 0, "not_finite": 0}
    append(folder, train(3) | counted, evaluation(4, 2.0) | counted | {"min": 0.0})
    known = ["evaluation/mean", "evaluation/min", "train/env_steps_per_s", "train/episode_return",
             "train/loss", "train/rows_learned"]  # fmt: skip
    run = history.read(folder)
    assert run.figures() == known
    assert run.curve("train/dropped")[1].tolist() == [0.0]  # where it is asked for
    append(folder, train(5) | counted | {"dropped": 2})
    run.refresh()
    assert run.figures() == [*known, "train/dropped"]


def test_what_is_no_run_is_refused_with_what_to_give(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "demo" / "1")
    (tmp_path / "empty").mkdir()
    found = history.read_all(["demo", "runs", "runs/demo/1"], pytest.fail)
    assert [run.name for run in found] == ["demo/1"]
    expected = r"; give runs \(runs/NAME/RUN\), folders of runs, or experiments in runs/"
    with pytest.raises(ConfigError, match=f"'empty': it holds no run{expected}"):
        history.find_all(["empty"])
    wrong = f"'dem': there is no such folder or experiment{expected}; did you mean 'demo'"
    with pytest.raises(ConfigError, match=wrong):
        history.find_all(["demo", "dem"])


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a run: it has no config\.yaml"):
        history.read(tmp_path)


def test_runs_are_found_at_any_depth_but_not_inside_of_runs(tmp_path):
    folders = [tmp_path / "a" / "1", tmp_path / "b" / "sweep" / "trials" / "0001"]
    for folder in folders:
        write_run(folder)
    write_run(folders[0] / "checkpoints" / "copy")
    assert history.find(tmp_path) == folders
    assert history.find(folders[0]) == [folders[0]]


def test_seeds_are_one_experiment_and_other_settings_another(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"near-{seed}", seed=seed)
    write_run(tmp_path / "far", hyperparameters={"gamma": 0.5})
    groups = history.experiments(history.read(folder) for folder in history.find(tmp_path))
    assert {name: len(runs) for name, runs in groups.items()} == {
        "demo (gamma=0.5)": 1,
        "demo (gamma=0.9)": 2,
    }
    far, near, again = (
        history.flat(history.read(folder).config) for folder in history.find(tmp_path)
    )
    assert history.differing([near, far]) == ["hyperparameters.gamma"]
    assert history.differing([near, again]) == ["seed"]


def test_a_band_is_the_mean_with_the_interval_of_students_t():
    values = np.random.default_rng(0).normal(size=(5, 3))
    mean, low, high = history.band(values)
    for i in range(3):
        known = scipy.stats.ttest_1samp(values[:, i], 0.0).confidence_interval(0.95)
        assert (low[i], high[i]) == pytest.approx((known.low, known.high))
    np.testing.assert_allclose(mean, values.mean(0))
    one = history.band(values[:1])
    assert all(np.array_equal(values[0], part) for part in one)


def test_joined_curves_keep_their_last_values():
    short = (np.array([0.0, 10.0]), np.array([0.0, 1.0]))
    long = (np.array([5.0, 20.0]), np.array([2.0, 5.0]))
    none = (np.empty(0), np.empty(0))
    grid, curves = history.join([short, long, none], [True, False, True], points=4)
    assert grid.tolist() == [5.0, 10.0, 15.0, 20.0]  # from where each has begun
    assert curves.tolist() == [[0.5, 1.0, 1.0, 1.0], [2.0, 3.0, 4.0, 5.0]]


def test_of_a_run_that_has_not_ended_nothing_is_known_from_there_on():
    """Three seeds reach 100, and one was killed at 20: their mean is 100 at the end."""
    whole = [(np.array([0.0, 10.0]), np.array([100.0 + i, 100.0 + i])) for i in (-1, 0, 1)]
    killed = (np.array([0.0, 2.0]), np.array([20.0, 20.0]))
    grid, values = history.join([*whole, killed], [True] * 3 + [False], points=11)
    mean, low, high = history.band(values)
    assert mean[grid <= 2].tolist() == [80.0] * 3 and mean[grid > 2].tolist() == [100.0] * 8
    known = scipy.stats.ttest_1samp([99.0, 100.0, 101.0], 0.0).confidence_interval(0.95)
    assert (low[-1], high[-1]) == pytest.approx((known.low, known.high))


def test_what_a_resumed_run_did_again_counts_once(tmp_path):
    """From a checkpoint at tick 2, after 4 had been reached; evaluations come late."""
    folder = write_run(tmp_path / "run", evaluations=(1.0, 2.0), ended=False)
    append(folder, {"kind": "event", "time": 2e5, "message": "resumed"})
    append(
        folder, train(3) | {"loss": 7.0}, train(4), evaluation(3, 5.0), train(5), evaluation(5, 6.0)
    )
    run = history.read(folder)
    x, y = run.curve("evaluation/mean")
    assert (x.tolist(), y.tolist()) == ([200.0, 300.0, 500.0], [1.0, 5.0, 6.0])
    assert run.curve("train/loss")[0].tolist() == [100.0, 200.0, 300.0, 400.0, 500.0]
    assert run.curve("train/loss")[1][2] == 7.0
    assert [record["kind"] for record in run.records].count("evaluation") == 3
    assert len(run.of("event")) == 1
    append(
        folder, train(5) | {"loss": 9.0}
    )  # the last record of a run, at the tick of the one before
    assert run.refresh() and run.curve("train/loss")[1][-1] == 9.0
    assert len(run.curve("train/loss")[0]) == 5


def test_a_seed_that_was_run_twice_is_one_seed(tmp_path):
    told = []
    for name, seed, ended in (("1", 0, True), ("2", 0, True), ("3", 0, False), ("4", 1, False)):
        write_run(tmp_path / name, seed=seed, ended=ended)
    (runs,) = history.by_seed(history.experiments(
        history.read_all([tmp_path], pytest.fail)), told.append).values()  # fmt: skip
    assert [run.folder.name for run in runs] == ["2", "4"]
    assert told == ["demo: of 4 runs 2 earlier ones of the same seeds are left out"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: [", "cannot be read"),
        ("- 1", "it has no keys"),
        ("name: a\nalgorithm: b\nseed: 0\n", "it has no 'stop'"),
        ("name: a\nalgorithm: b\nseed: 0\nstop: {}\nenv: CartPole-v1\n", "'env' is 'CartPole-v1'"),
    ],
)
def test_a_damaged_run_is_left_out_of_several_and_told(tmp_path, text, reason):
    write_run(tmp_path / "a" / "whole")
    (write_run(tmp_path / "a" / "odd") / "config.yaml").write_text(text)
    told = []
    (run,) = history.read_all([tmp_path / "a"], told.append)
    assert run.folder.name == "whole" and len(told) == 1
    assert "odd/config.yaml" in told[0] and reason in told[0]
    with pytest.raises(CheckpointError, match="config.yaml"):
        history.read_all([tmp_path / "a" / "odd"], pytest.fail)


@pytest.mark.parametrize("name", ["summary.json", "versions.json"])
def test_damaged_answers_of_a_run_are_none(tmp_path, name):
    folder = write_run(tmp_path / "run")
    (folder / name).write_text('{"stop_rea')
    run = history.read(folder)
    assert (run.status == history.BROKEN) == (name == "summary.json")
    assert run.records and not (name == "versions.json" and rundir.read_versions(folder))


@pytest.mark.parametrize(
    "record",
    [
        {"time": None},
        {"env_steps": "many"},
        {"env_steps": float("inf")},
        {"updates": 10**400},
        {"seconds": float("nan")},
        {"kind": 3},
        {"kind": "evaluation"},
    ],
)
def test_a_record_that_is_none_of_ours_is_a_damaged_line(tmp_path, record):
    folder = write_run(tmp_path / "run")
    append(folder, {"kind": "train", "time": 1.0} | record)
    assert history.read(folder).skipped == 1


def test_what_is_told_after_the_end_does_not_undo_it(tmp_path):
    folder = write_run(tmp_path / "run")
    append(folder, {"kind": "event", "time": 4e5, "message": "wandb: too slow"})
    assert history.read(folder).status == history.ENDED


def test_many_experiments_of_one_name_are_told_apart_at_once(tmp_path, monkeypatch):
    runs = [
        history.History(tmp_path / str(i), {"name": "a", "algorithm": "b", "seed": 0, "gamma": i})
        for i in range(300)
    ]
    calls, flat = [], history.flat
    monkeypatch.setattr(history, "flat", lambda *a: calls.append(a) or flat(*a))
    named = history.experiments(runs)
    assert len(named) == 300 and "a (gamma=7)" in named and len(calls) == 300
