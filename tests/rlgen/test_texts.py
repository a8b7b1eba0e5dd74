"""`rlgen sample` and `rlgen eval` of a language model."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import rlgen
from rlgen import cli
from rlgen.errors import ConfigError


def command(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def answer(*arguments):
    """The JSON object of a command that must succeed."""
    result = command(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def refused(message, *arguments):
    result = command(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def words(folder):
    return rlgen.train("ngram-fables", {"run.dir": str(folder)}).dir


@pytest.fixture(scope="module")
def letters(folder):
    """A model of three characters, whose texts can be enumerated."""
    path = folder / "letters.txt"
    path.write_text("abacabb" * 300)
    data = {"name": str(path), "window": 10}
    return rlgen.train("ngram-fables", {"run.dir": str(folder), "data": data}).dir


@pytest.fixture(scope="module")
def numbers(folder):
    changes = {"run.dir": str(folder), "stop.epochs": 1, "network.hidden": [4]}
    return rlgen.train("vae-digits", changes).dir


def test_a_text_begins_with_its_prompt_and_its_seed_repeats_it(words):
    begun = ["sample", words, "--prompt", "There once was", "--length", 20]
    drawn = answer(*begun, "-n", 3)
    assert len(set(drawn["texts"])) == 3
    assert all(text.startswith("There once was a") for text in drawn["texts"])
    assert answer(*begun, "-n", 3)["texts"] == drawn["texts"]
    assert answer(*begun, "-n", 3, "--seed", 1)["texts"] != drawn["texts"]
    printed = command(*begun, "-n", 3).stdout
    assert printed == "\n---\n".join(drawn["texts"]) + "\n"


def test_a_text_is_written_into_a_file(words, tmp_path):
    drawn = answer("sample", words, "-n", 2, "-o", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "\n---\n".join(drawn["texts"]) + "\n"
    result = command("sample", words, "-o", tmp_path / "one.txt")
    assert result.stdout == f"1 text in {tmp_path / 'one.txt'}\n"


def test_a_beam_finds_the_likeliest_texts_in_order(letters):
    run = rlgen.load(letters)
    vocabulary = run.algorithm.problem.data_vocabulary
    assert vocabulary == ("<unk>", "a", "b", "c")
    rows = torch.tensor(list(itertools.product(range(1, 4), repeat=4)))  # none is unknown
    log_prob = torch.zeros(len(rows), dtype=torch.float64)
    for t in range(4):
        following = run.algorithm.next_log_prob(rows[:, :t]).double()
        log_prob += following.gather(1, rows[:, [t]])[:, 0] - torch.log1p(-following[:, 0].exp())
    texts = ["".join(vocabulary[i] for i in row) for row in rows]
    every = dict(zip(texts, log_prob.tolist(), strict=True))
    wide = ["sample", letters, "--method", "beam", "--length", 4, "--beams", 256, "-n", 20]
    found = answer(*wide)["texts"]
    assert len(set(found)) == 20
    best = sorted(every.values(), reverse=True)[:20]
    assert [every[text] for text in found] == pytest.approx(best)
    greedy = answer("sample", letters, "--method", "greedy", "--length", 4)["texts"]
    narrow = ["sample", letters, "--method", "beam", "--length", 4, "--beams", 1]
    assert answer(*narrow)["texts"] == greedy


def test_method_length_and_temperature_have_an_effect(letters):
    default = answer("sample", letters)["texts"][0]
    assert len(default) == 10  # a window
    assert len(answer("sample", letters, "--length", 3, "--prompt", "ab")["texts"][0]) == 5
    cold = answer("sample", letters, "--temperature", 0.001, "--length", 30)["texts"]
    assert cold == answer("sample", letters, "--method", "greedy", "--length", 30)["texts"]
    hot = answer("sample", letters, "--temperature", 100, "--length", 400)["texts"][0]
    assert hot.count("b") / 400 == pytest.approx(1 / 3, abs=0.09)  # towards uniform
    assert "\N{REPLACEMENT CHARACTER}" not in hot
    assert answer("sample", letters, "--prompt", "xa", "--length", 1)["texts"][0][:2] == "\ufffda"


def test_unknown_words_of_a_prompt_are_named(words):
    result = command("sample", words, "--prompt", "the zebra, the quark zebra")
    assert result.exit_code == 0
    assert "--prompt: the model does not know 'zebra', 'quark', and reads <unk>" in result.stderr
    assert command("sample", words, "--prompt", "the").stderr == ""


def test_eval_prints_the_perplexity_and_bleu(words):
    found = answer("eval", words)
    perplexity = math.exp(-found["mean"])
    shown = found["figures"]["perplexity"]
    assert shown["value"] == pytest.approx(perplexity, rel=1e-6)
    assert shown["low"] < shown["value"] < shown["high"]
    bleu = found["figures"]["bleu_4"]
    assert 0.3 < bleu["low"] < bleu["value"] < bleu["high"] < 0.8
    assert "perplexity" in command("eval", words).stdout


def test_the_next_command_is_one_that_works(in_tmp):
    said = command("train", "ngram-fables", "--quiet").stdout
    (line,) = [line for line in said.splitlines() if "rlgen sample" in line]
    result = command(*line.split()[1:])
    assert result.exit_code == 0
    assert len(result.stdout.split()) > 10
    assert not list(Path().rglob("*.png"))  # a text is no picture


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "beem"], "method: there is no 'beem'; did you mean 'beam'?"),
        (["--beams", 3], "--beams: has an effect only with --method beam"),
        (["--method", "beam", "--temperature", 2], "--temperature: has an effect only with"),
        (["--method", "greedy", "-n", 2], "2 texts: greedy search finds 1; ask for fewer"),
        (["--method", "beam", "-n", 5], "5 texts: beam search finds 4; ask for fewer"),
        (["-o", "x.png"], "-o: expected a name that ends in .txt, got 'x.png'"),
        (["--walk"], "trained a model of texts; leave it out"),
        (["--label", 2], "--label: "),
        (["--frames", 2], "--frames: "),
        (["--every", 2], "--every: "),
    ],
)
def test_options_that_do_not_fit_a_text_are_refused(arguments, message, words, in_tmp):
    refused(message, "sample", words, *arguments)
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompt", "a"],
        ["--method", "beam"],
        ["--length", 3],
        ["--temperature", 2],
        ["--beams", 2],
    ],
)
def test_options_that_do_not_fit_numbers_are_refused(arguments, numbers, in_tmp):
    message = f"{arguments[0]}: {numbers} trained a model of numbers; leave it out"
    refused(message, "sample", numbers, "-o", "x.png", *arguments)
    refused("-o: missing; give the PNG or GIF file to write", "sample", numbers)
    refused("expected a name that ends in .png or .gif", "sample", numbers, "-o", "x.txt")
    with pytest.raises(ConfigError, match="not of texts"):
        rlgen.load(numbers).texts()
