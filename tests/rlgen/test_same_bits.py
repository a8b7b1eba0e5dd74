"""Inline and ray give the same bits: every algorithm's tiny experiment, on actors of one cluster.

Starting a cluster and four processes costs ten seconds, so one set of Ray actors serves all the
experiments of this file, each hosting one actor after the other. What the whole backend does with
processes of its own is tested in test_same_answer.py, test_faults.py and test_async.py.
"""

import numpy as np
import pytest
from experiments import TINY, train

from rlgen.backends import ray as ray_backend


@pytest.mark.parametrize("name", TINY)
def test_inline_and_ray_give_the_same_bits(name, tmp_path, monkeypatch, pool):
    monkeypatch.setattr(ray_backend, "RayBackend", pool)
    inline = train(name, tmp_path)
    on_ray = train(name, tmp_path, {"scheduler.backend": "ray"})
    assert inline.weights.size > 0
    np.testing.assert_array_equal(inline.weights, on_ray.weights)
    assert inline.summary["evaluation"] == on_ray.summary["evaluation"]
    if name not in NO_CHANCE:
        other = train(name, tmp_path, {"seed": 1})
        assert not np.array_equal(inline.weights, other.weights)


# Which draw no random numbers:
NO_CHANCE = {"max-ent-irl", "ngram", "policy-evaluation", "policy-iteration", "value-iteration"}
