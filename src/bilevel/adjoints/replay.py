"""Functions that are called again and again, as a list of the operations they consist of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bilevel.problem.trees import flatten, leaves, unflatten

#: So many calls go by before the operations are recorded: fewer would not pay for it.
_PATIENCE = 4
#: Larger tensors take longer than the bookkeeping that a replay saves, and recording holds many.
_LARGEST = 200_000


class Replayed:
    """A function of one tensor that repeats its operations without autograd's bookkeeping.

    After a few calls one is recorded, operation by operation. What does not depend on the argument
    is kept; the rest is repeated at later calls. The first repetition must agree with the function
    bit for bit. Where it does not, or where an operation cannot be repeated (it yields a number,
    draws at random, or writes to memory of others), the function itself is called as before.

    Parameters
    ----------
    function
        Takes a tensor and returns one, by the same operations at every call: a product with a
        fixed matrix.

    Examples
    --------
    >>> import torch
    >>> from bilevel.adjoints.replay import Replayed
    >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> product = Replayed(lambda v: (A + A) @ v)
    >>> for _ in range(6):
    ...     found = product(torch.tensor([1.0, 0.0]))
    >>> print(found.tolist(), product.count)
    [4.0, 2.0] 1
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function, self._calls = function, 0
        self._program: _Program | None = None
        self._is_checked = False

    @property
    def count(self) -> int | None:
        """How many operations a call repeats; ``None`` where the function itself is called."""
        return len(self._program.steps) if self._program and self._is_checked else None

    def __call__(self, v: Tensor) -> Tensor:
        """Return the function's value."""
        if self._is_checked and self._program is not None:
            return self._program.run(v)
        self._calls += 1
        if self._calls == _PATIENCE and v.numel() <= _LARGEST:
            with _Recorder() as recorder:
                found = self._function(v)
            self._program = _Program.of(recorder.steps, v, found)
            return found
        found = self._function(v)
        if self._program is not None:
            self._is_checked = True
            if not torch.equal(self._program.run(v), found):
                self._program = None
        return found


@dataclass(frozen=True)
class _Step:
    """One operation: its arguments with holes, what fills these, and where its results go."""

    operation: Callable[..., Any]
    parts: list[Any]
    holes: list[tuple[int, int]]
    spec: Any
    targets: list[int]


@dataclass(frozen=True)
class _Program:
    steps: list[_Step]
    result: int
    last: list[list[int]]

    def run(self, v: Tensor) -> Tensor:
        """Repeat the operations for another argument."""
        known: dict[int, Any] = {0: v}
        with torch.no_grad():
            for step, done in zip(self.steps, self.last, strict=True):
                parts = step.parts.copy()
                for place, source in step.holes:
                    parts[place] = known[source]
                if step.spec is None:
                    found = step.operation(*parts)
                else:
                    arguments, options = unflatten(step.spec, parts)
                    found = step.operation(*arguments, **options)
                if len(step.targets) == 1:
                    known[step.targets[0]] = found
                else:
                    known.update(zip(step.targets, leaves(found), strict=True))
                for source in done:
                    del known[source]
        return known[self.result]

    @classmethod
    def of(cls, recorded: list[_Call], v: Tensor, result: Tensor) -> _Program | None:
        """Return what depends on ``v``, or ``None`` where it cannot be repeated."""
        live = _live(recorded, v)
        if live is None:
            return None
        names, steps = {id(v): 0}, []
        for call in recorded:
            if not live & (call.read | call.made):
                continue
            parts, spec = flatten((call.arguments, call.options))
            is_flat = not call.options and len(parts) == len(call.arguments)
            is_flat &= all(a is b for a, b in zip(parts, call.arguments, strict=False))
            holes = []
            for place, part in enumerate(parts):
                if isinstance(part, Tensor) and _place(part) in live:
                    if id(part) not in names:
                        return None
                    holes.append((place, names[id(part)]))
                    parts[place] = None
            found = leaves(call.found)
            if not all(isinstance(one, Tensor) for one in found):
                return None
            targets = [names.setdefault(id(one), len(names)) for one in found]
            steps.append(_Step(call.operation, parts, holes, None if is_flat else spec, targets))
        if id(result) not in names:
            return None
        return cls(steps, names[id(result)], _last_uses(steps, names[id(result)]))


@dataclass(frozen=True)
class _Call:
    """An operation as it was called, and the memory that it read and gave out."""

    operation: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    found: Any
    read: frozenset[int]
    made: frozenset[int]


class _Recorder(TorchDispatchMode):
    """Records every operation; all tensors stay alive, so that no memory is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[_Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        found = func(*args, **options)
        read, made = (
            frozenset(_place(one) for one in leaves(tree) if isinstance(one, Tensor))
            for tree in ((args, options), found)
        )
        self.steps.append(_Call(func, args, options, found, read, made))
        return found


def _live(recorded: list[_Call], v: Tensor) -> set[int] | None:
    """Return the memory whose contents depend on ``v``; ``None`` where a call forbids repeating."""
    own: set[int] = set()
    foreign = {_place(v)}
    for call in recorded:
        foreign |= call.read - own
        own |= call.made - foreign
        schema = call.operation._schema
        if schema.is_mutable and not call.made <= own:
            return None
        if torch.Tag.nondeterministic_seeded in call.operation.tags:
            return None
    live = {_place(v)}
    while True:
        # Memory that is overwritten with what depends on v was made for it: it is made anew.
        more = set().union(*(c.made for c in recorded if live & (c.read | c.made))) | live
        if more == live:
            return live
        live = more


def _last_uses(steps: list[_Step], result: int) -> list[list[int]]:
    """Return which results are of no use after each step."""
    last: dict[int, int] = {}
    for number, step in enumerate(steps):
        for name in (*step.targets, *(source for _, source in step.holes)):
            last[name] = number
    return [
        [name for name, number in last.items() if number == i and name != result]
        for i in range(len(steps))
    ]


def _place(tensor: Tensor) -> int:
    """Return what tells a tensor's memory from that of others."""
    if tensor.layout is not torch.strided:
        return id(tensor)
    return tensor.untyped_storage()._cdata
