"""Descent along the hypergradient, with any of torch's optimizers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bilevel.adjoints.smooth.implicit import Implicit
from bilevel.adjoints.smooth.unrolled import Unrolled
from bilevel.errors import ProblemError
from bilevel.problem.trees import detached, flatten, mapped, unflatten
from bilevel.program import Progress
from bilevel.smooth_solution import SmoothSolution
from bilevel.solvers.smooth.hypergradient import (
    answer,
    check_optimizer,
    hypergradient,
    leaf,
    project,
    refuse_constraints,
)
from bilevel.solvers.smooth.newton import Newton, is_minimum
from bilevel.solvers.smooth.oracle_calls import Tally
from bilevel.solvers.smooth.solver import AbstractSmoothSolver, Task

_ADAM = partial(torch.optim.Adam, lr=0.05)


@dataclass(frozen=True)
class HypergradientDescent(AbstractSmoothSolver):
    """Steps of an optimizer on ``F(x, y(x))``; the follower is solved anew before each.

    Parameters
    ----------
    optimizer
        Takes the list of ``x``'s tensors and returns a ``torch.optim.Optimizer``.
    follower
        ``Newton()``, or a function ``(x, y, *z) -> y`` of one's own that starts from ``y``.
    adjoint
        How ``F(x, y(x))`` is differentiated: ``Implicit()`` or ``Unrolled(steps)``.
    steps
        Most steps.
    atol
        Norm of the hypergradient at which it stops.
    project
        Maps ``x`` back to the leader's feasible set after each step, or ``None``.

    Notes
    -----
    The leader may have no ``G`` and ``H`` of its own; with ``project`` the norm of the
    hypergradient need not vanish, and the status is ``FEASIBLE``. Each linear system starts from
    the last one's solution, and each follower from its last answer.

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
    adjoint: Implicit | Unrolled = field(default_factory=Implicit)
    steps: int = 1000
    atol: float = 1e-6
    project: Callable[[Any], Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.atol >= 0:
            raise ProblemError("HypergradientDescent needs steps >= 1 and atol >= 0.")
        check_optimizer(self.optimizer)
        if not callable(self.follower):
            raise ProblemError(f"follower must be a function, not {self.follower!r}.")

    def run(self, task: Task) -> SmoothSolution:
        """Solve one problem."""
        refuse_constraints(task.problem, "HypergradientDescent", "GH")
        walk = _Walk(self, task)
        while walk.goes_on():
            walk.step()
        return walk.end()


class _Walk:
    """One descent: where it is, and the best it has seen."""

    def __init__(self, solver: HypergradientDescent, task: Task) -> None:
        self._solver = solver
        self._began = time.perf_counter()
        self._tally = Tally()
        self._task = task = replace(task, problem=self._tally.watch(task.problem))
        x, self._y = (mapped(leaf, part) for part in task.start)
        self._leaves, self._spec = flatten(x)
        self._y = detached(self._y)
        self._optimizer = solver.optimizer(self._leaves)
        self._st = task.stationarity()
        self._count = 0
        self._note = ""
        self._norm = float("inf")
        self._value = float("nan")
        self._good: tuple[list[Tensor], Any, float] | None = None
        self._trace: list[tuple[float, float | None, float | None]] = []
        self._is_stopped = False
        self._q = None

    @property
    def _x(self) -> Any:
        return unflatten(self._spec, self._leaves)

    def goes_on(self) -> bool:
        """Return whether another step is due."""
        limit = self._task.time_limit
        seconds = time.perf_counter() - self._began
        if self._count >= self._solver.steps:
            self._note = f"{self._count} steps were not enough."
        elif limit is not None and seconds >= limit:
            self._note = "The time limit was met."
        elif self._norm > self._solver.atol and not self._is_stopped:
            return True
        return False

    def step(self) -> None:
        """Take the hypergradient, and a step of the optimizer unless the norm is small."""
        try:
            self._measure()
            if self._is_stopped or self._norm <= self._solver.atol:
                return
            fresh = True

            def closure() -> Tensor:
                nonlocal fresh
                if not fresh:
                    self._measure()
                fresh = False
                return torch.tensor(self._value)

            self._optimizer.step(closure)  # type: ignore[arg-type]
            project(self._solver.project, self._x)
            self._count += 1
        except KeyboardInterrupt:
            self._note = "It was interrupted."
            self._is_stopped = True

    def _measure(self) -> None:
        """Solve the follower, and set the hypergradient as gradient of ``x``."""
        task = self._task
        x = self._x
        self._y = answer(self._solver.follower, task, self._st, detached(x), self._y)
        self._value, grads, norm, self._q = hypergradient(
            task.problem, self._solver.adjoint, x, self._y, task.z, self._q
        )
        if not (norm < float("inf") and abs(self._value) < float("inf")):
            self._note = "Value or hypergradient is not finite."
            self._is_stopped = True
            return
        self._norm = norm
        for part, grad in zip(self._leaves, grads, strict=True):
            part.grad = grad
        kept = [part.detach().clone() for part in self._leaves]
        self._good = (kept, self._y, norm)
        seconds = time.perf_counter() - self._began
        self._trace.append((seconds, self._value, None))
        told = Progress(seconds, self._value, None, self._count)
        if task.callback is not None and task.callback(told):
            self._note = "The callback stopped it."
            self._is_stopped = True

    def end(self) -> SmoothSolution:
        """Return the last good point, judged."""
        kept, y, norm = self._good or (self._leaves, self._y, float("inf"))
        shape_x, shape_y = self._task.trees
        x = shape_x.flat(unflatten(self._spec, kept)).detach().unsqueeze(0)
        flat_y = shape_y.flat(y).unsqueeze(0)
        tally = replace(self._tally)  # what judges the point is not counted
        adjoint = self._solver.adjoint
        note = self._note
        if isinstance(adjoint, Unrolled) and self._good is not None:
            at = unflatten(self._spec, kept)
            share = adjoint.truncation(self._task.problem, at, y, *self._task.z)
            note = f"{note} Unrolling leaves out {share:.1e} of the derivative.".strip()
            # What is claimed is claimed of the answer's derivative, not of that of some steps.
            tree = mapped(leaf, at)
            norm = hypergradient(self._task.problem, Implicit(), tree, y, self._task.z).norm
        st, w = self._st.recover(x, flat_y)
        return self._task.judge(
            x,
            flat_y,
            w,
            st,
            norm=norm,
            atol=self._solver.atol,
            method=repr(self._solver),
            is_answer=is_minimum(st, x, w),
            steps=self._count,
            seconds=time.perf_counter() - self._began,
            note=note,
            trace=self._trace,
            tally=tally,
        )
