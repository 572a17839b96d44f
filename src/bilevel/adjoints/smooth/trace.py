"""Operations as they were called, and a program that repeats those that depend on one tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel.problem.trees import flatten, leaves, unflatten

#: The same operations by entries of ``torch``, which are quicker to call.
_aten = torch.ops.aten
_QUICK: dict[Any, Callable[..., Any]] = {
    _aten.add.Tensor: torch.add,
    _aten.div.Tensor: torch.div,
    _aten.mm.default: torch.mm,
    _aten.mul.Scalar: torch.mul,
    _aten.mul.Tensor: torch.mul,
    _aten.mv.default: torch.mv,
    _aten.neg.default: torch.neg,
    _aten.select.int: torch.select,
    _aten.sub.Tensor: torch.sub,
}
#: Multiply their first argument entry by entry with what the others say.
_FACTORS = {
    _aten.div.Scalar,
    _aten.div.Tensor,
    _aten.mul.Scalar,
    _aten.mul.Tensor,
    _aten.neg.default,
    _aten.sigmoid_backward.default,
    _aten.tanh_backward.default,
}
_WITH_OUT = set(_QUICK.values()) - {torch.select}


@dataclass(frozen=True)
class Call:
    """An operation as it was called, and the memory that it read and gave out."""

    operation: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    found: Any
    read: frozenset[int]
    made: frozenset[int]


class _Step(NamedTuple):
    """One operation: its arguments with holes, what fills these, and where its results go."""

    operation: Callable[..., Any]
    parts: list[Any]
    holes: list[tuple[int, int]]
    spec: Any
    targets: list[int]
    done: list[int]
    out: Tensor | None
    like: Tensor | None = None


@dataclass(frozen=True)
class Program:
    """What depends on one tensor, to be repeated for others.

    Parameters
    ----------
    steps
        The operations in order.
    result
        The number of the tensor that is returned; the argument has number 0.
    size
        How many tensors have a number.
    """

    steps: list[_Step]
    result: int
    size: int

    def run(self, v: Tensor) -> Tensor:
        """Repeat the operations for another argument."""
        known: list[Any] = [None] * self.size
        known[0] = v
        with torch.no_grad():
            for operation, parts, holes, spec, targets, done, out, _ in self.steps:
                filled = parts.copy()
                for place, source in holes:
                    filled[place] = known[source]
                if out is not None:
                    found = operation(*filled, out=out)
                elif spec is None:
                    found = operation(*filled)
                else:
                    arguments, options = unflatten(spec, filled)
                    found = operation(*arguments, **options)
                if len(targets) == 1:
                    known[targets[0]] = found if isinstance(found, Tensor) else leaves(found)[0]
                else:
                    for target, one in zip(targets, leaves(found), strict=True):
                        known[target] = one
                for source in done:
                    known[source] = None
        return known[self.result]

    @classmethod
    def of(cls, recorded: list[Call], v: Tensor, result: Tensor) -> Program | None:
        """Return what depends on ``v``, or ``None`` where it cannot be repeated."""
        live = _live(recorded, v)
        if live is None:
            return None
        names = {id(v): 0}
        steps = []
        for call in recorded:
            if not live & (call.read | call.made):
                continue
            parts, spec = flatten((call.arguments, call.options))
            is_flat = not call.options and len(parts) == len(call.arguments)
            is_flat &= all(a is b for a, b in zip(parts, call.arguments, strict=False))
            holes = []
            is_factor = call.operation in _FACTORS and is_flat
            for place, part in enumerate(parts):
                if isinstance(part, Tensor) and place_of(part) in live:
                    if id(part) not in names:
                        return None
                    holes.append((place, names[id(part)]))
                    parts[place] = None
                    is_factor &= place == 0 and part.shape == getattr(call.found, "shape", None)
            found = leaves(call.found)
            if not all(isinstance(one, Tensor) for one in found):
                return None
            targets = [names.setdefault(id(one), len(names)) for one in found]
            operation: Callable[..., Any] = _QUICK.get(call.operation) or call.operation
            # Memory that no caller sees is used again: to ask for it takes as long as to compute.
            is_own = operation in _WITH_OUT and place_of(call.found) != place_of(result)
            out = call.found if is_own and is_flat else None
            like = call.found if is_factor and len(holes) == 1 else None
            spec = None if is_flat else spec
            steps.append(_Step(operation, parts, holes, spec, targets, [], out, like))
        if id(result) not in names:
            return None
        steps = _joined(steps, names[id(result)])
        _mark_last_uses(steps, names[id(result)])
        return cls(steps, names[id(result)], len(names))


def _live(recorded: list[Call], v: Tensor) -> set[int] | None:
    """Return the memory whose contents depend on ``v``; ``None`` where a call forbids repeating."""
    own: set[int] = set()
    foreign = {place_of(v)}
    for call in recorded:
        foreign |= call.read - own
        own |= call.made - foreign
        schema = call.operation._schema
        if schema.is_mutable and not call.made <= own:
            return None
        if torch.Tag.nondeterministic_seeded in call.operation.tags:
            return None
    live = {place_of(v)}
    while True:
        # Memory that is overwritten with what depends on v was made for it: it is made anew.
        more = set().union(*(c.made for c in recorded if live & (c.read | c.made))) | live
        if more == live:
            return live
        live = more


def _joined(steps: list[_Step], result: int) -> list[_Step]:
    """Return the steps with each chain of factors as one multiplication.

    A factor is an operation that multiplies entry by entry, so that what it does to ones, or to an
    earlier factor, is the factor of the chain.
    """
    uses: dict[int, int] = {result: 2}
    for step in steps:
        for _, source in step.holes:
            uses[source] = uses.get(source, 0) + 1
    found: list[_Step] = []
    makers: dict[int, int] = {}
    for step in steps:
        if step.like is None:
            found.append(step)
            continue
        ((place, source),) = step.holes
        parts = step.parts.copy()
        before = makers.get(source) if uses[source] == 1 else None
        if before is None:
            parts[place] = torch.ones_like(step.like)
        else:
            parts[place] = found[before].parts[1]
            source = found[before].holes[0][1]
        with torch.no_grad():
            factor = step.operation(*parts)
        joined = _Step(torch.mul, [None, factor], [(0, source)], None, step.targets, [], step.out)
        if before is None:
            makers[step.targets[0]] = len(found)
            found.append(joined)
        else:
            found[before] = joined
            makers[step.targets[0]] = before
    return found


def _mark_last_uses(steps: list[_Step], result: int) -> None:
    """Let each step tell which tensors are of no use after it."""
    last: dict[int, _Step] = {}
    for step in steps:
        for name in (*step.targets, *(source for _, source in step.holes)):
            last[name] = step
    for name, step in last.items():
        if name != result:
            step.done.append(name)


def place_of(tensor: Tensor) -> int:
    """Return what tells a tensor's memory from that of others."""
    if tensor.layout is not torch.strided:
        return id(tensor)
    return tensor.untyped_storage()._cdata
