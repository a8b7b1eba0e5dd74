"""Texts: tokens, vocabularies, windows, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlgen.config import DataConfig, resolve_experiment
from rlgen.errors import ConfigError, DataError
from rlgen.generative import data, text
from rlgen.problem import load_problem

LINES = "The fox sees the crow.\nThe crow, alas, sees nobody!\n"


def write(folder: Path, content: str) -> str:
    path = folder / "mine.txt"
    path.write_text(content, encoding="utf-8")
    return str(path)


def test_words_are_words_marks_and_ends_of_lines() -> None:
    tokens = text.tokenize("“Don't go,” said J. Fox.\n\nHe’s gone", "words")
    expected = "“|Don't|go|,|”|said|J|.|Fox|.|\n|He’s|gone"
    assert tokens == expected.split("|")
    assert text.tokenize("a b\n", "characters") == ["a", " ", "b", "\n"]


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_a_text_that_is_set_as_usual_survives_its_tokens(kind: text.Tokens) -> None:
    ours = text.read("fables")
    assert text.detokenize(text.tokenize(ours, kind), kind).strip() == ours.strip()


def test_the_vocabulary_is_what_occurs_twice_and_the_rest_is_unknown() -> None:
    vocabulary = text.make_vocabulary(["b", "a", "b", "c", "a", "b"])
    assert vocabulary == ("<unk>", "a", "b")
    assert text.encode(["a", "c", "b", "z"], vocabulary).tolist() == [1, 0, 2, 0]
    assert text.detokenize(["a", "<unk>"], "characters") == "a�"


def test_windows_follow_one_another_through_the_splits(tmp_path: Path) -> None:
    name = write(tmp_path, "abcdefghij" * 20 + "xyz")  # 203 characters: 29 windows of 7
    dataset = data.load(DataConfig(name=name, window=7), seed=0)
    assert dataset.shape == (7,)
    assert [dataset.count(split) for split in data.SPLITS] == [23, 3, 3]
    assert dataset.train.dtype == np.uint8
    rows = [dataset.rows(split, np.arange(dataset.count(split))) for split in data.SPLITS]
    assert all(part.dtype == np.float32 for part in rows)
    read = "".join(dataset.vocabulary[int(i)] for i in np.concatenate(rows).ravel())
    assert read == ("abcdefghij" * 20 + "xyz")[:203].replace("xyz", "<unk>" * 3)
    # The seed shuffles the epochs, not the split.
    other = data.load(DataConfig(name=name, window=7), seed=1)
    np.testing.assert_array_equal(other.test, dataset.test)


def test_tokens_and_vocabulary_are_of_the_training_part_only(tmp_path: Path) -> None:
    name = write(tmp_path, "to be or not " * 50 + "unseen unseen unseen " * 20)
    dataset = data.load(DataConfig(name=name, tokens="words", window=4, test=0.2), seed=0)
    assert dataset.vocabulary == ("<unk>", "be", "not", "or", "to")
    assert (dataset.test == 0).mean() > 0.5


def test_a_file_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    config = DataConfig(name=write(tmp_path, "ab" * 50), window=5)
    assert data.load(config, 0).vocabulary == ("<unk>", "a", "b")
    import os

    name = write(tmp_path, "xy" * 50)
    os.utime(name, (1e9, 1e9))
    assert data.load(config, 0).vocabulary == ("<unk>", "x", "y")


def test_our_own_text_is_there() -> None:
    ours = text.read("fables")
    assert 30_000 < len(ours) < 100_000
    words = data.load(DataConfig(name="fables", tokens="words", window=32), 0)
    assert words.count("train") > 250
    assert 300 < len(words.vocabulary) < 1000
    characters = data.load(DataConfig(name="fables"), 0)
    assert characters.shape == (64,)
    assert len(characters.vocabulary) < 80


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (b"", {}, r"has 0 characters, which make 0 windows of 64; .* none is left to train on"),
        (b"abc" * 30, {"window": 40}, r"data.window: .* 90 characters, which make 2 windows of 40"),
        (b"a b\xff\xfe", {}, r"expected text in UTF-8, found the byte 0xff at offset 3"),
        ("".join(map(chr, range(300, 500))).encode(), {"window": 5}, r"none occurs twice"),
        (b"ab" * 99, {"binarize": True}, r"data.binarize: a text has no use for it"),
        (b"ab" * 99, {"size": 5}, r"data.size: a text has no use for it"),
        (b"ab" * 99, {"root": "/"}, r"data.root: a text has no use for it"),
    ],
)
def test_a_text_that_cannot_be_learned_from_is_refused(
    content: bytes, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    config = DataConfig.model_validate({"name": str(path), **changes})
    with pytest.raises((DataError, ConfigError), match=message):
        data.load(config, 0)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data.name: there is no file '.*none\.txt'; known: fables"
    ):
        data.load(DataConfig(name=str(tmp_path / "none.txt")), 0)
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataError, match=r"folder\.txt: cannot be read"):
        data.load(DataConfig(name=str(tmp_path / "folder.txt")), 0)


@pytest.mark.parametrize("key", ["tokens", "window"])
def test_what_only_texts_have_is_refused_elsewhere(key: str) -> None:
    config = DataConfig.model_validate({"name": "digits", key: {"tokens": "words"}.get(key, 9)})
    with pytest.raises(ConfigError, match=rf"data.{key}: only for texts, which 'digits' is not"):
        data.load(config, 0)
    with pytest.raises(ValueError, match="greater than or equal to 3"):
        DataConfig(name="fables", window=2)


@pytest.mark.parametrize(
    ("algorithm", "name", "message"),
    [
        ("ngram", "digits", r"data.name: ngram models texts: fables, or FILE.txt \(got 'digits'\)"),
        ("gaussian", "fables", r"data.name: gaussian models numbers, not texts \(got 'fables'\)"),
    ],
)
def test_models_of_texts_and_of_numbers_are_not_mixed_up(
    algorithm: str, name: str, message: str
) -> None:
    plain = {"name": "x", "algorithm": algorithm, "data": {"name": name}, "stop": {"epochs": 1}}
    with pytest.raises(ConfigError, match=message):
        load_problem(resolve_experiment(plain))


def test_a_path_means_the_same_from_another_folder(in_tmp: Path) -> None:
    write(in_tmp, LINES * 20)
    assert DataConfig(name="mine.txt").name == str(in_tmp / "mine.txt")
