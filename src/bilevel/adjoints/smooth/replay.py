"""Functions that are called again and again, as a list of the operations they consist of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bilevel.adjoints.smooth.trace import Call, Program, place_of
from bilevel.problem.trees import leaves

#: So many calls go by before the operations are recorded: fewer would not pay for it.
_PATIENCE = 2
_ROUNDING = 100
#: Larger tensors take longer than the bookkeeping that a replay saves, and recording holds many.
_LARGEST = 200_000
_here = threading.local()


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
