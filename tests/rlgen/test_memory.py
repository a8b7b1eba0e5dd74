"""Memories against the equations of their papers, step by step, in double precision."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlgen.config import NetworkConfig
from rlgen.networks import Memory, episode_starts, make_memory, resume_state
from rlgen.networks.memory import BLOCK

KINDS = ("gru", "lstm")


def make(kind: str, inputs: int = 3, size: int = 4) -> Memory:
    torch.manual_seed(0)
    memory = Memory(kind, inputs, size, "orthogonal").double()
    with torch.no_grad():
        for parameter in memory.parameters():  # biases too, so that they count
            parameter.add_(0.3 * torch.randn_like(parameter))
    return memory


def slow_step(memory: Memory, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Cho et al. 2014 (with the reset gate inside, as cuDNN), and Hochreiter 1997 with Gers 2000.

    GRU:  r, z = sigmoid(W x + U h + b);  n = tanh(W x + b + r * (U h + c));  h' = (1 - z) n + z h
    LSTM: i, f, o = sigmoid(W x + U h + b);  g = tanh(...);  c' = f c + i g;  h' = o tanh(c')
    """
    w, u, b, c = memory.layer.all_weights[0]
    h = state[:, : memory.size]
    a, m = x @ w.T + b, h @ u.T + c
    if isinstance(memory.layer, torch.nn.GRU):
        (ar, az, an), (mr, mz, mn) = a.chunk(3, 1), m.chunk(3, 1)
        z = torch.sigmoid(az + mz)
        h = (1 - z) * torch.tanh(an + torch.sigmoid(ar + mr) * mn) + z * h
        return h, h
    i, f, g, o = (a + m).chunk(4, 1)
    cell = torch.sigmoid(f) * state[:, memory.size :] + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(cell)
    return h, torch.cat([h, cell], 1)


def slow(memory: Memory, x: Tensor, state: Tensor, starts: Tensor) -> Tensor:
    outputs = []
    for t in range(len(x)):
        state = torch.where(starts[t][:, None], 0.0, state)
        output, state = slow_step(memory, x[t], state)
        outputs.append(output)
    return torch.stack(outputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 1.0])
@pytest.mark.parametrize("steps", [1, BLOCK, 3 * BLOCK + 5])
def test_outputs_and_gradients_equal_the_equations(kind: str, share: float, steps: int) -> None:
    memory = make(kind)
    x = torch.randn(steps, 5, 3, dtype=torch.double, requires_grad=True)
    state = torch.randn(5, memory.state_size, dtype=torch.double, requires_grad=True)
    starts = torch.rand(steps, 5) < share
    weights = torch.randn(steps, 5, memory.size, dtype=torch.double)
    wanted = [x, state, *memory.parameters()]
    results = []
    for run in (memory, lambda *given: slow(memory, *given)):
        outputs = run(x, state, starts)
        results.append((outputs, *torch.autograd.grad((outputs * weights).sum(), wanted)))
    for fast, expected in zip(*results, strict=True):
        torch.testing.assert_close(fast, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_at_a_time_is_the_whole_rollout(kind: str, dtype: torch.dtype) -> None:
    memory = make(kind).to(dtype)
    x, state = torch.randn(20, 5, 3).to(dtype), torch.randn(5, memory.state_size).to(dtype)
    starts = torch.rand(20, 5) < 0.1
    whole, outputs = memory(x, state, starts), []
    for t in range(20):
        output, state = memory.step(x[t], resume_state(memory, state, starts[t]))
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_episodes_of_one_step_carry_nothing(kind: str) -> None:
    """As a feed-forward layer: each output is a function of its own observation only."""
    memory = make(kind)
    x, order = torch.randn(12, 5, 3).double(), torch.randperm(12)
    state, starts = torch.randn(5, memory.state_size).double(), torch.ones(12, 5, dtype=torch.bool)
    outputs = memory(x, state, starts)
    torch.testing.assert_close(memory(x[order], state, starts), outputs[order])
    zeros = torch.zeros(60, memory.state_size).double()
    torch.testing.assert_close(outputs.flatten(0, 1), memory.step(x.flatten(0, 1), zeros)[0])


def test_no_gradient_and_no_memory_passes_a_start() -> None:
    memory = make("lstm")
    x = torch.randn(40, 1, 3, dtype=torch.double, requires_grad=True)
    starts = torch.zeros(40, 1, dtype=torch.bool)
    starts[25] = True
    output = memory(x, torch.zeros(1, 8).double(), starts)[-1].sum()
    gradient = torch.autograd.grad(output, x)[0].abs().sum(dim=(1, 2))
    assert not gradient[:25].any() and gradient[25:].all()


def test_a_state_is_forgotten_where_an_episode_begins_or_the_rows_are_others() -> None:
    memory = make("gru")
    state = torch.ones(3, 4)
    resumed = resume_state(memory, state, torch.tensor([False, True, False]))
    assert resumed.tolist() == [[1.0] * 4, [0.0] * 4, [1.0] * 4]
    for other in (torch.zeros(0, 0), torch.ones(2, 4)):
        assert not resume_state(memory, other, torch.zeros(3, dtype=torch.bool)).any()


def test_starts_follow_every_kind_of_end() -> None:
    def column(*rows: int) -> Tensor:
        return torch.tensor(rows, dtype=torch.bool)[:, None]

    batch = {
        "terminated": column(0, 1, 0, 0, 0, 1),
        "truncated": column(0, 0, 0, 1, 0, 0),
        "valid": column(0, 1, 1, 1, 1, 1),
    }
    assert episode_starts(batch)[:, 0].tolist() == [False, True, True, False, True, False]


def test_each_gate_begins_orthogonal() -> None:
    torch.manual_seed(1)
    memory: Any = make_memory(NetworkConfig(memory="lstm", memory_size=32), 6)
    assert (memory.size, memory.state_size) == (32, 64)
    for gate in memory.layer.weight_hh_l0.split(32):
        torch.testing.assert_close(gate @ gate.T, torch.eye(32), atol=1e-5, rtol=0)
    for gate in memory.layer.weight_ih_l0.split(32):
        torch.testing.assert_close(gate.T @ gate, torch.eye(6), atol=1e-5, rtol=0)
    assert not memory.layer.bias_ih_l0.any() and not memory.layer.bias_hh_l0.any()
    assert make_memory(NetworkConfig(), 6) is None
    torch.manual_seed(1)
    other: Any = make_memory(
        NetworkConfig(memory="lstm", memory_size=32, initialization="xavier"), 6
    )
    bound = (6 / 64) ** 0.5  # Glorot and Bengio 2010: of one gate's 32 inputs and 32 outputs
    assert 0.95 * bound < other.layer.weight_hh_l0.abs().max() <= bound
