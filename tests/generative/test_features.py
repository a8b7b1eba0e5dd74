"""The classifier whose features images are compared by, and where its weights are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rlgen.config import DataConfig
from rlgen.generative import data, features, metrics


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rlgen"


@pytest.fixture
def stripes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """5 x 6 images with a horizontal or a vertical stripe; the training is short."""
    monkeypatch.setattr(features, "_SEEN", 2000)
    rng = np.random.default_rng(0)
    x, y = rng.integers(60, size=(200, 5, 6)).astype(np.uint8), rng.integers(2, size=200)
    for image, label in zip(x, y, strict=True):
        place = rng.integers(5)
        image[(place, slice(None)) if label else (slice(None), place)] = 255
    path = tmp_path / "stripes.npz"
    np.savez(path, x=x, y=y)
    return path


def load(path: Path, **more: object) -> data.DataSet:
    return data.load(DataConfig(name=str(path), **more), 0)  # type: ignore[arg-type]


def weights(model: features.Classifier) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()


def test_it_reads_digits_and_its_features_know_digits_from_noise(cache: Path) -> None:
    dataset = data.load(DataConfig(name="digits"), 0)
    model = features.classifier(dataset)
    test, validation = (
        dataset.rows(split, np.arange(dataset.count(split))) for split in ("test", "validation")
    )
    with torch.no_grad():
        guess = model.head(model(torch.from_numpy(test))).argmax(1).numpy()
    assert (guess == dataset.labels["test"]).mean() > 0.88
    extract = features.extractor(dataset)
    assert extract(test).shape == (180, features.FEATURES)
    distance = metrics.frechet_distance(extract(test), extract(validation))
    # The right mean and covariance of every pixel, which are no digits.
    blurred = np.random.default_rng(0).multivariate_normal(test.mean(0), np.cov(test.T), 180)
    other = metrics.frechet_distance(extract(blurred.clip(0, 1)), extract(validation))
    assert other > 3 * distance


def test_the_weights_are_of_the_data_alone_and_are_kept(cache: Path, stripes: Path) -> None:
    dataset = load(stripes)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weights(features.classifier(dataset))
    assert torch.equal(torch.get_rng_state(), state)  # a run's numbers do not move
    [kept] = cache.iterdir()
    assert kept.suffix == ".safetensors"
    stamp = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(weights(features.classifier(dataset)), first)
    assert kept.stat().st_mtime_ns == stamp  # read, not trained again
    kept.unlink()
    torch.manual_seed(2)
    np.testing.assert_array_equal(weights(features.classifier(dataset)), first)
    for content in (b"", b"broken", kept.read_bytes()[:-100]):
        kept.write_bytes(content)
        np.testing.assert_array_equal(weights(features.classifier(dataset)), first)
        assert len(kept.read_bytes()) > 10_000  # mended


def test_other_data_have_other_weights(cache: Path, stripes: Path) -> None:
    features.classifier(load(stripes))
    features.classifier(load(stripes, binarize=True))
    features.classifier(load(stripes, validation=0.3))
    arrays = np.load(stripes)
    np.savez(stripes, x=arrays["x"], y=1 - arrays["y"])
    features.classifier(load(stripes))
    assert len(list(cache.iterdir())) == 4


def test_a_folder_that_cannot_be_written_costs_time_only(
    tmp_path: Path, stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    dataset = load(stripes)
    again = weights(features.classifier(dataset))
    np.testing.assert_array_equal(weights(features.classifier(dataset)), again)


def test_it_needs_images_and_labels(tmp_path: Path) -> None:
    def with_rows(name: str, **arrays: np.ndarray) -> data.DataSet:
        np.savez(tmp_path / name, **arrays)  # type: ignore[arg-type]
        return load(tmp_path / name)

    labels = np.arange(20) % 2
    assert features.available(with_rows("gray.npz", x=np.ones((20, 4, 4)), y=labels))
    colours = with_rows("colours.npz", x=np.ones((20, 4, 4, 3)), y=labels)
    assert features.available(colours)
    assert features.Classifier(colours.shape, 2)(torch.ones(5, 48)).shape == (5, 64)
    assert not features.available(with_rows("rows.npz", x=np.ones((20, 16)), y=labels))
    assert not features.available(with_rows("unlabelled.npz", x=np.ones((20, 4, 4))))
    assert not features.available(with_rows("one.npz", x=np.ones((20, 4, 4)), y=0 * labels))
