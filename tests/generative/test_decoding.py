"""Greedy, ancestral and beam search against the enumeration of all sequences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from rlgen.generative.decoding import Predictor, ancestral, beam_search, greedy, without

V = 4


def lookup(prefix: Tensor) -> Tensor:
    """A different distribution after every prefix, drawn by its number."""
    rows = []
    for tokens in prefix.tolist():
        number = sum((token + 1) * (V + 1) ** i for i, token in enumerate(tokens))
        rows.append(np.random.default_rng(number).normal(size=V) * 1.5)
    return torch.tensor(np.array(rows)).log_softmax(-1)


def log_prob(sequence: tuple[int, ...], prompt: tuple[int, ...], end: int | None) -> float:
    """Of what follows the prompt, up to the first ``end``."""
    total = 0.0
    for t, token in enumerate(sequence):
        total += float(lookup(torch.tensor([[*prompt, *sequence[:t]]]).reshape(1, -1))[0, token])
        if token == end:
            break
    return total


@pytest.mark.parametrize("end", [None, 2])
def test_a_full_beam_is_an_exhaustive_search(end: int | None) -> None:
    steps, prompt = 4, (1, 2)
    sequences = {}
    for sequence in itertools.product(range(V), repeat=steps):
        if end in sequence:  # all that follows is the end again
            place = sequence.index(end)
            sequence = sequence[:place] + (end,) * (steps - place)
        sequences[sequence] = log_prob(sequence, prompt, end)
    ordered = sorted(sequences, key=lambda sequence: -sequences[sequence])
    beams, score = beam_search(lookup, torch.tensor(prompt), steps, V**steps, end)
    assert [tuple(row[2:]) for row in beams.tolist()] == ordered
    assert score.tolist() == pytest.approx([sequences[sequence] for sequence in ordered])
    assert score.exp().sum().item() == pytest.approx(1.0)
    # Already with V^(T-1) beams the likeliest one cannot be lost.
    best, best_score = beam_search(lookup, torch.tensor(prompt), steps, V ** (steps - 1), end)
    assert tuple(best[0, 2:].tolist()) == ordered[0]
    assert best_score[0].item() == pytest.approx(sequences[ordered[0]])


def test_one_beam_is_greedy_and_more_are_no_worse() -> None:
    scores = []
    for first in range(V):
        prompt = torch.tensor([first])
        narrow, _ = beam_search(lookup, prompt, 5, 1)
        assert narrow.tolist() == greedy(lookup, prompt[None], 5).tolist()
        scores.append([float(beam_search(lookup, prompt, 5, k)[1][0]) for k in (1, 3, 64)])
    narrow_, wide, full = np.array(scores).T
    assert (full >= wide - 1e-12).all()
    assert (full >= narrow_).all()
    assert (full > narrow_ + 0.1).any()  # greedy is not optimal


def test_two_beams_find_what_greedy_passes_by() -> None:
    # A has probability 0.6, and then both are as likely; B has 0.4, and then B 0.9: BB has 0.36.
    def predict(prefix: Tensor) -> Tensor:
        table = {(): [0.6, 0.4], (0,): [0.5, 0.5], (1,): [0.1, 0.9]}
        return torch.tensor([table[tuple(tokens)] for tokens in prefix.tolist()]).log()

    empty = torch.zeros(0, dtype=torch.int64)
    assert greedy(predict, empty[None], 2)[0, 0].item() == 0
    beams, score = beam_search(predict, empty, 2, 2)
    assert beams[0].tolist() == [1, 1]
    assert score.exp()[0].item() == pytest.approx(0.36)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_ancestral_draws_have_the_probabilities_of_the_model(temperature: float) -> None:
    torch.manual_seed(0)
    drawn = ancestral(lookup, torch.tensor([[3]]).repeat(2000, 1), 2, temperature)
    assert (drawn[:, 0] == 3).all()
    observed = np.bincount((drawn[:, 1] * V + drawn[:, 2]).numpy(), minlength=V * V)
    first = (lookup(torch.tensor([[3]]))[0] / temperature).softmax(-1)
    second = (lookup(torch.tensor([[3, a] for a in range(V)])) / temperature).softmax(-1)
    expected = (first[:, None] * second).flatten().numpy() * len(drawn)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_a_low_temperature_is_greedy() -> None:
    prefix = torch.tensor([[0], [1], [2], [3]])
    assert ancestral(lookup, prefix, 5, 1e-3).tolist() == greedy(lookup, prefix, 5).tolist()


@pytest.mark.parametrize("search", [ancestral, greedy])
def test_after_the_end_there_is_nothing_but_the_end(search: object) -> None:
    torch.manual_seed(0)
    predict: Predictor = lookup
    prefix = torch.tensor([[2, 0], [1, 2]]).repeat(50, 1)  # an end in the prompt ends nothing
    drawn = search(predict, prefix, 8, end=2)[:, 2:]  # type: ignore[operator]
    finished = (drawn == 2).cumsum(1) > 0
    assert (drawn[finished] == 2).all()
    assert (drawn[:, 0] != 2).any()


def test_a_token_that_is_left_out_gives_its_share_to_the_others() -> None:
    prefix = torch.tensor([[2, 3], [0, 1]])
    kept = without(lookup, 1)(prefix).exp()
    given = lookup(prefix).exp()
    assert (kept[:, 1] == 0).all()
    others = [0, 2, 3]
    torch.testing.assert_close(kept[:, others], given[:, others] / (1 - given[:, [1]]))
    drawn = ancestral(without(lookup, 1), torch.zeros(200, 0, dtype=torch.int64), 3)
    assert not (drawn == 1).any() and set(drawn.unique().tolist()) == set(others)
    beams, score = beam_search(without(lookup, 1), torch.tensor([0]), 3, 99)
    assert len(beams) == 27 and not (beams == 1).any()
    assert float(score.exp().sum()) == pytest.approx(1.0)


def test_where_the_token_left_out_is_certain_the_others_are_alike() -> None:
    def certain(prefix: Tensor) -> Tensor:
        return torch.tensor([[-torch.inf, 0.0, -torch.inf, -torch.inf]])

    assert without(certain, 1)(torch.zeros(1, 0)).exp().tolist()[0] == pytest.approx(
        [1 / 3, 0, 1 / 3, 1 / 3]
    )
