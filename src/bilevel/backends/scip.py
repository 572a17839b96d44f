"""SCIP: everything this library's programs contain, to global optimality."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyscipopt
from pyscipopt.scip import Expr, Term

from bilevel.backends.backend import AbstractBackend
from bilevel.backends.scip_cuts import watch_candidates
from bilevel.errors import BackendError, BilevelError
from bilevel.problem.functions import Array
from bilevel.program import Feature, Limits, Program, Progress, RawAnswer, Termination

_STATUS = {
    "optimal": Termination.OPTIMAL,
    "gaplimit": Termination.OPTIMAL,
    "infeasible": Termination.INFEASIBLE,
    "unbounded": Termination.UNBOUNDED,
    "inforunbd": Termination.INFEASIBLE_OR_UNBOUNDED,
    "timelimit": Termination.LIMIT,
    "nodelimit": Termination.LIMIT,
    "totalnodelimit": Termination.LIMIT,
    "stallnodelimit": Termination.LIMIT,
    "memlimit": Termination.LIMIT,
    "sollimit": Termination.LIMIT,
    "bestsollimit": Termination.LIMIT,
    "restartlimit": Termination.LIMIT,
    "userinterrupt": Termination.INTERRUPTED,
    "terminate": Termination.INTERRUPTED,
    "unknown": Termination.NUMERICAL,
}

_LP_ERROR = "error in LP solver"
# Coefficients beyond this make multipliers for which SCIP's tolerances are no longer small.
_LARGE = 1e5


class SCIP(AbstractBackend):
    """SCIP through PySCIPOpt: SOS1, indicators, products of variables, cones, integers."""

    name = "scip"
    features = ~(Feature.EXPONENTIAL_CONES | Feature.SEMIDEFINITE_CONES)
    gives_multipliers = False

    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """See the abstract method."""
        # A pair (lam, slack) that is only nearly complementary costs the follower lam * slack, so
        # SCIP's default of 1e-6 would show up in the certificate. With products SCIP tightens it
        # further, beyond what its LP solver can do; where that fails, the default is tried.
        tight = 1e-7 if program.rows.products.row.size else 1e-9
        first = _attempt(program, limits, start, tight)
        is_doubtful = first.termination is Termination.OPTIMAL and _is_large(program)
        if first.raw_status != _LP_ERROR and not is_doubtful:
            return first
        if limits.time_limit is not None:
            limits = replace(limits, time_limit=max(limits.time_limit - first.seconds, 0.1))
        second = _attempt(program, limits, start, 1e-6)
        return _agreed(program, first, second) if is_doubtful else second


def _is_large(program: Program) -> bool:
    """Return whether pairs meet numbers that have made SCIP cut off an optimum."""
    largest = max(
        np.abs(program.rows.A.data).max(initial=0.0), np.abs(program.rows.b).max(initial=0.0)
    )
    return bool(program.sos1) and largest > _LARGE


def _agreed(program: Program, first: RawAnswer, second: RawAnswer) -> RawAnswer:
    """Return what two solves with different tolerances say together."""
    values = [
        np.inf if raw.v is None else program.objective.evaluate(raw.v) for raw in (first, second)
    ]
    best = second if values[1] < values[0] else first
    bounds = [raw.bound for raw in (first, second) if raw.termination is not Termination.NUMERICAL]
    return replace(
        best,
        bound=min(bounds),
        nodes=first.nodes + second.nodes,
        seconds=first.seconds + second.seconds,
    )


def _attempt(program: Program, limits: Limits, start: Array | None, feastol: float) -> RawAnswer:
    model = pyscipopt.Model()
    if not limits.verbose:
        model.hideOutput()
    try:
        _options(model, program, limits, feastol)
        columns = _build(model, program)
        if start is not None:
            _start(model, columns, start)
        handler = None
        if program.cuts is not None:
            handler = watch_candidates(model, columns, program.cuts)
        if limits.progress is not None:
            model.includeEventhdlr(_Watcher(limits.progress), "progress", "reports progress")
        began = time.perf_counter()
        # Without the GIL: other threads go on, and SCIP's own handler catches Ctrl-C.
        model.optimizeNogil()
        seconds = time.perf_counter() - began
        if handler is not None and handler.error is not None:
            raise handler.error
        return _answer(model, columns, seconds)
    except BilevelError:
        raise
    except Exception as error:
        if _LP_ERROR in str(error):
            seconds = model.getSolvingTime()
            return RawAnswer(Termination.NUMERICAL, None, -np.inf, None, 0, seconds, _LP_ERROR)
        raise BackendError(f"SCIP failed: {error}") from error


def _options(model: Any, program: Program, limits: Limits, feastol: float) -> None:
    if limits.time_limit is not None:
        model.setParam("limits/time", float(limits.time_limit))
    if limits.seed is not None:
        model.setParam("randomization/randomseedshift", int(limits.seed))
    model.setParam("limits/gap", limits.rtol / 10)
    model.setParam("limits/absgap", limits.atol)
    model.setParam("numerics/feastol", feastol)
    if program.indicators:
        # SCIP 10 cuts off optima of programs with indicators by strong dual reductions.
        model.setParam("misc/allowstrongdualreds", False)
    for name, value in limits.options.items():
        try:
            model.setParam(name, value)
        except Exception as error:
            raise BackendError(f"SCIP does not accept the option {name!r} = {value!r}.") from error


def _build(model: Any, program: Program) -> list[Any]:
    kinds = ["I" if flag else "C" for flag in program.integer]
    lower = [None if not np.isfinite(b) else float(b) for b in program.lower]
    upper = [None if not np.isfinite(b) else float(b) for b in program.upper]
    columns = []
    for name, kind, low, high in zip(program.names, kinds, lower, upper, strict=True):
        kind = "B" if kind == "I" and low == 0 and high == 1 else kind
        columns.append(model.addVar(name=name, vtype=kind, lb=low, ub=high))
    _objective(model, program, columns)
    _rows(model, program, columns)
    for number, cone in enumerate(program.cones):
        values = [Expr(_linear(cone.A, i, columns)) - float(cone.b[i]) for i in range(len(cone.b))]
        side = model.addVar(name=f"cone[{number}]", lb=0.0)
        model.addCons(side == values[0])
        model.addCons(pyscipopt.quicksum(part * part for part in values[1:]) <= side * side)
    for name, members in program.sos1:
        weights = [float(i + 1) for i in range(len(members))]
        model.addConsSOS1([columns[c] for c in members], weights, name=name)
    for rule in program.indicators:
        for sign in (1.0, -1.0):
            low = program.lower[rule.target]
            high = program.upper[rule.target]
            if (sign > 0 and high <= 0) or (sign < 0 and low >= 0):
                continue
            model.addConsIndicator(
                sign * columns[rule.target] <= 0,
                columns[rule.binary],
                activeone=bool(rule.active),
                name=rule.name,
            )
    return columns


def _objective(model: Any, program: Program, columns: list[Any]) -> None:
    objective = program.objective
    terms = {Term(columns[j]): float(objective.c[j]) for j in np.flatnonzero(objective.c)}
    if objective.P.nnz:
        # SCIP takes linear objectives only: an epigraph column carries the quadratic.
        half = objective.P.tocoo()
        quadratic: dict[Any, float] = {}
        for i, j, value in zip(half.row, half.col, half.data, strict=True):
            key = Term(columns[i], columns[j])
            quadratic[key] = quadratic.get(key, 0.0) + 0.5 * float(value)
        epigraph = model.addVar(name="objective", lb=None)
        model.addCons(Expr(quadratic) <= epigraph, name="objective")
        terms[Term(epigraph)] = 1.0
    model.setObjective(Expr(terms) + objective.constant, "minimize")


def _rows(model: Any, program: Program, columns: list[Any]) -> None:
    rows = program.rows
    extra: dict[int, dict[Any, float]] = {}
    for row, (i, j), value in zip(
        rows.products.row, rows.products.factors, rows.products.value, strict=True
    ):
        extra.setdefault(int(row), {})[Term(columns[i], columns[j])] = float(value)
    for row, name in enumerate(rows.names):
        terms = _linear(rows.A, row, columns)
        terms.update(extra.get(row, {}))
        if not terms:
            if (abs(rows.b[row]) > 1e-9) if rows.equality[row] else (rows.b[row] < -1e-9):
                zero = model.addVar(name=f"never[{name}]", lb=0.0, ub=0.0)
                model.addCons(zero >= 1.0, name=name)
            continue
        value = Expr(terms)
        rhs = float(rows.b[row])
        model.addCons(value == rhs if rows.equality[row] else value <= rhs, name=name)


def _linear(matrix: Any, row: int, columns: list[Any]) -> dict[Any, float]:
    part = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return {
        Term(columns[j]): float(value)
        for j, value in zip(matrix.indices[part], matrix.data[part], strict=True)
        if value != 0.0
    }


def _start(model: Any, columns: list[Any], start: Array) -> None:
    solution = model.createSol()
    for column, value in zip(columns, start, strict=True):
        model.setSolVal(solution, column, float(value))
    for column in model.getVars()[len(columns) :]:
        if column.name == "objective":
            break
    else:
        model.addSol(solution)
        return
    # The epigraph column's value follows from the objective; SCIP completes a partial point.
    partial = model.createPartialSol()
    for column, value in zip(columns, start, strict=True):
        model.setSolVal(partial, column, float(value))
    model.addSol(partial)


class _Watcher(pyscipopt.Eventhdlr):
    """Reports each new incumbent and, a few times a second, the state of the search."""

    _EVERY = 0.1

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._last = -np.inf

    def eventinit(self) -> None:
        for event in (
            pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND,
            pyscipopt.SCIP_EVENTTYPE.NODESOLVED,
            pyscipopt.SCIP_EVENTTYPE.LPSOLVED,
        ):
            self.model.catchEvent(event, self)

    def eventexit(self) -> None:
        for event in (
            pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND,
            pyscipopt.SCIP_EVENTTYPE.NODESOLVED,
            pyscipopt.SCIP_EVENTTYPE.LPSOLVED,
        ):
            self.model.dropEvent(event, self)

    def eventexec(self, event: Any) -> None:
        model = self.model
        now = model.getSolvingTime()
        new = event.getType() == pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND
        if not new and now - self._last < self._EVERY:
            return
        self._last = now
        moment = Progress(
            now,
            _finite(model, model.getPrimalbound()),
            _finite(model, model.getDualbound()),
            int(model.getNTotalNodes()),
        )
        if self._progress(moment):
            model.interruptSolve()


def _finite(model: Any, value: float) -> float | None:
    return None if model.isInfinity(abs(value)) else float(value)


def _answer(model: Any, columns: list[Any], seconds: float) -> RawAnswer:
    raw = model.getStatus()
    if raw not in _STATUS:
        raise BackendError(f"SCIP answered with an unknown status: {raw}.")
    termination = _STATUS[raw]
    v = None
    usable = termination not in (Termination.INFEASIBLE, Termination.UNBOUNDED)
    if usable and model.getNSols() > 0:
        best = model.getBestSol()
        v = np.array([model.getSolVal(best, column) for column in columns])
    bound = _finite(model, model.getDualbound())
    return RawAnswer(
        termination,
        v,
        -np.inf if bound is None else bound,
        None,
        int(model.getNTotalNodes()),
        seconds,
        raw,
    )
