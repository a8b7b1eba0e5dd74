"""What ``rlgen plot`` draws of runs: the data in the figures, and the refusals."""

import errno
import json
import math
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import rlgen
from rlgen import cli, curves, drawing, figures, history, value_maps
from rlgen.api import load
from rlgen.palette import COLOURS


def plot(*arguments):
    return CliRunner().invoke(cli.app, ["plot", *map(str, arguments)])


def answer(*arguments):
    done = plot(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def refused(message, *arguments):
    done = plot(*arguments)
    assert done.exit_code == 2, done.stdout
    said = " ".join(done.stderr.split())
    assert message in said and len(done.stderr.splitlines()) == 1, said


def written(folder, name="cartpole", seed=0, evaluations=(), trains=(), **config):
    """A run's folder with records of our own, as (env_steps, values)."""
    path = folder / name / f"run-{seed}-{len(list(folder.glob('*/*')))}"
    path.mkdir(parents=True)
    plain = {"name": name, "algorithm": "dqn", "seed": seed, "stop": {"env_steps": 100}}
    plain |= {"scheduler": {"workers": 1}, "env": {"id": "CartPole-v1", "kwargs": {}}} | config
    (path / "config.yaml").write_text(yaml.safe_dump(plain))
    (path / "versions.json").write_text("{}")

    def clocks(x):
        return {"env_steps": x, "seconds": x / 100, "epochs": 0.0}

    lines = [{"kind": "train", **clocks(x), "env_steps_per_s": 1.0, **v} for x, v in trains]
    lines += [
        {"kind": "evaluation", "metric": "return", **clocks(x), "mean": y} for x, y in evaluations
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# --- curves -------------------------------------------------------------------------------------


@pytest.fixture
def seeds(tmp_path):
    """Two seeds of an experiment: evaluations x and 3 x at x = 0, 10, ..., 50, and a target."""
    for seed in (0, 1):
        points = [(x, (1 + 2 * seed) * x) for x in range(0, 60, 10)]
        trains = [(x, {"loss": 1.0 / (1 + x)}) for x in (10, 50)]
        written(tmp_path, "two", seed, points, trains, stop={"env_steps": 100, "target": 40.0})
    return tmp_path


def test_curves_are_the_mean_of_the_seeds_and_its_t_interval(seeds):
    named = history.experiments(history.read_all([seeds / "two"], pytest.fail))
    (axes,) = curves.learning(named).axes
    one, three, mean, target = axes.lines
    x = mean.get_xdata()
    assert (x[0], x[-1]) == (0.0, 50.0)
    np.testing.assert_allclose(one.get_ydata(), x)
    np.testing.assert_allclose(three.get_ydata(), 3 * x)
    np.testing.assert_allclose(mean.get_ydata(), 2 * x)
    assert mean.get_color() == COLOURS[0]
    (band,) = axes.collections
    # Of two values the standard error is half their distance, and t(0.975, 1) is 12.7062.
    ends = band.get_paths()[0].vertices
    assert ends[:, 1].max() == pytest.approx(100 + 12.7062 * 50, rel=1e-4)
    assert ends[:, 1].min() == pytest.approx(100 - 12.7062 * 50, rel=1e-4)
    assert set(target.get_ydata()) == {40.0}
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    interval = "95 % interval of the mean (Student's t)"
    assert labels == ["each seed", "mean of 2 seeds", interval, "target 40"]
    low, high = axes.get_ylim()
    assert -10 < low < 0 and 150 < high < 160  # as the seeds; the band is far wider
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "greedy return")
    assert axes.get_title() == "two"


def test_several_experiments_lie_over_each_other(seeds):
    written(seeds, "other", 0, [(x, 5.0 + x) for x in range(0, 120, 20)])
    (axes,) = curves.learning(history.experiments(history.read_all([seeds], pytest.fail))).axes
    other, two, _ = axes.lines  # and the target; no single seeds
    np.testing.assert_allclose(other.get_ydata(), 5.0 + other.get_xdata())
    np.testing.assert_allclose(two.get_ydata(), 2 * two.get_xdata())
    assert other.get_color() != two.get_color()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:2] == ["other", "two (2 seeds)"]


