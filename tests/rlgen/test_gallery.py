"""Pictures of a model over training: there when they should be, and nothing else changes."""

from types import SimpleNamespace

import numpy as np
import pytest
from experiments import TINY, train
from PIL import Image

from rlgen.config import resolve_experiment
from rlgen.errors import ConfigError
from rlgen.gallery import Gallery
from rlgen.history import read
from rlgen.videos import Video

EVERY = {"evaluation.every": 1, "stop.epochs": 4}


def pictures(run):
    return {path.name for path in (run.dir / "pictures").iterdir()}


def test_every_evaluation_has_its_pictures_and_the_last_ones_are_the_runs(tmp_path):
    run = train("vae", tmp_path, EVERY)
    for name in ("samples", "reconstructions"):
        files = [f"{name}-{epoch:010d}.png" for epoch in (1, 2, 3, 4)]
        assert {*files, f"{name}.png"} <= pictures(run)
        contents = [(run.dir / "pictures" / file).read_bytes() for file in files]
        assert len(set(contents)) == 4
        assert (run.dir / "pictures" / f"{name}.png").read_bytes() == contents[-1]
        with Image.open(run.dir / "pictures" / files[0]) as picture:
            assert min(picture.size) > 50
    records = read(run.dir).of("picture")
    assert [record["epochs"] for record in records] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert all((run.dir / record["file"]).is_file() for record in records)
    assert not [name for name in pictures(run) if name.endswith((".part", ".partial"))]


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (3, [3, 4])])
def test_fewer_pictures_where_so_configured(every, epochs, tmp_path):
    run = train("vae", tmp_path, EVERY | {"tracking.pictures_every": every})
    expected = {f"samples-{epoch:010d}.png" for epoch in epochs} | {"samples.png"}
    assert {name for name in pictures(run) if name.startswith("samples")} == expected


@pytest.mark.parametrize(
    "name",
    ["vae", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rbm", "wgan", "ddpm"))],
)
def test_pictures_change_neither_weights_nor_evaluations(name, tmp_path):
    runs = [
        train(name, tmp_path / str(every), EVERY | {"tracking.pictures_every": every})
        for every in (0, 1)
    ]
    np.testing.assert_array_equal(runs[0].weights, runs[1].weights)
    scores = [[r["mean"] for r in read(run.dir).of("evaluation")] for run in runs]
    assert scores[0] == scores[1] and len(scores[0]) == 4
    # All are drawn alike: so the last ones do not depend on how many there were before.
    last = [(run.dir / "pictures" / "samples.png").read_bytes() for run in runs]
    assert last[0] == last[1]


def test_an_agent_has_no_pictures(tmp_path):
    with pytest.raises(ConfigError, match=r"tracking\.pictures_every: q-learning has no use"):
        train("q-learning", tmp_path, {"tracking.pictures_every": 2})


def test_however_slow_the_evaluator_is_what_is_due_is_made_once(tmp_path):
    tracking = {"evaluation": {"every": 10}, "tracking": {"video_every": 1}}
    experiment = resolve_experiment({"name": "x", **TINY["sarsa"], **tracking})
    backend = SimpleNamespace(wait=lambda *_: [], call=lambda _, method, weights, ticks: ticks)
    crew = SimpleNamespace(
        backend=backend,
        evaluator=None,
        answer=lambda ticks, who: Video(f"{ticks}".encode(), "gif", [1.0], [2]),
    )
    told = []
    gallery = Gallery(experiment, (), tmp_path, lambda *record: told.append(record), pytest.fail)
    for ticks in (10, 20, 30):  # one is never ready until it is waited for
        weights = object()
        gallery.ask(crew, weights, {"env_steps": ticks})
        gallery.collect(crew)
    assert [values["env_steps"] for _, values in told] == [10, 20]
    gallery.ask(crew, weights, {"env_steps": 35}, last=True)  # the final weights are those of 30
    made = {path.name: path.read_bytes() for path in (tmp_path / "videos").iterdir()}
    assert made == {f"{ticks:010d}.gif": f"{ticks}".encode() for ticks in (10, 20, 30)}
    assert [values["file"] for _, values in told] == [f"videos/{name}" for name in sorted(made)]
