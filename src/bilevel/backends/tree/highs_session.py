"""HiGHS kept in memory: linear programs solved again with other bounds, warm-started."""

from __future__ import annotations

from typing import Any

import highspy
import numpy as np

from bilevel.backends.highs import QuietHighs, highs_model
from bilevel.backends.tree.compact import Compact
from bilevel.backends.tree.session import AbstractSession, NodeAnswer
from bilevel.problem.functions import Array, Objective
from bilevel.program import Termination

_STATUS = {
    highspy.HighsModelStatus.kOptimal: Termination.OPTIMAL,
    highspy.HighsModelStatus.kInfeasible: Termination.INFEASIBLE,
    highspy.HighsModelStatus.kUnbounded: Termination.UNBOUNDED,
    highspy.HighsModelStatus.kUnboundedOrInfeasible: Termination.INFEASIBLE_OR_UNBOUNDED,
    highspy.HighsModelStatus.kObjectiveBound: Termination.LIMIT,
}
# HiGHS refuses to run when `threads` differs from what an earlier instance asked for.
_OPTIONS = (("output_flag", False), ("presolve", "off"))
_TIGHT = 1e-9
_USUAL = 1e-7


class HiGHSSession(AbstractSession):
    """A linear program in HiGHS; the dual simplex starts from the basis of a similar solve.

    Of a quadratic program it tells whether it has a point: its objective is left out.
    """

    def __init__(self, compact: Compact) -> None:
        self._count = compact.count
        self._A = compact.A
        self._low = compact.low
        self._high = compact.high
        self._solver: Any = QuietHighs()
        for name, value in _OPTIONS:
            self._solver.setOptionValue(name, value)
        self._set_tolerance(_TIGHT)
        n = compact.count
        c = np.zeros(n) if compact.P.nnz else compact.c
        objective = Objective(compact.P, c, compact.constant)
        columns = (compact.low[:n], compact.high[:n])
        rows = (compact.low[n:], compact.high[n:])
        self._solver.passModel(highs_model(objective, compact.A, columns, rows))
        self._warm: Any = None

    def solve(
        self, low: Array, high: Array, warm: Any = None, cutoff: float = np.inf
    ) -> NodeAnswer:
        """See the abstract method; ``warm`` is a basis."""
        self._change(low, high)
        solver = self._solver
        if warm is not None and warm is not self._warm:
            solver.setBasis(warm)
        solver.setOptionValue("objective_bound", cutoff)
        termination = self._run()
        if termination in (Termination.NUMERICAL, Termination.INFEASIBLE_OR_UNBOUNDED):
            termination = self._again()
        self._warm = None
        if termination is Termination.UNBOUNDED:
            return NodeAnswer(termination, ray=self._ray())
        if termination is not Termination.OPTIMAL:
            return NodeAnswer(termination)
        solution = solver.getSolution()
        entries = np.array(solution.col_value + solution.row_value)
        self._warm = solver.getBasis()
        return NodeAnswer(termination, entries, solver.getObjectiveValue(), self._warm)

    def _change(self, low: Array, high: Array) -> None:
        moved = np.flatnonzero((low != self._low) | (high != self._high))
        self._low = low
        self._high = high
        split = int(np.searchsorted(moved, self._count))
        if split:
            at = moved[:split]
            self._solver.changeColsBounds(len(at), at.astype(np.int32), low[at], high[at])
        if split < len(moved):
            at = moved[split:]
            rows = (at - self._count).astype(np.int32)
            self._solver.changeRowsBounds(len(at), rows, low[at], high[at])

    def _again(self) -> Termination:
        """Solve from scratch, at last as HiGHS would by itself."""
        self._solver.setOptionValue("objective_bound", np.inf)
        self._solver.clearSolver()
        termination = self._run()
        if termination is Termination.NUMERICAL:
            self._set_tolerance(_USUAL)
            self._solver.setOptionValue("presolve", "choose")
            self._solver.clearSolver()
            termination = self._run()
            self._solver.setOptionValue("presolve", "off")
            self._set_tolerance(_TIGHT)
        return termination

    def _ray(self) -> Array | None:
        _, known, ray = self._solver.getPrimalRay()
        return np.concatenate([ray, self._A @ ray]) if known else None

    def _set_tolerance(self, value: float) -> None:
        for kind in ("primal", "dual"):
            self._solver.setOptionValue(f"{kind}_feasibility_tolerance", value)

    def _run(self) -> Termination:
        self._solver.run()
        return _STATUS.get(self._solver.getModelStatus(), Termination.NUMERICAL)
