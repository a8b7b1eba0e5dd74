"""Memories: recurrent layers over the steps of episodes, for what an observation does not show.

A worker calls `Memory.step` once per step and keeps the state ``(B, S)``; the learner runs the
same layer over a rollout ``(T, B, ...)`` from the state at its beginning, with a gradient through
all T steps and none before them (truncated backpropagation through time, Werbos 1990).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rlgen.config import NetworkConfig
from rlgen.networks.layers import INITIALIZATIONS

BLOCK = 16  # steps of all running pieces at a time


class Memory(nn.Module):
    """One layer of gated recurrent units (Cho et al. 2014) or of LSTM (Hochreiter 1997).

    Args:
        kind: ``"gru"`` or ``"lstm"``.
        inputs: F, features of a step.
        size: H, units.
        initialization: of every gate's matrices; biases are zero.

    Attributes:
        size: H, outputs of a step.
        state_size: S, numbers that are remembered: H, or 2 H of an LSTM (output and cell).
    """

    def __init__(self, kind: str, inputs: int, size: int, initialization: str) -> None:
        super().__init__()
        self.layer = nn.LSTM(inputs, size) if kind == "lstm" else nn.GRU(inputs, size)
        self.size = size
        self.state_size = 2 * size if kind == "lstm" else size
        for parameter in self.layer.parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
                continue
            for gate in parameter.split(size):
                INITIALIZATIONS[initialization](gate)

    def step(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs ``(B, H)`` and the next state ``(B, S)`` from features ``(B, F)`` and a state."""
        outputs, state = self._run(features[None], state)
        return outputs[0], state

    def forward(self, features: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """Outputs ``(T, B, H)`` of T steps.

        Args:
            features: ``(T, B, F)``.
            state: ``(B, S)`` before the first step.
            starts: ``(T, B)`` bool: an episode begins with this step, from a state of zeros.
        """
        state = state * ~starts[0].unsqueeze(-1)
        if not bool(starts[1:].any()):
            return self._run(features, state)[0]
        # Each piece of an episode becomes a row of its own, the longest first, and all of them run
        # at once; after every BLOCK steps the pieces that have ended are left out.
        length, rows = starts.shape
        begins = starts.t().clone()
        begins[:, 0] = True
        step = torch.arange(length * rows, device=starts.device)  # of row 0, then of row 1, ...
        first = step[begins.flatten()]
        piece = begins.flatten().cumsum(0) - 1
        position = step - first[piece]
        sizes = first.diff(append=step[-1:] + 1)
        order = sizes.argsort(descending=True, stable=True)
        rank = order.argsort()[piece]
        initial = state.new_zeros(len(first), self.state_size)
        state = initial.index_copy(0, piece[::length], state)[order]
        flat, first = features.transpose(0, 1).flatten(0, 1), first[order]
        begin = torch.arange(0, int(sizes.max()), BLOCK, device=starts.device)
        running = (sizes > begin[:, None]).sum(dim=1)  # pieces, in each block
        outputs = []
        for block, count in enumerate(running.tolist()):
            steps = block * BLOCK + torch.arange(BLOCK, device=starts.device)
            index = (first[:count] + steps[:, None]).clamp(max=step[-1])  # beyond an end: not read
            rows_now = flat[index.flatten()].unflatten(0, (BLOCK, count))
            output, state = self._run(rows_now, state[:count])
            outputs.append(output.flatten(0, 1))
        own = position // BLOCK
        before = BLOCK * (running.cumsum(0) - running)
        index = before[own] + position % BLOCK * running[own] + rank
        return torch.cat(outputs)[index].unflatten(0, (rows, length)).transpose(0, 1)

    def _run(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs ``(T, B, H)`` and the state ``(B, S)`` after the last step, without a reset."""
        if isinstance(self.layer, nn.GRU):
            outputs, last = self.layer(features, state[None])
            return outputs, last[0]
        output, cell = (part[None].contiguous() for part in state.split(self.size, dim=-1))
        outputs, (output, cell) = self.layer(features, (output, cell))
        return outputs, torch.cat([output[0], cell[0]], dim=-1)


def make_memory(network: NetworkConfig | None, inputs: int) -> Memory | None:
    """The memory that the network section asks for, of ``inputs`` features; None for none."""
    if network is None or network.memory == "none":
        return None
    return Memory(network.memory, inputs, network.memory_size, network.initialization)


def resume_state(memory: Memory, state: Tensor, starts: Tensor) -> Tensor:
    """The state ``(B, S)`` with which B rows act: zeros where an episode begins.

    Args:
        memory: whose state it is.
        state: what the step before left; anything of another shape where there was none.
        starts: ``(B,)`` bool.
    """
    if state.shape != (len(starts), memory.state_size):
        return starts.new_zeros(len(starts), memory.state_size, dtype=torch.float32)
    return torch.where(starts.unsqueeze(-1), 0.0, state)


def episode_starts(batch: Mapping[str, Tensor]) -> Tensor:
    """``(T, B)`` bool of a rollout: an episode begins with this step, later than the first one.

    Whether one begins with the first row is known to its worker, whose state says it.
    """
    starts = torch.zeros_like(batch["terminated"])
    starts[1:] = (batch["terminated"] | batch["truncated"] | ~batch["valid"])[:-1]
    return starts
