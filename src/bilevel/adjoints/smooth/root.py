"""A stationary point as a differentiable function of what its scalar is made of."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from bilevel.adjoints.function import AbstractRule, apply
from bilevel.adjoints.smooth.krylov import Solved
from bilevel.adjoints.smooth.stationarity import Hessian, Scalar
from bilevel.errors import BilevelWarning
from bilevel.problem.precision import attainable

#: Above this residual of the optimality conditions the formula is not a derivative of the answer.
NOT_A_SOLUTION = 1e-5
#: So many times the relative residual that was asked for are no cause for a warning.
_SLACK = 1e3
OtherSolver = Callable[[Sequence[Tensor], Tensor], Solved]
_Derivatives = tuple[Hessian, list[Tensor]]


class LinearSolver(Protocol):
    """Solves the linear systems of derivatives."""

    @property
    def rtol(self) -> float:
        """Relative residual that is asked for."""
        ...

    def solve(self, H: Hessian, b: Tensor, definite: bool, start: Tensor | None = None) -> Solved:
        """Solve ``H q = b`` for each instance."""
        ...


class Root(AbstractRule):
    """A stationary point as a function of tensors in its scalar.

    Parameters
    ----------
    adjoint
        Solves the linear system.
    make
        Returns the scalar for given inputs.
    u
        The stationary point, shape ``(B, n)``.
    inputs
        The tensors that the scalar is given; those that its functions capture are found.
    definite
        Whether the second derivative ought to be positive definite.
    start
        A first guess at the system's solution.
    other
        Solves the system by other means, from the inputs and the right-hand side; ``None``: the
        adjoint solves it.

    Attributes
    ----------
    solved
        The linear system of the last backward pass.
    """

    order = 1
    foldable = False
    what = "a smooth answer"

    def __init__(
        self,
        adjoint: LinearSolver,
        make: Callable[[Sequence[Tensor]], Scalar],
        u: Tensor,
        inputs: Sequence[Tensor],
        definite: bool,
        start: Tensor | None,
        other: OtherSolver | None = None,
    ) -> None:
        self._adjoint = adjoint
        self._other = other
        self._make = make
        self._u = u.detach()
        self._inputs = list(inputs)
        self._definite = definite
        self._start = start
        # What was evaluated to see whether u is an answer serves the first backward pass too.
        self._kept: _Derivatives | None = self._derivatives(self._inputs)
        H, own = self._kept
        known = {id(H.u), *map(id, own)}
        self._captured = [leaf for leaf in H.leaves() if id(leaf) not in known]
        self._residual = torch.linalg.vector_norm(H.gradient.detach(), dim=-1)
        self.solved: Solved | None = None

    @property
    def answer(self) -> tuple[Tensor, ...]:
        """The stationary point, differentiable."""
        residual = float(self._residual.max())
        if not residual <= attainable(NOT_A_SOLUTION, self._u):
            warnings.warn(
                f"The optimality conditions fail by {residual:.1e}: this is not an answer, and "
                f"what is returned not its derivative. Solve more accurately.",
                BilevelWarning,
                stacklevel=4,
            )
        return apply(self, *self._inputs, *self._captured)

    def probe(self) -> Tensor:
        """Return the relative residual of the linear system for a gradient of ones."""
        H, _ = self._kept or self._derivatives(self._inputs)
        return self._adjoint.solve(H, torch.ones_like(self._u), self._definite).residual

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the stationary point."""
        return (self._u.clone(),)

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the gradients of ``grads`` times the answer, by one linear system."""
        if grads[0] is None:
            return (None,) * len(inputs)
        H, own = self._kept or self._derivatives(inputs[: len(self._inputs)])
        self._kept = None  # the graph is freed with this call
        b = grads[0].detach()
        if self._other is not None:
            solved = self._other([one.detach() for one in own], b)
        else:
            start = None if self._start is None else -self._start
            solved = self._adjoint.solve(H, b, self._definite, start)
        del b
        self._warn_of(solved)
        self.solved = replace(solved, x=solved.x.neg_())
        wanted = [one for one in (*own, *self._captured) if one.requires_grad]
        found = iter(H.along(wanted, self.solved.x))
        return [next(found) if one.requires_grad else None for one in (*own, *self._captured)]

    def _warn_of(self, solved: Solved) -> None:
        """Warn of a system that was not solved, or whose matrix is not that of a minimum."""
        if self._definite and not bool(solved.is_positive.all()):
            warnings.warn(
                "The follower's second derivative is not positive definite at the answer: this is "
                "no minimum, or one of many, and what is returned is no derivative of an answer.",
                BilevelWarning,
                stacklevel=2,
            )
            return
        residual = float(solved.residual.max()) if len(solved.residual) else 0.0
        if residual > _SLACK * attainable(self._adjoint.rtol, self._u, 10):
            warnings.warn(
                f"The linear system of the derivative was solved to a relative residual of "
                f"{residual:.1e} only, in {solved.products} products: the gradient is inexact. Use "
                f'Implicit("dense"), a precondition, or more max_steps.',
                BilevelWarning,
                stacklevel=2,
            )

    def _derivatives(self, inputs: Sequence[Tensor]) -> _Derivatives:
        """Return the scalar's derivatives in ``u``, and the inputs of which it is made."""
        with torch.enable_grad():
            own = [one.detach().requires_grad_(one.requires_grad) for one in inputs]
            return Hessian(self._make(own), self._u), own