def test_a_figure_and_a_clock_can_be_chosen(seeds, tmp_path):
    for ending in drawing.ENDINGS:
        file = tmp_path / f"curves{ending}"
        found = answer("curves", seeds, "-o", file, "--figure", "train/loss", "--x", "seconds")
        assert found["figure"] == "train/loss" and len(found["experiments"]["two"]) == 2
    assert Image.open(tmp_path / "curves.png").width == pytest.approx(1080, abs=30)
    assert (tmp_path / "curves.svg").read_text().count("<svg ") == 1
    named = history.experiments(history.read_all([seeds], pytest.fail))
    (axes,) = curves.learning(named, "train/loss", "seconds").axes
    assert axes.lines[-1].get_xdata()[[0, -1]].tolist() == [0.1, 0.5]
    assert axes.lines[-1].get_ydata()[-1] == pytest.approx(1 / 51)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("seconds", "loss")


def test_what_shows_most_is_chosen(tmp_path):
    flat = [(x, 1.0) for x in range(8)]
    trains = [(x, {"episode_return": 1.0, "episode_length": 9.0 - x}) for x in (1, 4)]
    run = history.read(written(tmp_path, evaluations=flat, trains=trains))
    assert curves.choose_figure([run]) == "train/episode_length"  # every way there is worth 1
    few = history.read(written(tmp_path, "few", evaluations=[(1, 0.0), (2, 3.0)], trains=trains))
    assert curves.choose_figure([few]) == "train/episode_length"
    only = history.read(written(tmp_path, "only", evaluations=[(1, 0.0), (2, 3.0)]))
    assert curves.choose_figure([only]) == "evaluation/mean"


