"""The driver of problems in CVXPY: compile, choose, solve, verify, store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from bilevel.certificates import certify
from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.leaves import parameter_value
from bilevel.problem.problem import Problem
from bilevel.problem.standard import StandardForm
from bilevel.program import Progress
from bilevel.response.point import complete_point, values_of
from bilevel.solution import Solution, Stats, Tolerances
from bilevel.solvers.auto import Auto
from bilevel.solvers.solver import AbstractSolver, Outcome, Request
from bilevel.solvers.values import entries_of, late_multipliers, names_of, read, store
from bilevel.status import Status


def solve_compiled(
    problem: Problem,
    solver: AbstractSolver | None = None,
    *,
    parameters: Mapping[Any, Any] | None = None,
    start: Mapping[Any, Any] | Solution | None = None,
    time_limit: float | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    seed: int | None = None,
    callback: Callable[[Progress], bool | None] | None = None,
    options: Mapping[str, Any] | None = None,
    verbose: bool = False,
) -> Solution:
    """Solve a problem given in CVXPY and store the values found; ``bl.solve`` calls this.

    Parameters
    ----------
    problem, solver, parameters, start
        As in ``bl.solve``, and checked here.
    time_limit, rtol, atol, seed, callback, options, verbose
        As in ``bl.solve``, which has checked them.
    """
    if solver is not None and not isinstance(solver, AbstractSolver):
        raise ProblemError(
            f"solver must be an object such as bl.Auto() or bl.SingleLevel(), not {_shown(solver)}."
        )
    for name, given in (("parameters", parameters), ("start", start)):
        is_solution = name == "start" and isinstance(given, Solution)
        if given is not None and not isinstance(given, Mapping) and not is_solution:
            raise ProblemError(f"{name} must be a mapping, not {type(given).__name__}.")
    request = Request(time_limit, rtol, atol, seed, verbose, dict(options or {}), callback)
    began = time.perf_counter()
    form = problem.compile(parameters)
    if isinstance(start, Solution):
        request = replace(request, resume=start.stats.resume)
        start = _point(start, problem)
    if start:
        request = replace(
            request, start=complete_point(form, problem.leaves, values_of(start, problem.leaves))
        )
    solution, _ = certified(problem, form, solver, request, began)
    used = {p: parameter_value(p, parameters or {}) for p in problem.parameters}
    solution = replace(
        solution,
        parameters={p.id: value for p, value in used.items()},
        late=partial(late_multipliers, problem, used, solution.values),
    )
    if solution.status.has_point:
        store(problem, solution)
    return solution


def certified(
    problem: Problem,
    form: StandardForm,
    solver: AbstractSolver | None,
    request: Request,
    began: float | None = None,
) -> tuple[Solution, Outcome]:
    """Solve a compiled problem and certify the answer; nothing is stored in CVXPY variables."""
    began = time.perf_counter() if began is None else began
    chosen = solver if solver is not None else Auto()
    reason = ""
    if isinstance(chosen, Auto):
        choice = chosen.choose(form)
        chosen = choice.solver
        reason = choice.reason
    elif reasons := chosen.accepts(form):
        raise UnsupportedProblem(reasons)
    built = time.perf_counter() - began
    outcome = chosen.run(form, request)
    elapsed = time.perf_counter() - began - built
    return _solution(problem, form, outcome, repr(chosen), reason, (built, elapsed)), outcome


def _point(solution: Solution, problem: Problem) -> dict[Any, Any]:
    """Return an earlier solution's values by variable."""
    values = solution.values
    leaves = problem.leaves
    found = {leaf.variable: values[i] for i, leaf in leaves.items() if i in values}
    if values and not found:
        raise ProblemError("start is the solution of another problem: no variable is of this one.")
    return found


def _shown(solver: Any) -> str:
    """Return a word as it is, a class by its name, and of everything else its type."""
    if isinstance(solver, str):
        return repr(solver)
    if isinstance(solver, type):
        return f"the class {solver.__name__}: write {solver.__name__}()"
    return f"an object of type {type(solver).__name__}"


def _solution(
    problem: Problem,
    form: StandardForm,
    outcome: Outcome,
    method: str,
    reason: str,
    seconds: tuple[float, float],
) -> Solution:
    built, elapsed = seconds
    began = time.perf_counter()
    status = outcome.status
    sign = form.objective.sign
    note = outcome.note
    certificate = None
    values = {}
    if status.has_point and outcome.w is not None:
        certificate = certify(form, outcome.w, Tolerances())
        if not certificate.accepted:
            status = Status.FAILED
            note = f"{note} The point did not pass verification.".strip()
        values = read(problem, form, outcome)
    stats = Stats(
        method=method,
        reason=reason,
        backend=outcome.backend,
        backend_status=outcome.backend_status,
        build_seconds=built + max(elapsed - outcome.seconds + outcome.earlier, 0.0),
        solve_seconds=outcome.seconds,
        verify_seconds=time.perf_counter() - began,
        nodes=outcome.nodes,
        note=note,
        trace=outcome.trace,
        resume=outcome.resume,
    )
    return Solution(
        status=status,
        leader_value=None if certificate is None else certificate.leader_value,
        follower_values={} if certificate is None else certificate.follower_values,
        bound=float(sign * outcome.bound) if np.isfinite(outcome.bound) else None,
        certificate=certificate,
        stats=stats,
        values=values,
        names=names_of(problem, values),
        entries=entries_of(problem, values),
    )
