"""Rows that are found during SCIP's search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyscipopt
from pyscipopt.scip import Expr, Term

from bilevel.problem.functions import Array, Rows

# Behind integrality, linear rows and all sets, so that only points that meet them arrive.
_LAST = -9_999_999


def watch_candidates(model: Any, columns: list[Any], cuts: Callable[[Array, bool], Rows]) -> _Cuts:
    """Include the handler in a model, and return it; its ``error`` is to be raised afterwards."""
    handler = _Cuts(columns, cuts)
    model.includeConshdlr(
        handler,
        "cuts",
        "rows found during the search",
        enfopriority=_LAST,
        chckpriority=_LAST,
        sepapriority=0,
        sepafreq=1,
        maxprerounds=0,
        needscons=False,
    )
    # SCIP may not argue from rows that it does not know yet.
    for name in ("allowstrongdualreds", "allowweakdualreds"):
        model.setParam(f"misc/{name}", False)
    model.setParam("misc/usesymmetry", 0)
    return handler


class _Cuts(pyscipopt.Conshdlr):
    """Asks for rows at candidates and at relaxations' points, and adds them.

    A check of a candidate may not add rows, so those it finds wait for the next occasion.
    """

    def __init__(self, columns: list[Any], cuts: Callable[[Array, bool], Rows]) -> None:
        self._columns = columns
        self._cuts = cuts
        self._waiting: dict[str, Rows] = {}
        self.error: BaseException | None = None

    def conslock(
        self, constraint: Any, locktype: Any, nlockspos: int, nlocksneg: int
    ) -> dict[str, Any]:
        del constraint
        locks = nlockspos + nlocksneg
        for column in self._columns:
            column = self.model.getTransformedVar(column)
            self.model.addVarLocksType(column, locktype, locks, locks)
        return {}

    def conscheck(self, constraints: Any, solution: Any, *flags: Any) -> dict[str, Any]:
        del constraints, flags
        rows = self._ask(solution, True)
        if rows is None or len(rows):
            self._wait(rows)
            return {"result": pyscipopt.SCIP_RESULT.INFEASIBLE}
        return {"result": pyscipopt.SCIP_RESULT.FEASIBLE}

    def consenfolp(self, *arguments: Any) -> dict[str, Any]:
        del arguments
        return self._enforce()

    def consenfops(self, *arguments: Any) -> dict[str, Any]:
        del arguments
        return self._enforce()

    def conssepalp(self, constraints: Any, nusefulconss: int) -> dict[str, Any]:
        del constraints, nusefulconss
        if self._add_waiting():
            return {"result": pyscipopt.SCIP_RESULT.CONSADDED}
        rows = self._ask(None, False)
        if rows is None or not len(rows):
            return {"result": pyscipopt.SCIP_RESULT.DIDNOTFIND}
        for r in range(len(rows)):
            cut = self.model.createEmptyRowUnspec(
                rows.names[r], lhs=None, rhs=float(rows.b[r]), local=False
            )
            for column, value in self._entries(rows, r):
                self.model.addVarToRow(cut, column, value)
            self.model.addCut(cut)
            self.model.addPoolCut(cut)
            self.model.releaseRow(cut)
        return {"result": pyscipopt.SCIP_RESULT.SEPARATED}

    def _enforce(self) -> dict[str, Any]:
        rows = self._ask(None, True)
        if rows is None:
            return {"result": pyscipopt.SCIP_RESULT.INFEASIBLE}
        self._wait(rows)
        if self._add_waiting():
            return {"result": pyscipopt.SCIP_RESULT.CONSADDED}
        return {"result": pyscipopt.SCIP_RESULT.FEASIBLE}

    def _ask(self, solution: Any, is_candidate: bool) -> Rows | None:
        """Return the rows at a point; ``None`` after an error, which also stops the search."""
        if self.error is not None:
            return None
        value = self.model.getSolVal
        try:
            point = np.array([value(solution, column) for column in self._columns])
            return self._cuts(point, is_candidate)
        except BaseException as error:
            # An exception must not unwind through the vendor's code.
            self.error = error
            self.model.interruptSolve()
            return None

    def _wait(self, rows: Rows | None) -> None:
        if rows is not None:
            names = np.array(rows.names)
            self._waiting |= {name: rows.take(names == name) for name in rows.names}

    def _add_waiting(self) -> bool:
        for name, row in self._waiting.items():
            terms = {Term(column): value for column, value in self._entries(row, 0)}
            self.model.addCons(Expr(terms) <= float(row.b[0]), name=name)
        added = bool(self._waiting)
        self._waiting = {}
        return added

    def _entries(self, rows: Rows, r: int) -> list[tuple[Any, float]]:
        part = slice(rows.A.indptr[r], rows.A.indptr[r + 1])
        pairs = zip(rows.A.indices[part], rows.A.data[part], strict=True)
        return [(self._columns[j], float(value)) for j, value in pairs]
