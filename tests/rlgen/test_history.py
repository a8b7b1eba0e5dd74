"""Runs read from their folders: status, curves, seeds joined, intervals."""

import fcntl
import json

import numpy as np
import pytest
import scipy.stats
from recorded import append, evaluation, train, write_run

from rlgen import history
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
    assert [run.name for run in history.read_all(["demo", "runs", "runs/demo/1"])] == ["demo/1"]
    expected = r"; give runs \(runs/NAME/RUN\), folders of runs, or experiments in runs/"
    with pytest.raises(ConfigError, match=f"'empty': it holds no run{expected}"):
        history.read_all(["empty"])
    wrong = f"'dem': there is no such folder or experiment{expected}; did you mean 'demo'"
    with pytest.raises(ConfigError, match=wrong):
        history.read_all(["demo", "dem"])


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
    far, near, again = (history.flat(run.config) for run in history.read_all([tmp_path]))
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
    grid, curves = history.join([short, long, (np.empty(0), np.empty(0))], points=4)
    assert grid.tolist() == [5.0, 10.0, 15.0, 20.0]  # from where each has begun
    assert curves.tolist() == [[0.5, 1.0, 1.0, 1.0], [2.0, 3.0, 4.0, 5.0]]
