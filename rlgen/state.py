"""The state of any object as arrays and JSON, and back: what checkpoints are made of.

`capture` walks an object's attributes and keeps those that can change: numbers, strings, arrays,
tensors, random generators, modules, optimisers, and containers and plain Python objects of these.
Constants (spaces, configurations, frozen dataclasses, functions) are left to the constructor. What
lives in foreign memory (a simulator's handle) cannot be kept and is named in ``opaque``.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Callable
from typing import Any, cast

import gymnasium as gym
import numpy as np
import scipy.sparse
import torch
from pydantic import BaseModel
from torch import nn

from rlgen.errors import CheckpointError

_CONSTANTS = (
    enum.Enum,
    gym.Space,
    gym.envs.registration.EnvSpec,
    BaseModel,
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    scipy.sparse.sparray,
    np.dtype,
    np.random.SeedSequence,
)
_SCALARS = (bool, int, float, str, type(None))
LOADABLE = (nn.Module, torch.optim.Optimizer)


@dataclasses.dataclass
class State:
    """JSON data in which every array is a reference into ``arrays``."""

    plain: Any
    arrays: dict[str, np.ndarray]
    opaque: list[str]  # attributes that could not be kept
    skip: tuple[str, ...] = ()  # attributes that were left out


def capture(target: object, skip: tuple[str, ...] = ()) -> State:
    """The state of ``target``, without the attributes named in ``skip`` (dotted: ``"a.b"``)."""
    state = State(None, {}, [], skip)
    state.plain = _encode_attributes(vars(target), "", state, {id(target)})
    return state


def restore(target: object, plain: Any, arrays: dict[str, np.ndarray]) -> None:
    """Set the attributes of ``target`` to a captured state, in place where they can be.

    Raises:
        CheckpointError: the state is of an object with other attributes or shapes.
    """
    try:
        _decode_attributes(target, plain, arrays)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit {type(target).__name__}: {' '.join(str(error).split())}; "
            "was it written by another algorithm, network or environment?"
        ) from error


def _is_constant(value: object) -> bool:
    frozen = (
        dataclasses.is_dataclass(value)
        and getattr(type(value), "__dataclass_params__", types.SimpleNamespace(frozen=False)).frozen
    )
    return frozen or isinstance(value, _CONSTANTS)


def _encode_attributes(
    attributes: dict[str, Any], path: str, state: State, seen: set[int]
) -> dict[str, Any]:
    encoded = {}
    for name, value in attributes.items():
        if not _is_constant(value) and f"{path}{name}" not in state.skip:
            encoded[name] = _encode(value, f"{path}{name}", state, seen)
    return encoded


def _encode(value: Any, path: str, state: State, seen: set[int]) -> Any:
    """JSON data for ``value``; a dict with one ``__kind__`` key stands for what JSON lacks."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, (np.ndarray, torch.Tensor)):
        kind = "__array__" if isinstance(value, np.ndarray) else "__tensor__"
        array = value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
        if array.dtype == object:
            state.opaque.append(path)
            return {"__opaque__": path}
        # Copied, for the owner may go on; safetensors has no bool scalars of rank 0 trouble.
        state.arrays[path] = np.array(array, order="C")
        return {kind: path}
    if isinstance(value, np.random.Generator):
        return {"__generator__": _encode(value.bit_generator.state, path, state, seen)}
    if isinstance(value, np.random.RandomState):
        legacy = value.get_state(legacy=False)
        return {"__random_state__": _encode(legacy, path, state, seen)}
    if isinstance(value, LOADABLE):
        return {"__loadable__": _encode(dict(value.state_dict()), path, state, seen)}
    if isinstance(value, dict):
        pairs = [
            [_encode(k, f"{path}.{k}", state, seen), _encode(v, f"{path}.{k}", state, seen)]
            for k, v in value.items()
            if not _is_constant(v)
        ]
        return {"__dict__": pairs}
    if isinstance(value, (list, tuple)):
        items = [
            None if _is_constant(v) else _encode(v, f"{path}.{i}", state, seen)
            for i, v in enumerate(value)
        ]
        return items if isinstance(value, list) else {"__tuple__": items}
    if id(value) in seen:  # a cycle: the first visit keeps it
        return {"__opaque__": path}
    seen.add(id(value))
    if hasattr(value, "__dict__"):
        return {"__object__": _encode_attributes(vars(value), f"{path}.", state, seen)}
    state.opaque.append(path)
    return {"__opaque__": path}