def test_damaged_lines_are_counted_and_said(seeds, tmp_path):
    (first, *_) = (seeds / "two").iterdir()
    with (first / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "env\n[1, 2]\n')
    done = plot("curves", seeds, "-o", tmp_path / "x.png")
    assert (done.exit_code, done.stderr) == (
        0, f"rlgen: {first}: 2 damaged lines of metrics.jsonl left out\n"
    )  # fmt: skip


def test_a_name_is_no_formula(tmp_path):
    for workers in (1, 2):
        trains = [(x, {"seconds": 1.0, "regret": 0.5}) for x in (10, 100)]
        env = {"id": "rlgen/BernoulliBandit-v0", "kwargs": {}}
        written(tmp_path, "a $\\foo$", workers, [(1, 2.0)], trains, env=env,
                scheduler={"workers": workers})  # fmt: skip
    runs = history.read_all([tmp_path], pytest.fail)
    named = history.experiments(runs)
    for figure in (curves.learning(named), curves.regret(named), curves.throughput(runs)[0]):
        drawing.save(figure, tmp_path / "x.png")


def test_bad_curves_are_refused(seeds, tmp_path, monkeypatch):
    out = ("-o", tmp_path / "x.png")
    refused("'nowhere': there is no such folder or experiment", "curves", "nowhere", *out)
    (tmp_path / "empty").mkdir()
    refused("it holds no run", "curves", tmp_path / "empty", *out)
    refused("has no 'train/lss' over env_steps; did you mean 'train/loss'?", "curves", seeds,
            "--figure", "train/lss", *out)  # fmt: skip
    refused("--x: there is no clock 'steps'; did you mean 'env_steps'?", "curves", seeds,
            "--x", "steps", *out)  # fmt: skip
    refused("counts no epochs; it counts env_steps", "curves", seeds, "--x", "epochs", *out)
    refused("-o: expected a name that ends in .png or .svg", "curves", seeds, "-o", "x.jpg")
    epochs = written(seeds, "model")
    record = {"kind": "train", "epochs": 1.0, "epochs_per_s": 1.0}
    (epochs / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    refused("counts env_steps", "curves", seeds, *out)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(seeds / "two", tmp_path / "runs" / "two-again")
    assert answer("curves", "two-again", *out)["experiments"].keys() == {"two"}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    refused(f"-o: cannot write '{out[1]}': No space left on device", "curves", "two-again", *out)
    assert not list(tmp_path.glob("*.jpg"))


# --- throughput ---------------------------------------------------------------------------------


def test_throughput_stands_over_the_workers_beside_the_ideal(tmp_path):
    for workers, rates in {1: (100.0, 120.0), 2: (190.0,), 4: (300.0,)}.items():
        for seed, rate in enumerate(rates):
            trains = [(1, {}), (1000, {"seconds": 1000 / rate})]
            written(tmp_path, "w", seed, trains=trains, scheduler={"workers": workers})
    figure, rates = curves.throughput(history.read_all([tmp_path], pytest.fail))
    assert rates == {"w": {1: pytest.approx([100.0, 120.0]), 2: [190.0], 4: [300.0]}}
    (axes,) = figure.axes
    drawn = axes.containers[0].lines[0]
    assert drawn.get_xdata().tolist() == [1, 2, 4]
    np.testing.assert_allclose(drawn.get_ydata(), [110.0, 190.0, 300.0])
    ideal = next(line for line in axes.lines if line.get_label() == "ideal")
    np.testing.assert_allclose(ideal.get_ydata(), [110.0, 220.0, 440.0])
    bars = axes.containers[0].lines[2][0].get_segments()
    assert bars[0][1][1] - 110.0 == pytest.approx(12.7062 * 10, rel=1e-4)
    assert axes.get_ylabel() == "environment steps per second"
    out = ("-o", tmp_path / "t.png")
    assert answer("throughput", tmp_path, *out)["rates"]["w"]["4"] == [300.0]
    ones = [
        r
        for r in history.read_all([tmp_path], pytest.fail)
        if r.config["scheduler"]["workers"] == 1
    ]
    folders = [run.folder for run in ones]
    refused("differ in scheduler.workers (found: 1)", "throughput", *folders, *out)


# --- regret -------------------------------------------------------------------------------------


def test_lai_and_robbins_is_the_sum_over_the_worse_arms():
    bernoulli = {"id": "rlgen/BernoulliBandit-v0", "kwargs": {"means": [0.9, 0.6, 0.9]}}
    kl = 0.6 * math.log(0.6 / 0.9) + 0.4 * math.log(0.4 / 0.1)
    assert curves.lai_robbins(bernoulli) == pytest.approx(0.3 / kl)
    gaussian = {"id": "rlgen/GaussianBandit-v0", "kwargs": {"means": [0.0, 1.0, 0.5]}}
    assert curves.lai_robbins(gaussian) == pytest.approx(2 / 1.0 + 2 / 0.5)  # the sum of 2 / gap
    assert curves.lai_robbins({"id": "rlgen/GaussianBandit-v0", "kwargs": {}}) is None


def test_regret_adds_up_over_the_pulls_of_each_bandit(tmp_path):
    # Of 10 bandits: 20 pulls of regret 0.5, then 60 of 0.1, are 10 and 6 together.
    env = {"id": "rlgen/BernoulliBandit-v0", "kwargs": {"bandits": 10, "means": [0.9, 0.6]}}
    trains = [(20, {"regret": 0.5}), (80, {"regret": 0.1})]
    run = history.read(written(tmp_path, "bandit", trains=trains, env=env))
    pulls, total = curves.cumulative_regret(run)
    np.testing.assert_allclose(pulls, [2, 8])
    np.testing.assert_allclose(total, [1.0, 1.6])
    (axes,) = curves.regret({"bandit": [run]}).axes
    drawn, bound = axes.lines
    assert drawn.get_ydata()[[0, -1]] == pytest.approx([1.0, 1.6])
    x, y = bound.get_data()
    assert y[-1] == pytest.approx(1.6)
    assert (y[-1] - y[0]) / np.log(x[-1] / x[0]) == pytest.approx(curves.lai_robbins(env))
    assert axes.get_xscale() == "log"


def test_recorded_regret_is_that_of_the_pulls(tmp_path):
    kwargs = {"bandits": 50, "means": [0.9, 0.1]}
    changes = {"run.dir": str(tmp_path), "env.kwargs": kwargs, "env.num_envs": 50}
    changes |= {"stop.env_steps": 5_000, "tracking.every_s": 0.0}
    run = rlgen.api.train("thompson-bernoulli", changes)
    found = answer("regret", run.dir, "-o", tmp_path / "regret.svg")["regret"]
    records = [r for r in history.read(run.dir).of("train") if r["env_steps"] <= 5_000]
    steps = np.diff([r["env_steps"] for r in records], prepend=0)
    total = sum(r["regret"] * n for r, n in zip(records, steps, strict=True)) / 50
    (last,) = next(iter(found.values()))
    assert last == pytest.approx(total)
    assert 0.8 < last < 20  # each begins by not knowing; 100 pulls at random would cost 40
    refused("recorded no regret, which only bandits have", "regret", written(tmp_path, trains=[(
            1, {"loss": 2.0})]), "-o", tmp_path / "x.png")  # fmt: skip


# --- values -------------------------------------------------------------------------------------

QUICK = {"evaluation.every": 0, "stop.target": None, "stop.target_evaluations": 1}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabular")

    def run(config, **changes):
        more = {key.replace("__", "."): value for key, value in changes.items()}
        return rlgen.api.train(config, {**QUICK, "run.dir": str(folder), **more})

    return run


def arrows(axes):
    """The directions of a map's arrows, by the (row, column) of their cells."""
    from matplotlib.quiver import Quiver

    found = {}
    for quiver in (c for c in axes.collections if isinstance(c, Quiver)):
        for x, y, u, v in zip(quiver.X, quiver.Y, quiver.U, quiver.V, strict=True):
            # An arrow alone is drawn around the middle of its cell, others begin there.
            cell = (round(y + v / 2 + 0.12), round(x + u / 2))
            found.setdefault(cell, set()).add((round(v / abs(v or 1)), round(u / abs(u or 1))))
    return found


def test_the_cliffs_map_has_its_values_and_the_way_along_the_edge(train):
    run = train("value-iteration-cliff", env__kwargs={"slip": 0.0}, hyperparameters__gamma=1.0)
    axes = value_maps.draw(run).axes[0]
    (image,) = axes.images
    drawn = image.get_array()
    # Every step costs 1: a value is the way to the goal, which lies in the lower right corner.
    expected = [[-(6 - c) - 2 + r for c in range(7)] for r in range(2)]
    np.testing.assert_allclose(drawn[:2], expected)
    assert drawn[2, 0] == -8 and drawn.mask[2, 1:].all()  # the cliff and the goal have none
    down, right, up = (1, 0), (0, 1), (-1, 0)
    ways = arrows(axes)
    assert ways[2, 0] == {up} and ways[1, 6] == {down}
    assert all(ways[1, c] == {right} for c in range(6))
    assert all(ways[0, c] == {down, right} for c in range(6))  # both as good
    texts = [text.get_text() for text in axes.texts]
    assert "-8.00" in texts and texts.count("G") == 1


def test_frozen_lakes_moves_are_its_own(train):
    run = train("value-iteration-frozenlake", env__kwargs={"is_slippery": False})
    axes = value_maps.draw(run).axes[0]
    values = axes.images[0].get_array()
    assert values[3, 2] == pytest.approx(1.0) and values.mask[3, 3] and values.mask[1, 1]
    ways = arrows(axes)
    assert ways[3, 2] == {(0, 1)} and ways[0, 0] == {(1, 0), (0, 1)}
    assert ways[0, 3] == {(0, -1)}  # there is a hole below


def test_what_was_never_learned_is_grey(train):
    run = train("q-learning-cliff", stop__env_steps=64, env__num_envs=1)
    table = run.algorithm.q
    drawn = value_maps.draw(run).axes[0].images[0].get_array()
    blank = ~table[:14].any(axis=1).reshape(2, 7)
    assert blank.any() and not blank.all()
    np.testing.assert_array_equal(drawn.mask[:2], blank)
    np.testing.assert_allclose(drawn[:2][~blank], table[:14].max(axis=1).reshape(2, 7)[~blank])


def test_double_q_learning_shows_the_mean_of_its_tables(train):
    run = train("double-q-learning-frozenlake", stop__env_steps=3000)
    known = value_maps.learned(run)
    learned = run.algorithm.q.any(axis=1)
    np.testing.assert_allclose(known.values[learned], run.algorithm.q.max(axis=1)[learned] / 2)


def test_four_rooms_have_walls_and_the_windy_grid_kings_moves(train):
    axes = value_maps.draw(train("value-iteration-four-rooms")).axes[0]
    drawn = axes.images[0].get_array()
    assert drawn.shape == (13, 13) and drawn.mask.sum() == 169 - 103  # walls, and the goal
    assert arrows(axes)[6, 9] == {(1, 0)} and arrows(axes)[3, 6] == {(0, 1)}  # to the goal
    kings = train("value-iteration-windy-grid", env__kwargs={"moves": 8})
    ways = set().union(*arrows(value_maps.draw(kings).axes[0]).values())
    assert any(0 not in way for way in ways)  # diagonals


def test_options_show_the_first_moves_of_their_best_options(train):
    run = train("options-four-rooms", stop__env_steps=2000)
    known = value_maps.learned(run)
    assert (known.best.sum(axis=1) == 1).all()
    q, possible = run.algorithm.q, run.algorithm.table.starts.T
    np.testing.assert_allclose(known.values, np.where(possible, q, -np.inf).max(axis=1))


def test_a_random_walk_is_a_line_beside_the_true_values(train):
    run = train("policy-evaluation-random-walk", hyperparameters__gamma=1.0)
    true, found = value_maps.draw(run).axes[0].lines
    np.testing.assert_allclose(true.get_ydata(), np.arange(1, 6) / 6)
    np.testing.assert_allclose(found.get_ydata(), np.arange(1, 6) / 6, atol=1e-6)


def test_the_gambler_stakes_boldly(train):
    left, right = value_maps.draw(train("value-iteration-gambler")).axes
    (line,) = left.lines
    value = dict(zip(*line.get_data(), strict=True))
    assert value[50] == pytest.approx(0.4) and value[75] == pytest.approx(0.64)
    stakes = {(int(c), int(s)) for part in right.collections for c, s in part.get_offsets()}
    assert {(50, 50), (25, 25), (75, 25)} <= stakes
    smallest = dict(right.collections[1].get_offsets().astype(int).tolist())
    bold = [
        min(c % 25, -c % 25) or min(c, 100 - c) for c in range(1, 100)
    ]  # up to a quarter's edge
    assert [smallest[c] for c in range(1, 100)] == bold


def test_blackjack_has_a_map_for_each_kind_of_hand(train):
    run = train("monte-carlo-blackjack", stop__env_steps=20_000)
    ace, none, _ = value_maps.draw(run).axes
    q = run.algorithm.table[0].reshape(32, 11, 2, 2)
    for axes, usable in ((ace, 1), (none, 0)):
        shown = axes.images[0].get_array()
        visited = q[12:22, 1:, usable].any(axis=-1)
        np.testing.assert_allclose(shown[visited], q[12:22, 1:, usable].max(axis=-1)[visited])
    said = {text.get_position(): text.get_text() for text in none.texts}
    assert said[10, 20] == "S" and said[7, 12] in "SH"


@pytest.mark.slow
def test_car_rental_moves_cars_where_they_are_few(train):
    run = train("policy-iteration-car-rental")
    value, moved, *_ = value_maps.draw(run).axes
    cars = moved.images[0].get_array()
    assert cars[20, 0] == 5 and cars[0, 20] == -4 and cars[10, 10] == 0  # figure 4.2 of the book
    assert value.images[0].get_array()[20, 20] == np.nanmax(value.images[0].get_array())


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ("q-learning-taxi", {"stop__env_steps": 200}, "Taxi-v4 has no map: a state is the taxi's"),
        (
            "modified-policy-iteration-random-mdp",
            {"env__kwargs": {"states": 9}},
            "RandomMDP-v0 has no map: it is not known",
        ),
        ("thompson-bernoulli", {"stop__env_steps": 2000}, "knows arms of bandits and no states"),
        (
            "reinforce-cartpole",
            {"stop__env_steps": 200, "evaluation__episodes": 1},
            "has no table of values",
        ),
        ("gaussian-digits", {"stop__epochs": 1}, "has no table of values"),
    ],
)
def test_what_has_no_map_is_refused(config, changes, message, train, tmp_path):
    refused(message, "values", train(config, **changes).dir, "-o", tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


# --- models -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    changes = {"run.dir": str(folder), "stop.epochs": 1, "evaluation.every": 0}
    names = ("rbm-digits", "autoencoder-digits", "sparse-coding-digits", "vae-two-moons")
    return {name: rlgen.api.train(name, changes) for name in names}


def test_filters_are_the_first_layers_weights_the_strongest_first(models, tmp_path, monkeypatch):
    from rlgen import figures

    seen = {}
    real = figures.pictures.grid

    def grid(rows, shape, columns):
        seen["rows"] = rows
        return real(rows, shape, columns)

    monkeypatch.setattr(figures.pictures, "grid", grid)
    weights = {
        "rbm-digits": models["rbm-digits"].algorithm.network.weight.detach().numpy().T,
        "autoencoder-digits": next(models["autoencoder-digits"].algorithm.network.parameters())
        .detach()
        .numpy(),
    }
    for name, rows in weights.items():
        file = tmp_path / f"{name}.png"
        found = answer("filters", models[name].dir, "-o", file, "-n", 9)
        assert found["filters"] == len(rows) and Image.open(file).width < 870
        order = np.argsort(-np.linalg.norm(rows, axis=1), kind="stable")[:9]
        expected = rows[order] / np.abs(rows[order]).max(axis=1, keepdims=True)
        np.testing.assert_allclose(seen["rows"], 0.5 + 0.5 * expected, atol=1e-6)
    answer("filters", models["sparse-coding-digits"].dir, "-o", tmp_path / "s.svg", "-n", 200)
    atoms = models["sparse-coding-digits"].algorithm.network.atoms.numpy().T  # all equally strong
    expected = 0.5 + 0.5 * atoms / np.abs(atoms).max(axis=1, keepdims=True)
    np.testing.assert_allclose(np.sort(seen["rows"], axis=0), np.sort(expected, axis=0), atol=1e-6)
    refused("of shape (2,), no pictures", "filters", models["vae-two-moons"].dir, "-o",
            tmp_path / "x.png")  # fmt: skip


def test_reconstructions_stand_below_their_rows(models, tmp_path):
    run = models["autoencoder-digits"]
    found = answer("reconstructions", run.dir, "-o", tmp_path / "r.png", "--rows", 23)
    assert found["rows"] == 23 and found["split"] == "test"
    assert found["mean_squared_error"] > 0
    image = Image.open(tmp_path / "r.png").convert("L")
    width, height = image.size
    assert width < 1100 and height < width  # three lines of ten, and as many of theirs
    inked = np.nonzero((np.asarray(image) < 255).any(axis=1))[0]
    assert inked[0] < 20 and height - inked[-1] < 20  # no white bands
    answer("reconstructions", models["vae-two-moons"].dir, "-o", tmp_path / "m.svg", "--rows", 9)
    out = ("-o", tmp_path / "x.png")
    refused("there is no 'tset'; did you mean 'test'", "reconstructions", run.dir, *out,
            "--split", "tset")  # fmt: skip


def test_a_line_leads_from_each_point_to_its_reconstruction(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    rows, made = np.arange(8.0).reshape(4, 2), np.arange(8.0).reshape(4, 2) + 0.5
    figures.save_reconstructions(tmp_path / "x.png", rows, made, (2,))
    (axes,) = drawn[0].axes
    lines = [line.get_xydata() for line in axes.lines]
    np.testing.assert_array_equal(lines, np.stack([rows, made], axis=1))
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["data", "reconstructions"]
    figures.save_reconstructions(tmp_path / "x.png", np.eye(4), np.eye(4), (2, 2))
    names = [text.get_text() for text in drawn[1].axes[0].get_yticklabels()]
    assert names == ["data", "reconstruction"]


def test_models_figures_refuse_agents(tmp_path):
    run = rlgen.api.train("q-learning-cliff", {"run.dir": str(tmp_path), "stop.env_steps": 100})
    for command in ("filters", "reconstructions", "latent"):
        refused(f"{command}: {run.dir} trained the agent q-learning", command, run.dir, "-o",
                tmp_path / "x.png")  # fmt: skip
    assert load(run.dir).experiment.algorithm == "q-learning"
