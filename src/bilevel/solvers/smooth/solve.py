"""The entry point for smooth problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bilevel.errors import ProblemError
from bilevel.problem.smooth import SmoothProblem, check_inputs
from bilevel.program import Progress
from bilevel.smooth_solution import SmoothSolution
from bilevel.solvers.smooth.hypergradient_descent import HypergradientDescent
from bilevel.solvers.smooth.reduced_newton import ReducedNewton
from bilevel.solvers.smooth.solver import AbstractSmoothSolver, Task

#: Up to this many unknowns of all optimality conditions, matrices are built.
_DENSE = 400


def solve_smooth(
    problem: SmoothProblem,
    solver: AbstractSmoothSolver | None = None,
    *,
    parameters: Any = (),
    start: Any = None,
    time_limit: float | None = None,
    callback: Callable[[Progress], bool | None] | None = None,
) -> SmoothSolution:
    """Solve a smooth problem; ``bl.solve`` calls this.

    Parameters
    ----------
    problem, solver, start, time_limit, callback
        As in ``bl.solve``; without a solver, ``ReducedNewton`` up to 400 unknowns of all optimality
        conditions and for constrained problems, ``HypergradientDescent`` beyond.
    parameters
        The inputs: a tuple of tensors, or one tensor.

    Raises
    ------
    ProblemError
        If start or inputs are no tensors, or differ in precision, or the solver is one of other
        problems.
    """
    z = parameters if isinstance(parameters, tuple) else (parameters,)
    task = Task(problem, start, z, time_limit, callback)
    if z:
        check_inputs(z, task.flat_start()[0].dtype)
    if solver is None:
        sizes = task.stationarity().sizes
        small = sizes[0] + 2 * sum(sizes[1:4]) + sum(sizes[4:]) <= _DENSE
        solver = ReducedNewton() if small or any(sizes[2:]) else HypergradientDescent()
    if not isinstance(solver, AbstractSmoothSolver):
        raise ProblemError(
            f"A SmoothProblem is solved by bl.ReducedNewton(), bl.HypergradientDescent() or "
            f"another solver of smooth problems, not by an object of type {type(solver).__name__}."
        )
    with torch.enable_grad():  # under no_grad() too: solvers differentiate
        return solver.run(task)
