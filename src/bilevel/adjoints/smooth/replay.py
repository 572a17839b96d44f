"""Functions that are called again and again, as a list of the operations they consist of.

``Replayed`` counts calls, records one and decides whether it may be repeated; ``Program`` holds the
operations that depend on the argument.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bilevel.problem.trees import flatten, leaves, unflatten

#: So many calls go by before the operations are recorded: fewer would not pay for it.
_PATIENCE = 2
_ROUNDING = 100
#: Larger tensors take longer than the bookkeeping that a replay saves, and recording holds many.
_LARGEST = 200_000
_here = threading.local()
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


class Replayed:
    """A function of one tensor that repeats its operations without autograd's bookkeeping.

    After a call or two one is recorded, operation by operation. What does not depend on the
    argument is kept; the rest is repeated at later calls, several factors in a row as one. The
    first repetition must agree with the function up to rounding. Where it does not, or where an
    operation cannot be repeated (it yields a number, draws at random, or writes to memory of
    others), the function itself is called as before.

    Parameters
    ----------
    function
        Takes a tensor and returns one, by the same operations at every call: a product with a
        fixed matrix.

    Examples
    --------
    >>> import torch
    >>> from bilevel.adjoints.smooth.replay import Replayed
    >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> product = Replayed(lambda v: (A + A) @ v)
    >>> for _ in range(6):
    ...     found = product(torch.tensor([1.0, 0.0]))
    >>> print(found.tolist(), product.count)
    [4.0, 2.0] 1
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._calls = 0
        self._program: Program | None = None
        self._is_checked = False
        self._actions: list[Callable[[], None]] = []

    @property
    def count(self) -> int | None:
        """How many operations a call repeats; ``None`` where the function itself is called."""
        return len(self._program.steps) if self._program and self._is_checked else None

    def __call__(self, v: Tensor) -> Tensor:
        """Return the function's value."""
        if self._is_checked and self._program is not None:
            for action in self._actions:
                action()
            return self._program.run(v)
        self._calls += 1
        if self._calls == _PATIENCE and v.numel() <= _LARGEST:
            with _Recorder() as recorder:
                found = self._function(v)
            self._program = Program.of(recorder.steps, v, found)
            self._actions = recorder.actions
            return found
        found = self._function(v)
        if self._program is not None:
            self._is_checked = True
            rest = torch.linalg.vector_norm(self._program.run(v) - found)
            if not rest <= _ROUNDING * torch.finfo(v.dtype).eps * torch.linalg.vector_norm(found):
                self._program = None
        return found


def on_repetition(action: Callable[[], None]) -> None:
    """Have an action done whenever what is recorded at this moment is repeated; else nothing.

    Parameters
    ----------
    action
        Without arguments, such as a count.
    """
    recorder = getattr(_here, "recorder", None)
    if recorder is not None:
        recorder.actions.append(action)


class _Recorder(TorchDispatchMode):
    """Records every operation; all tensors stay alive, so that no memory is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Call] = []
        self.actions: list[Callable[[], None]] = []

    def __enter__(self) -> _Recorder:
        _here.recorder = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _here.recorder = None
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        found = func(*args, **options)
        read, made = (
            frozenset(place_of(one) for one in leaves(tree) if isinstance(one, Tensor))
            for tree in ((args, options), found)
        )
        self.steps.append(Call(func, args, options, found, read, made))
        return found


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
