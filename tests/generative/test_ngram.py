"""The n-gram model against slow counts, hand-made numbers and a source of known entropy."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlgen
from rlgen.algorithm import Problem
from rlgen.errors import ConfigError
from rlgen.generative.ngram import NGram

KINDS: list[dict[str, Any]] = [
    {"smoothing": "kneser-ney"},
    {"smoothing": "additive", "delta": 1.0},
    {"smoothing": "additive", "delta": 0.01},
]


def make(rows: np.ndarray, size: int, **config: Any) -> NGram:
    """A model that has seen the rows, in two minibatches."""
    vocabulary = tuple(f"w{i}" for i in range(size))
    problem = Problem(data_shape=rows.shape[1:], data_count=len(rows), data_vocabulary=vocabulary)
    model = NGram(NGram.Config.model_validate(config), problem, np.random.default_rng(0))
    for part in np.array_split(rows.astype(np.float32), 2):
        model.update({"x": part})
    return model


def random_rows(size: int = 5, count: int = 30, length: int = 12) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.choice(size, (count, length), p=[0.5, 0.3, 0.15, 0.05, 0.0][:size])


def padded(row: Any, n: int, size: int) -> list[int]:
    return [size] * (n - 1) + [int(token) for token in row]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("config", KINDS)
def test_every_conditional_sums_to_one(config: dict[str, Any], order: int) -> None:
    model = make(random_rows(), 5, order=order, **config)
    for length in range(4):
        prefixes = torch.tensor(list(itertools.product(range(5), repeat=length)))
        log_prob = model.next_log_prob(prefixes.reshape(5**length, length).long())
        assert log_prob.shape == (5**length, 5)
        np.testing.assert_allclose(log_prob.exp().sum(1), 1.0, atol=1e-12)
        assert log_prob.isfinite().all()


@pytest.mark.parametrize("config", KINDS)
def test_the_probabilities_of_all_rows_sum_to_one(config: dict[str, Any]) -> None:
    model = make(random_rows(), 5, order=3, **config)
    rows = torch.tensor(list(itertools.product(range(5), repeat=4))).float()
    log_prob = model.log_prob(rows)
    assert log_prob.exp().sum().item() == pytest.approx(1.0)
    # and each is the product of its conditionals
    chained = sum(
        model.next_log_prob(rows[:, :t].long()).gather(1, rows[:, t : t + 1].long())[:, 0]
        for t in range(4)
    )
    np.testing.assert_allclose(log_prob, chained)


@pytest.mark.parametrize("delta", [1.0, 0.25])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_additive_smoothing_is_its_formula(order: int, delta: float) -> None:
    rows = random_rows(4)
    model = make(rows, 4, order=order, smoothing="additive", delta=delta)
    grams: Counter[tuple[int, ...]] = Counter()
    contexts: Counter[tuple[int, ...]] = Counter()
    for row in rows:
        tokens = padded(row, order, 4)
        for t in range(order - 1, len(tokens)):
            gram = tuple(tokens[t - order + 1 : t + 1])
            grams[gram] += 1
            contexts[gram[:-1]] += 1
    probed = random_rows(4, 3)
    expected = []
    for row in probed:
        tokens = padded(row, order, 4)
        cut = [tuple(tokens[t - order + 1 : t + 1]) for t in range(order - 1, len(tokens))]
        terms = [(grams[g] + delta) / (contexts[g[:-1]] + 4 * delta) for g in cut]
        expected.append(sum(map(math.log, terms)))
    np.testing.assert_allclose(model.log_prob(torch.tensor(probed).float()), expected)


def kneser_ney(rows: np.ndarray, n: int, size: int) -> Any:
    """p(w | u) by dictionaries and recursion, after Chen & Goodman 1999, section 2.7."""
    longest = Counter(
        tuple(tokens[t - n + 1 : t + 1])
        for row in rows
        for tokens in [padded(row, n, size)]
        for t in range(n - 1, len(tokens))
    )
    tables = {n: longest}
    for k in range(n - 1, 0, -1):  # the different tokens in front of each k-gram
        before: dict[tuple[int, ...], set[int]] = {}
        for gram in longest:
            before.setdefault(gram[n - k :], set()).add(gram[n - k - 1])
        tables[k] = Counter({gram: len(tokens) for gram, tokens in before.items()})

    def probability(gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / size
        table = tables[len(gram)]
        once, twice = (sum(c == times for c in table.values()) for times in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.75
        after = {g: c for g, c in table.items() if g[:-1] == gram[:-1]}
        total, shorter = sum(after.values()), probability(gram[1:])
        if not total:
            return shorter
        return (max(table[gram] - discount, 0) + discount * len(after) * shorter) / total

    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_kneser_ney_is_its_formula(order: int) -> None:
    rows = random_rows(5, 12, 8)
    model, slow = make(rows, 5, order=order), kneser_ney(rows, order, 5)
    probed = np.random.default_rng(3).integers(5, size=(6, 8))
    expected = []
    for row in probed:
        tokens = padded(row, order, 5)
        cut = [tuple(tokens[t - order + 1 : t + 1]) for t in range(order - 1, len(tokens))]
        expected.append(sum(math.log(slow(gram)) for gram in cut))
    np.testing.assert_allclose(model.log_prob(torch.tensor(probed).float()), expected)


def test_kneser_ney_counts_what_stands_before_a_word() -> None:
    # The usual example: "Francisco" is frequent, but only after "San"; "glasses" stands behind
    # many words. After a word that was never seen, "glasses" is likelier.
    names = ["San", "Francisco", "glasses", "my", "your", "her", "his", "reading", "new"]
    san, francisco, glasses = 0, 1, 2
    pairs = [[san, francisco]] * 8 + [[i, glasses] for i in range(3, 8)]
    model = make(np.array(pairs), len(names), order=2)
    p = model.next_log_prob(torch.tensor([[8]]))[0].exp()  # after "new"
    assert p[glasses] > p[francisco]
    additive = make(np.array(pairs), len(names), order=1, smoothing="additive", delta=0.01)
    p = additive.next_log_prob(torch.tensor([[8]]))[0].exp()
    assert p[francisco] > p[glasses]


def test_before_the_first_epoch_ends_the_model_is_uniform() -> None:
    problem = Problem(data_shape=(4,), data_count=10, data_vocabulary=tuple("abcdefg"))
    for config in KINDS:
        model = NGram(NGram.Config.model_validate(config), problem, np.random.default_rng(0))
        model.update({"x": np.zeros((9, 4), np.float32)})  # of 10
        score = model.evaluate({"x": torch.ones(3, 4)})["log_likelihood"]
        # so its perplexity is the size of the vocabulary (eq 15.38)
        np.testing.assert_allclose(np.exp(-np.asarray(score)), 7)


def test_it_learns_the_entropy_of_a_markov_chain(tmp_path: Path) -> None:
    """The cross entropy of held-out text is the chain's entropy rate, and that of order 1 more."""
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(4, 0.5), 4)
    tokens = [0]
    for u in rng.random(60_000):
        tokens.append(int((table[tokens[-1]].cumsum() < u).sum()))
    (tmp_path / "chain.txt").write_text("".join("abcd"[min(token, 3)] for token in tokens))
    values, vectors = np.linalg.eig(table.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    rate = -(stationary[:, None] * table * np.log(table)).sum()
    scores = {}
    for order in (1, 2, 3):
        run = rlgen.train(
            "ngram-fables",
            {
                "run.dir": str(tmp_path),
                "data": {"name": str(tmp_path / "chain.txt"), "window": 200},
                "hyperparameters.order": order,
            },
        )
        scores[order] = -run.evaluate()["mean"]
    alone = -(stationary * np.log(stationary)).sum()
    # 30 windows of 200; one token in 200 has no context.
    assert scores[2] == pytest.approx(rate, abs=0.03)
    assert scores[3] == pytest.approx(rate, abs=0.03)
    assert scores[1] == pytest.approx(alone, abs=0.03)
    assert alone > rate + 0.1


def test_samples_have_the_frequencies_of_the_text() -> None:
    rows = np.tile([0, 1, 2, 1], (50, 3))
    model = make(rows, 3, order=3)
    torch.manual_seed(0)
    drawn = model.sample(200)
    assert drawn.shape == (200, 12)
    assert drawn.dtype == torch.float32
    frequency = np.bincount(drawn.long().flatten().numpy(), minlength=3) / drawn.numel()
    np.testing.assert_allclose(frequency, [0.25, 0.5, 0.25], atol=0.03)


def test_an_epoch_counts_each_row_once_however_it_is_cut(tmp_path: Path) -> None:
    tables = []
    cuts: list[dict[str, Any]] = [
        {},
        {"hyperparameters.batch_size": 50},
        {"scheduler.workers": 3},
    ]
    for cut in cuts:
        changes = {"run.dir": str(tmp_path), **cut}
        tables.append(rlgen.train("ngram-fables", changes).weights)
    twice = rlgen.train("ngram-fables", {"run.dir": str(tmp_path), "stop.epochs": 2}).weights
    for other in (*tables[1:], twice):
        np.testing.assert_array_equal(tables[0], other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hyperparameters.order": 8}, r"order: 8-grams of 378 tokens are too many to number"),
        ({"hyperparameters.delta": 0.5}, r"delta has an effect only with smoothing=additive"),
        ({"hyperparameters.delta": 0}, r"hyperparameters.delta: .*greater than 0 \(got 0\)"),
        ({"hyperparameters.order": 0}, r"hyperparameters.order: .*greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        rlgen.train("ngram-fables", {"run.dir": str(tmp_path), **changes})
