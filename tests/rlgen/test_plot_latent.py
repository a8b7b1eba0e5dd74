"""The figure of a model's codes: figure 13.5 of the book."""

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from sklearn.decomposition import PCA
from typer.testing import CliRunner

import rlgen
from rlgen import cli, figures

TINY = {"network.hidden": [8], "stop.epochs": 1, "evaluation.every": 0}


def plot(*arguments):
    return CliRunner().invoke(cli.app, ["plot", "latent", *map(str, arguments)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders by the number of latent values, and that of a model without codes."""
    folder = tmp_path_factory.mktemp("runs")

    def train(config, **changes):
        return rlgen.train(config, {**TINY, "run.dir": str(folder), **changes}).dir

    found = {k: train("vae-digits", **{"hyperparameters.latent": k}) for k in (1, 2, 3)}
    changes = {"run.dir": str(folder), "stop.epochs": 1}
    return found | {
        "points": train("vae-two-moons"),
        "gaussian": rlgen.train("gaussian-digits", changes).dir,
    }


def test_the_manifold_is_at_evenly_spaced_probabilities_of_the_prior():
    codes = figures.manifold_codes().reshape(20, 20, 2)
    p = scipy.stats.norm.cdf(codes)
    np.testing.assert_allclose(p[7, :, 0], np.linspace(0.01, 0.99, 20), atol=1e-6)
    np.testing.assert_allclose(p[:, 7, 1], np.linspace(0.99, 0.01, 20), atol=1e-6)
    assert codes[0, 0, 1] == pytest.approx(2.326348, abs=1e-5)  # the table's z of 0.99, at the top
    assert codes[0, 0, 0] == pytest.approx(-2.326348, abs=1e-5)  # and on the left


def test_principal_components_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + 3.0
    found, share = figures.principal_components(codes)
    pca = PCA(2).fit(codes)
    np.testing.assert_allclose(np.abs(found), np.abs(pca.transform(codes)), atol=1e-8)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum())


def test_two_values_come_with_a_manifold_and_more_without(runs, tmp_path):
    sizes = {}
    for key in (2, 3, "points"):
        file = tmp_path / f"{key}.png"
        result = plot(runs[key], "-o", file, "--rows", 300, "--split", "train", "--json")
        assert result.exit_code == 0, result.stderr
        assert '"rows": 300' in result.stdout.splitlines()[-1]
        sizes[key] = Image.open(file).size
    assert sizes[2][0] > 1.5 * sizes[3][0]
    assert sizes[3] == sizes["points"]  # codes of points decode to no pictures


def test_labels_are_named_where_they_are_by_themselves():
    # Two labels of the same median, which two names could not share: one is around the other.
    rng = np.random.default_rng(1)
    angle = rng.uniform(0, 2 * np.pi, 500)
    ring = 3.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    codes = np.concatenate([ring, 0.2 * rng.normal(size=(500, 2))])
    places = figures._places(codes, np.repeat([4, 9], 500))
    assert list(places) == [4, 9]
    assert np.hypot(*places[4]) == pytest.approx(3.0, abs=0.3)
    assert np.hypot(*places[9]) < 0.5
    same = figures._places(rng.normal(size=(400, 2)), np.arange(400) % 2)
    assert np.hypot(*np.subtract(same[0], same[1])) > 0.3  # never one above the other


def test_labels_are_named_and_coloured(tmp_path):
    digits = np.arange(400) % 10
    codes = 3.0 * np.stack([digits % 5, digits // 5], axis=1)
    codes += 0.3 * np.random.default_rng(0).normal(size=(400, 2))
    pixels = {}
    for name, labels in {"none": None, "some": digits}.items():
        figures.save_latent(tmp_path / f"{name}.png", codes, labels, None)
        pixels[name] = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"))
    for colour in figures.COLOURS:  # the frame of its name shows each of them pure
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels["some"] == rgb).all(axis=-1).sum() > 30
        if colour not in (figures.COLOURS[0], "#000000"):  # of those without labels, of the axes
            assert (pixels["none"] == rgb).all(axis=-1).sum() < 30


@pytest.mark.parametrize(
    ("key", "arguments", "message"),
    [
        ("gaussian", ["-o", "a.png"], "trained gaussian, which has no codes of rows"),
        (1, ["-o", "a.png"], "the codes of {run} are of one value, a plane needs two"),
        (2, ["-o", "a.gif"], "-o: expected a name that ends in .png or .svg, got 'a.gif'"),
        (2, ["-o", "a.png", "--split", "tset"], "--split: there is no 'tset'; did you mean 'test'"),
    ],
)
def test_mistakes_are_explained(key, arguments, message, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = plot(runs[key], *arguments)
    assert result.exit_code == 2
    assert message.format(run=runs[key]) in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []
