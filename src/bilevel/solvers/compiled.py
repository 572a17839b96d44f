"""The driver of problems in CVXPY: compile, choose, solve, verify, store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bilevel.certificates import certify, in_units
from bilevel.errors import BilevelError, ProblemError, UnsupportedProblem
from bilevel.problem.leaves import parameter_value
from bilevel.problem.problem import Problem
from bilevel.problem.scaling import Scaling
from bilevel.problem.standard import StandardForm
from bilevel.program import Progress
from bilevel.response.point import complete_point, values_of
from bilevel.response.response import optimistic_completion, worst_completion
from bilevel.solution import Certificate, Solution, Stats, Tolerances
from bilevel.solvers.auto import Auto
from bilevel.solvers.refutation import NEGATIVE, tested
from bilevel.solvers.solver import AbstractSolver, Outcome, Request
from bilevel.solvers.values import entries_of, late_multipliers, names_of, read, store
from bilevel.status import Status
from bilevel.structure import Stance

# A point that misses more than this is not one that lives on a tolerance, but a wrong one.
_ON_A_TOLERANCE = 1e-3


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
    scaling = Scaling.of(form)
    if isinstance(chosen, Auto):
        choice = chosen.choose(scaling.form)
        chosen = choice.solver
        reason = choice.reason
    elif reasons := chosen.accepts(form):
        raise UnsupportedProblem(reasons)
    built = time.perf_counter() - began
    asked = _inside(scaling, request)
    found = _attempt(scaling, chosen, asked)
    doubted = found.outcome.status in NEGATIVE and not found.outcome.stopped
    if isinstance(solver, Auto | None) and (found.is_open or doubted):
        for other in Auto().others(scaling.form, chosen):
            left = asked.after(time.perf_counter() - began)
            try:
                second = _attempt(scaling, other, replace(left, resume=None))
            except BilevelError:
                continue
            if found.outcome.status in NEGATIVE:
                # A negative word needs a second route that agrees.
                found = second if second.outcome.status.has_point else found
                break
            if second.is_better(found):
                reason = f"{reason}; it proved nothing, so {type(other).__name__} had its turn"
                found, chosen = second, other
            if not found.is_open:
                break
    outcome = _outside(scaling, found.outcome)
    certificate = found.certificate
    if certificate is not None and outcome.w is not None:
        certificate = in_units(scaling, outcome.w, certificate)
    verified = found.verified
    seconds = (built, time.perf_counter() - began - built - verified, verified)
    solution = _solution(problem, form, outcome, certificate, repr(chosen), reason, seconds)
    return solution, outcome


@dataclass(frozen=True)
class _Attempt:
    """One method's outcome, tested and judged, in the units of the scaled problem."""

    outcome: Outcome
    certificate: Certificate | None
    verified: float
    value: float

    @property
    def is_open(self) -> bool:
        """Whether another method may still prove what this one, though not stopped, did not."""
        undecided = (Status.FAILED, Status.NOT_FOUND, Status.FEASIBLE)
        return self.outcome.status in undecided and not self.outcome.stopped

    def is_better(self, other: _Attempt) -> bool:
        """Return whether this one decides more, or as much with a better point."""
        mine, others = (one.outcome.status for one in (self, other))
        if mine in (Status.FAILED, Status.NOT_FOUND):
            return False
        decided = mine is not Status.FEASIBLE
        return decided or others is not Status.FEASIBLE or self.value < other.value


def _attempt(scaling: Scaling, solver: AbstractSolver, request: Request) -> _Attempt:
    form = scaling.form
    outcome = solver.run(form, request)
    began = time.perf_counter()
    if outcome.status in NEGATIVE or (outcome.status.has_point and not scaling.is_plain):
        outcome = tested(form, outcome, request)
    outcome, certificate = _judged(form, outcome, request)
    value = np.inf if outcome.w is None else form.objective.evaluate(outcome.w)
    return _Attempt(outcome, certificate, time.perf_counter() - began, value)


def _judged(
    form: StandardForm, outcome: Outcome, request: Request
) -> tuple[Outcome, Certificate | None]:
    """Return an outcome with its certificate; an exact point where the certificate refuses it.

    A point may live on a tolerance: a follower gives up 1e-9 and the leader gains 10. Exact
    responses to its decision take its place; the bound stays, and decides about optimality anew.
    """
    if not outcome.status.has_point or outcome.w is None:
        return outcome, None
    first = certify(form, outcome.w, Tolerances())
    if first.accepted:
        return outcome, first
    missed = max(
        first.leader_violation,
        first.coupling_violation,
        first.integrality_violation,
        first.follower_violation,
        first.follower_gap,
        first.multiplier_violation,
    )
    note = f"{outcome.note} The point did not pass verification.".strip()
    failed = replace(outcome, status=Status.FAILED, note=note)
    if missed > _ON_A_TOLERANCE:
        return failed, first
    finish = worst_completion if form.stance is Stance.PESSIMISTIC else optimistic_completion
    exact = finish(form, np.clip(outcome.w, form.columns.lower, form.columns.upper))
    second = None if exact is None else certify(form, exact, Tolerances())
    if exact is None or second is None or not second.accepted:
        return failed, first
    value = form.objective.evaluate(exact)
    status = outcome.status
    if status is Status.OPTIMAL and not request.gap_closed(value, outcome.bound):
        status = Status.FEASIBLE
    note = f"{outcome.note} The point lived on a tolerance; exact responses took its place."
    found = replace(outcome, status=status, w=exact, multipliers=(), note=note.strip())
    return found, second


def _inside(scaling: Scaling, request: Request) -> Request:
    """Return a request in the units of the scaled problem."""
    if scaling.is_plain:
        return request
    callback = request.callback
    start = None if request.start is None else scaling.inside(request.start)
    if callback is None or scaling.objective == 1.0:
        return replace(request, start=start)

    def in_users_units(progress: Progress) -> bool | None:
        return callback(
            replace(
                progress,
                incumbent=_value(scaling, progress.incumbent),
                bound=_value(scaling, progress.bound),
            )
        )

    return replace(request, start=start, callback=in_users_units)


def _outside(scaling: Scaling, outcome: Outcome) -> Outcome:
    """Return an outcome in the user's units."""
    if scaling.is_plain:
        return outcome
    return replace(
        outcome,
        w=None if outcome.w is None else scaling.outside(outcome.w),
        bound=scaling.value(outcome.bound),
        multipliers=tuple(scaling.multipliers(k, m) for k, m in enumerate(outcome.multipliers)),
        trace=tuple(
            (seconds, _value(scaling, incumbent), _value(scaling, bound))
            for seconds, incumbent, bound in outcome.trace
        ),
    )


def _value(scaling: Scaling, value: float | None) -> float | None:
    return None if value is None else scaling.value(value)


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
    certificate: Certificate | None,
    method: str,
    reason: str,
    seconds: tuple[float, float, float],
) -> Solution:
    built, elapsed, verified = seconds
    sign = form.objective.sign
    values = {} if certificate is None else read(problem, form, outcome)
    stats = Stats(
        method=method,
        reason=reason,
        backend=outcome.backend,
        backend_status=outcome.backend_status,
        build_seconds=built + max(elapsed - outcome.seconds + outcome.earlier, 0.0),
        solve_seconds=outcome.seconds,
        verify_seconds=verified,
        nodes=outcome.nodes,
        note=outcome.note,
        trace=outcome.trace,
        resume=outcome.resume,
    )
    return Solution(
        status=outcome.status,
        leader_value=None if certificate is None else certificate.leader_value,
        follower_values={} if certificate is None else certificate.follower_values,
        bound=float(sign * outcome.bound) if np.isfinite(outcome.bound) else None,
        certificate=certificate,
        stats=stats,
        values=values,
        names=names_of(problem, values),
        entries=entries_of(problem, values),
    )
