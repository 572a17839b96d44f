"""What descents on ``F(x, y(x))`` share: the follower's response, and the derivative there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel.adjoints.smooth.adjoint import AbstractSmoothAdjoint
from bilevel.adjoints.smooth.stationarity import Stationarity
from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.smooth import SmoothProblem
from bilevel.problem.trees import detached, leaves
from bilevel.solvers.smooth.newton import Newton
from bilevel.solvers.smooth.solver import Task

Responder = Newton | Callable[..., Any]


class Hypergradient(NamedTuple):
    """The derivative of ``F(x, y(x))``.

    Parameters
    ----------
    value
        ``F``.
    grads, norm
        The derivatives in the leaves of ``x``, and their norm.
    solved
        The solution of the adjoint's linear system, with which the next may start, or ``None``.
    """

    value: float
    grads: tuple[Tensor, ...]
    norm: float
    solved: Tensor | None


def respond(follower: Responder, task: Task, st: Stationarity, x: Any, y: Any) -> Any:
    """Return a follower's response to ``x``, from ``y`` on.

    Parameters
    ----------
    follower
        ``Newton()``, or a function ``(x, y, *z) -> y``.
    task, st
        The problem and its scalars.
    x, y
        Trees of tensors without gradient.
    """
    shape_x, shape_y = task.trees
    if not isinstance(follower, Newton):
        found = detached(follower(x, y, *task.z))
        shape_y.flat(found)
        return found
    flat_x = shape_x.flat(x).unsqueeze(0)
    flat_y = shape_y.flat(y).unsqueeze(0)
    w = torch.cat([flat_y, flat_y.new_zeros(1, st.follower_size - flat_y.shape[-1])], -1)
    return shape_y.tree(follower(st, flat_x, w).w[0, : shape_y.size])


def hypergradient(
    problem: SmoothProblem,
    adjoint: AbstractSmoothAdjoint,
    x: Any,
    y: Any,
    z: Sequence[Any],
    start: Tensor | None = None,
) -> Hypergradient:
    """Return ``F`` and its derivatives in the leaves of ``x``, ``y`` being the response.

    Parameters
    ----------
    problem, adjoint
        What is differentiated, and how.
    x
        A tree of leaves with gradient.
    y
        The follower's response to it.
    z
        The inputs.
    start
        A first guess at the solution of the adjoint's linear system.
    """
    # The response has nothing to do with F, which would be evaluated for tensors it captures.
    own = replace(problem, F=lambda x, y, *z: torch.zeros(()), G=None, H=None)
    response = adjoint.differentiate(own, x, y, z, start)
    value = problem.F(x, response.y, *z)
    of = leaves(x)
    grads = torch.autograd.grad(value, of, allow_unused=True, materialize_grads=True)
    norm = float(torch.stack([grad.norm() for grad in grads]).norm()) if grads else 0.0
    solved = response.solution
    if solved is not None and not bool(solved.isfinite().all()):
        solved = None
    return Hypergradient(float(value.detach()), grads, norm, solved)


def refuse_constraints(problem: SmoothProblem, method: str, names: str) -> None:
    """Raise ``UnsupportedProblem`` where a problem has constraints that a method does not take."""
    if found := [name for name in names if getattr(problem, name) is not None]:
        other = " or bl.HypergradientDescent()" if not {"G", "H"} & set(found) else ""
        raise UnsupportedProblem(
            f"{method} takes no {' and '.join(found)}: use bl.ReducedNewton(){other}; a set of the "
            f"leader that can be projected on is given as project=."
        )


def check_optimizer(optimizer: Any) -> None:
    """Raise ``ProblemError`` where no optimizer can be made of what is given."""
    if not callable(optimizer):
        raise ProblemError(
            f"optimizer must be a function that takes the list of x's tensors and returns an "
            f"optimizer, such as lambda x: torch.optim.Adam(x, lr=0.1), not {optimizer!r}."
        )


def project(function: Callable[[Any], Any] | None, x: Any) -> None:
    """Move ``x``, a tree of leaves with gradient, to its projection."""
    if function is None:
        return
    with torch.no_grad():
        for leaf, new in zip(leaves(x), leaves(function(x)), strict=True):
            leaf.copy_(new)


def leaf(tensor: Tensor) -> Tensor:
    """Return a copy that takes a gradient."""
    return tensor.detach().clone().requires_grad_()
