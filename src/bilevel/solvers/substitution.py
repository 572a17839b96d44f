"""The followers replaced by their response, region by region."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from bilevel.problem.functions import Array, Objective
from bilevel.problem.standard import StandardForm
from bilevel.program import Progress, Termination
from bilevel.response.reaction_map.polyhedra import Polyhedron
from bilevel.response.reaction_map.quadratic import Minimum
from bilevel.response.reaction_map.reaction import explore, has_response
from bilevel.response.response import worst_completion
from bilevel.solvers.diagnose import diagnose
from bilevel.solvers.pieces import (
    Piece,
    best_pieces,
    leader_objective,
    reasons_against_pieces,
    worst_pieces,
)
from bilevel.solvers.refutation import tested
from bilevel.solvers.solver import AbstractSolver, Outcome, Recorder, Request
from bilevel.status import Status
from bilevel.structure import Stance

# How far into a region the point goes that comes close to a value that is not attained.
_STEPS = (1e-3, 1e-2, 1e-1)
_INSIDE = 1e-6
_NEARBY = 1e-2


@dataclass(frozen=True)
class Substitution(AbstractSolver):
    r"""Solve by the reaction map: the leader's objective is minimized over each of its regions.

        minimize over regions R  min { F(t, y, z) : t in R, y a best response, G(t, y, z) <= 0 }

    Notes
    -----
    For linear and convex quadratic followers that depend on one or two columns ``t`` of the leader;
    its other columns ``z`` are chosen together with them. Within a region the response is affine
    and what is left is a linear or quadratic program. ``OPTIMAL`` is claimed if the regions cover
    the domain and each minimum is exact: convex ones, and others in two directions only.

    In a pessimistic problem the worst responses are those of a second parametric program where
    there are several. An infimum over a region that only its border would attain, where responses
    jump, gives ``NOT_ATTAINED``.

    References
    ----------
    See ``reaction``.

    Examples
    --------
    >>> import bilevel as bl
    >>> problem = bl.instances.get("T4").problem.replace(stance="pessimistic")
    >>> solution = bl.solve(problem, bl.Substitution())
    >>> print(solution.status.name, round(solution.bound, 6))
    NOT_ATTAINED 2.0
    """

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        return tuple(reasons_against_pieces(form))

    def run(self, form: StandardForm, request: Request) -> Outcome:
        """See the abstract method."""
        outcome = _Search(form, request).run()
        # A region thinner than a tolerance may have been missed, with its best point.
        return tested(form, outcome, request) if outcome.status is Status.OPTIMAL else outcome


class _Search:
    """One run: the pieces, the best point so far and the least of all minima."""

    def __init__(self, form: StandardForm, request: Request) -> None:
        self._form = form
        self._request = request
        self._objective: Objective = leader_objective(form)
        self._began = time.perf_counter()
        self._recorder = Recorder(form, request)
        self._halted = False
        self._minima: list[tuple[Piece, Minimum]] = []
        self._complete = True

    def run(self) -> Outcome:
        """Return what the regions say about the problem."""
        form = self._form
        found = explore(form, self._stop)
        if found is None:
            return self._nothing()
        self._complete = found.is_complete
        worst = form.stance is Stance.PESSIMISTIC
        for piece in worst_pieces(found, self._stop) if worst else best_pieces(found):
            if piece is None or self._stop():
                self._complete = False
                continue
            minimum = piece.minimise(self._objective)
            if minimum.termination is Termination.UNBOUNDED:
                return self._outcome(Status.UNBOUNDED)
            if minimum.termination is Termination.OPTIMAL:
                self._minima.append((piece, minimum))
                self._tell()
        self._minima.sort(key=lambda pair: pair[1].value)
        if not self._minima:
            return self._nothing()
        return self._attained() if worst and found.set_valued else self._best()

    def _best(self) -> Outcome:
        piece, minimum = self._minima[0]
        return self._judged(piece.columns(self._form, np.asarray(minimum.v)), Status.FEASIBLE)

    def _attained(self) -> Outcome:
        """Return the best worst case, or how close to the infimum one comes.

        A closed piece may reach its minimum on the border of its region only, where followers have
        other responses. The border's own pieces then tell what the worst of those is worth.
        """
        least = self._minima[0][1].value
        ties = [pair for pair in self._minima if self._request.gap_closed(pair[1].value, least)]
        for piece, minimum in ties:
            v = minimum.v
            depth = 0.0
            if minimum.minimisers is not None:
                v, depth = piece.deepest(minimum.minimisers)
            elif v is not None:
                _, depth = piece.deepest(_only(v))
            if v is not None and depth > _INSIDE:
                return self._judged(piece.columns(self._form, v), Status.FEASIBLE)
        near = [w for piece, minimum in ties for w in self._approach(piece, minimum)]
        if not near:
            return self._outcome(Status.NOT_FOUND)
        w = min(near, key=self._form.objective.evaluate)
        close = self._form.objective.evaluate(w) - least <= _NEARBY * max(1.0, abs(least))
        exact = close and all(minimum.minimisers is not None for _, minimum in ties)
        return self._judged(w, Status.NOT_ATTAINED if exact else Status.FEASIBLE)

    def _approach(self, piece: Piece, minimum: Minimum) -> list[Array]:
        """Return worst responses at points inside a region that come closer and closer."""
        inside, depth = piece.deepest(piece.joint.polyhedron)
        if inside is None or minimum.v is None or depth <= _INSIDE:
            return []
        columns = [
            piece.columns(self._form, (1.0 - step) * minimum.v + step * inside) for step in _STEPS
        ]
        worst = [worst_completion(self._form, w) for w in columns]
        return [w for w in worst if w is not None]

    def _judged(self, w: Array, otherwise: Status) -> Outcome:
        """Return a point's outcome; optimal if the regions prove it."""
        value = self._form.objective.evaluate(w)
        bound = min(minimum.bound for _, minimum in self._minima)
        if not self._complete:
            return self._outcome(Status.FEASIBLE, w)
        status = Status.OPTIMAL if self._request.gap_closed(value, bound) else otherwise
        return replace(self._outcome(status, w), bound=min(bound, value))

    def _nothing(self) -> Outcome:
        if not self._complete:
            return self._outcome(Status.NOT_FOUND)
        status, why = diagnose(self._form, has_response)
        return replace(self._outcome(status), note=why)

    def _outcome(self, status: Status, w: Array | None = None) -> Outcome:
        seconds = time.perf_counter() - self._began
        self._recorder.reraise()
        return Outcome(
            status,
            w,
            backend="highs",
            nodes=len(self._minima),
            seconds=seconds,
            note="" if self._complete else "The regions found do not cover the leader's domain.",
            trace=self._recorder.trace,
            stopped=self._stop(),
        )

    def _tell(self) -> None:
        best = min(minimum.value for _, minimum in self._minima)
        moment = Progress(time.perf_counter() - self._began, best, None, len(self._minima))
        self._halted = self._halted or bool(self._recorder(moment))

    def _stop(self) -> bool:
        limit = self._request.time_limit
        return self._halted or (limit is not None and time.perf_counter() - self._began > limit)


def _only(v: Array) -> Polyhedron:
    """Return the polyhedron of one point."""
    return Polyhedron(np.eye(len(v)), v, np.empty((0, len(v))), np.empty(0))
