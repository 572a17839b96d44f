"""A reformulation and a backend make a solver."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np

from bilevel import backends
from bilevel.backends import AbstractBackend
from bilevel.errors import UnsupportedProblem
from bilevel.problem.functions import Array, Objective
from bilevel.problem.standard import StandardForm
from bilevel.program import Program, RawAnswer, Termination
from bilevel.reformulate.kkt import KKT
from bilevel.reformulate.reformulation import AbstractReformulation, Reformulated
from bilevel.response.response import optimistic_completion, respond
from bilevel.solvers.completion import complete
from bilevel.solvers.diagnose import diagnose
from bilevel.solvers.initial import initial_point
from bilevel.solvers.solver import AbstractSolver, Outcome, Recorder, Request
from bilevel.solvers.unboundedness import may_be_unbounded, settle
from bilevel.status import Status
from bilevel.structure import Stance

_UNDECIDED = (Termination.LIMIT, Termination.INTERRUPTED, Termination.NUMERICAL)


@dataclass(frozen=True)
class SingleLevel(AbstractSolver):
    """Solve one single-level program that a reformulation makes of the bilevel problem.

    Parameters
    ----------
    reformulation
        ``KKT(encoding)``, ``StrongDuality(encoding)`` or, for pessimistic problems,
        ``InnerDual(encoding)``.
    backend
        The name of a backend, such as ``"scip"``, ``"highs"`` or ``"gurobi"``, or a backend of
        one's own: an object of a class under ``bilevel.backends.AbstractBackend``. It must take
        what the reformulation writes; the answer is judged in the same way whoever gives it.

    Notes
    -----
    The backend's point is not reported as it is: the followers are solved exactly at its leader
    decision, so the point is bilevel feasible to solver precision. ``OPTIMAL`` is claimed only if
    the leader's value there meets the backend's proved bound.

    Examples
    --------
    >>> import bilevel as bl
    >>> solver = bl.SingleLevel(bl.KKT(bl.BigM()), backend="highs")
    >>> solution = bl.solve(bl.instances.get("T1").problem, solver)
    >>> print(solution.status.name)
    OPTIMAL
    """

    reformulation: AbstractReformulation = field(default_factory=KKT)
    backend: str | AbstractBackend = "scip"

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        return self.reformulation.accepts(form)

    def run(self, form: StandardForm, request: Request) -> Outcome:
        """See the abstract method."""
        reformed = self.reformulation.applied(form)
        first = None if request.start is None else answered(form, request.start)
        recorder = Recorder(form, request, reformed.proved)
        raw = self.trusted_answer(form, reformed, request, recorder, first)
        if raw.v is None and first is None and raw.termination in _UNDECIDED:
            # The backend found nothing in time; the followers can still be asked for an answer.
            guess = initial_point(form)
            first = None if guess is None else answered(form, guess)
        outcome = self.judge(form, request, reformed, raw, first)
        return outcome.with_statistics(backends.get(self.backend).name, raw, recorder.trace)

    def answer(
        self,
        reformed: Reformulated,
        request: Request,
        recorder: Recorder | None = None,
        first: tuple[Array, tuple[Array, ...]] | None = None,
    ) -> RawAnswer:
        """Hand a reformulated problem to the backend."""
        backend = backends.get(self.backend)
        if missing := backend.missing(reformed.program):
            raise UnsupportedProblem(
                f"Backend {backend.name!r} cannot take {missing.sentence()}. Use backend='scip', "
                f"or on 'highs' KKT(BigM()) with a linear leader."
            )
        start = None
        if first is not None and all(
            len(a) == len(b) for a, b in zip(first[1], reformed.multipliers, strict=True)
        ):
            start = reformed.embed(*first)
        raw = backend.solve(reformed.program, request.limits(recorder), start)
        if recorder is not None and recorder.error is not None:
            raise recorder.error
        return raw

    def trusted_answer(
        self,
        form: StandardForm,
        reformed: Reformulated,
        request: Request,
        recorder: Recorder | None = None,
        first: tuple[Array, tuple[Array, ...]] | None = None,
    ) -> RawAnswer:
        """Hand a reformulated problem to the backend; doubt claims an unbounded LP can spoil."""
        began = time.perf_counter()
        raw = self.answer(reformed, request, recorder, first)
        if raw.termination in _UNDECIDED or not may_be_unbounded(reformed.program):
            return raw

        def again(program: Program) -> RawAnswer:
            rest = request.after(time.perf_counter() - began)
            return self.answer(replace(reformed, program=program), rest, None)

        settled = settle(form, reformed.program, raw, again)
        return replace(
            settled, seconds=time.perf_counter() - began, nodes=raw.nodes + settled.nodes
        )

    def judge(
        self,
        form: StandardForm,
        request: Request,
        reformed: Reformulated,
        raw: RawAnswer,
        first: tuple[Array, tuple[Array, ...]] | None = None,
    ) -> Outcome:
        """Return what a backend's answer, and a first point, say about the bilevel problem."""
        if raw.v is None and first is None:
            return self._without_point(form, request, reformed, raw)
        candidates = [] if first is None else [first]
        exact = True
        if raw.v is not None:
            w, multipliers = reformed.invert(raw.v)
            chosen, exact = complete(form, reformed, w, multipliers)
            candidates.append((chosen, multipliers))
        w, multipliers = min(candidates, key=lambda pair: form.objective.evaluate(pair[0]))
        if raw.termination is Termination.UNBOUNDED:
            return Outcome(Status.UNBOUNDED, note=reformed.note)
        value = form.objective.evaluate(w)
        note = reformed.note
        bound = raw.bound if reformed.proved and exact else -np.inf
        if value < bound - 10 * (request.atol + request.rtol * max(1.0, abs(value))):
            note = (
                f"{note} The backend's bound {bound:.9g} was refuted by a verified point.".strip()
            )
            bound = -np.inf
        status = Status.OPTIMAL if request.gap_closed(value, bound) else Status.FEASIBLE
        if raw.termination is Termination.INTERRUPTED:
            note = f"{note} Interrupted: this is the best point so far.".strip()
        return Outcome(status, w, min(bound, value), multipliers, note=note)

    def _without_point(
        self, form: StandardForm, request: Request, reformed: Reformulated, raw: RawAnswer
    ) -> Outcome:
        note = reformed.note
        if raw.termination is Termination.UNBOUNDED:
            return Outcome(Status.UNBOUNDED, note=note)
        if raw.termination in (Termination.LIMIT, Termination.INTERRUPTED):
            bound = raw.bound if reformed.proved else -np.inf
            return Outcome(Status.NOT_FOUND, bound=bound, note=note)
        if raw.termination is Termination.NUMERICAL:
            return Outcome(Status.FAILED, note=note)
        if raw.termination is Termination.INFEASIBLE_OR_UNBOUNDED:
            feasible = self._is_feasible(reformed, request)
            if feasible is not False:
                known = Status.UNBOUNDED if feasible else Status.NOT_FOUND
                return Outcome(known, note=note)
        if not reformed.proved:
            note = f"{note} No point satisfies the bounds given; they may be too small.".strip()
            return Outcome(Status.NOT_FOUND, note=note)
        status, why = diagnose(form, lambda twin: self._has_answer(twin, request))
        return Outcome(status, note=f"{note} {why}".strip())

    def _is_feasible(self, reformed: Reformulated, request: Request) -> bool | None:
        """Return whether a program has a point; ``None`` if a limit was met before."""
        nothing = Objective(reformed.program.objective.P * 0.0, np.zeros(reformed.program.n))
        nothing.P.eliminate_zeros()
        twin = replace(reformed, program=replace(reformed.program, objective=nothing))
        raw = self.answer(twin, replace(request, callback=None))
        if raw.v is not None:
            return True
        return False if raw.termination is Termination.INFEASIBLE else None

    def _has_answer(self, form: StandardForm, request: Request) -> bool | None:
        return self._is_feasible(self.reformulation.apply(form), request)


def answered(form: StandardForm, w: Array) -> tuple[Array, tuple[Array, ...]] | None:
    """Return a bilevel feasible point with multipliers: the followers' answers to a decision."""
    if form.stance is Stance.PESSIMISTIC:
        return None
    best = optimistic_completion(form, w)
    response = None if best is None else respond(form, best)
    if best is None or response is None:
        return None
    known = [one.multipliers for one in response.answers]
    return best, tuple(np.empty(0) if lam is None else lam for lam in known)
