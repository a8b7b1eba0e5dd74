"""Data sets: reading, splitting and sharing among workers."""

from __future__ import annotations

import gzip
import os
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from rlgen.algorithm import Problem
from rlgen.config import DataConfig
from rlgen.errors import ConfigError, DataError
from rlgen.generative import data
from rlgen.generative.densities import DENSITIES, MODE_SCALES, modes
from rlgen.generative.idx import read_idx


def outside(dataset: data.DataSet, low: float, high: float) -> str:
    return Problem(data_first=dataset.first).outside(low, high)


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_set(folder: Path, rows: int = 20, tests: int = 6) -> np.ndarray:
    """An IDX data set of 4 x 3 images, every row of which is unique."""
    folder.mkdir(parents=True)
    images = np.arange((rows + tests) * 12).reshape(-1, 4, 3).astype(np.uint8)
    labels = (np.arange(rows + tests) % 10).astype(np.uint8)
    files = {
        "train-images-idx3-ubyte.gz": gzip.compress(idx_bytes(images[:rows]), mtime=0),
        "train-labels.idx1-ubyte": idx_bytes(labels[:rows]),
        "t10k-images.idx3-ubyte": idx_bytes(images[rows:]),
        "t10k-labels-idx1-ubyte.gz": gzip.compress(idx_bytes(labels[rows:]), mtime=0),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return images


def test_reads_idx_gzipped_or_not_in_either_spelling(tmp_path: Path) -> None:
    images = write_set(tmp_path / "mine")
    config = DataConfig(name="mine", root=tmp_path, validation=0.25)
    dataset = data.load(config, seed=0)
    assert dataset.shape == (4, 3)
    assert [dataset.count(split) for split in data.SPLITS] == [15, 5, 6]
    assert dataset.train.dtype == np.uint8
    # The test files keep their order; pixels are scaled to [0, 1].
    rows = dataset.rows("test", np.arange(6))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, images[20:].reshape(6, 12) / 255, atol=1e-7)
    # Labels stay with their rows: image i was written with label i mod 10.
    index = dataset.train[:, 0].astype(int) // 12
    expected = {int(images[i, 0, 0]): i % 10 for i in range(20)}
    assert [expected[v] for v in dataset.train[:, 0].tolist()] == dataset.labels["train"].tolist()
    assert len(set(index)) == 15


def test_the_environment_variable_names_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "mine")
    monkeypatch.setenv("RLGEN_DATA", str(tmp_path))
    assert data.load(DataConfig(name="mine"), 0).count("train") == 18


