"""Names of the algorithms, resolved lazily: nothing is imported until it is used."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from rlgen.errors import ConfigError, did_you_mean

AGENTS = {
    "a3c": "rlgen.agents.a3c:A3C",
    "dqn": "rlgen.agents.dqn:DQN",
    "q-learning": "rlgen.agents.q_learning:QLearning",
    "value-iteration": "rlgen.agents.value_iteration:ValueIteration",
}
MODELS = {
    "rbm": "rlgen.generative.rbm:RBM",
    "vae": "rlgen.generative.vae:VAE",
}


def resolve(name: str) -> Any:
    """The algorithm class called ``name``: a name of the registry, or ``package.module:Class``.

    Raises:
        ConfigError: no such name, module or class.
    """
    known = AGENTS | MODELS
    if name in known:
        target = known[name]
    elif ":" in name:
        target = name
    else:
        raise ConfigError(
            f"algorithm: there is no {name!r}{did_you_mean(name, known)} "
            "(your own is given as package.module:Class)"
        )
    module, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(
            f"algorithm: {name!r} cannot be imported ({error}); is its folder on PYTHONPATH?"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"algorithm: module {module!r} has no class {attribute!r}") from error
    if not inspect.isclass(found):
        raise ConfigError(f"algorithm: {name!r} is not a class")
    return found
