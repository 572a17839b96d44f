"""Branch and bound on complementarity, without any bound on multipliers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bilevel import backends
from bilevel.errors import ProblemError
from bilevel.problem.functions import Array, Rows
from bilevel.problem.standard import StandardForm
from bilevel.program import Program, RawAnswer, Termination
from bilevel.reformulate.inner_dual import InnerDual
from bilevel.reformulate.kkt import KKT
from bilevel.reformulate.primal_dual import root_inequalities
from bilevel.reformulate.reformulation import AbstractReformulation, Reformulated
from bilevel.reformulate.worst_response import WorstResponse
from bilevel.solvers.run import Run
from bilevel.solvers.single_level import SingleLevel
from bilevel.solvers.solver import AbstractSolver, Outcome, Request
from bilevel.solvers.starts import feasible_start
from bilevel.solvers.worst_case import WorstCase, responses_are_unique
from bilevel.status import Status
from bilevel.structure import Stance, Structure

_BACKEND = "tree"
# The search's points satisfy the optimality conditions to a vertex's accuracy.
_EXACT = 1e-8


@dataclass(frozen=True)
class Branching(AbstractSolver):
    r"""Decide for each pair of a multiplier and a slack which of the two is zero.

        lam_i = 0   or   s_i = 0     for every row of every follower

    The relaxation of a node is a linear or convex quadratic program in which the pairs decided so
    far are fixed: no bound on multipliers enters anywhere. Nodes are taken by best bound, with
    dives; disjunctions are chosen by strong branching and pseudocosts.

    Parameters
    ----------
    candidates
        How many disjunctions strong branching tries at a node.
    reliable
        From how many trials on a disjunction's average gain is believed.
    effort
        Share of the time in which the followers respond to nodes' decisions; each answer is a
        feasible point.
    inequality
        Whether linear followers get the primal-dual inequality at the root.

    Notes
    -----
    Exact for LP and convex QP followers with linear constraints and a leader whose objective is
    linear or convex quadratic and whose constraints are linear; integer leader variables are
    branched on too, and their products with follower variables are written by pairs. Pessimistic
    problems are solved by ``WorstCase`` over the same search. Small relaxations are solved on DAQP,
    large linear ones on HiGHS with warm starts.

    References
    ----------
    Bard and Moore (1990), *SIAM Journal on Scientific and Statistical Computing* 11; Kleinert,
    Labbe, Plein and Schmidt (2021), *Optimization Letters* 15.

    Examples
    --------
    >>> import bilevel as bl
    >>> solution = bl.solve(bl.instances.get("T6b").problem, bl.Branching())
    >>> print(solution.status.name, abs(round(solution.leader_value, 6)))
    OPTIMAL 0.0
    """

    candidates: int = 8
    reliable: int = 2
    effort: float = 0.2
    inequality: bool = True

    def __post_init__(self) -> None:
        for name in ("candidates", "reliable"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ProblemError(
                    f"Branching({name}=...) must be a whole number from 1, not {value!r}."
                )
        if not 0 <= self.effort < np.inf:
            raise ProblemError(
                f"Branching(effort=...) must be a share of the time from 0, not {self.effort!r}."
            )
        if not isinstance(self.inequality, bool):
            raise ProblemError(
                f"Branching(inequality=...) must be True or False, not {self.inequality!r}."
            )

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        if form.stance is Stance.PESSIMISTIC:
            return self._worst_case_accepts(form)
        if reasons := KKT().accepts(form):
            return reasons
        return _missing(KKT(), form)

    def run(self, form: StandardForm, request: Request) -> Outcome:
        """See the abstract method."""
        if form.stance is Stance.PESSIMISTIC:
            return self._worst_case(form).run(form, request)
        reformed = self._with_inequalities(form, KKT().applied(form))
        request, note = _continued(request, reformed.program)
        request = replace(request, options={**self._options(), **request.options})
        run = Run(form, KKT(), _BACKEND, request, reformed, request.resume)

        def improve(v: Array) -> Array | None:
            found = feasible_start(form, reformed.invert(v)[0])
            return None if found is None else run.embed(found)

        raw = run.answer(improve)
        if raw.v is not None and self._is_exact(reformed, raw):
            w, multipliers = reformed.invert(raw.v)
            w = np.where(form.columns.integer, np.round(w), w)
            exact = Outcome(Status.OPTIMAL, w, raw.bound, multipliers, note=reformed.note)
            outcome = run.with_statistics(exact, raw)
        else:
            outcome = run.outcome(raw, run.first)
        resume = None if raw.resume is None else replace(raw.resume, trace=run.recorder.trace)
        return replace(outcome, note=f"{outcome.note} {note}".strip(), resume=resume)

    def _with_inequalities(self, form: StandardForm, reformed: Reformulated) -> Reformulated:
        if not self.inequality:
            return reformed
        program = reformed.program
        added = [
            row
            for k, columns in enumerate(reformed.multipliers)
            for row in root_inequalities(form, k, columns, program)
        ]
        if not added:
            return reformed
        rows = Rows.stack(program.rows, *added)
        return replace(reformed, program=replace(program, rows=rows))

    def _options(self) -> dict[str, float]:
        return {
            "candidates": self.candidates,
            "reliable": self.reliable,
            "effort": self.effort,
        }

    def _is_exact(self, reformed: Reformulated, raw: RawAnswer) -> bool:
        """Return whether an optimum needs no completion: its pairs and rows hold exactly."""
        if raw.v is None or raw.termination is not Termination.OPTIMAL:
            return False
        program = reformed.program
        pairs = np.array([pair for _, pair in program.sos1], int).reshape(-1, 2)
        zero = np.abs(raw.v[pairs]).min(axis=1, initial=np.inf)
        outside = np.maximum(program.lower - raw.v, raw.v - program.upper).max(initial=0.0)
        violation = program.rows.violation(raw.v).max(initial=0.0)
        return bool(max(zero.max(initial=0.0), outside, violation) <= _EXACT)

    def _worst_case_accepts(self, form: StandardForm) -> tuple[str, ...]:
        solver = self._worst_case(form)
        optimistic = replace(form, stance=Stance.OPTIMISTIC)
        if reasons := solver.accepts(form) or _missing(KKT(), optimistic):
            return reasons
        return () if responses_are_unique(form) else _missing(solver.exact.reformulation, form)

    def _worst_case(self, form: StandardForm) -> WorstCase:
        worst: AbstractReformulation = WorstResponse()
        continuous = Structure.LINKING_CONTINUOUS in form.structure
        exact = worst if continuous and not worst.accepts(form) else InnerDual()
        return WorstCase(SingleLevel(KKT(), _BACKEND), SingleLevel(exact, _BACKEND))


def _continued(request: Request, program: Program) -> tuple[Request, str]:
    """Return the request of a search that goes on, or of a new one and why it is new."""
    if request.resume is None:
        return request, ""
    if not request.resume.belongs_to(program):
        why = "The earlier search was for other numbers: a new one began from its point."
        return replace(request, resume=None), why
    return replace(request, spent=request.spent + request.resume.seconds), ""


def _missing(reformulation: AbstractReformulation, form: StandardForm) -> tuple[str, ...]:
    """Return what a program contains that has no linear or convex quadratic relaxation."""
    missing = backends.get(_BACKEND).missing(reformulation.applied(form).program)
    if not missing:
        return ()
    return (
        f"Branching solves linear and convex quadratic relaxations; this problem has "
        f"{missing.sentence()}. Use SCIP: SingleLevel(KKT(SOS1())), or WorstCase for the "
        f"pessimistic problem.",
    )