WHOLE = idx_bytes(np.zeros((5, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"found 0 bytes, expected a header of 16 bytes"),
        (WHOLE[:-7], r"found 53 values, expected 60 \(5 x 4 x 3\) by its header"),
        (WHOLE + b"!", r"found 61 values, expected 60"),
        (b"\0\0\x0d\x03" + WHOLE[4:], r"found magic number 0x00000d03, expected 0x00000803"),
        (idx_bytes(np.zeros(60, np.uint8)), r"found magic number 0x00000801, expected 0x00000803"),
        (b"<html>not here</html>", r"found magic number 0x3c68746d"),
        (
            gzip.compress(WHOLE, mtime=0)[:-9],
            r"its gzip data are damaged .*expected a whole gzip file",
        ),
        (b"\x1f\x8b" + 30 * b"x", r"its gzip data are damaged"),
        (
            gzip.compress(WHOLE, mtime=0)[:-8] + 8 * b"\0",
            r"its gzip data are damaged \(CRC check failed",
        ),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert str(caught.value).startswith(str(path))
    assert "download the file again" in str(caught.value)


def test_labels_must_be_as_many_as_images(tmp_path: Path) -> None:
    write_set(tmp_path / "mine")
    (tmp_path / "mine" / "train-labels.idx1-ubyte").write_bytes(idx_bytes(np.zeros(19, np.uint8)))
    with pytest.raises(DataError, match=r"train-labels.*found 19 labels, expected 20"):
        data.load(DataConfig(name="mine", root=tmp_path), 0)


def test_test_images_must_have_the_training_images_size(tmp_path: Path) -> None:
    write_set(tmp_path / "mine")
    other = idx_bytes(np.zeros((6, 5, 3), np.uint8))
    (tmp_path / "mine" / "t10k-images.idx3-ubyte").write_bytes(other)
    with pytest.raises(DataError, match=r"test images of \(5, 3\) pixels, training images of"):
        data.load(DataConfig(name="mine", root=tmp_path), 0)


def test_a_missing_set_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RLGEN_DATA", raising=False)
    write_set(tmp_path / "mnist")
    cases = [
        ("minst", tmp_path, r"data\.name: .* 'minst': no train-.* in .*minst \(.*mean 'mnist'\?"),
        ("two_moon", None, r"data\.root and RLGEN_DATA are not set .*mean 'two_moons'\?"),
        ("faces-32", tmp_path, r"no train-.*faces-32 \(set data\.root or RLGEN_DATA to the folder"),
        ("mnist", tmp_path / "gone", r"data\.root: .*'mnist': there is no folder .*gone"),
        ("xyz", None, r"data\.root: .* RLGEN_DATA are not set .*known: circles, digits, grid"),
    ]
    for name, root, message in cases:
        with pytest.raises(DataError, match=message):
            data.load(DataConfig(name=name, root=root), 0)


def test_reads_npz(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    x = np.random.default_rng(0).normal(size=(30, 2, 5))
    np.savez(path, x=x, y=np.arange(30))
    dataset = data.load(DataConfig(name=str(path), validation=0.2, test=0.1), 3)
    assert [dataset.count(split) for split in data.SPLITS] == [22, 5, 3]  # 5 of 27, 3 of 30
    assert dataset.shape == (2, 5)
    for split in data.SPLITS:
        rows = dataset.rows(split, np.arange(dataset.count(split)))
        expected = x[dataset.labels[split]].reshape(-1, 10).astype(np.float32)
        np.testing.assert_array_equal(rows, expected)
    np.savez(path, x=(x > 0).astype(np.uint8) * 255)  # written again: read again
    assert data.load(DataConfig(name=str(path)), 3).range() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((3, 2))}, r"there is no array 'x'"),
        ({"x": np.zeros(3)}, r"found 'x' of shape \(3,\) and dtype float64"),
        ({"x": np.array([["a"], ["b"]])}, r"found 'x' of shape \(2, 1\) and dtype <U1"),
        ({"x": np.array([[{}], [1]], object)}, r"cannot be read \(Object arrays cannot be loaded"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(2, int)}, r"found 'y' of shape \(2,\)"),
        ({"x": np.zeros((0, 2))}, r"found 'x' of shape \(0, 2\)"),
        (
            {"x": np.array([[0.0, 1.0], [1.0, np.nan], [np.nan, 0.0], [2.0, 0.0]])},
            r"needs finite values, not nan in row 1, column 1$",
        ),
        (
            {"x": np.where(np.arange(24) < 17, 0.0, -np.inf).reshape(4, 2, 3)},
            r"needs finite values, not -inf in row 2, pixel \(1, 2\)$",
        ),
        (
            {"x": np.zeros((5, 2)), "y": np.array([0, 1, -3, 1, -1])},
            r"has the label -3 in row 2; expected 0, 1, 2 and so on, less than its 5 rows$",
        ),
        (
            {"x": np.zeros((5, 2)), "y": np.array([0, 4, 1, 5, 2**63], np.uint64)},
            r"has the label 5 in row 3; expected 0, 1, 2",
        ),
        ({"x": np.zeros((2, 2))}, r"has 2 rows; with 1 for validation and 1 for the test none"),
    ],
)
def test_a_wrong_npz_is_explained(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message) as caught:
        data.load(DataConfig(name=str(path)), 0)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    for content in (b"", b"not an archive", b"PK\x03\x04 broken"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read \(it is no archive of arrays\)"):
            data.load(DataConfig(name=str(path)), 0)
    with pytest.raises(DataError, match=r"data\.name: there is no file .*none\.npz"):
        data.load(DataConfig(name=str(tmp_path / "none.npz")), 0)


def test_binarize_needs_pixels() -> None:
    message = r"binarize: the values of 'ring' are not in \[0, 1\], such as -[\d.]+ in row \d+, col"
    with pytest.raises(DataError, match=message):
        data.load(DataConfig(name="ring", binarize=True, size=100), 0)


def test_labels_that_only_the_test_files_have_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "mine")
    labels = np.array([0, 9, 3, 10, 11, 2], np.uint8)
    path = tmp_path / "mine" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(labels), mtime=0))
    message = r"'mine' has the label 10 in test row 3; those of the training rows go from 0 to 9"
    with pytest.raises(DataError, match=message):
        data.load(DataConfig(name="mine", root=tmp_path), 0)


