"""Descent along the hypergradient, with any of torch's optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bilevel.adjoints.adjoint import demand_adjoint
from bilevel.adjoints.smooth.adjoint import AbstractSmoothAdjoint
from bilevel.adjoints.smooth.implicit import Implicit
from bilevel.adjoints.smooth.stationarity import Stationarity
from bilevel.deprecation import renamed_fields
from bilevel.errors import ProblemError
from bilevel.problem.trees import detached, flatten, mapped, unflatten
from bilevel.smooth_solution import SmoothSolution
from bilevel.solvers.smooth.hypergradient import (
    check_optimizer,
    hypergradient,
    leaf,
    project,
    refuse_constraints,
    respond,
)
from bilevel.solvers.smooth.iterate import AbstractIterativeSolver, Search
from bilevel.solvers.smooth.newton import Newton, is_minimum
from bilevel.solvers.smooth.oracle_calls import Tally
from bilevel.solvers.smooth.solver import SearchReport, Task

_ADAM = partial(torch.optim.Adam, lr=0.05)


@dataclass(frozen=True, eq=False)
class Measured:
    """A leader's decision at which the hypergradient was taken.

    Parameters
    ----------
    leaves
        The tensors of ``x``.
    y
        The follower's response.
    norm
        Of the hypergradient.
    """

    leaves: list[Tensor]
    y: Any
    norm: float


@dataclass(frozen=True, eq=False)
class DescentState:
    """Where a descent is.

    Parameters
    ----------
    leaves, spec
        The tensors of ``x``, which the optimizer moves in place, and the tree they make.
    optimizer
        Of these tensors.
    st
        The problem's scalars.
    y
        The follower's last response.
    solved
        The solution of the adjoint's last linear system, with which the next may start.
    value
        The last value of ``F``.
    last
        Where value and hypergradient were last finite.
    is_finite
        Whether all values and hypergradients so far were.
    """

    leaves: list[Tensor]
    spec: Any
    optimizer: torch.optim.Optimizer
    st: Stationarity
    y: Any
    solved: Tensor | None = None
    value: float = math.nan
    last: Measured | None = None
    is_finite: bool = True

    @property
    def x(self) -> Any:
        """The decision as a tree; its tensors are those that move."""
        return unflatten(self.spec, self.leaves)


@renamed_fields(steps="max_steps")
@dataclass(frozen=True)
class HypergradientDescent(AbstractIterativeSolver[DescentState]):
    """Steps of an optimizer on ``F(x, y(x))``; the follower is solved anew before each.

    Parameters
    ----------
    optimizer
        Takes the list of ``x``'s tensors and returns a ``torch.optim.Optimizer``.
    follower
        ``Newton()``, or a function ``(x, y, *z) -> y`` of one's own that starts from ``y``.
    adjoint
        How ``F(x, y(x))`` is differentiated: ``Implicit()``, ``Unrolled(steps)``, or an
        ``adjoints.AbstractSmoothAdjoint`` of your own.
    max_steps
        Most steps. A step moves ``x``, the first one excepted, and takes the hypergradient there:
        with one step the start is returned, judged.
    atol
        Norm of the hypergradient at which it stops.
    project
        Maps ``x`` back to the leader's feasible set after each step, or ``None``.

    Notes
    -----
    The leader may have no ``G`` and ``H`` of its own; with ``project`` the norm of the
    hypergradient need not vanish, and the status is ``FEASIBLE``. Each linear system starts from
    the last one's solution, and each follower from its last response.

    References
    ----------
    Pedregosa, Hyperparameter optimization with approximate gradient, ICML 2016.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> problem = bl.SmoothProblem(
    ...     lambda x, y: (y - 1) ** 2, lambda x, y: (y - 2 * x) ** 2
    ... )
    >>> start = (
    ...     torch.zeros((), dtype=torch.float64),
    ...     torch.zeros((), dtype=torch.float64),
    ... )
    >>> solver = bl.HypergradientDescent(
    ...     optimizer=lambda x: torch.optim.SGD(x, lr=0.1)
    ... )
    >>> solution = bl.solve(problem, solver, start=start)
    >>> print(solution.status.name, round(solution.x.item(), 6))
    STATIONARY 0.5
    """

    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] = field(default=_ADAM, repr=False)
    follower: Newton | Callable[..., Any] = field(default_factory=Newton)
    adjoint: AbstractSmoothAdjoint = field(default_factory=Implicit)
    max_steps: int = 1000
    atol: float = 1e-6
    project: Callable[[Any], Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.max_steps < 1 or not self.atol >= 0:
            raise ProblemError("HypergradientDescent needs max_steps >= 1 and atol >= 0.")
        check_optimizer(self.optimizer)
        known = "adjoints.Implicit() or Unrolled(steps)"
        demand_adjoint(self.adjoint, "differentiate", "HypergradientDescent", known)
        if not callable(self.follower):
            raise ProblemError(f"follower must be a function, not {self.follower!r}.")

    @property
    def step_limit(self) -> float:
        """See the abstract method."""
        return self.max_steps

    def prepare(self, task: Task) -> Task:
        """See the abstract method; derivatives are counted."""
        refuse_constraints(task.problem, "HypergradientDescent", "GH")
        tally = Tally()
        return replace(task, problem=tally.watch(task.problem), tally=tally)

    def init(self, task: Task) -> DescentState:
        """See the abstract method."""
        x, y = (mapped(leaf, part) for part in task.start)
        leaves, spec = flatten(x)
        return DescentState(leaves, spec, self.optimizer(leaves), task.stationarity(), detached(y))

    def step(self, task: Task, state: DescentState) -> DescentState:
        """Move ``x``, the first time excepted, and take the hypergradient there."""
        if state.last is not None:
            state = self._moved(task, state)
            if self.terminate(task, state) is not None:
                return state
        return self._measured(task, state)

    def terminate(self, task: Task, state: DescentState) -> str | None:
        """See the abstract method."""
        if not state.is_finite:
            return "Value or hypergradient is not finite."
        return "" if state.last is not None and state.last.norm <= self.atol else None

    def value(self, task: Task, state: DescentState) -> float | None:
        """See the abstract method."""
        return state.value if state.is_finite else None

    def _moved(self, task: Task, state: DescentState) -> DescentState:
        """Let the optimizer move ``x``; it may ask for more hypergradients on its way."""
        is_known = True

        def closure() -> Tensor:
            nonlocal state, is_known
            if not is_known:
                state = self._measured(task, state)
            is_known = False
            return torch.tensor(state.value)

        state.optimizer.step(closure)  # type: ignore[arg-type]
        project(self.project, state.x)
        return state

    def _measured(self, task: Task, state: DescentState) -> DescentState:
        """Solve the follower, and set the hypergradient as gradient of ``x``."""
        x = state.x
        y = respond(self.follower, task, state.st, detached(x), state.y)
        found = hypergradient(task.problem, self.adjoint, x, y, task.z, state.solved)
        state = replace(state, y=y, solved=found.solved, value=found.value)
        if not (math.isfinite(found.norm) and math.isfinite(found.value)):
            return replace(state, is_finite=False)
        for part, grad in zip(state.leaves, found.grads, strict=True):
            part.grad = grad
        kept = [part.detach().clone() for part in state.leaves]
        return replace(state, last=Measured(kept, y, found.norm))

    def finish(self, task: Task, search: Search[DescentState]) -> SmoothSolution:
        """Return the last point whose hypergradient was finite, judged."""
        state = search.state
        last = state.last or Measured(state.leaves, state.y, math.inf)
        shape_x, shape_y = task.trees
        tree = mapped(leaf, unflatten(state.spec, last.leaves))
        x = shape_x.flat(tree).detach().unsqueeze(0)
        flat_y = shape_y.flat(last.y).unsqueeze(0)
        tally = replace(task.tally)  # what judges the point is not counted
        norm = last.norm
        note = search.note
        share = None
        if state.last is not None:
            share = self.adjoint.truncation(task.problem, tree, last.y, *task.z)
        if share is not None:
            note = f"{note} Unrolling leaves out {share:.1e} of the derivative.".strip()
            # What is claimed is claimed of the response's derivative, not of that of some steps.
            norm = hypergradient(task.problem, Implicit(), tree, last.y, task.z).norm
        st, w = state.st.recover(x, flat_y)
        report = SearchReport(
            method=repr(self),
            norm=norm,
            atol=self.atol,
            steps=search.steps,
            seconds=search.seconds,
            note=note,
            trace=search.trace,
            follower_is_minimum=is_minimum(st, x, w),
            tally=tally,
        )
        return task.judge(x, flat_y, w, st, report)
