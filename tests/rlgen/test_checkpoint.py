"""Checkpoints survive crashes and notice damage."""

import json

import numpy as np
import pytest
from experiments import train

import rlgen
from rlgen import checkpoint
from rlgen.errors import CheckpointError
from rlgen.learner import Learner


def write(folder, name, value, keep=3):
    def fill(path):
        checkpoint.write_part(path, "part", {"value": value}, {"x": np.full(100, value)})

    return checkpoint.write(folder, name, fill, keep)


def no_warning(message):
    raise AssertionError(message)


def test_the_latest_is_read_back_and_the_oldest_are_removed(tmp_path):
    for value in range(5):
        write(tmp_path, f"{value:04d}", value, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0003", "0004"]
    plain, arrays = checkpoint.read_part(checkpoint.latest(tmp_path, no_warning), "part")
    assert plain == {"value": 4}
    np.testing.assert_array_equal(arrays["x"], np.full(100, 4))


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_one_is_noticed_and_the_one_before_is_used(tmp_path, damage):
    write(tmp_path, "0001", 1)
    newest = write(tmp_path, "0002", 2)
    file = newest / ("manifest.json" if damage == "manifest" else "part.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-1] ^= 1  # safetensors itself would load this
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-7])
    else:
        file.unlink()
    warnings = []
    assert checkpoint.latest(tmp_path, warnings.append).name == "0001"
    assert len(warnings) == 1 and "damaged" in warnings[0] and "0001" in warnings[0]


def test_all_damaged_or_none_at_all_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        checkpoint.latest(tmp_path / "nothing", no_warning)
    only = write(tmp_path, "0001", 1)
    (only / "part.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"every checkpoint is damaged.*part.json does not"):
        checkpoint.latest(tmp_path, no_warning)


def test_a_crash_while_writing_leaves_the_earlier_one(tmp_path):
    write(tmp_path, "0001", 1)

    def crash(path):
        checkpoint.write_part(path, "part", {"value": 2}, {})
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        checkpoint.write(tmp_path, "0002", crash, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["0001"]
    assert checkpoint.latest(tmp_path, no_warning).name == "0001"


def test_a_half_written_directory_of_a_killed_process_is_ignored(tmp_path):
    write(tmp_path, "0001", 1)
    (tmp_path / ".0002.partial").mkdir()
    assert checkpoint.latest(tmp_path, no_warning).name == "0001"


@pytest.fixture
def blind_learner(monkeypatch):
    """Learners on a machine without the folders of the driver; what they were called for."""
    called = []

    def blinded(method):
        def call(self, *args):
            called.append(method.__name__)
            with monkeypatch.context() as there:
                there.setattr(checkpoint, "is_here", lambda folder: False)
                there.setattr(checkpoint, "write_part", None)
                there.setattr(checkpoint, "read_part", None)
                return method(self, *args)

        return call

    for method in (Learner.save, Learner.sees, Learner.load):
        monkeypatch.setattr(Learner, method.__name__, blinded(method))
    return called


def test_a_learner_that_does_not_see_the_folder_hands_its_parts_over(tmp_path, blind_learner):
    run = train("dqn", tmp_path / "blind", {"stop.env_steps": 700})
    assert checkpoint.damage(run.checkpoint) is None
    more = rlgen.resume(run.dir, {"stop.env_steps": 1500})
    assert blind_learner == ["save", "sees", "load", "save"]
    np.testing.assert_array_equal(more.weights, train("dqn", tmp_path).weights)


def test_what_is_handed_over_is_what_the_learner_would_write(tmp_path, request):
    seen = train("dqn", tmp_path / "seen").checkpoint
    request.getfixturevalue("blind_learner")
    blind = train("dqn", tmp_path / "blind").checkpoint
    written = [
        {k: v for k, v in manifest(each).items() if k.split(".")[0] in ("learner", "replay")}
        for each in (seen, blind)
    ]
    assert len(written[0]) == 4 and written[0] == written[1]


def manifest(path):
    return json.loads((path / checkpoint.MANIFEST).read_text())["sha256"]
