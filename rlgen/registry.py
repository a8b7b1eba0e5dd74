"""Names of the algorithms, resolved lazily: nothing is imported until it is used."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

from rlgen.errors import ConfigError, did_you_mean

AGENTS = {
    "a2c": "rlgen.agents.a2c:A2C",
    "a3c": "rlgen.agents.a3c:A3C",
    "actor-critic": "rlgen.agents.actor_critic:OneStepActorCritic",
    "behaviour-cloning": "rlgen.agents.behaviour_cloning:BehaviourCloning",
    "cross-entropy": "rlgen.agents.cross_entropy:CrossEntropy",
    "ddpg": "rlgen.agents.ddpg:DDPG",
    "dqn": "rlgen.agents.dqn:DQN",
    "drqn": "rlgen.agents.drqn:DRQN",
    "epsilon-greedy": "rlgen.agents.epsilon_greedy:EpsilonGreedy",
    "evolution-strategies": "rlgen.agents.evolution_strategies:EvolutionStrategies",
    "gail": "rlgen.agents.gail:GAIL",
    "gradient-bandit": "rlgen.agents.gradient_bandit:GradientBandit",
    "impala": "rlgen.agents.impala:IMPALA",
    "max-ent-irl": "rlgen.agents.max_ent_irl:MaxEntIRL",
    "monte-carlo": "rlgen.agents.monte_carlo:MonteCarlo",
    "off-policy-monte-carlo": "rlgen.agents.off_policy_monte_carlo:OffPolicyMonteCarlo",
    "options": "rlgen.agents.options:Options",
    "policy-evaluation": "rlgen.agents.policy_evaluation:PolicyEvaluation",
    "policy-iteration": "rlgen.agents.policy_iteration:PolicyIteration",
    "ppo": "rlgen.agents.ppo:PPO",
    "q-learning": "rlgen.agents.q_learning:QLearning",
    "reinforce": "rlgen.agents.reinforce:REINFORCE",
    "rmax": "rlgen.agents.rmax:RMax",
    "sac": "rlgen.agents.sac:SAC",
    "sarsa": "rlgen.agents.sarsa:SARSA",
    "sarsa-lambda": "rlgen.agents.sarsa_lambda:SARSALambda",
    "td-lambda": "rlgen.agents.td_lambda:TDLambda",
    "td3": "rlgen.agents.td3:TD3",
    "thompson": "rlgen.agents.thompson:Thompson",
    "ucb1": "rlgen.agents.ucb1:UCB1",
    "value-iteration": "rlgen.agents.value_iteration:ValueIteration",
}
MODELS = {
    "autoencoder": "rlgen.generative.autoencoder:Autoencoder",
    "bernoulli-mixture": "rlgen.generative.bernoulli_mixture:BernoulliMixture",
    "boltzmann-machine": "rlgen.generative.boltzmann_machine:FullBoltzmann",
    "dbm": "rlgen.generative.dbm:DBM",
    "dbn": "rlgen.generative.dbn:DBN",
    "dbn-classifier": "rlgen.generative.dbn_classifier:DBNClassifier",
    "ddpm": "rlgen.generative.ddpm:DDPM",
    "gan": "rlgen.generative.gan:GAN",
    "gaussian": "rlgen.generative.gaussian:Gaussian",
    "gaussian-mixture": "rlgen.generative.gaussian_mixture:GaussianMixture",
    "histogram": "rlgen.generative.histogram:Histogram",
    "hopfield": "rlgen.generative.hopfield:Hopfield",
    "kernel-density": "rlgen.generative.kernel_density:KernelDensity",
    "ngram": "rlgen.generative.ngram:NGram",
    "rbm": "rlgen.generative.rbm:RBM",
    "realnvp": "rlgen.generative.realnvp:RealNVP",
    "recurrent-lm": "rlgen.generative.recurrent_lm:RecurrentLM",
    "sparse-coding": "rlgen.generative.sparse_coding:SparseCoding",
    "stacked-autoencoder": "rlgen.generative.stacked_autoencoder:StackedAutoencoder",
    "transformer-lm": "rlgen.generative.transformer_lm:TransformerLM",
    "vae": "rlgen.generative.vae:VAE",
    "wgan": "rlgen.generative.wgan:WGAN",
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
        look_here()
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


def look_here() -> None:
    """Let modules in the present folder be found too, after all that is installed.

    Python looks there for a script in it, but not for an installed command such as ``rlgen``.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