def test_a_label_may_be_missing_and_the_largest_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, x=np.zeros((10, 1)), y=np.array([3, 8] * 5))
    assert data.load(DataConfig(name=str(path)), 0).classes == 9


@pytest.mark.parametrize("seed", range(4))
def test_values_outside_a_range_are_found_in_the_order_of_the_file(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever split the rows went to: the index is the file's own."""
    path = tmp_path / "set.npz"
    x = np.full((40, 2, 3), 0.5)
    x[31, 0, 2], x[17, 1, 0], x[17, 1, 1], x[25, 0, 0] = -0.25, 1.5, -7.0, -9.0
    np.savez(path, x=x)
    dataset = data.load(DataConfig(name=str(path), validation=0.3, test=0.3), seed)
    assert outside(dataset, 0, 1) == "1.5 in row 17, pixel (1, 0)"
    assert outside(dataset, -8, 2) == "-9 in row 25, pixel (0, 0)"
    assert outside(dataset, -9, 1.5) == ""
    flat = x.reshape(40, 6)
    np.savez(path, x=flat)
    again = data.load(DataConfig(name=str(path), validation=0.3, test=0.3), seed)
    assert outside(again, 0, 1) == "1.5 in row 17, column 3"
    monkeypatch.setattr(data, "_LOOKED_AT", 3)
    assert outside(again, 0, 1) == "1.5 in row 17, column 3"
    for split in data.SPLITS:  # which the origins say
        rows = again.rows(split, np.arange(again.count(split)))
        np.testing.assert_array_equal(rows, flat[again.origin[split]].astype(np.float32))


def test_pixels_are_never_outside_and_binary_values_are_0_and_1() -> None:
    digits, binary = (data.load(DataConfig(name="digits", binarize=b), 0) for b in (False, True))
    assert outside(digits, 0, 1) == outside(binary, 0, 1) == ""
    assert outside(digits, 0, 0.5).startswith("0.8125 in row 0, p")
    assert outside(binary, 0.2, 1) == "0 and 1"


def test_openml_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", refuse)
    with pytest.raises(DataError, match=r"openml gave no .*'foo'.*no route to host.*FILE\.npz"):
        data.load(DataConfig(name="openml:foo"), 0)


def test_openml_pixels_are_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bunch:
        data = np.arange(40.0).reshape(20, 2) % 2 * 255
        target = np.array(["no", "yes"] * 10)

    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *_, **__: Bunch)
    dataset = data.load(DataConfig(name="openml:fake"), 0)
    assert dataset.scale == 255
    assert dataset.range() == (0.0, 1.0)
    assert set(dataset.labels["train"].tolist()) == {0, 1}


def test_digits() -> None:
    dataset = data.load(DataConfig(name="digits"), 0)
    assert dataset.shape == (8, 8)
    assert sum(dataset.count(split) for split in data.SPLITS) == 1797
    assert dataset.range() == (0.0, 1.0)
    rows = dataset.rows("train", np.arange(dataset.count("train")))
    np.testing.assert_allclose(dataset.mean(), rows.mean(axis=0), atol=1e-5)
    # A cell of the 8 x 8 digits counts 0 to 16 pixels; 8 of 16 is not above one half.
    binary = data.load(DataConfig(name="digits", binarize=True), 0)
    ones = binary.rows("train", np.arange(binary.count("train")))
    np.testing.assert_array_equal(ones, rows > 0.5)
    np.testing.assert_allclose(binary.mean(), ones.mean(axis=0), atol=1e-5)


def test_splits_are_disjoint_complete_and_of_the_seed() -> None:
    config = DataConfig(name="two_moons", size=1000, validation=0.2, test=0.1)
    dataset = data.load(config, 5)
    assert [dataset.count(split) for split in data.SPLITS] == [720, 180, 100]
    points = np.concatenate([dataset.train, dataset.validation, dataset.test])
    assert len(np.unique(points, axis=0)) == 1000
    data._load.cache_clear()
    again = data.load(config, 5)
    assert again is not dataset
    np.testing.assert_array_equal(again.train, dataset.train)
    np.testing.assert_array_equal(again.test, dataset.test)
    assert not np.array_equal(data.load(config, 6).train, dataset.train)


def test_a_loaded_set_is_shared_and_read_only() -> None:
    config = DataConfig(name="circles", size=50)
    assert data.load(config, 1) is data.load(config, 1)
    with pytest.raises(ValueError, match="read-only"):
        data.load(config, 1).train[0] = 0


