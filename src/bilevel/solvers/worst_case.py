"""The pessimistic problem: an optimistic bound first, then the dualized worst case."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from bilevel.errors import UnsupportedProblem
from bilevel.problem.functions import Array
from bilevel.problem.standard import StandardForm, is_strictly_convex
from bilevel.reformulate.inner_dual import InnerDual
from bilevel.response.extremes import extremes
from bilevel.response.response import worst_completion
from bilevel.solvers.run import Run
from bilevel.solvers.single_level import SingleLevel
from bilevel.solvers.solver import AbstractSolver, Outcome, Request
from bilevel.status import Status
from bilevel.structure import Stance

# The scale of the homogenised follower beyond which a value is suspected not to be attained, and
# the caps at which that is tested.
_LARGE_SCALE = 1e4
_CAPS = (1e2, 1e4)
_NOTHING_TO_FIND = (
    Status.INFEASIBLE,
    Status.FOLLOWER_INFEASIBLE,
    Status.FOLLOWER_UNBOUNDED,
)


@dataclass(frozen=True)
class WorstCase(AbstractSolver):
    """Solve a pessimistic problem exactly.

    First the optimistic problem is solved: its value bounds the pessimistic one. If the worst
    response to its decision is as good, that is the proof. Otherwise the worst case is dualized
    into one program. Where followers have a single response to every decision (strictly convex),
    both problems are the same.

    Parameters
    ----------
    optimistic
        Solves the optimistic problem.
    exact
        Solves the dualized problem.

    Notes
    -----
    Exact for LP followers and a leader linear in their variables, and for strictly convex QP
    followers. Where the value is approached but not attained the status is ``NOT_ATTAINED``: the
    bound is the supremum or infimum and the point comes close to it.

    References
    ----------
    See ``InnerDual``. Values that are not attained: Loridan and Morgan (1996), *Weak via strong
    Stackelberg problem: new results*, Journal of Global Optimization 8; the instance T4 has one.

    Examples
    --------
    >>> import bilevel as bl
    >>> problem = bl.instances.get("T4").problem.replace(stance="pessimistic")
    >>> solution = bl.solve(problem, bl.WorstCase())
    >>> print(solution.status.name, round(solution.bound, 4))
    NOT_ATTAINED 2.0
    """

    optimistic: SingleLevel = field(default_factory=SingleLevel)
    exact: SingleLevel = field(default_factory=lambda: SingleLevel(InnerDual()))

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        if form.stance is not Stance.PESSIMISTIC:
            return (*form.integer_followers, "WorstCase solves pessimistic problems only.")
        hopeful = self.optimistic.accepts(replace(form, stance=Stance.OPTIMISTIC))
        if hopeful:
            return hopeful
        return () if responses_are_unique(form) else self.exact.accepts(form)

    def run(self, form: StandardForm, request: Request) -> Outcome:
        """See the abstract method."""
        began = time.perf_counter()
        same = responses_are_unique(form)
        first = replace(request, bound_only=not same)
        hopeful = self.optimistic.run(replace(form, stance=Stance.OPTIMISTIC), first)
        if same:
            note = "Followers are strictly convex: their responses are unique."
            return replace(hopeful, note=f"{hopeful.note} {note}".strip())
        if hopeful.status in _NOTHING_TO_FIND:
            return hopeful
        best = None if hopeful.w is None else _evaluate(form, hopeful.w)
        if best is not None and request.gap_closed(form.objective.evaluate(best), hopeful.bound):
            note = "The optimistic optimum holds for every best response."
            return replace(hopeful, w=best, status=Status.OPTIMAL, multipliers=(), note=note)
        if hopeful.stopped:
            status = Status.NOT_FOUND if best is None else Status.FEASIBLE
            return replace(hopeful, status=status, w=best, multipliers=())
        remaining = request.after(time.perf_counter() - began)
        outcome = self._dualized(form, remaining, best, hopeful.bound)
        return replace(
            outcome,
            seconds=hopeful.seconds + outcome.seconds,
            nodes=hopeful.nodes + outcome.nodes,
            trace=hopeful.trace + outcome.trace,
        )

    def _dualized(
        self, form: StandardForm, request: Request, best: Array | None, bound: float
    ) -> Outcome:
        began = time.perf_counter()
        run = Run(form, self.exact.reformulation, self.exact.backend, request)
        raw = run.trusted_answer()
        outcome = run.outcome(raw)
        basis = replace(outcome, w=None)
        hopeful = bound
        bound = max(bound, outcome.bound)
        best = _better(form, best, outcome.w)
        if best is None:
            return replace(basis, status=outcome.status, bound=bound)
        large = raw.v is not None and bool((raw.v[list(run.reformed.scales)] > _LARGE_SCALE).any())
        if large:
            remaining = request.after(time.perf_counter() - began)
            return self._approached(form, remaining, basis, bound, hopeful)
        value = form.objective.evaluate(best)
        status = Status.OPTIMAL if request.gap_closed(value, bound) else Status.FEASIBLE
        return replace(basis, status=status, w=best, bound=min(bound, value))

    def _approached(
        self, form: StandardForm, request: Request, basis: Outcome, bound: float, hopeful: float
    ) -> Outcome:
        """Cap the scale twice: a value that only a growing scale improves is not attained.

        The dualized problem's own ``bound`` is blurred by a large scale; it may confirm a value
        that a moderate scale attains. What is approached is claimed only if it is the optimistic
        value ``hopeful``.
        """
        found: list[tuple[float, Array]] = []
        reformulation = self.exact.reformulation
        if not isinstance(reformulation, InnerDual):
            raise UnsupportedProblem("WorstCase.exact must use InnerDual.")
        for cap in _CAPS:
            capped = replace(reformulation, largest_t=cap)
            run = Run(form, capped, self.exact.backend, replace(request, callback=None))
            outcome = run.judge(run.answer())
            if outcome.w is not None:
                found.append((form.objective.evaluate(outcome.w), outcome.w))
        if not found:
            return replace(basis, status=Status.NOT_FOUND, bound=hopeful)
        value, w = min(found, key=lambda pair: pair[0])
        if request.gap_closed(value, bound):
            return replace(basis, status=Status.OPTIMAL, w=w, bound=min(bound, value))
        shrinks = len(found) == len(_CAPS) and (
            found[1][0] - hopeful < 0.2 * (found[0][0] - hopeful)
        )
        status = Status.NOT_ATTAINED if shrinks else Status.FEASIBLE
        note = "The value improves only while the multiplier of the follower's value grows."
        return replace(basis, status=status, w=w, bound=hopeful, note=note)


def _evaluate(form: StandardForm, w: Array) -> Array | None:
    """Return the worst response to a decision if all coupling constraints hold for every one."""
    worst = worst_completion(form, w)
    if worst is None:
        return None
    ends = extremes(form, worst)
    if ends.worst_coupling is None or ends.worst_coupling > 1e-6:
        return None
    return worst


def _better(form: StandardForm, first: Array | None, second: Array | None) -> Array | None:
    points = [w for w in (first, second) if w is not None]
    return min(points, key=form.objective.evaluate) if points else None


def responses_are_unique(form: StandardForm) -> bool:
    """Return whether every follower has one best response to every decision."""
    return not (form.linking_mask & form.follower_mask).any() and all(
        not f.objective.cubic.row.size and is_strictly_convex(f.objective, f.columns)
        for f in form.followers
    )
