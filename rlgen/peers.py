"""Several learners that learn as one: each takes its part of every batch, and gradients are shared.

The parts are weighted by their rows, so a loss that is a mean over rows has the gradient that one
learner would find for the whole batch (synchronous data parallelism). Parameters, optimiser states
and counters stay the same on every learner, since each makes the same step.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed
from torch.autograd import Variable

from rlgen.algorithm import Algorithm
from rlgen.backends.cluster import node_address
from rlgen.batch import Batch
from rlgen.config import Experiment
from rlgen.errors import PeerLost
from rlgen.finite import optimizers
from rlgen.learner import Learner
from rlgen.problem import role_seed


class PeerLearner(Learner):
    """A learner that shares its batches with others."""

    def __init__(self, experiment: Experiment, rank: int, seed: int) -> None:
        own = torch.get_rng_state()
        first = role_seed(experiment.seed, "learner")
        torch.manual_seed(first)  # every learner begins as a single one would
        super().__init__(experiment, first)
        self.peers = Peers(self.algorithm, rank, experiment.scheduler.learners)
        if self.algorithm.whole_batch:
            self.algorithm.part = self.peers.part
        elif rank:
            torch.set_rng_state(own)  # and draws noise of its own for its own rows
        self.gradients.watch()  # once they are everyone's

    def open(self) -> str:
        """Listen for the others; the address ``host:port`` at which to `join`."""
        return self.peers.open(node_address())

    def join(self, address: str) -> None:
        """Meet the others at the first learner's address; waits until all are there."""
        timeout_s = self.experiment.fault.timeout_s
        self.peers.join(address, timeout_s, gpu=self.device == "cuda")

    def _learn(self, batch: Batch) -> None:
        try:
            super()._learn(batch)
        except Exception:
            self.peers.leave()  # or the others would wait for this one until their time-out
            raise

    def _update(self, batch: Batch) -> None:
        if self.algorithm.whole_batch:
            self.peers.draw_alike(self.device)
            super()._update(batch)
            return
        super()._update(self.peers.part(batch, self.peers.axis))
        if self.algorithm.priorities is not None:
            self.algorithm.priorities = self.peers.joined(self.algorithm.priorities)

    def metrics(self) -> dict[str, float]:
        """The metrics of the latest update, weighted so that their mean over learners is of all."""
        weight = self.peers.share * self.peers.count
        own = super().metrics()
        return {name: value * weight if weight else 0.0 for name, value in own.items()}


class Peers:
    """The ties between one learner's optimisers and the others'.

    Attributes:
        axis: of the rows of a batch.
        share: what this learner's part of the latest batch or minibatch weighs, in [0, 1].
    """

    def __init__(self, algorithm: Algorithm, rank: int, count: int) -> None:
        self.rank = rank
        self.count = count
        self.axis = algorithm.batch_axis
        if algorithm.replay is not None:
            self.axis = 0 if algorithm.replay.sequence == 1 else 1
        self.share = 1.0 / count
        self._rows = slice(0, 0)  # of the batch in hand, those that are this learner's,
        self._of = 0  # of so many
        self._fresh: list[torch.Tensor] = []  # parameters that a backward pass has reached so far
        self._shared: set[torch.Tensor] = set()  # those whose gradients are everyone's
        self._listening: socket.socket | None = None
        for optimizer in optimizers(vars(algorithm).values()):
            self._hook(optimizer)

    def open(self, host: str) -> str:
        """Listen at a free port of ``host``; the address ``host:port``."""
        self._listening = socket.create_server((host, 0))
        return f"{host}:{self._listening.getsockname()[1]}"

    def join(self, address: str, timeout_s: float, gpu: bool) -> None:
        """Form the group of all learners, by gloo or, on GPUs, by NCCL."""
        host, _, port = address.rpartition(":")
        if ipaddress.ip_address(host).is_loopback:
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # else it takes what the host's name stands for
        timeout = datetime.timedelta(seconds=timeout_s)
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            host,
            int(port),
            self.count,
            is_master=self.rank == 0,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=None if self._listening is None else self._listening.detach(),
        )
        self.leave()
        distributed.init_process_group(
            "nccl" if gpu else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.count,
            timeout=timeout,
        )

    def leave(self) -> None:
        """Leave the group, if this process is in one."""
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def part(self, columns: dict[str, Any], axis: int) -> dict[str, Any]:
        """This learner's part; all where there are fewer rows than learners.

        Args:
            columns: a batch or minibatch, arrays or tensors. Where it says which rows are
                ``"valid"``, only those weigh.
            axis: of the rows. Of sequences, a column of one axis has one value for each.
        """
        axes = {name: min(axis, column.ndim - 1) for name, column in columns.items()}
        self._of = max(column.shape[axes[name]] for name, column in columns.items())
        if self._of < self.count:
            self._rows = slice(0, 0 if self.rank else self._of)
            self.share = 1.0 / self.count
            return columns
        first, last = (self._of * rank // self.count for rank in (self.rank, self.rank + 1))
        self._rows = slice(first, last)
        part = {
            name: column[(slice(None),) * axes[name] + (self._rows,)]
            for name, column in columns.items()
        }
        self.share = (last - first) / self._of
        if "valid" in columns:
            self.share = float(part["valid"].sum() / max(columns["valid"].sum(), 1))
        return part

    def draw_alike(self, device: str) -> None:
        """Take over the first learner's torch random state."""
        own = torch.get_rng_state().to(device)
        with _in_touch():
            distributed.broadcast(own, src=0)
        torch.set_rng_state(own.cpu())

    def joined(self, priorities: Any) -> torch.Tensor:
        """The priorities ``(batch_size,)`` of everyone's parts, in order."""
        own = torch.as_tensor(priorities)
        whole = torch.zeros(self._of, dtype=own.dtype, device=own.device)
        whole[self._rows] = own[: self._rows.stop - self._rows.start]
        _add_up(whole)
        return whole

    # --- gradients ------------------------------------------------------------------------------

    def _hook(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(self._reached)
        optimizer.register_step_pre_hook(self._before_step)

    def _reached(self, parameter: torch.Tensor) -> None:
        """Share the gradients of a backward pass in one message, when it ends."""
        if not self._fresh:
            Variable._execution_engine.queue_callback(self._passed)
        self._fresh.append(parameter)

    def _passed(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._average(fresh)
        self._shared.update(fresh)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Share the gradients that the algorithm wrote itself."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._average([p for p in parameters if p.grad is not None and p not in self._shared])
        self._shared.difference_update(parameters)

    def _average(self, parameters: list[torch.Tensor]) -> None:
        """Replace gradients by those of the whole batch: the sum of the parts', each weighted."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        whole = torch.cat([gradient.reshape(-1) for gradient in gradients])
        # A mean over no rows is NaN, which weighs nothing only so.
        whole = whole.mul_(self.share) if self.share else torch.zeros_like(whole)
        _add_up(whole)
        for gradient, part in zip(
            gradients, whole.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))


def _add_up(tensor: torch.Tensor) -> None:
    """Replace a tensor by the sum of everyone's."""
    with _in_touch():
        distributed.all_reduce(tensor)


@contextlib.contextmanager
def _in_touch() -> Iterator[None]:
    """Say what a message to the others that fails means.

    Raises:
        PeerLost: another learner has gone, or stayed silent for too long.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PeerLost(f"lost touch with the other learners: {reason}") from error
