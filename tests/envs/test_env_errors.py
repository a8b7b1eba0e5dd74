"""What a user reads when an environment cannot be made."""

import sys
import warnings

import pytest

from rlgen.config import EnvConfig
from rlgen.envs.mdp import load_mdp
from rlgen.envs.single import make_single
from rlgen.errors import ConfigError
from rlgen.problem import probe


def message(make, name, **kwargs):
    with pytest.raises(ConfigError) as caught:
        make(EnvConfig(id=name, kwargs=kwargs))
    return str(caught.value)


@pytest.mark.parametrize("make", [probe, make_single, load_mdp])
def test_unknown_id(make):
    expected = "env.id: there is no environment 'CartPole-v11'; did you mean 'CartPole-v1'?"
    assert message(make, "CartPole-v11") == expected
    # Gymnasium would take the latest version, so that the same file would mean another thing later.
    expected = "env.id: there is no environment 'CartPole'; did you mean 'CartPole-v1'?"
    assert message(make, "CartPole") == expected
    assert message(make, "Qqqqqqqqqqqqqqqqqq-v0") == (
        "env.id: there is no environment 'Qqqqqqqqqqqqqqqqqq-v0'; your own is given as "
        "package:Name-v0, where importing package registers it"
    )


def test_module_that_is_missing():
    assert message(probe, "no_such_package:Env-v0") == (
        "env.id: package 'no_such_package' of 'no_such_package:Env-v0' cannot be imported "
        "(No module named 'no_such_package'); is its folder on PYTHONPATH?"
    )
    assert "there is no environment 'json:Nothing-v0'" in message(probe, "json:Nothing-v0")


OPTIONAL = [f"gymnasium.envs.{place}" for place in ("box2d", "mujoco", "phys2d")]


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("LunarLander-v3", "Box2D", "rlgen[box2d]"),
        ("HalfCheetah-v5", "mujoco", "rlgen[mujoco]"),
        ("ALE/Pong-v5", "ale_py", "rlgen[atari]"),
        ("MinAtar/Breakout-v1", "minatar", "rlgen[minatar]"),
        ("phys2d/CartPole-v1", "jax", "gymnasium[jax]"),
    ],
)
def test_missing_extra_is_named(name, module, extra, monkeypatch):
    for loaded in [*sys.modules]:
        if loaded.startswith((*OPTIONAL, f"{module}.")):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    assert message(probe, name) == (
        f"env.id: {name} needs a package that is not installed; "
        f'install the extra that brings it: pip install "{extra}"'
    )


def test_arguments_that_do_not_fit():
    assert message(probe, "rlgen/Cliff-v0", slipp=0.1) == (
        "env.kwargs.slipp: rlgen/Cliff-v0 takes no such argument; did you mean 'slip'?"
    )
    assert message(probe, "CartPole-v1", qqqqqq=1).startswith(
        "env.kwargs.qqqqqq: CartPole-v1 takes no such argument; known: "
    )
    assert message(probe, "rlgen/Cliff-v0", slip=2) == (
        "env.kwargs: rlgen/Cliff-v0 cannot be made (ValueError: slip must be in [0, 1], got 2)"
    )


def test_no_model():
    assert message(load_mdp, "CartPole-v1") == (
        "env.id: CartPole-v1 has no model (no transition table P that holds all of its dynamics); "
        "use one that has, such as FrozenLake-v1"
    )
    assert "has no model" in message(load_mdp, "Taxi-v4", fickle_passenger=True)
    with pytest.raises(
        ConfigError, match=r"env.frame_stack: the states of a model are not stacked"
    ):
        load_mdp(EnvConfig(id="FrozenLake-v1", frame_stack=2))


def test_old_versions_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe(EnvConfig(id="CartPole-v0"))
        make_single(EnvConfig(id="CartPole-v0"))
