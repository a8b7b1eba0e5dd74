"""The recurrent and the Transformer language model, and what they have in common."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rlgen
from rlgen import tracking
from rlgen.algorithm import Problem
from rlgen.errors import ConfigError
from rlgen.generative import decoding, sequences
from rlgen.generative.recurrent_lm import RecurrentLM
from rlgen.generative.transformer_lm import TransformerLM, positions

LM = RecurrentLM | TransformerLM
TINY: dict[str, tuple[type[LM], dict[str, Any]]] = {
    "rnn": (RecurrentLM, {"cell": "rnn", "embedding": 6, "hidden": 7}),
    "lstm": (RecurrentLM, {"cell": "lstm", "embedding": 6, "hidden": 7, "layers": 2}),
    "gru": (RecurrentLM, {"cell": "gru", "embedding": 6, "hidden": 7, "dropout": 0.5}),
    "transformer": (TransformerLM, {"size": 8, "heads": 2, "layers": 2, "dropout": 0.5}),
}


def make(name: str, size: int = 3, length: int = 4, **changes: Any) -> LM:
    torch.manual_seed(0)
    kind, config = TINY[name]
    problem = Problem(data_shape=(length,), data_vocabulary=tuple(f"w{i}" for i in range(size)))
    return kind(kind.Config.model_validate(config | changes), problem, np.random.default_rng(0))


def all_rows(size: int, length: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(size), repeat=length))).float()


# --- likelihoods --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_the_probabilities_of_all_rows_sum_to_one_and_are_products(name: str) -> None:
    model, rows = make(name), all_rows(3, 4)
    with torch.no_grad():
        log_prob = model.log_prob(rows)
        assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
        chained = torch.zeros(len(rows))
        for t in range(4):
            following = model.next_log_prob(rows[:, :t].long())
            assert following.shape == (len(rows), 3)
            chained += following.gather(1, rows[:, t : t + 1].long())[:, 0]
        torch.testing.assert_close(log_prob, chained)
        score = model.evaluate({"x": rows})["log_likelihood"]
        torch.testing.assert_close(score, log_prob / 4)


@pytest.mark.parametrize("name", TINY)
def test_a_full_beam_finds_the_likeliest_row_and_draws_are_as_likely_as_they_should_be(
    name: str,
) -> None:
    model, rows = make(name), all_rows(3, 4)
    with torch.no_grad():
        log_prob = model.log_prob(rows)
        empty = torch.zeros(0, dtype=torch.int64)
        beams, score = decoding.beam_search(model.next_log_prob, empty, 4, 27)
        best = log_prob.argmax()
        assert beams[0].tolist() == rows[best].tolist()
        assert score[0].item() == pytest.approx(log_prob[best].item(), abs=1e-5)
        torch.manual_seed(1)
        drawn = model.sample(3000)
    assert drawn.shape == (3000, 4)
    assert drawn.dtype == torch.float32
    count = np.bincount((drawn.long() @ torch.tensor([27, 9, 3, 1])).numpy(), minlength=81)
    # Each count is binomial: within five deviations, and the chi-square of all is near 80.
    expected = 3000 * log_prob.exp().numpy()
    chi_square = ((count - expected) ** 2 / expected).sum()
    assert chi_square < 80 + 5 * math.sqrt(160)


def test_an_rnn_is_the_recurrence_of_the_book() -> None:
    # h_t = tanh(U h_(t-1) + W e_t + b), p = softmax(V h_t + c)
    model = make("rnn", size=4, length=5)
    w = {k: v.detach().double().numpy() for k, v in model.network.state_dict().items()}
    row = [2, 0, 3, 3, 1]
    h, total = np.zeros(7), 0.0
    for before, token in zip([4, *row], row, strict=False):
        e = w["embedding.weight"][before]
        bias = w["memory.bias_ih_l0"] + w["memory.bias_hh_l0"]
        h = np.tanh(w["memory.weight_hh_l0"] @ h + w["memory.weight_ih_l0"] @ e + bias)
        s = w["output.weight"] @ h + w["output.bias"]
        total += s[token] - np.log(np.exp(s).sum())
    assert model.log_prob(torch.tensor([row]).float()).item() == pytest.approx(total, abs=1e-5)


def test_a_transformer_is_torchs_with_the_same_weights() -> None:
    model = make("transformer", size=5, length=6, dropout=0.0)
    own: Any = model.network
    x = torch.randint(6, (3, 6), generator=torch.Generator().manual_seed(2))
    h = own.embedding(x) + positions(6, 8)
    blocks: Any = own.blocks
    for block in blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "relu", batch_first=True, norm_first=True)
        renamed = {
            "self_attn.in_proj_weight": block.qkv.weight,
            "self_attn.in_proj_bias": block.qkv.bias,
            "self_attn.out_proj.weight": block.join.weight,
            "self_attn.out_proj.bias": block.join.bias,
            "linear1.weight": block.perceptron[0].weight,
            "linear1.bias": block.perceptron[0].bias,
            "linear2.weight": block.perceptron[2].weight,
            "linear2.bias": block.perceptron[2].bias,
        }
        for i, norm in enumerate(block.norms, 1):
            renamed |= {f"norm{i}.weight": norm.weight, f"norm{i}.bias": norm.bias}
        layer.load_state_dict({k: v.detach() for k, v in renamed.items()})
        h = layer(h, src_mask=nn.Transformer.generate_square_subsequent_mask(6), is_causal=True)
    torch.testing.assert_close(own(x), own.output(own.norm(h)), atol=1e-5, rtol=1e-4)


def test_positions_are_sines_and_cosines() -> None:
    # p(t, 2i) = sin(t / 10000^(2i/d)), p(t, 2i + 1) = cos(t / 10000^(2i/d))
    p = positions(50, 6)
    assert p.shape == (50, 6)
    for t, i in itertools.product((0, 1, 7, 49), range(3)):
        angle = t / 10_000 ** (2 * i / 6)
        assert p[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
        assert p[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_the_future_does_not_leak(name: str) -> None:
    model = make(name, size=9, length=10)
    x = torch.randint(9, (2, 10), generator=torch.Generator().manual_seed(3))

    def each(rows: Tensor) -> Tensor:
        with torch.no_grad():
            output = model.network.eval()(sequences.shifted(rows, 9))
        logits = output if isinstance(output, Tensor) else output[0]
        return logits.log_softmax(-1)

    before = each(x)
    for t in range(10):
        changed = x.clone()
        changed[:, t] = (x[:, t] + 1) % 9
        after = each(changed)
        # what predicts x_t and all before it has not seen it
        torch.testing.assert_close(after[:, : t + 1], before[:, : t + 1], atol=1e-6, rtol=1e-5)
        for later in range(t + 1, 10):
            assert (after[:, later] - before[:, later]).abs().max() > 1e-6


def test_a_transformer_sees_its_window_only() -> None:
    model = make("transformer", size=5, length=6)
    prefix = torch.randint(5, (2, 20), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        whole = model.next_log_prob(prefix)
        torch.testing.assert_close(whole, model.next_log_prob(prefix[:, -6:]))
        assert (whole - model.next_log_prob(prefix[:, -3:])).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_dropout_is_for_training_only(name: str) -> None:
    model, rows = make(name), all_rows(3, 4)
    model.update({"x": rows})
    assert model.network.training
    with torch.no_grad():
        assert model.log_prob(rows).tolist() == model.log_prob(rows).tolist()
    losses = {}
    for dropout in (0.0, 0.5):
        torch.manual_seed(5)
        losses[dropout] = float(make(name, dropout=dropout).update({"x": rows})["log_likelihood"])
    assert losses[0.0] != losses[0.5]


# --- scheduled sampling -------------------------------------------------------------------------


def config(**changes: Any) -> RecurrentLM.Config:
    return RecurrentLM.Config.model_validate(changes)


def test_the_three_schedules() -> None:
    # Section 15.5.1: eps = max(floor, k - c i); k^i; k / (k + exp(i / k)), k / (k + 1) at 0
    linear = config(schedule="linear", k=0.9, slope=0.01, floor=0.2)
    assert [linear.true_tokens(i) for i in (0, 10, 70, 1000)] == pytest.approx([0.9, 0.8, 0.2, 0.2])
    exponential = config(schedule="exponential", k=0.99)
    assert [exponential.true_tokens(i) for i in (0, 1, 100)] == pytest.approx([1, 0.99, 0.366032])
    sigmoid = config(schedule="inverse-sigmoid", k=20)
    found = [sigmoid.true_tokens(i) for i in (0, 20 * math.log(20), 10**6)]
    assert found == pytest.approx([20 / 21, 0.5, 0.0])
    assert config().true_tokens(10**6) == 1.0


def test_true_tokens_alone_are_teacher_forcing() -> None:
    model, x = make("lstm", size=6, length=8), torch.randint(6, (5, 8))
    assert isinstance(model, RecurrentLM)
    forced = model.network(sequences.shifted(x, 6))[0]
    torch.testing.assert_close(model.scheduled(x, 1.0), forced, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("true_tokens", [0.0, 0.3])
def test_the_other_inputs_are_the_models_own_draws(true_tokens: float) -> None:
    model = make("gru", size=4, length=6, dropout=0.0)
    assert isinstance(model, RecurrentLM)
    with torch.no_grad():  # it draws token 2 almost always, and the text is all of token 0
        model.network.output.bias[2] += 50.0
    x, seen = torch.zeros(500, 6, dtype=torch.int64), []
    forward: Callable[..., Any] = model.network.embedding.forward

    def spy(tokens: Tensor) -> Any:
        seen.append(tokens)
        return forward(tokens)

    model.network.embedding.forward = spy  # type: ignore[method-assign, assignment]
    model.scheduled(x, true_tokens)
    inputs = torch.cat(seen, 1)
    assert inputs.shape == (500, 6)
    assert (inputs[:, 0] == 4).all()  # the token before the first
    assert set(inputs[:, 1:].unique().tolist()) <= {0, 2}
    share = (inputs[:, 1:] == 0).double().mean().item()
    assert share == pytest.approx(true_tokens, abs=0.04)


def test_a_run_follows_its_schedule(tmp_path: Path) -> None:
    tiny = {
        "run.dir": str(tmp_path),
        "tracking.every_s": 0,
        "stop.epochs": 1,
        "hyperparameters.hidden": 8,
        "hyperparameters.batch_size": 40,
        "hyperparameters.slope": 0.05,
    }
    run = rlgen.train("recurrent-lm-scheduled-fables", tiny)
    records = [r for r in tracking.read_metrics(run.dir) if r["kind"] == "train"]
    shown = {r["updates"]: r["true_tokens"] for r in records}
    assert len(shown) >= 5
    for updates, true_tokens in shown.items():
        assert true_tokens == pytest.approx(max(0.5, 1 - 0.05 * (updates - 1)))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("recurrent-lm", {"k": 0.5}, r"k has an effect only with a schedule"),
        ("recurrent-lm", {"floor": 0.5}, r"floor has an effect only with schedule=linear"),
        (
            "recurrent-lm",
            {"schedule": "exponential", "k": 0.9, "slope": 0.1},
            r"slope has an effect only with schedule=linear",
        ),
        ("recurrent-lm", {"schedule": "linear"}, r"schedule=linear needs slope > 0, floor <= k"),
        (
            "recurrent-lm",
            {"schedule": "linear", "slope": 0.1, "k": 0.2, "floor": 0.3},
            r"schedule=linear needs slope > 0, floor <= k <= 1",
        ),
        ("recurrent-lm", {"schedule": "exponential"}, r"schedule=exponential needs k < 1"),
        (
            "recurrent-lm",
            {"schedule": "inverse-sigmoid", "k": 0.5},
            r"schedule=inverse-sigmoid needs k >= 1",
        ),
        ("recurrent-lm", {"cell": "lsmt"}, r"cell: .*'rnn', 'lstm' or 'gru' \(got 'lsmt'\)"),
        ("transformer-lm", {"size": 30, "heads": 4}, r"size=30 is no multiple of heads=4"),
        ("transformer-lm", {"size": 5, "heads": 5}, r"size: .*multiple of 2"),
        ("transformer-lm", {"dropout": 1.0}, r"dropout: .*less than 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    name: str, changes: dict[str, Any], message: str
) -> None:
    plain = {"name": "x", "algorithm": name, "data": {"name": "fables"}, "stop": {"epochs": 1}}
    with pytest.raises(ConfigError, match=message):
        rlgen.config.resolve_experiment({**plain, "hyperparameters": changes})


# --- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_a_pattern_is_learned(name: str) -> None:
    """Three tokens by turns: from random windows of it, only the first token is uncertain."""
    model = make(name, size=3, length=12, dropout=0.0, learning_rate=0.02)
    x = (torch.arange(12) + torch.arange(3)[:, None]) % 3
    for _ in range(150):
        figures = model.update({"x": x.float()})
    assert 0 < float(figures["gradient_norm"]) < 10
    with torch.no_grad():
        perplexity = float((-model.log_prob(x.float()) / 12).exp().mean())
        assert perplexity < 1.05 * 3 ** (1 / 12)  # log 3 for the first of twelve tokens
        further = decoding.greedy(model.next_log_prob, x[:, :5], 7)
    assert further.tolist() == x.tolist()


def reach(name: str, tmp_path: Path, **changes: Any) -> float:
    run = rlgen.train(name, {"run.dir": str(tmp_path), **changes})
    return math.exp(-run.evaluate(split="test")["mean"])


def best_ngram(tmp_path: Path, **changes: Any) -> float:
    """The lowest test perplexity of any order and smoothing (chosen on the test rows)."""
    kinds: list[dict[str, Any]] = [{"hyperparameters.order": order} for order in range(1, 7)]
    additive = {"hyperparameters.smoothing": "additive", "hyperparameters.delta": 0.05}
    kinds += [kind | additive for kind in kinds[:3]]
    return min(reach("ngram-fables", tmp_path, **kind, **changes) for kind in kinds)


def test_networks_have_a_lower_perplexity_than_any_ngram(tmp_path: Path) -> None:
    ngram = best_ngram(tmp_path)
    assert 3.4 < ngram < 3.8
    faster = {"evaluation.every": 0, "stop.epochs": 8, "hyperparameters.learning_rate": 0.005}
    for name in ("recurrent-lm-fables", "transformer-lm-fables"):
        assert reach(name, tmp_path, **faster) < 0.9 * ngram


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_ready_networks_beat_the_ngrams_with_every_seed(seed: int, tmp_path: Path) -> None:
    ngram = best_ngram(tmp_path)
    lstm = reach("recurrent-lm-fables", tmp_path, seed=seed)
    transformer = reach("transformer-lm-fables", tmp_path, seed=seed)
    print(f"seed {seed}: n-gram {ngram:.3f}, LSTM {lstm:.3f}, Transformer {transformer:.3f}")
    assert max(lstm, transformer) < 0.8 * ngram


@pytest.mark.slow
def test_the_ready_lstm_spells_better_than_any_ngram(tmp_path: Path) -> None:
    characters = {"data.tokens": "characters", "data.window": 64}
    kinds = [{"hyperparameters.order": order} for order in range(4, 11)]
    ngram = min(reach("ngram-fables", tmp_path, **characters, **kind) for kind in kinds)
    lstm = reach("recurrent-lm-characters-fables", tmp_path)
    print(f"n-gram {ngram:.3f}, LSTM {lstm:.3f}")
    assert lstm < ngram
