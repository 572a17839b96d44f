"""Outer approximation of strong duality, for integer linking variables of the leader."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from bilevel import backends
from bilevel.backends import AbstractBackend, Purpose
from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.functions import Array, Objective
from bilevel.problem.standard import StandardForm, is_convex
from bilevel.program import Feature, Program, RawAnswer, Termination
from bilevel.reformulate.encodings import SOS1, AbstractEncoding, BigM
from bilevel.reformulate.products import MOST_BITS
from bilevel.reformulate.reformulation import Reformulated
from bilevel.reformulate.strong_duality import StrongDuality, gap_name
from bilevel.reformulate.tangents import outer
from bilevel.response.best_response import solve_continuous
from bilevel.response.response import is_nash
from bilevel.solvers.decisions import Decisions
from bilevel.solvers.diagnose import diagnose
from bilevel.solvers.run import Run
from bilevel.solvers.solver import AbstractSolver, Outcome, Request
from bilevel.solvers.starts import initial_point
from bilevel.solvers.unboundedness import with_floor
from bilevel.status import Status
from bilevel.structure import Stance

# The gap rows have no interior; they are relaxed by this much, decisions are judged exactly.
_TOLERANCE = 1e-6
# The least value looked for where the relaxation is unbounded.
_NO_FLOOR = -1e7
_FINISHED = (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED)


@dataclass(frozen=True)
class _Exploration:
    """What a search ended with; ``proved`` tells whether its relaxation was one."""

    run: Run
    raw: RawAnswer
    search: Decisions
    note: str
    proved: bool

    @property
    def is_complete(self) -> bool:
        """Whether every decision was judged, or lies above the cutoff."""
        return self.proved and self.raw.termination in _FINISHED and not self.search.undecided


@dataclass(frozen=True)
class OuterApproximation(AbstractSolver):
    r"""Branch on the leader's integers, with tangents for what is convex in strong duality.

        min F   s.t.  leader rows,  A y <= b(x),  P y + c(x) + A'lam = 0,  lam >= 0,
                      y'P y + c(x)'y + b(x)'lam <= 0

    With ``x`` integer the products in the last row become linear, and the row convex. It is
    approximated from outside by tangents, one for each square of a factor of ``P``, as is a convex
    objective; so only mixed-integer *linear* programs are solved. At every integer decision that
    the search meets the followers are solved exactly; the decision is then excluded, and what it is
    worth bounds the rest.

    Parameters
    ----------
    backend
        ``"scip"``: one tree, tangents are added while it grows. ``"highs"``: one tree after
        another, each with the tangents that the ones before gave; so does every backend without
        rows that are found during the search, one of your own included.
    encoding
        How a product of a binary with a multiplier is written: ``SOS1()``, ``Indicator()`` or
        ``BigM()``. ``None``: ``BigM()`` if bounds can be derived, else ``SOS1()`` (SCIP only); the
        note says which, and why.

    Notes
    -----
    Valid if all leader variables that enter a follower are integer and bounded, followers are
    linear or convex quadratic and do not see each other, and the leader's objective is convex once
    its products with integers are linear. The proof does not rest on the tolerance of the
    strong-duality row: no two visits of one decision happen, and each is worth what the exact
    responses say. Without derived bounds (``SOS1``) relaxations are weak; then nearly every
    decision is visited.

    References
    ----------
    Kleinert, Grimm and Schmidt (2021), *Mathematical Programming* 188, 461-521.

    Examples
    --------
    >>> import cvxpy as cp, bilevel as bl
    >>> x, y = cp.Variable(2, integer=True, name="x"), cp.Variable(2, name="y")
    >>> effort = cp.sum_squares(y) / 2 - x @ y
    >>> follower = bl.Follower(
    ...     cp.Minimize(effort), [cp.sum(y) <= 3, y >= 0], variables=[y]
    ... )
    >>> far = cp.sum_squares(y - 2) + cp.sum(x) / 2
    >>> problem = bl.Problem(
    ...     cp.Minimize(far), [x >= -3, x <= 5], followers=[follower]
    ... )
    >>> solution = bl.solve(problem, bl.OuterApproximation())
    >>> print(solution.status.name, round(solution.leader_value, 4))
    OPTIMAL 2.5
    """

    backend: str | AbstractBackend = "scip"
    encoding: AbstractEncoding | None = None

    def __post_init__(self) -> None:
        if self.encoding is not None and not self.encoding.linearizes:
            raise ProblemError(
                "OuterApproximation needs an encoding that makes products linear: SOS1(), "
                "Indicator() or BigM()."
            )

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        if form.stance is Stance.PESSIMISTIC:
            return (
                "OuterApproximation solves the optimistic problem; use WorstCase or Auto for the "
                "pessimistic one.",
            )
        if is_nash(form):
            return ("OuterApproximation takes no followers that see each other; use KKT(SOS1()).",)
        reasons = list(StrongDuality().accepts(form))
        columns = form.columns
        for c in np.flatnonzero(form.linking_mask):
            what = None if columns.integer[c] else "continuous"
            if what is None and not np.isfinite([columns.lower[c], columns.upper[c]]).all():
                what = "an integer without bounds"
            elif what is None and columns.upper[c] - columns.lower[c] >= 2**MOST_BITS:
                what = f"an integer of more than {2**MOST_BITS} values"
            if what is not None:
                reasons.append(
                    f"Leader column {columns.names[c]} enters a follower and is {what}; "
                    f"OuterApproximation needs bounded integers there. Use "
                    f"SingleLevel(KKT(SOS1()))."
                )
        reasons.extend(_curved_leader(form))
        return tuple(reasons)

    def run(self, form: StandardForm, request: Request) -> Outcome:
        """See the abstract method."""
        began = time.perf_counter()
        found = self._explore(form, request)
        outcome = self._judge(form, request, found)
        return replace(
            found.run.with_statistics(outcome, found.raw),
            seconds=time.perf_counter() - began,
            note=f"{found.note} {outcome.note}".strip(),
        )

    def _explore(self, form: StandardForm, request: Request) -> _Exploration:
        began = time.perf_counter()
        reformulation, reformed, note = self._reformulate(form)
        relaxed = _relax(reformed.program)
        floor = _NO_FLOOR
        if relaxed is not None:
            floor = relaxed.bound - _TOLERANCE * max(1.0, abs(relaxed.bound))
        shape = outer(_with_tolerance(form, reformed.program))
        shape = replace(shape, program=with_floor(shape.program, floor))
        run = Run(form, reformulation, self.backend, request, reformed)
        search = Decisions(form, reformed, shape, request, run.recorder)
        for w in _guesses(form, request, relaxed):
            search.consider(w)
        try:
            raw = self._grow(run, shape.program, search, began)
        except KeyboardInterrupt:
            raw = RawAnswer(Termination.INTERRUPTED, None, -np.inf, None, 0, 0.0, "interrupted")
        run.recorder.reraise()
        lowest = search.cutoff if raw.termination in _FINISHED else raw.bound
        if relaxed is None and lowest <= floor:  # max(F, floor) says nothing about F down there
            raw = replace(raw, termination=Termination.LIMIT, bound=-np.inf)
        return _Exploration(run, raw, search, note, reformed.proved)

    def _reformulate(self, form: StandardForm) -> tuple[StrongDuality, Reformulated, str]:
        given = StrongDuality(self.encoding or BigM())
        try:
            reformed = given.apply(form)
            return given, reformed, reformed.note
        except UnsupportedProblem as error:
            if self.encoding is not None:
                raise
            if not Feature.SOS1 & backends.get(self.backend).features:
                raise UnsupportedProblem(
                    (*error.reasons, "OuterApproximation on SCIP does without bounds.")
                ) from error
            sets = StrongDuality(SOS1())
            note = f"No bound, so products are written by SOS1 sets: {error}"
            return sets, sets.apply(form), note

    def _grow(self, run: Run, program: Program, search: Decisions, began: float) -> RawAnswer:
        """Search one tree with cuts, or one tree after another."""
        backend = backends.get(self.backend)
        if missing := backend.missing(program):
            raise UnsupportedProblem(
                f"Backend {backend.name!r} cannot take {missing.sentence()}. Use "
                f"OuterApproximation(backend='scip')."
            )
        program = replace(program, rows=search.with_found(program.rows))
        if Feature.CUTS in backend.features:
            spent = time.perf_counter() - began
            return run.ask(replace(program, cuts=search), search.progress, spent)
        nodes = 0
        bound = -np.inf
        while True:
            raw = run.ask(program, search.progress, time.perf_counter() - began)
            nodes = nodes + raw.nodes
            bound = max(bound, raw.bound)
            if raw.v is None or raw.termination is not Termination.OPTIMAL:
                return replace(raw, nodes=nodes, bound=bound)
            search(raw.v, True)
            more = search.with_found(program.rows)
            if len(more) == len(program.rows):
                return replace(raw, termination=Termination.NUMERICAL, v=None, bound=bound)
            program = replace(program, rows=more)

    def _judge(self, form: StandardForm, request: Request, found: _Exploration) -> Outcome:
        search = found.search
        raw = found.raw
        finished = found.is_complete
        if search.is_unbounded:
            return Outcome(Status.UNBOUNDED)
        best = search.best
        bound = raw.bound if found.proved else -np.inf
        note = ""
        if search.undecided:
            bound = -np.inf
            note = "At some decision no exact response could be found, so nothing is proved."
        if best is None:
            if finished:
                status, note = diagnose(form, lambda twin: self._has_response(twin, request))
                return Outcome(status, note=note)
            failed = raw.termination is Termination.NUMERICAL
            return Outcome(Status.FAILED if failed else Status.NOT_FOUND, bound=bound, note=note)
        bound = min(search.cutoff if finished else bound, search.value)
        status = Status.OPTIMAL if request.gap_closed(search.value, bound) else Status.FEASIBLE
        if raw.termination is Termination.INTERRUPTED:
            note = f"{note} Interrupted: this is the best point so far.".strip()
        return Outcome(status, best, bound, note=note)

    def _has_response(self, twin: StandardForm, request: Request) -> bool | None:
        found = self._explore(twin, replace(request, callback=None, start=None))
        if found.search.best is not None or found.search.is_unbounded:
            return True
        return False if found.is_complete else None


def _with_tolerance(form: StandardForm, program: Program) -> Program:
    gaps = {gap_name(follower) for follower in form.followers}
    extra = np.array([_TOLERANCE if name in gaps else 0.0 for name in program.rows.names])
    return replace(program, rows=replace(program.rows, b=program.rows.b + extra))


def _relax(program: Program) -> RawAnswer | None:
    """Solve the continuous relaxation, products and sets left out; ``None`` if it is unbounded."""
    linear = np.ones(len(program.rows), bool)
    linear[program.rows.products.row] = False
    relaxed = replace(
        program,
        integer=np.zeros(program.n, bool),
        rows=program.rows.take(linear),
        sos1=(),
        indicators=(),
    )
    raw, _ = solve_continuous(relaxed, Purpose.CONVEX)
    if raw is None or raw.termination is not Termination.OPTIMAL or not np.isfinite(raw.bound):
        return None
    return raw


def _guesses(form: StandardForm, request: Request, relaxed: RawAnswer | None) -> Iterator[Array]:
    """Return points whose decisions are worth an exact response before the search."""
    if request.start is not None:
        yield request.start
    if (w := initial_point(form)) is not None:
        yield w
    elif relaxed is not None and relaxed.v is not None:
        yield relaxed.v[: form.n]


def _curved_leader(form: StandardForm) -> Iterator[str]:
    """Name what keeps the leader's objective from being convex once integer products are linear."""
    columns = form.columns
    if is_convex(form.objective):
        return
    loose = ~(columns.integer & np.isfinite(columns.lower) & np.isfinite(columns.upper))
    P = form.objective.P[loose][:, loose].tocoo()
    remaining = Objective(sp.csr_array(P), np.zeros(P.shape[0]))
    if is_convex(remaining):
        return
    names = np.array(columns.names)[loose]
    pairs = [f"{names[i]}*{names[j]}" for i, j in zip(P.row, P.col, strict=True) if i < j]
    pairs += [f"{names[i]}*{names[i]}" for i in np.flatnonzero(remaining.P.diagonal() < 0)]
    yield (
        f"The leader's objective is not convex in {', '.join(pairs[:3])}, products without an "
        f"integer factor; OuterApproximation needs tangents that hold. Use "
        f"SingleLevel(KKT(SOS1()))."
    )
