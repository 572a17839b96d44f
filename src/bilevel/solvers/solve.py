"""The entry point: compile, choose, solve, verify, store."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bilevel.certificates import certify
from bilevel.errors import ProblemError, SolveFailed, UnsupportedProblem
from bilevel.problem.problem import Problem
from bilevel.problem.standard import StandardForm
from bilevel.program import Progress
from bilevel.response.point import complete_point, values_of
from bilevel.solution import Solution, Stats, Tolerances
from bilevel.solvers.auto import Auto
from bilevel.solvers.solver import AbstractSolver, Outcome, Request
from bilevel.solvers.values import entries_of, names_of, read, store
from bilevel.status import Status


def solve(
    problem: Any,
    solver: Any = None,
    *,
    parameters: Any = None,
    start: Any = None,
    time_limit: float | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    seed: int | None = None,
    callback: Callable[[Progress], bool | None] | None = None,
    options: Mapping[str, Any] | None = None,
    verbose: bool = False,
    throw: bool = True,
) -> Any:
    r"""Solve a bilevel problem and return its solution with a certificate.

        minimize    F(x, y)
        subject to  G(x, y) <= 0,  y_k in argmin of follower k

    Parameters
    ----------
    problem
        The problem. A ``SmoothProblem`` takes ``start=(x, y)`` and its inputs as ``parameters``, a
        tensor or a tuple of them; of the options ``time_limit``, ``callback`` and ``throw`` apply,
        and a ``SmoothSolution`` is returned.
    solver
        How to solve it; ``Auto()`` if left out, and for a ``SmoothProblem`` ``ReducedNewton()`` or
        ``HypergradientDescent()``, by size.
    parameters
        Values by CVXPY parameter, overriding ``parameter.value``; threads then need not share it.
    start
        A point to begin with, by variable or variable name; or the solution of an earlier solve,
        whose search ``Branching`` goes on with if a limit ended it and no number has changed:
        nodes, seconds and trace then continue too.
    time_limit
        Seconds; the best point so far is returned when it is met.
    rtol, atol
        ``OPTIMAL`` is claimed if ``|value - bound| <= atol + rtol * max(1, |value|)``.
    seed
        For randomised choices inside the backend.
    callback
        Called with ``Progress`` (seconds, incumbent, bound, gap, nodes); ``True`` stops the solve.
    options
        Passed to the backend's vendor verbatim.
    verbose
        Whether the vendor may write to the terminal.
    throw
        Whether to raise ``SolveFailed`` when there is no usable point.

    Returns
    -------
    Solution
        Status, values, bound, certificate and statistics. Values are also stored in the CVXPY
        variables, as CVXPY does.

    Raises
    ------
    ProblemError
        If an argument or a parameter value is malformed.
    UnsupportedProblem
        If the solver is not valid for the problem.
    BackendNotFound
        If the backend's package is not installed.
    SolveFailed
        If there is no usable point and ``throw`` is true; it carries the solution.

    Notes
    -----
    The certificate comes from solving every follower again by another route. A point that does
    not pass is never reported as solved: the status becomes ``FAILED``, and the certificate says
    why. Ctrl-C ends the search and returns the best point so far.

    Examples
    --------
    >>> import cvxpy as cp, bilevel as bl
    >>> price, demand = cp.Variable(name="price"), cp.Variable(name="demand")
    >>> buyer = bl.Follower(
    ...     cp.Maximize(10 * demand - demand**2 - price * demand),
    ...     [demand >= 0],
    ...     variables=[demand],
    ... )
    >>> problem = bl.Problem(
    ...     cp.Maximize((price - 1) * demand),
    ...     [price >= 1, price <= 10],
    ...     followers=[buyer],
    ... )
    >>> solution = bl.solve(problem)
    >>> print(
    ...     solution.status.name,
    ...     round(solution.leader_value, 4),
    ...     solution.certificate.accepted,
    ... )
    OPTIMAL 10.125 True
    """
    smooth = sys.modules.get("bilevel.problem.smooth")
    if smooth is not None and isinstance(problem, smooth.SmoothProblem):
        from bilevel.solvers.smooth.solve import solve_smooth

        given: Any = solver
        return solve_smooth(problem, given, parameters, start, time_limit, callback, throw)
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem must be a bilevel.Problem, not {type(problem).__name__}.")
    if solver is not None and not isinstance(solver, AbstractSolver):
        raise ProblemError(
            f"solver must be an object such as bl.Auto() or bl.SingleLevel(), not {solver!r}."
        )
    for name, given in (("parameters", parameters), ("start", start), ("options", options)):
        is_solution = name == "start" and isinstance(given, Solution)
        if given is not None and not isinstance(given, Mapping) and not is_solution:
            raise ProblemError(f"{name} must be a mapping, not {type(given).__name__}.")
    request = _request(time_limit, rtol, atol, seed, callback, options, verbose)
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
    if solution.status.has_point:
        store(problem, solution)
    elif throw:
        raise SolveFailed(solution)
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
    if reasons := chosen.accepts(form):
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


def _request(
    time_limit: float | None,
    rtol: float,
    atol: float,
    seed: int | None,
    callback: Callable[[Progress], bool | None] | None,
    options: Mapping[str, Any] | None,
    verbose: bool,
) -> Request:
    if time_limit is not None and not (_is_number(time_limit) and time_limit > 0):
        raise ProblemError(f"time_limit must be a positive number of seconds, not {time_limit!r}.")
    if seed is not None and not (isinstance(seed, (int, np.integer)) and 0 <= seed < 2**31):
        raise ProblemError(f"seed must be a whole number from 0 to 2**31 - 1, not {seed!r}.")
    if not (callback is None or callable(callback)):
        raise ProblemError(f"callback must be a function of one Progress, not {callback!r}.")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not (_is_number(value) and np.isfinite(value) and value >= 0):
            raise ProblemError(f"{name} must be a finite number, zero or more, not {value!r}.")
    return Request(time_limit, rtol, atol, seed, verbose, dict(options or {}), callback)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


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
