"""An object store that is nearly full slows a run down, or names what to change."""

from functools import partial
from typing import Any

import pytest
import ray
from experiments import train

from rlgen.errors import StoreFull

STORE = 80 * 2**20  # bytes; Ray's least is 75 MB
#: Two batches of 2 * 8 * 3 MiB each, more than the store holds.
WIDE: dict[str, Any] = {
    "env": {"id": "wide_env:Wide-v0", "num_envs": 3},
    "network.hidden": [2],
    "hyperparameters.rollout_steps": 8,
    "scheduler": {"backend": "ray", "workers": 2},
    "stop.env_steps": 48 * 4,
    "evaluation": {"episodes": 1, "max_steps": 2},
    "fault.max_restarts": 0,
}


@pytest.fixture
def small_store(monkeypatch: Any) -> Any:
    def start(**system: Any) -> None:
        options: dict[str, Any] = {"object_store_memory": STORE}
        if system:
            options["_system_config"] = system
        monkeypatch.setattr("ray.init", partial(ray.init, **options))

    return start


@pytest.mark.slow
def test_what_the_store_has_no_room_for_goes_to_disk(small_store: Any, tmp_path: Any) -> None:
    small_store()
    run = train("a2c", tmp_path, WIDE)
    assert run.summary["stop_reason"] == "env_steps"
    assert run.summary["restarts"] == 0


@pytest.mark.slow
def test_no_room_on_the_disk_either_names_what_to_change(small_store: Any, tmp_path: Any) -> None:
    small_store(local_fs_capacity_threshold=0.0001, object_spilling_config="")
    with pytest.raises(StoreFull, match=r"object store.*hyperparameters.rollout_steps"):
        train("a2c", tmp_path, WIDE | {"fault.timeout_s": 60})