def _decode_attributes(target: Any, encoded: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    for name, value in encoded.items():
        current = getattr(target, name, None)
        decoded = _decode(value, current, arrays)
        if decoded is not current:
            setattr(target, name, decoded)


def _decode(value: Any, current: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The value of its JSON data: ``current`` changed in place, or a new one."""
    if isinstance(value, list):
        if isinstance(current, list) and len(current) == len(value):
            return [_decode(v, c, arrays) for v, c in zip(value, current, strict=True)]
        return [_decode(v, None, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    return _DECODERS[kind](inner, current, arrays)


def _decode_array(inner: Any, current: Any, arrays: dict[str, np.ndarray]) -> np.ndarray:
    array = arrays[inner]
    kept = isinstance(current, np.ndarray) and current.flags.writeable
    if kept and current.shape == array.shape and current.dtype == array.dtype:
        current[...] = array
        return cast(np.ndarray, current)
    return array.copy()


def _decode_tensor(inner: Any, current: Any, arrays: dict[str, np.ndarray]) -> torch.Tensor:
    tensor = torch.from_numpy(arrays[inner].copy())
    if isinstance(current, torch.Tensor) and current.shape == tensor.shape:
        with torch.no_grad():
            return current.copy_(tensor)
    return tensor


def _decode_generator(inner: Any, current: Any, arrays: dict[str, np.ndarray]) -> Any:
    current.bit_generator.state = _decode(inner, None, arrays)
    return current


def _decode_random_state(inner: Any, current: Any, arrays: dict[str, np.ndarray]) -> Any:
    current.set_state(_decode(inner, None, arrays))
    return current


def _decode_loadable(inner: Any, current: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(current, torch.optim.Optimizer):
        current.load_state_dict(_decode(inner, None, arrays))
        return current
    # Its rates are constants, left to the constructor: the state may be of a trial with others.
    given = [{k: v for k, v in g.items() if k != "params"} for g in current.param_groups]
    current.load_state_dict(_decode(inner, None, arrays))
    for group, settings in zip(current.param_groups, given, strict=True):
        group.update(settings)
    return current


def _decode_dict(inner: Any, current: Any, arrays: dict[str, np.ndarray]) -> dict[Any, Any]:
    old = current if isinstance(current, dict) else {}
    decoded = {}
    for encoded_key, encoded_value in inner:
        key = _decode(encoded_key, None, arrays)
        decoded[key] = _decode(encoded_value, old.get(key), arrays)
    # Constants were left out of the state: keep them.
    return {**{k: v for k, v in old.items() if _is_constant(v)}, **decoded}


def _decode_tuple(inner: Any, current: Any, arrays: dict[str, np.ndarray]) -> tuple[Any, ...]:
    return tuple(_decode(v, None, arrays) for v in inner)


def _decode_object(inner: Any, current: Any, arrays: dict[str, np.ndarray]) -> Any:
    _decode_attributes(current, inner, arrays)
    return current


def _keep(inner: Any, current: Any, arrays: dict[str, np.ndarray]) -> Any:
    return current


_DECODERS: dict[str, Callable[[Any, Any, dict[str, np.ndarray]], Any]] = {
    "__array__": _decode_array,
    "__tensor__": _decode_tensor,
    "__generator__": _decode_generator,
    "__random_state__": _decode_random_state,
    "__loadable__": _decode_loadable,
    "__dict__": _decode_dict,
    "__tuple__": _decode_tuple,
    "__object__": _decode_object,
    "__opaque__": _keep,
}
