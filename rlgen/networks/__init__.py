"""Networks that algorithms share: encoders of observations, perceptrons, memories, policy heads."""

from rlgen.networks.encoders import Encoder, Observed, make_encoder
from rlgen.networks.heads import (
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    PolicyHead,
    policy_head,
)
from rlgen.networks.layers import (
    ACTIVATIONS,
    clip_gradients,
    follow,
    initialize,
    make_mlp,
    mlp,
)
from rlgen.networks.memory import Memory, episode_starts, make_memory, resume_state
from rlgen.networks.squashed import Bounds, SquashedGaussian

__all__ = [
    "ACTIVATIONS",
    "Bounds",
    "Categorical",
    "DiagonalGaussian",
    "Encoder",
    "Memory",
    "MultiCategorical",
    "Observed",
    "PolicyHead",
    "SquashedGaussian",
    "clip_gradients",
    "episode_starts",
    "follow",
    "initialize",
    "make_encoder",
    "make_memory",
    "make_mlp",
    "mlp",
    "policy_head",
    "resume_state",
]
