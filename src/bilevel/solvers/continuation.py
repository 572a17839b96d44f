"""Relaxed complementarity driven to zero: a local method for convex followers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bilevel import backends
from bilevel.backends import Purpose
from bilevel.certificates import certify
from bilevel.errors import BackendError, ProblemError
from bilevel.problem.functions import Array
from bilevel.problem.standard import StandardForm
from bilevel.program import Progress, RawAnswer, Termination
from bilevel.reformulate.scholtes import relaxed
from bilevel.response.best_response import solve_continuous
from bilevel.solution import Tolerances
from bilevel.solvers.completion import best_on_pattern, complete
from bilevel.solvers.diagnose import diagnose
from bilevel.solvers.solver import AbstractSolver, Outcome, Recorder, Request
from bilevel.solvers.starts import Start, linear_high_point, starts
from bilevel.status import Status
from bilevel.structure import Stance, Structure

_BACKEND = "ipopt"
# Values closer than this are the same; a point that IPOPT converged to is then preferred.
_SAME = 1e-7


@dataclass(frozen=True)
class Continuation(AbstractSolver):
    r"""Follow the solutions of relaxed optimality conditions to a local solution, from many starts.

        minimize  F(x, y)   subject to  G <= 0, stationarity, feasibility of each follower,
                                        lam_i s_i <= t,   t = 1, ..., 1e-8

    Each step is a smooth program for IPOPT with exact derivatives, warm-started from the one
    before. At the end the pattern of active constraints is kept, the leader's best point on it is
    computed exactly, and the followers are solved exactly there. The best start wins.

    Parameters
    ----------
    starts
        Number of starts: the followers' responses to the optimum of the high-point relaxation and
        to random leader decisions.
    steps
        Number of values of ``t``.
    smallest
        The last ``t``.

    Notes
    -----
    Local: ``STATIONARY`` says that IPOPT converged and that the certificate accepts the point, and
    nothing about other points; ``FEASIBLE`` that a limit was met or IPOPT converged nowhere, and
    the point's followers respond optimally all the same. No bound is claimed, and ``OPTIMAL`` is
    never returned. Relaxed complementarity converges to C-stationary points, where the leader may
    still have a first-order descent direction if a multiplier and its slack vanish together.

    References
    ----------
    Scholtes (2001), *SIAM Journal on Optimization* 11, 918-936; Fletcher and Leyffer (2004),
    *Optimization Methods and Software* 19, 15-40; Wächter and Biegler (2006), *Mathematical
    Programming* 106, 25-57.

    Examples
    --------
    >>> import bilevel as bl
    >>> solution = bl.solve(bl.instances.get("T16").problem, bl.Continuation())
    >>> print(solution.status.name, round(solution.leader_value, 4))
    STATIONARY 10.125
    """

    starts: int = 8
    steps: int = 6
    smallest: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("starts", "steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ProblemError(
                    f"Continuation({name}=...) must be a whole number from 1, not {value!r}."
                )
        if not 0 < self.smallest < 1:
            raise ProblemError(
                f"Continuation(smallest=...) must lie between 0 and 1, not {self.smallest!r}."
            )

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        reasons = list(form.integer_followers)
        if form.stance is Stance.PESSIMISTIC:
            reasons.append(
                "Continuation follows the optimistic problem's optimality conditions; use "
                "WorstCase or Auto for the pessimistic one."
            )
        if Structure.LEADER_INTEGER in form.structure:
            names = np.array(form.columns.names)[form.columns.integer]
            reasons.append(
                f"Continuation cannot decide the leader's integer variable {names[0]}: fix it to a "
                f"value, relax it, or use SingleLevel(KKT(SOS1()))."
            )
        if Structure.FOLLOWER_CONIC in form.structure:
            reasons += _against_cones(form)
        return tuple(reasons)

    def run(self, form: StandardForm, request: Request) -> Outcome:
        """See the abstract method."""
        search = _Search(form, request, self)
        try:
            for start in starts(form, request.start, self.starts, request.seed):
                search.add(start)
                if search.stopped:
                    break
        except KeyboardInterrupt:
            search.stop("Interrupted: this is the best point so far.")
        return search.outcome()

    def path(self) -> Array:
        """Return the values of ``t``, from 1 to ``smallest``, shape ``(steps,)``."""
        return np.geomspace(self.smallest, 1.0, self.steps)[::-1]


def _against_cones(form: StandardForm) -> list[str]:
    """Return what is not taken together with conic followers."""
    reasons = []
    if Structure.NASH in form.structure:
        reasons.append("Continuation takes no equilibrium among followers that have cones.")
    reasons.extend(
        f"The leader uses a multiplier of follower {form.followers[dual.follower].name!r}, which "
        f"has cones; their multipliers are not supported."
        for dual in form.dual_variables[:1]
        if form.followers[dual.follower].cones
    )
    return reasons


@dataclass(frozen=True)
class _Candidate:
    """A point with exact responses of the followers."""

    value: float
    converged: bool
    w: Array
    multipliers: tuple[Array, ...]


class _Search:
    """One run: the compiled program, the points found, and what went wrong."""

    def __init__(self, form: StandardForm, request: Request, solver: Continuation) -> None:
        self._form = form
        self._request = request
        self._solver = solver
        self._began = time.perf_counter()
        limit = request.time_limit
        self._deadline = None if limit is None else self._began + limit
        self._recorder = Recorder(form, request, has_bound=False)
        self._reformed, rows = relaxed(form)
        limits = request.limits(self._tick)
        backend = backends.get(_BACKEND)
        self._model = backend.compile(self._reformed.program, rows, limits)  # type: ignore[attr-defined]
        self._found: list[_Candidate] = []
        self._tried = 0
        self._failed = 0
        self._iterations = 0
        self._last = ""
        self.stopped = False
        self._note = ""

    def stop(self, note: str) -> None:
        """End the search."""
        self.stopped = True
        self._note = note

    def add(self, start: Start) -> None:
        """Follow the path from one start and keep what it ends in."""
        if start.feasible:
            self._keep(start.w, start.multipliers, converged=False)
        if self._is_late():
            return
        self._tried += 1
        raw = self._follow(start)
        self._recorder.reraise()
        if raw is None or raw.v is None:
            self._failed += not self.stopped
            return
        end, multipliers = self._reformed.invert(raw.v)
        w, multipliers = self._polish(end, multipliers)
        # Where exact responses cost the leader much, the point is not the one IPOPT converged to.
        converged = raw.termination is Termination.OPTIMAL and not self._is_worse(w, end, 1e-3)
        self._keep(w, multipliers, converged)
        self._tick(Progress(0.0, None, None, 0))
        self._is_late()

    def _follow(self, start: Start) -> RawAnswer | None:
        """Return IPOPT's last point on the path, ``None`` if there is none.

        It is ``OPTIMAL`` only if IPOPT converged at the last ``t``.
        """
        v = self._reformed.embed(start.w, start.multipliers)
        known = None
        last = None
        reached = 1.0
        path = self._solver.path()
        # At t = 1 all starts look alike; every third one keeps to its own neighbourhood.
        for t in path[min((self._tried - 1) % 3, len(path) - 1) :]:
            try:
                raw, multipliers = self._model.solve(v, float(t), known, self._deadline)
            except BackendError as error:
                self._last = str(error)
                last = None if last is None else replace(last, termination=Termination.NUMERICAL)
                continue
            self._iterations += raw.nodes
            self._last = raw.raw_status
            if raw.termination is Termination.INTERRUPTED:
                self.stop("Interrupted: this is the best point so far.")
            if self._is_late() or self.stopped:
                return None
            if raw.v is not None:
                v = raw.v
                known = multipliers
                last = raw
                reached = t
            elif last is not None:
                last = replace(last, termination=Termination.NUMERICAL)
        # A path that ends early ends at a relaxed point, whose pattern means little.
        return last if reached <= 1e-5 else None

    def _polish(self, w: Array, multipliers: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        """Return the leader's best point on the pattern, then with followers' exact responses."""
        form = self._form
        better = best_on_pattern(form, w, multipliers)
        if better is not None and not self._is_worse(better[0], w, 1e-4):
            w, multipliers = better
        return complete(form, self._reformed, w, multipliers)[0], multipliers

    def _is_worse(self, w: Array, than: Array, tolerance: float) -> bool:
        new, old = (self._form.objective.evaluate(point) for point in (w, than))
        return new > old + tolerance * max(1.0, abs(old))

    def _keep(self, w: Array, multipliers: tuple[Array, ...], converged: bool) -> None:
        value = self._form.objective.evaluate(w)
        self._found.append(_Candidate(value, converged, w, multipliers))

    def _tick(self, moment: Progress) -> bool | None:
        """Report to the callback: IPOPT's iterations, and the best point so far."""
        best = min((c.value for c in self._found), default=None)
        return self._recorder(replace(moment, incumbent=best, nodes=self._iterations))

    def _is_late(self) -> bool:
        if self._deadline is not None and time.perf_counter() >= self._deadline:
            self.stop("The time limit was met before all starts were tried.")
        return self.stopped

    def _ranked(self) -> Iterator[_Candidate]:
        """Yield the points from the best; of equal ones those that IPOPT converged to first."""
        remaining = sorted(self._found, key=lambda c: c.value)
        while remaining:
            tolerance = _SAME * max(1.0, abs(remaining[0].value))
            equal = [c for c in remaining if c.value <= remaining[0].value + tolerance]
            yield from sorted(equal, key=lambda c: not c.converged)
            remaining = remaining[len(equal) :]

    def _is_certified(self, candidate: _Candidate) -> bool:
        return certify(self._form, candidate.w, Tolerances()).accepted

    def outcome(self) -> Outcome:
        """Return the best point that the certificate accepts."""
        best = next((c for c in self._ranked() if self._is_certified(c)), None)
        note = [self._note] if self._note else []
        if self._failed:
            note.append(f"IPOPT failed at {self._failed} of {self._tried} starts ({self._last}).")
        status, why = self._status(best)
        if why:
            note.append(why)
        return Outcome(
            status,
            None if best is None else best.w,
            multipliers=() if best is None else best.multipliers,
            backend=_BACKEND,
            backend_status=self._last,
            nodes=self._iterations,
            seconds=time.perf_counter() - self._began,
            note=" ".join(note),
            trace=self._recorder.trace,
            stopped=self.stopped,
        )

    def _status(self, best: _Candidate | None) -> tuple[Status, str]:
        if best is not None:
            converged = best.converged and not self.stopped
            return (Status.STATIONARY if converged else Status.FEASIBLE), ""
        if self.stopped:
            return Status.NOT_FOUND, ""
        raw, _ = solve_continuous(linear_high_point(self._form), Purpose.CONVEX)
        if raw is not None and raw.termination is Termination.INFEASIBLE:
            return diagnose(self._form, lambda form: None)
        return Status.FAILED, "No start led to a point that the certificate accepts."
