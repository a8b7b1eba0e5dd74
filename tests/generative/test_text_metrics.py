"""Perplexity, BLEU and ROUGE against published numbers."""

from __future__ import annotations

import math

import pytest
import torch

from rlgen.generative.text_metrics import bleu, most, perplexity, rouge

# Papineni et al. 2002, examples 1 and 2.
REFERENCES = [
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the "
    "command of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
]
FIRST = (
    "It is a guide to action which ensures that the military always obeys the commands of the party"
)
SECOND = "It is to insure the troops forever hearing the activity guidebook that party direct"


def split(*sentences: str) -> list[list[str]]:
    return [sentence.split() for sentence in sentences]


@pytest.mark.parametrize("length", ["closest", "shortest"])
def test_the_exercise_of_the_book(length: str) -> None:
    # Exercise 15-4, by the book's formulas: P1 = 1, P2 = 0.8, no penalty.
    (x,) = split("The cat sat on the mat")
    references = split("The cat is on the mat", "The bird sat on the bush")
    assert bleu([x], [references], 2, length) == pytest.approx(0.894427, abs=1e-6)  # type: ignore[arg-type]
    assert rouge(x, references, 2) == 0.5
    lower = [[word.lower() for word in reference] for reference in references]
    assert bleu([[word.lower() for word in x]], [lower], 2) == pytest.approx(math.sqrt(0.8))


def test_the_precisions_of_the_paper() -> None:
    known = split(*REFERENCES)
    # The first: 17/18 of its words, 10/17 of its pairs; as long as a reference.
    assert bleu(split(FIRST), [known], 1) == pytest.approx(17 / 18)
    assert bleu(split(FIRST), [known], 2) == pytest.approx(math.sqrt(17 / 18 * 10 / 17))
    # The second: 8/14 and 1/13; 14 words against 16.
    short = math.exp(1 - 16 / 14)
    assert bleu(split(SECOND), [known], 1) == pytest.approx(short * 8 / 14)
    assert bleu(split(SECOND), [known], 2) == pytest.approx(short * math.sqrt(8 / 14 / 13))
    # Together, counts are summed before they are divided.
    both = bleu(split(FIRST, SECOND), [known, known], 1)
    assert both == pytest.approx(math.exp(1 - 34 / 32) * 25 / 32)


def test_counts_are_clipped_by_the_reference_that_has_the_most() -> None:
    known = split("the cat is on the mat", "there is a cat on the mat")
    assert bleu(split("the the the the the the the"), [known], 1) == pytest.approx(2 / 7)
    assert most(known, 1)[("the",)] == 2
    assert most(known, 1)[("there",)] == 1


def test_the_length_is_that_of_the_closest_reference_or_the_shortest() -> None:
    known = split("a b c d e f", "a b")
    assert bleu(split("a b c d e"), [known], 1) == pytest.approx(math.exp(1 - 6 / 5))
    assert bleu(split("a b c d e"), [known], 1, "shortest") == 1.0
    # As near to both: the shorter.
    assert bleu(split("a b c d"), [known], 1) == 1.0


def test_bleu_without_a_match_is_zero_and_of_the_same_one() -> None:
    assert bleu(split("a b"), [split("c d")], 1) == 0.0
    assert bleu(split("a b c"), [split("c b a")], 2) == 0.0
    assert bleu(split("a b c d e"), [split("a b c d e")], 4) == 1.0
    assert bleu([], [], 4) == 0.0


def test_rouge_of_the_paper() -> None:
    # Lin 2004, section 3: both candidates share one pair of three, "the gunman".
    reference = split("police killed the gunman")
    assert rouge(["police", "kill", "the", "gunman"], reference, 2) == pytest.approx(1 / 3)
    assert rouge(["the", "gunman", "kill", "police"], reference, 2) == pytest.approx(1 / 3)
    assert rouge(["the", "the"], split("the cat the the"), 1) == pytest.approx(2 / 4)
    assert rouge(["a"], split("b"), 2) == 0.0


def test_perplexity() -> None:
    # A uniform model over 50 words has perplexity 50 (eq 15.38), and no doubt about it.
    uniform = perplexity(torch.full((7,), -math.log(50)))
    assert uniform.value == pytest.approx(50, rel=1e-6)
    assert uniform.low == pytest.approx(uniform.high)
    # 2^(-1/T sum log2 p) over all tokens: here 1/2 and 1/8 by turns, so 4.
    log_prob = torch.tensor([0.5, 0.125]).log().repeat(50)
    mixed = perplexity(log_prob)
    assert mixed.value == pytest.approx(4, rel=1e-6)
    error = float(log_prob.std()) / 10
    assert mixed.high / mixed.value == pytest.approx(math.exp(error), rel=1e-5)
    assert mixed.value / mixed.low == pytest.approx(math.exp(error), rel=1e-5)
    alone = perplexity(torch.tensor([-1.0]))
    assert math.isnan(alone.low) and math.isnan(alone.high)  # one row says nothing of its error
