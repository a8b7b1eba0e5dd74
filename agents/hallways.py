"""Rooms and hallways of a model, and the options that lead to them; no algorithm of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from rlgen.algorithm import Model

DISCOUNT, SETTLED = 0.9, 1e-12  # of the ways to the hallways; largest change of their values


@dataclass(frozen=True)
class OptionTable:
    """O options over S states, each a deterministic policy with a beginning and an end.

    Attributes:
        policy: ``(O, S)`` int64 actions.
        starts: ``(O, S)`` bool, the initiation sets: where an option can be chosen.
        goes_on: ``(O, S)`` bool, where an option does not end (beta = 0); elsewhere it does.
    """

    policy: np.ndarray
    starts: np.ndarray
    goes_on: np.ndarray


def primitive_options(model: Model) -> OptionTable:
    """Every action as an option of one step, which can be chosen anywhere."""
    states, actions = model.rewards.shape
    policy = np.repeat(np.arange(actions)[:, None], states, axis=1)
    return OptionTable(policy, np.ones(policy.shape, np.bool_), np.zeros(policy.shape, np.bool_))


def hallway_options(model: Model) -> OptionTable:
    """For each room, an option to each of its hallways (Sutton, Precup and Singh, 1999, 3).

    An option can be chosen in its room and in the room's other hallways, goes on in the room, and
    takes the way of the shortest expected discounted time that does not leave the room.
    """
    hallways, rooms = find_rooms(model)
    joined = _adjacency(model)
    pairs = [
        (hallway, room)
        for hallway in hallways
        for room in np.unique(rooms[joined.indices[slice(*joined.indptr[hallway : hallway + 2])]])
        if room >= 0
    ]
    target = np.array([hallway for hallway, _ in pairs], np.int64)
    inside = rooms == np.array([room for _, room in pairs], np.int64).reshape(-1, 1)  # (O, S)
    doors = np.zeros(inside.shape, np.bool_)  # the hallways of the option's room
    for hallway, room in pairs:
        doors[inside[:, rooms == room].any(axis=1), hallway] = True
    arrived = np.zeros(inside.shape)
    arrived[np.arange(len(target)), target] = 1.0
    values, before = arrived, np.zeros_like(arrived)
    shape = (*model.rewards.shape, len(target))
    going = inside & ~model.terminal
    while np.abs(values - before).max(initial=0.0) > SETTLED:
        before = values
        action_values = DISCOUNT * (model.transitions @ before.T).reshape(shape)
        values = np.where(going, action_values.max(axis=1).T, arrived)
    best = action_values.max(axis=1, keepdims=True)  # of equally short ways the first
    policy = (action_values >= best - 1e-9).argmax(axis=1).T
    starts = (inside | doors) & (arrived == 0.0)
    return OptionTable(policy, starts, inside)


def find_rooms(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """The hallways, and the room of every state.

    A hallway is a state with exactly two neighbours, which have no other way of two steps to each
    other; a corner is none, for there is a way around it. Rooms are what stays connected without
    the hallways.

    Returns:
        The states ``(H,)`` that are hallways, and ``(S,)`` int64 numbers of rooms, -1 of hallways.
    """
    joined = _adjacency(model)
    two = np.flatnonzero(np.diff(joined.indptr) == 2)
    first, second = joined.indices[joined.indptr[two]], joined.indices[joined.indptr[two] + 1]
    ways = np.asarray((joined[first].multiply(joined[second])).sum(axis=1)).ravel()
    direct = np.asarray(joined[first, second]).ravel()
    hallways = two[(ways == 1) & (direct == 0)]
    kept = np.ones(joined.shape[0], np.bool_)
    kept[hallways] = False
    rooms = np.full(joined.shape[0], -1, np.int64)
    rooms[kept] = connected_components(joined[kept][:, kept], directed=False)[1]
    return hallways, rooms


def _adjacency(model: Model) -> scipy.sparse.csr_array:
    """``(S, S)``, 1 where some action may lead from one state to the other, or back."""
    states, actions = model.rewards.shape
    moves = model.transitions.tocoo()
    source = moves.row // actions
    moved = (source != moves.col) & (moves.data > 0)
    ones = np.ones(int(moved.sum()))
    one_way = scipy.sparse.coo_array((ones, (source[moved], moves.col[moved])), (states, states))
    both: scipy.sparse.csr_array = (one_way + one_way.T).tocsr()
    both.data[:] = 1.0
    both.sort_indices()
    return both
