"""Checking a layer's tensors and putting them into one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel.errors import ProblemError
from bilevel.problem.leaves import as_array, label

#: Name, shape and size of each input.
Slots = Sequence[tuple[str, tuple[int, ...], int]]


@dataclass(frozen=True)
class InputBatch:
    """A batch of inputs, and how to hand results back.

    Parameters
    ----------
    theta
        All inputs and then the number one, a row per instance, in double precision.
    is_batched
        Whether any input had a batch axis.
    dtype
        Precision of the results.
    """

    theta: Tensor
    is_batched: bool
    dtype: torch.dtype

    def back(self, value: Tensor) -> Tensor:
        """Return a result in the caller's precision, without an axis that was not asked for."""
        value = value if value.dtype is self.dtype else value.to(self.dtype)
        return value if self.is_batched else value[0]


def gather(slots: Slots, tensors: Sequence[Any], who: str) -> InputBatch:
    """Check tensors against the inputs they stand for, and broadcast them to one batch.

    Parameters
    ----------
    slots
        Name, shape and size of each input.
    tensors
        One per input.
    who
        The layer, for messages.

    Raises
    ------
    ProblemError
        If their number, a shape, a dtype or a device is wrong; the message names the input.
    """
    if len(tensors) != len(slots):
        names = ", ".join(name for name, _, _ in slots)
        raise ProblemError(
            f"{who} takes {len(slots)} tensors ({names}), but {len(tensors)} were given."
        )
    size = None
    dtype = torch.float64
    device = None
    for slot, tensor in zip(slots, tensors, strict=True):
        if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
            raise ProblemError(_unfit(slot[0], tensor))
        if device is None:
            dtype = tensor.dtype
            device = tensor.device
        elif tensor.device != device:
            raise ProblemError(
                f"The tensor for {slot[0]} is on {tensor.device}, an earlier one on {device}; "
                f"move all of them to one device."
            )
        if tensor.dtype is not dtype:
            dtype = torch.promote_types(dtype, tensor.dtype)
        if tensor.shape != slot[1]:
            own = _batch_size(slot, tensor)
            if size is not None and own != size:
                raise ProblemError(
                    f"The tensor for {slot[0]} has a batch of {own}, an earlier one of {size}."
                )
            size = own
    count = 1 if size is None else size
    parts = []
    for (_, shape, length), tensor in zip(slots, tensors, strict=True):
        flat = tensor.reshape(-1, length)
        if count > 1 and tensor.shape == shape:
            flat = flat.expand(count, length)
        parts.append(flat if tensor.dtype is torch.float64 else flat.double())
    # The last entry is the number one, for what does not depend on inputs.
    parts.append(torch.ones(count, 1, dtype=torch.float64, device=device))
    return InputBatch(torch.cat(parts, -1), size is not None, dtype)


def choose(listed: Any, needed: Mapping[int, Any], who: str) -> tuple[Any, ...]:
    """Return what a layer takes tensors for, after checking that it is all of what it needs.

    Parameters
    ----------
    listed
        What the user lists: parameters, and for a follower other levels' variables.
    needed
        What must be listed, by id.
    who
        The layer, for messages.

    Raises
    ------
    ProblemError
        If something is missing, unknown, listed twice, or declares that entries are zero.
    """
    if not isinstance(listed, (list, tuple)):
        raise ProblemError("parameters must be a list of what tensors are given for, also of one.")
    for leaf in listed:
        if getattr(leaf, "id", None) not in needed:
            name = label(leaf) if hasattr(leaf, "name") else repr(leaf)
            raise ProblemError(f"{name} is listed in parameters, but does not occur in {who}.")
        for attribute in ("diag", "sparsity"):
            if leaf.attributes.get(attribute):
                raise ProblemError(
                    f"Parameter {label(leaf)} is declared {attribute}, so most entries of a tensor "
                    f"would be ignored: make a vector of the others the parameter "
                    f"(cp.diag(vector))."
                )
    if len({leaf.id for leaf in listed}) < len(listed):
        raise ProblemError("parameters lists the same one twice.")
    missing = [label(leaf) for i, leaf in needed.items() if i not in {one.id for one in listed}]
    if missing:
        raise ProblemError(
            f"{', '.join(missing)} of {who} must be listed in parameters: the layer needs a "
            f"tensor for everything that is not decided there."
        )
    return tuple(listed)


class DeclaredSigns:
    """Makes an instance not a number whose inputs break the sign that their parameter declares.

    Convexity was judged by that sign, so the answer would be wrong.
    """

    def __init__(self, inputs: Sequence[Any]) -> None:
        signs = [np.full(p.size, _sign(p)) for p in inputs]
        sign = np.concatenate([*signs, np.zeros(1)])
        self._index = torch.from_numpy(np.flatnonzero(sign))
        self._sign = torch.from_numpy(sign[sign != 0])

    def __call__(self, theta: Tensor) -> Tensor:
        """Return ``theta`` with such rows NaN."""
        if not len(self._index):
            return theta
        index = self._index.to(theta.device)
        sign = self._sign.to(theta.device)
        broken = (theta.detach()[:, index] * sign < 0).any(-1, keepdim=True)
        return theta.masked_fill(broken, torch.nan)


def _sign(parameter: Any) -> float:
    return float(bool(parameter.is_nonneg())) - float(bool(parameter.is_nonpos()))


def tensors_of(parameters: Sequence[Any]) -> tuple[Tensor, ...]:
    """Return the present values of CVXPY parameters as tensors in double precision.

    Examples
    --------
    >>> import cvxpy as cp
    >>> from bilevel.layers import tensors_of
    >>> print(tensors_of([cp.Parameter(2, value=[1.0, 2.0])])[0].tolist())
    [1.0, 2.0]
    """
    return tuple(torch.as_tensor(as_array(p.value), dtype=torch.float64) for p in parameters)


def _batch_size(slot: tuple[str, tuple[int, ...], int], tensor: Tensor) -> int:
    """Return the length of a tensor's batch axis."""
    name, wanted, _ = slot
    shape = tuple(tensor.shape)
    if shape[1:] != wanted or len(shape) != len(wanted) + 1:
        raise ProblemError(
            f"The tensor for {name} has shape {shape}; it must have shape {wanted}, or that with "
            f"a batch axis in front."
        )
    if shape[0] == 0:
        raise ProblemError(f"The batch of the tensor for {name} is empty.")
    return shape[0]


def _unfit(name: str, tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return f"The value of {name} must be a torch.Tensor, not {type(tensor).__name__}."
    return (
        f"The tensor for {name} holds {tensor.dtype}; real floating-point numbers are needed "
        f"(tensor.double())."
    )
