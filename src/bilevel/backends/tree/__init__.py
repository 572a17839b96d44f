"""Our own branch and bound: SOS1 pairs and integers over LP or convex QP relaxations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np

from bilevel.backends.backend import AbstractBackend
from bilevel.backends.tree.compact import Compact
from bilevel.backends.tree.disjunctions import Disjunctions
from bilevel.backends.tree.node import Settings
from bilevel.backends.tree.search import Search
from bilevel.backends.tree.session import AbstractSession, NodeAnswer
from bilevel.errors import BackendError
from bilevel.problem.functions import Array
from bilevel.program import Feature, Limits, Program, RawAnswer, Termination

__all__ = ["Tree"]

Opener = Callable[[Compact], AbstractSession]

# Up to this many columns and rows a dense active set is used: a sparse simplex has more to set up
# for every solve.
_SMALL = 150
# Beyond this dense matrices are too large.
_DENSE = 1500
# From so many verdicts without proof on the fast session is left alone, if they are the rule.
_PATIENCE = 10
# Handed from an unbounded program to similar ones: DAQP needs many steps to notice.
_UNBOUNDED = NodeAnswer(Termination.UNBOUNDED)
# A ray falls by at least this, relative to the largest cost.
_STEEP = 1e-7
_CLOSE = 1e-9
_ROUNDING = 1e-12


class Tree(AbstractBackend):
    """Branch and bound on SOS1 pairs and integers; LP relaxations on HiGHS, QP on DAQP."""

    name = "tree"
    features = Feature.INTEGER | Feature.SOS1 | Feature.CONVEX_QUADRATIC | Feature.INTEGER_QUADRATIC
    gives_multipliers = False

    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """See the abstract method."""
        names = [field.name for field in fields(Settings)]
        if unknown := sorted(set(limits.options) - set(names)):
            raise BackendError(f"The tree has no option {unknown[0]!r}; its options are {names}.")
        try:
            settings = Settings(**limits.options)
        except TypeError as error:
            raise BackendError(f"An option of the tree is malformed: {error}.") from error
        compact = Compact(program)
        session = _session(compact)
        points = partial(_points, compact)
        raw = Search(program, compact, session, points, limits, settings).run(start)
        if raw.v is None or compact.P.nnz:
            return raw
        v = _vertex(program, compact, raw.v)
        value = program.objective.evaluate(v)
        is_same = abs(raw.bound - value) <= _ROUNDING * max(1.0, abs(value))
        return replace(raw, v=v, bound=value if is_same else raw.bound)


class _Careful(AbstractSession):
    """A fast session that proves what it says; where it cannot, HiGHS or Clarabel is asked."""

    def __init__(self, compact: Compact, first: AbstractSession) -> None:
        self._compact = compact
        self._first = first
        self._is_curved = compact.P.nnz > 0
        self._others: dict[Opener, AbstractSession] = {}
        self._asked = self._doubts = 0

    def solve(
        self, low: Array, high: Array, warm: Any = None, cutoff: float = np.inf
    ) -> NodeAnswer:
        """See the abstract method."""
        answer = _UNBOUNDED
        is_hopeless = self._doubts > _PATIENCE and 2 * self._doubts > self._asked
        if warm is not _UNBOUNDED and not is_hopeless:
            answer = self._first.solve(low, high, warm, cutoff)
            self._asked += 1
        if answer.termination in (Termination.OPTIMAL, Termination.INFEASIBLE):
            return answer
        self._doubts += warm is not _UNBOUNDED
        limit = np.inf if self._is_curved else cutoff
        second = self._other(_on_highs).solve(low, high, None, limit)
        if second.termination is Termination.UNBOUNDED:
            return replace(second, warm=_UNBOUNDED)
        if self._is_curved and second.termination is not Termination.INFEASIBLE:
            return self._curved(low, high)
        return replace(second, warm=None)  # each session has its own

    def _curved(self, low: Array, high: Array) -> NodeAnswer:
        """Answer a convex quadratic program that has points: unbounded along a ray, or not at all.

        DAQP calls some unbounded that have an optimum, Clarabel is not sure of some that are.
        """
        ray = self._ray(low, high)
        if ray is not None:
            return NodeAnswer(Termination.UNBOUNDED, ray=ray)
        answer = self._other(_on_clarabel).solve(low, high)
        if answer.termination is Termination.UNBOUNDED:
            return NodeAnswer(Termination.NUMERICAL)
        return replace(answer, warm=None)

    def _ray(self, low: Array, high: Array) -> Array | None:
        """Return a direction without end or curvature in which the objective falls, if any."""
        steepest = self._other(_rays).solve(*self._compact.directions(low, high))
        if steepest.entries is None or steepest.value > -_STEEP * abs(self._compact.c).max():
            return None
        return steepest.entries[: len(low)]

    def _other(self, opened: Opener) -> AbstractSession:
        if opened not in self._others:
            self._others[opened] = opened(self._compact)
        return self._others[opened]


def _vertex(program: Program, compact: Compact, v: Array) -> Array:
    """Return the same point as HiGHS's simplex gives it, free of what DAQP's rounding leaves."""
    entries = compact.collapse(v)
    low = compact.low.copy()
    high = compact.high.copy()
    for entry, least, most in Disjunctions(program, compact).pattern(entries, low, high):
        low[entry] = max(low[entry], least)
        high[entry] = min(high[entry], most)
    if np.any(low > high):
        return v
    again = _on_highs(compact).solve(low, high)
    if again.entries is None:
        return v
    clean = compact.expand(again.entries)
    loss = program.objective.evaluate(clean) - program.objective.evaluate(v)
    return clean if loss <= _CLOSE * max(1.0, abs(program.objective.evaluate(v))) else v


def _session(compact: Compact) -> AbstractSession:
    if compact.P.nnz and len(compact.low) > _DENSE:
        return _on_clarabel(compact)
    if not compact.P.nnz and len(compact.low) > _SMALL:
        return _on_highs(compact)
    return _Careful(compact, _on_daqp(compact))


# Each vendor's package is imported when a session of it is first opened.


def _on_highs(compact: Compact) -> AbstractSession:
    from bilevel.backends.tree.highs_session import HiGHSSession

    return HiGHSSession(compact)


def _on_daqp(compact: Compact) -> AbstractSession:
    from bilevel.backends.tree.daqp_session import DAQPSession

    return DAQPSession(compact)


def _on_clarabel(compact: Compact) -> AbstractSession:
    from bilevel.backends.tree.clarabel_session import ClarabelSession

    return ClarabelSession(compact)


def _points(compact: Compact) -> AbstractSession:
    """Open a session that only asks for feasible points."""
    return _on_highs(compact.without_cost())


def _rays(compact: Compact) -> AbstractSession:
    """Open a session that looks for directions without end."""
    return _on_highs(compact.recession())
