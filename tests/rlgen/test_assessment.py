"""All figures of a trained model: which apply, what they are made of, how they are printed."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import rlgen
from rlgen.algorithm import Algorithm, Estimate, Problem
from rlgen.assessment import assess, mean_and_error
from rlgen.config import DataConfig, Hyperparameters
from rlgen.display import estimates
from rlgen.errors import ConfigError
from rlgen.generative import data, features
from rlgen.generative.densities import DENSITIES


class Model(Algorithm):
    """What every test model starts from: nothing to learn."""

    def __init__(self):
        super().__init__(Hyperparameters(), Problem(), np.random.default_rng(0))
        self.network = nn.Module()


class Sampler(Model):
    """Samples the rows that it is given, in a random order."""

    def __init__(self, rows):
        super().__init__()
        self.rows = torch.tensor(np.asarray(rows))

    def sample(self, n):
        return self.rows[torch.randint(len(self.rows), (n,))]


class Measurer(Model):
    """Measures the sum of each row; remembers the rows of each call."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def measure(self, batch):
        self.seen.append(batch["x"])
        count = len(batch["x"])
        return {"sum": batch["x"].sum(1), "rows": Estimate(count, 0.0, 2.0 * count, "a note")}


class Coder(Model):
    """Codes that are the rows times a number."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def encode(self, x):
        return self.factor * x


def load(name, **more):
    return data.load(DataConfig(name=str(name), **more), 0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(features, "_SEEN", 1000)  # a hasty classifier


def test_the_mean_of_rows_has_its_standard_error():
    estimate = mean_and_error(np.array([1.0, 2.0, 3.0, 6.0], np.float32))
    error = np.sqrt(14 / 3 / 4)
    assert (estimate.value, estimate.note) == (3.0, "")
    assert (estimate.low, estimate.high) == pytest.approx((3 - error, 3 + error))
    assert mean_and_error(np.array([2.0])) == Estimate(2.0, 2.0, 2.0, "one row")


def test_its_own_figures_come_from_chunks_of_a_random_subset():
    dataset, model = load("two_moons", size=30_000), Measurer()
    found = assess(model, dataset, "two_moons", "test", 2500)
    assert [len(x) for x in model.seen] == [2000, 500]
    rows = torch.cat(model.seen).numpy()
    everything = dataset.rows("test", np.arange(3000))
    assert {tuple(r) for r in rows} <= {tuple(r) for r in everything}
    assert len(np.unique(rows, axis=0)) == 2500
    assert not np.array_equal(rows[:100], everything[:100])
    sums = rows.sum(axis=1, dtype=np.float64)
    assert found["sum"].value == pytest.approx(sums.mean(), rel=1e-5)
    error = sums.std(ddof=1) / 50
    assert found["sum"].high - found["sum"].value == pytest.approx(error, rel=1e-4)
    # Estimates of several chunks are averaged by their rows.
    mean = (2000**2 + 500**2) / 2500
    assert found["rows"] == Estimate(mean, 0.0, 2 * mean, "a note")
    assert set(found) == {"sum", "rows"}
    again = Measurer()
    assert assess(again, dataset, "two_moons", "test", 2500) == found
    assert len(torch.cat(again.seen)) == 2500
    assess(again, dataset, "two_moons", "validation", 10**6)
    assert len(torch.cat(again.seen)) == 2500 + 2700  # as many as there are


def test_a_model_with_nothing_to_show():
    assert assess(Model(), load("two_moons"), "two_moons", "test", 100) == {}


def test_samples_of_the_density_itself_are_as_near_as_other_rows():
    dataset = load("ring")
    torch.manual_seed(0)
    own = DENSITIES["ring"](5000, np.random.default_rng(1))[0]
    found = assess(Sampler(own), dataset, "ring", "test", 400)
    assert set(found) == {
        "mmd", "sliced_wasserstein", "frechet", "precision", "recall", "modes", "high_quality"
    }  # fmt: skip
    mmd = found["mmd"]
    assert abs(mmd.value) < 4 * (mmd.high - mmd.value)
    assert found["modes"] == Estimate(8, 8, 8, "found of 8")
    assert found["high_quality"].value == pytest.approx(0.989, abs=0.025)
    assert "0.989" in found["high_quality"].note
    assert min(found["precision"].value, found["recall"].value) > 0.85
    for name in ("mmd", "sliced_wasserstein", "frechet", "precision", "recall"):
        assert found[name].note.startswith("validation rows ")
    other = float(found["sliced_wasserstein"].note.split()[-1])
    assert found["sliced_wasserstein"].value == pytest.approx(other, abs=0.1)


def test_samples_of_one_mode_are_told_from_the_density():
    torch.manual_seed(0)
    collapsed = Sampler([[1.0, 0.0], [1.005, 0.0], [1.0, 0.005]])
    found = assess(collapsed, load("ring"), "ring", "test", 400)
    assert found["modes"].value == 1
    assert found["high_quality"].value == found["precision"].value == 1
    assert found["recall"].value < 0.2
    mmd = found["mmd"]
    assert mmd.value > 10 * (mmd.high - mmd.value)
    assert found["sliced_wasserstein"].value > 0.5


def test_images_are_compared_by_features_and_probabilities_are_drawn(tmp_path):
    """Of binary rows a model may sample probabilities: the distances are of draws from them."""
    rng = np.random.default_rng(0)
    p = rng.random((4, 4)).round(1)
    x = (rng.random((1000, 4, 4)) < p).astype(np.uint8) * 255
    np.savez(tmp_path / "set.npz", x=x, y=rng.integers(2, size=1000))
    torch.manual_seed(0)
    name = tmp_path / "set.npz"
    model = Sampler(p.reshape(1, 16))
    found = assess(model, load(name, binarize=True, test=0.3), str(name), "test", 250)
    mmd = found["mmd"]
    assert abs(mmd.value) < 4 * (mmd.high - mmd.value)
    assert found["frechet"].note.startswith("features, validation rows ")
    assert not found["mmd"].note.startswith("features")
    found = assess(model, load(name, test=0.3), str(name), "test", 250)  # as they are
    assert found["mmd"].value > 20 * (found["mmd"].high - found["mmd"].value)


def test_few_rows_have_no_distances():
    dataset = load("two_moons", size=250)  # 25 to test
    assert assess(Sampler(dataset.train), dataset, "two_moons", "test", 1000) == {}


def test_a_text_has_no_distances(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a line of a text to be cut into windows. " * 200)
    dataset = load(path)
    assert dataset.vocabulary
    assert assess(Sampler(dataset.train), dataset, str(path), "test", 100) == {}


def test_codes_are_worth_what_a_classifier_reads_off_them():
    dataset = load("digits")
    found = assess(Coder(1.0), dataset, "digits", "test", 1000)
    assert set(found) == {"code_accuracy"}
    accuracy = found["code_accuracy"]
    assert 0.9 < accuracy.low < accuracy.value < accuracy.high < 1  # of the pixels themselves
    rate = accuracy.value
    assert accuracy.high - rate == pytest.approx(np.sqrt(rate * (1 - rate) / 179), rel=1e-6)
    assert accuracy.note.endswith("codes of 1455 training rows")
    assert assess(Coder(0.0), dataset, "digits", "test", 1000)["code_accuracy"].value < 0.2
    unlabelled = data.DataSet(
        dataset.train, dataset.validation, dataset.test, dataset.shape, 16.0, False, {}
    )
    assert assess(Coder(1.0), unlabelled, "digits", "test", 1000) == {}
    codeless = Coder(1.0)  # as a Boltzmann machine without hidden units
    codeless.encode = lambda x: x[:, :0]
    assert assess(codeless, dataset, "digits", "test", 1000) == {}


def test_an_assessment_is_of_the_weights_and_the_tick(in_tmp):
    run = rlgen.train("gaussian-mixture-grid", {"stop.epochs": 2, "data.size": 1500})
    state = torch.get_rng_state()
    found = run.assess(rows=100)
    assert torch.equal(torch.get_rng_state(), state)
    assert run.assess(rows=100) == found
    assert run.assess(rows=100, tick=1) != found
    assert run.assess(rows=100, split="validation") != found
    assert found["modes"].note == "found of 25"


def test_an_agent_is_not_assessed(in_tmp):
    run = rlgen.train("value-iteration-frozenlake", {"stop.updates": 2, "evaluation.episodes": 2})
    with pytest.raises(ConfigError, match=r"assess: runs.* trained the agent value-iteration; eva"):
        run.assess()


def test_estimates_are_printed_to_two_digits_of_their_errors():
    found = {
        "log_prob": Estimate(-86.34567, -86.5789, -86.11244),
        "log_z": Estimate(451.28, 451.1, 452.0, "base: uniform"),
        "modes": Estimate(8, 8, 8, "found of 8"),
        "nearly_zero": Estimate(0.000123, 0.000111, 0.000135),
        "large": Estimate(12345.6, 11111.1, 13580.1),
        "one_sided": Estimate(585.612, -math.inf, 587.03),
        "one_row": Estimate(12.5, math.nan, math.nan),
        "perplexity": Estimate(math.inf, math.inf, math.inf),
        "elbo": Estimate(math.nan, math.nan, math.nan, "2 rows"),
    }
    assert list(estimates(found)) == [
        "  log_prob     -86.35 ± 0.23",
        "  log_z        451.28 [451.10, 452.00]  (base: uniform)",
        "  modes        8  (found of 8)",
        "  nearly_zero  0.000123 ± 0.000012",
        "  large        12346 ± 1234",
        "  one_sided    585.61 [-inf, 587.03]",
        "  one_row      12.5",
        "  perplexity   is inf (rows are impossible to the model, or it has diverged)",
        "  elbo         is not a number (the model has diverged)  (2 rows)",
    ]
    assert list(estimates({})) == []