@pytest.mark.parametrize("name", sorted(DENSITIES))
def test_densities_stay_in_the_plane_near_the_origin(name: str) -> None:
    points, component = DENSITIES[name](2000, np.random.default_rng(0))
    assert points.shape == (2000, 2)
    assert points.dtype == np.float32
    assert np.abs(points).max() < 8
    if name in MODE_SCALES:
        # Each coordinate's distance from its own mode has the mode's deviation (error 1.6 %).
        distance = points - modes(name)[component]
        assert distance.std() == pytest.approx(MODE_SCALES[name], rel=0.08)
        assert len(modes(name)) == len(np.unique(component)) == {"ring": 8, "grid": 25}[name]


def with_train_rows(name: str, count: int) -> data.DataSet:
    """Exactly so many rows to train on; the least share is one row."""
    config = DataConfig(name=name, size=count + 2, validation=1e-9, test=1e-9)
    return data.load(config, 0)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_workers_parts_join_to_the_global_minibatch(workers: int) -> None:
    dataset = with_train_rows("two_moons", 100)
    shards = [data.Shard(dataset, 4, 16, worker, workers) for worker in range(workers)]
    for epoch in range(2):
        order = np.random.default_rng(np.random.SeedSequence(4, spawn_key=(11, epoch))).permutation(
            100
        )
        for first in range(0, 100, 16):
            joined = np.concatenate([shard.next()["x"] for shard in shards])
            np.testing.assert_array_equal(joined, dataset.train[order[first : first + 16]])
            assert {shard.epochs for shard in shards} == {epoch + min(first + 16, 100) / 100}


def test_every_row_is_visited_once_per_epoch_in_a_new_order() -> None:
    orders = [data.epoch_order(50, 3, epoch) for epoch in range(2)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert orders[0].tolist() != orders[1].tolist()
    assert data.epoch_order(50, 4, 0).tolist() != orders[0].tolist()
    data.epoch_order.cache_clear()
    np.testing.assert_array_equal(data.epoch_order(50, 3, 0), orders[0])


def test_a_shard_goes_on_from_its_counters_with_other_workers() -> None:
    dataset = with_train_rows("ring", 90)
    whole = data.Shard(dataset, 0, 8)
    for _ in range(17):
        whole.next()
    parts = [data.Shard(dataset, 0, 8, worker, 2) for worker in range(2)]
    for part in parts:
        part.epoch, part.position = whole.epoch, whole.position
    np.testing.assert_array_equal(whole.next()["x"], np.concatenate([p.next()["x"] for p in parts]))


def test_more_workers_than_rows_of_a_minibatch() -> None:
    dataset = with_train_rows("ring", 10)
    with pytest.raises(ConfigError, match=r"scheduler\.workers: 5 workers .* minibatches of 4"):
        data.Shard(dataset, 0, batch_size=4, worker=0, workers=5)
    # The last minibatch of an epoch, of 2 rows, leaves two of four workers without any.
    shards = [data.Shard(dataset, 0, 4, worker, 4) for worker in range(4)]
    sizes = [[len(shard.next()["x"]) for shard in shards] for _ in range(3)]
    assert sizes == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 0, 1]]
    assert shards[0].next()["x"].shape == (1, 2)
    # A minibatch larger than the set is the set.
    assert len(data.Shard(dataset, 0, batch_size=64).next()["x"]) == 10


@pytest.mark.skipif("RLGEN_DATA" not in os.environ, reason="needs MNIST in the folder RLGEN_DATA")
def test_mnist_is_the_standard_one() -> None:
    if not (Path(os.environ["RLGEN_DATA"]) / "mnist").is_dir():
        pytest.skip("there is no folder mnist in RLGEN_DATA")
    dataset = data.load(DataConfig(name="mnist", validation=1 / 12), 0)
    assert [dataset.count(split) for split in data.SPLITS] == [55_000, 5_000, 10_000]
    assert dataset.shape == (28, 28)
    labels = np.concatenate([dataset.labels["train"], dataset.labels["validation"]])
    # The counts of the ten digits and the mean pixel that everybody's MNIST has.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(labels).tolist() == counts
    total = dataset.train.sum(dtype=np.int64) + dataset.validation.sum(dtype=np.int64)
    assert total / (60_000 * 784 * 255) == pytest.approx(0.1307, abs=5e-5)
