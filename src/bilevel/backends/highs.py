"""HiGHS: linear programs and mixed-integer linear programs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock, RLock
from typing import Any

import highspy
import numpy as np
import scipy.sparse as sp

from bilevel.backends.backend import AbstractBackend
from bilevel.errors import BackendError
from bilevel.problem.functions import Array, Objective
from bilevel.program import Feature, Limits, Program, Progress, RawAnswer, Termination

_STATUS = {
    highspy.HighsModelStatus.kOptimal: Termination.OPTIMAL,
    highspy.HighsModelStatus.kModelEmpty: Termination.OPTIMAL,
    highspy.HighsModelStatus.kInfeasible: Termination.INFEASIBLE,
    highspy.HighsModelStatus.kUnbounded: Termination.UNBOUNDED,
    highspy.HighsModelStatus.kUnboundedOrInfeasible: Termination.INFEASIBLE_OR_UNBOUNDED,
    highspy.HighsModelStatus.kTimeLimit: Termination.LIMIT,
    highspy.HighsModelStatus.kIterationLimit: Termination.LIMIT,
    highspy.HighsModelStatus.kSolutionLimit: Termination.LIMIT,
    highspy.HighsModelStatus.kObjectiveBound: Termination.LIMIT,
    highspy.HighsModelStatus.kObjectiveTarget: Termination.LIMIT,
    highspy.HighsModelStatus.kInterrupt: Termination.INTERRUPTED,
    highspy.HighsModelStatus.kUnknown: Termination.NUMERICAL,
    highspy.HighsModelStatus.kSolveError: Termination.NUMERICAL,
    highspy.HighsModelStatus.kPostsolveError: Termination.NUMERICAL,
    highspy.HighsModelStatus.kPresolveError: Termination.NUMERICAL,
}


class HiGHS(AbstractBackend):
    """HiGHS through highspy: LP by simplex (with multipliers), MIP by branch and cut."""

    name = "highs"
    features = Feature.INTEGER
    gives_multipliers = True

    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """See the abstract method."""
        solver = self._loaded(program, limits)
        if start is not None and program.integer.any():
            point = highspy.HighsSolution()
            point.col_value = list(start)
            solver.setSolution(point)
        if limits.progress is not None and program.integer.any():
            _watch(solver, program, limits.progress)
        began = time.perf_counter()
        # The solve runs in highspy's own thread so that Ctrl-C reaches Python and cancels it.
        solver.HandleKeyboardInterrupt = bool(program.integer.any())
        with suppress(KeyboardInterrupt):
            solver.solve()
        seconds = time.perf_counter() - began
        return _answer(solver, program, seconds)

    def sweep(
        self, program: Program, costs: Sequence[Array], limits: Limits
    ) -> Iterator[RawAnswer]:
        """See the abstract method; each solve starts from the basis of the one before."""
        if program.integer.any():
            yield from super().sweep(program, costs, limits)
            return
        solver = self._loaded(replace(program, objective=_no_cost(program)), limits)
        every = np.arange(program.lower.size, dtype=np.int32)
        for cost in costs:
            solver.changeColsCost(every.size, every, cost)
            began = time.perf_counter()
            solver.run()
            yield _answer(solver, program, time.perf_counter() - began)

    def _loaded(self, program: Program, limits: Limits) -> Any:
        solver = QuietHighs()
        solver.setOptionValue("output_flag", limits.verbose)
        self._options(solver, program, limits)
        try:
            status = solver.passModel(_model(program))
        except Exception as error:
            raise BackendError(f"HiGHS could not read the model: {error}") from error
        if status == highspy.HighsStatus.kError:
            raise BackendError("HiGHS refused the model.")
        return solver

    def _options(self, solver: Any, program: Program, limits: Limits) -> None:
        if limits.time_limit is not None:
            solver.setOptionValue("time_limit", float(limits.time_limit))
        if limits.seed is not None:
            solver.setOptionValue("random_seed", int(limits.seed))
        solver.setOptionValue("primal_feasibility_tolerance", 1e-9)
        solver.setOptionValue("dual_feasibility_tolerance", 1e-9)
        if program.integer.any():
            solver.setOptionValue("mip_rel_gap", limits.rtol / 10)
            solver.setOptionValue("mip_abs_gap", limits.atol)
            solver.setOptionValue("mip_feasibility_tolerance", 1e-9)
        for name, value in limits.options.items():
            try:
                refused = solver.setOptionValue(name, value) == highspy.HighsStatus.kError
            except TypeError as error:
                raise BackendError(f"HiGHS refuses {value!r} for the option {name!r}.") from error
            if refused:
                raise BackendError(f"HiGHS does not know the option {name!r} or its value.")


class QuietHighs(highspy.Highs):
    """A HiGHS of its own: highspy shares two locks among all, and talks while it starts.

    The locks are attributes of its class, so a second thread's solve would be refused. The banner
    is written to stdout while callbacks are registered; stdout may carry JSON.
    """

    def __init__(self) -> None:
        self._Highs__solver_stopped = RLock()
        self._Highs__solver_started = Lock()
        super().__init__()

    def enableCallbacks(self) -> None:  # noqa: N802
        """Let HiGHS call back, without its banner."""
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()


def _no_cost(program: Program) -> Objective:
    return replace(program.objective, c=np.zeros(program.n), constant=0.0)


def highs_model(
    objective: Objective,
    A: sp.csr_array,
    columns: tuple[Array, Array],
    rows: tuple[Array, Array],
    integer: Array | None = None,
) -> Any:
    """Return a linear program in HiGHS's words.

    Parameters
    ----------
    objective
        Of which ``c`` and ``constant`` are taken.
    A
        Coefficients of the rows, shape ``(m, n)``.
    columns, rows
        Lower and upper bounds of the columns, each ``(n,)``, and of the rows, each ``(m,)``.
    integer
        Which columns are integer, shape ``(n,)``; ``None``: none is.
    """
    model = highspy.HighsModel()
    lp = model.lp_
    n = len(objective.c)
    m = len(rows[0])
    lp.num_row_ = m
    lp.num_col_ = n
    lp.col_cost_ = objective.c
    lp.offset_ = objective.constant
    lp.col_lower_, lp.col_upper_ = columns
    lp.row_lower_, lp.row_upper_ = rows
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.num_row_ = m
    lp.a_matrix_.num_col_ = n
    lp.a_matrix_.start_ = A.indptr.astype(np.int32)
    lp.a_matrix_.index_ = A.indices.astype(np.int32)
    lp.a_matrix_.value_ = np.asarray(A.data, float)
    if integer is not None and integer.any():
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(flag)] for flag in integer]
    return model


def _model(program: Program) -> Any:
    rows = program.rows
    low = np.where(rows.equality, rows.b, -np.inf)
    columns = (program.lower, program.upper)
    return highs_model(program.objective, rows.A, columns, (low, rows.b), program.integer)


def _watch(solver: Any, program: Program, progress: Any) -> None:
    best: list[float | None] = [None]

    def report(event: Any) -> None:
        out = event.data_out
        value = out.mip_primal_bound
        best[0] = value if np.isfinite(value) else None
        bound = out.mip_dual_bound if np.isfinite(out.mip_dual_bound) else None
        moment = Progress(out.running_time, best[0], bound, int(out.mip_node_count))
        if progress(moment):
            solver.cancelSolve()

    solver.cbMipInterrupt.subscribe(report)
    solver.cbMipImprovingSolution.subscribe(report)


def _answer(solver: Any, program: Program, seconds: float) -> RawAnswer:
    raw = solver.getModelStatus()
    termination = _STATUS.get(raw)
    if termination is None:
        raise BackendError(f"HiGHS answered with an unknown status: {raw}.")
    info = solver.getInfo()
    solution = solver.getSolution()
    feasible = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    usable = termination in (Termination.OPTIMAL, Termination.LIMIT, Termination.INTERRUPTED)
    v = (
        np.array(solution.col_value, float)
        if usable and feasible and solution.value_valid
        else None
    )
    is_mip = program.integer.any()
    bound = -np.inf
    nodes = 0
    if is_mip:
        bound = info.mip_dual_bound
        nodes = max(int(info.mip_node_count), 0)
    elif termination is Termination.OPTIMAL:
        bound = info.objective_function_value
    duals = None
    if not is_mip and v is not None and solution.dual_valid:
        # HiGHS: gradient = A' row_dual + col_dual; ours: gradient + A' lam = 0 with lam >= 0.
        duals = -np.array(solution.row_dual, float)
    return RawAnswer(termination, v, float(bound), duals, nodes, seconds, str(raw).split(".k")[-1])
