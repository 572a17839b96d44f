"""Our own branch and bound: SOS1 pairs and integers over LP or convex QP relaxations."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from bilevel.backends.backend import AbstractBackend
from bilevel.backends.compact import Compact
from bilevel.backends.session import AbstractSession, NodeAnswer
from bilevel.backends.tree.search import Search, Settings
from bilevel.problem.functions import Array
from bilevel.program import Feature, Limits, Program, RawAnswer, Termination

__all__ = ["Tree"]

# Up to this many columns and rows a dense active set is faster than a sparse simplex with all that
# surrounds it (benchmarks/cases/lplp.py).
_SMALL = 150


class Tree(AbstractBackend):
    """Branch and bound on SOS1 pairs and integers; LP relaxations on HiGHS, QP on DAQP."""

    name = "tree"
    features = Feature.INTEGER | Feature.SOS1 | Feature.CONVEX_QUADRATIC | Feature.INTEGER_QUADRATIC

    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """See the abstract method."""
        compact = Compact(program)
        session = _session(compact)
        return Search(program, compact, session, limits, Settings(**limits.options)).run(start)


class _Careful(AbstractSession):
    """A fast session whose optima are believed; any other verdict is HiGHS's or Clarabel's.

    DAQP calls some feasible programs infeasible.
    """

    def __init__(self, compact: Compact, first: AbstractSession) -> None:
        self._compact, self._first = compact, first
        self._linear: AbstractSession | None = None
        self._curved: AbstractSession | None = None

    def solve(
        self, low: Array, high: Array, warm: Any = None, cutoff: float = np.inf
    ) -> NodeAnswer:
        """See the abstract method."""
        answer = self._first.solve(low, high, warm, cutoff)
        if answer.termination is Termination.OPTIMAL:
            return answer
        if self._linear is None:
            self._linear = _highs(self._compact)
        curved = self._compact.P.nnz > 0
        second = self._linear.solve(low, high, None, np.inf if curved else cutoff)
        if curved and second.termination is not Termination.INFEASIBLE:
            if answer.termination is Termination.UNBOUNDED:
                return answer
            if self._curved is None:
                module = import_module("bilevel.backends.clarabel_session")
                self._curved = module.ClarabelSession(self._compact)
            second = self._curved.solve(low, high, None, cutoff)
        return replace(second, warm=second.entries)


def _session(compact: Compact) -> AbstractSession:
    if not compact.P.nnz and len(compact.low) > _SMALL:
        return _highs(compact)
    module = import_module("bilevel.backends.daqp_session")
    return _Careful(compact, module.DAQPSession(compact))


def _highs(compact: Compact) -> AbstractSession:
    return import_module("bilevel.backends.highs_session").HiGHSSession(compact)
