"""One solve of a reformulated problem: the backend is asked, doubted and judged in one place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import final

import numpy as np

from bilevel import backends
from bilevel.backends import AbstractBackend
from bilevel.errors import UnsupportedProblem
from bilevel.problem.functions import Array, Objective
from bilevel.problem.standard import StandardForm
from bilevel.program import Limits, Program, Progress, RawAnswer, Resume, Termination
from bilevel.reformulate.reformulation import AbstractReformulation, Reformulated
from bilevel.solvers.completion import complete
from bilevel.solvers.diagnose import diagnose
from bilevel.solvers.solver import Outcome, Recorder, Request
from bilevel.solvers.starts import Start, feasible_start
from bilevel.solvers.unboundedness import may_be_unbounded, settle
from bilevel.status import Status

#: What a backend's tolerance leaves undecided, relative to the terms of a row or an objective.
_VENDORS = 1e-9

#: Ends of a search that leave open whether there are better points, or any.
UNDECIDED = (Termination.LIMIT, Termination.INTERRUPTED, Termination.NUMERICAL)


@final
class Run:
    """One solve of the single-level program that a reformulation makes of a bilevel problem.

    A solver that hands a program to a backend is a thin user of this class: ``answer`` or
    ``trusted_answer`` asks, ``outcome`` judges and keeps the statistics.

    Parameters
    ----------
    form
        The bilevel problem.
    reformulation
        Makes the program, also of problems like this one when a failure is to be explained.
    backend
        Its name, or one's own.
    request
        What the caller asked for.
    reformed
        The program, where it is not ``reformulation.applied(form)`` as it stands.
    resume
        A stopped search of this very program, to go on from.

    Attributes
    ----------
    reformed
        The program and the way back.
    recorder
        Hears of the backend's progress, keeps the trace and asks the caller's callback.
    """

    def __init__(
        self,
        form: StandardForm,
        reformulation: AbstractReformulation,
        backend: str | AbstractBackend,
        request: Request,
        reformed: Reformulated | None = None,
        resume: Resume | None = None,
    ) -> None:
        self._form = form
        self._reformulation = reformulation
        self._request = request
        self.reformed = reformulation.applied(form) if reformed is None else reformed
        self._backend = backends.get(backend)
        self._resume = resume
        earlier = () if resume is None else resume.trace
        self.recorder = Recorder(form, request, self.reformed.proved, earlier)

    @cached_property
    def first(self) -> Start | None:
        """The followers' responses to the decision that the caller gave, if that is feasible."""
        start = self._request.start
        return None if start is None else feasible_start(self._form, start)

    def answer(self, improve: Callable[[Array], Array | None] | None = None) -> RawAnswer:
        """Hand the program to the backend, with the caller's start.

        Parameters
        ----------
        improve
            See ``Limits``.
        """
        start = None if self.first is None else self.embed(self.first)
        limits = self._request.limits(self.recorder)
        limits = replace(limits, improve=improve, resume=self._resume)
        return self._solve(self.reformed.program, limits, start)

    def trusted_answer(self) -> RawAnswer:
        """Hand the program to the backend, and doubt what an unbounded relaxation can spoil."""
        began = time.perf_counter()
        raw = self.answer()
        if raw.termination in UNDECIDED or not may_be_unbounded(self.reformed.program):
            return raw

        def again(program: Program) -> RawAnswer:
            return self.ask(program, spent=time.perf_counter() - began)

        settled = settle(self._form, self.reformed.program, raw, again)
        return replace(
            settled, seconds=time.perf_counter() - began, nodes=raw.nodes + settled.nodes
        )

    def ask(
        self,
        program: Program,
        progress: Callable[[Progress], bool | None] | None = None,
        spent: float = 0.0,
    ) -> RawAnswer:
        """Hand any program to the backend.

        Parameters
        ----------
        program
            The program, of whatever size.
        progress
            Told about progress; nobody is, if left out.
        spent
            Seconds of the time limit that are gone.

        Raises
        ------
        UnsupportedProblem
            If the backend cannot take the program.
        """
        request = self._request.after(spent) if spent else self._request
        return self._solve(program, request.limits(progress))

    def _solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """Ask the backend, and raise what the caller's callback raised."""
        backend = self._backend
        if missing := backend.missing(program):
            raise UnsupportedProblem(
                f"Backend {backend.name!r} cannot take {missing.sentence()}. Use backend='scip', "
                f"or on 'highs' KKT(BigM()) with a linear leader."
            )
        raw = backend.solve(program, limits, start)
        self.recorder.reraise()
        return raw

    def embed(self, start: Start) -> Array | None:
        """Return a point of the program, or ``None`` where it needs multipliers not known."""
        sizes = [len(columns) for columns in self.reformed.multipliers]
        if [len(known) for known in start.multipliers] != sizes:
            return None
        return self.reformed.embed(start.w, start.multipliers)

    def outcome(self, raw: RawAnswer, first: Start | None = None) -> Outcome:
        """Return what an answer says about the bilevel problem, with its statistics.

        Parameters
        ----------
        raw
            The backend's answer.
        first
            A feasible point that is known besides.
        """
        return self.with_statistics(self.judge(raw, first), raw)

    def with_statistics(self, outcome: Outcome, raw: RawAnswer) -> Outcome:
        """Return an outcome with the backend's statistics and the trace."""
        return replace(
            outcome,
            backend=self._backend.name,
            backend_status=raw.raw_status,
            nodes=raw.nodes,
            seconds=raw.seconds,
            trace=self.recorder.trace,
            stopped=raw.termination in (Termination.LIMIT, Termination.INTERRUPTED),
            earlier=0.0 if self._resume is None else self._resume.seconds,
        )

    def judge(self, raw: RawAnswer, first: Start | None = None) -> Outcome:
        """Return what an answer, and a first point, say about the bilevel problem."""
        if raw.v is None and first is None:
            return self._without_point(raw)
        form = self._form
        reformed = self.reformed
        candidates = [] if first is None else [(first.w, first.multipliers)]
        exact = True
        if raw.v is not None:
            w, multipliers = reformed.invert(raw.v)
            chosen, exact = complete(form, reformed, w, multipliers)
            candidates.append((chosen, multipliers))
        w, multipliers = min(candidates, key=lambda pair: form.objective.evaluate(pair[0]))
        if raw.termination is Termination.UNBOUNDED:
            return Outcome(Status.UNBOUNDED, note=reformed.note)
        request = self._request
        value = form.objective.evaluate(w)
        note = reformed.note
        bound = raw.bound if reformed.proved and exact else -np.inf
        if raw.v is not None and np.isfinite(bound):
            size = reformed.program.objective.size(raw.v)
            if size * _VENDORS > request.atol + request.rtol * max(1.0, abs(value)):
                note = (
                    f"{note} The objective's terms, of size {size:.2g} in all, cancel to "
                    f"{value:.6g}: beyond what doubles and a backend's tolerances can bound."
                ).strip()
                bound = -np.inf
        if value < bound - 10 * (request.atol + request.rtol * max(1.0, abs(value))):
            note = (
                f"{note} The backend's bound {bound:.9g} was refuted by a verified point.".strip()
            )
            bound = -np.inf
        status = Status.OPTIMAL if request.gap_closed(value, bound) else Status.FEASIBLE
        if raw.termination is Termination.INTERRUPTED:
            note = f"{note} Interrupted: this is the best point so far.".strip()
        return Outcome(status, w, min(bound, value), multipliers, note=note)

    def _without_point(self, raw: RawAnswer) -> Outcome:
        reformed = self.reformed
        note = reformed.note
        if raw.termination is Termination.UNBOUNDED:
            return Outcome(Status.UNBOUNDED, note=note)
        if raw.termination in (Termination.LIMIT, Termination.INTERRUPTED):
            bound = raw.bound if reformed.proved else -np.inf
            return Outcome(Status.NOT_FOUND, bound=bound, note=note)
        if raw.termination is Termination.NUMERICAL:
            return Outcome(Status.FAILED, note=note)
        if raw.termination is Termination.INFEASIBLE_OR_UNBOUNDED:
            feasible = self._is_feasible(reformed.program)
            if feasible is not False:
                known = Status.UNBOUNDED if feasible else Status.NOT_FOUND
                return Outcome(known, note=note)
        if not reformed.proved:
            note = f"{note} No point satisfies the bounds given; they may be too small.".strip()
            return Outcome(Status.NOT_FOUND, note=note)
        status, why = diagnose(self._form, self._has_response)
        return Outcome(status, note=f"{note} {why}".strip())

    def _is_feasible(self, program: Program) -> bool | None:
        """Return whether a program has a point; ``None`` if a limit was met before."""
        nothing = Objective(program.objective.P * 0.0, np.zeros(program.n))
        nothing.P.eliminate_zeros()
        raw = self.ask(replace(program, objective=nothing))
        if raw.v is not None:
            return True
        return False if raw.termination is Termination.INFEASIBLE else None

    def _has_response(self, twin: StandardForm) -> bool | None:
        return self._is_feasible(self._reformulation.apply(twin).program)
