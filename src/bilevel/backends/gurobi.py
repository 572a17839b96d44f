"""Gurobi: everything that SCIP takes, for those who have a licence."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import gurobipy as gp
import numpy as np
import scipy.sparse as sp
from gurobipy import GRB

from bilevel.backends.backend import AbstractBackend
from bilevel.errors import BackendError, BilevelError
from bilevel.problem.functions import Array
from bilevel.program import Feature, Limits, Program, Progress, RawAnswer, Termination

_STATUS = {
    GRB.OPTIMAL: Termination.OPTIMAL,
    GRB.INFEASIBLE: Termination.INFEASIBLE,
    GRB.INF_OR_UNBD: Termination.INFEASIBLE_OR_UNBOUNDED,
    GRB.UNBOUNDED: Termination.UNBOUNDED,
    GRB.CUTOFF: Termination.LIMIT,
    GRB.ITERATION_LIMIT: Termination.LIMIT,
    GRB.NODE_LIMIT: Termination.LIMIT,
    GRB.TIME_LIMIT: Termination.LIMIT,
    GRB.SOLUTION_LIMIT: Termination.LIMIT,
    GRB.USER_OBJ_LIMIT: Termination.LIMIT,
    GRB.WORK_LIMIT: Termination.LIMIT,
    GRB.MEM_LIMIT: Termination.LIMIT,
    GRB.INTERRUPTED: Termination.INTERRUPTED,
    GRB.NUMERIC: Termination.NUMERICAL,
    GRB.SUBOPTIMAL: Termination.NUMERICAL,
    # Only where the option OptimalityTarget asks for local answers; they prove nothing.
    GRB.LOCALLY_OPTIMAL: Termination.LIMIT,
    GRB.LOCALLY_INFEASIBLE: Termination.NUMERICAL,
}
_WORDS = {getattr(GRB.Status, name): name for name in dir(GRB.Status) if name.isupper()}
_NO_POINT = (
    Termination.INFEASIBLE,
    Termination.UNBOUNDED,
    Termination.INFEASIBLE_OR_UNBOUNDED,
)
# With one of these the answer is that of a tree, which has no multipliers.
_SEARCHED = (
    Feature.INTEGER
    | Feature.SOS1
    | Feature.INDICATOR
    | Feature.NONCONVEX_QUADRATIC
    | Feature.PRODUCT_ROWS
)
# A pair (lam, slack) that is only nearly complementary costs the follower lam * slack, so Gurobi's
# defaults of 1e-6 would show up in the certificate.
_PARAMETERS = {
    "FeasibilityTol": 1e-9,
    "OptimalityTol": 1e-9,
    "IntFeasTol": 1e-9,
    "BarConvTol": 1e-10,
    "BarQCPConvTol": 1e-9,
}
_HUGE = 1e99
_SILENCE = 0.1


class Gurobi(AbstractBackend):
    """Gurobi through gurobipy: LP and convex QP with multipliers, and global search.

    Takes integers, SOS1 sets, indicators, quadratic objectives of any curvature, products in rows
    and second-order cones. The licence is the user's, found where Gurobi looks for it; the one that
    comes with gurobipy takes models of 2000 columns and 2000 rows, 200 columns where they are
    quadratic. A larger model is a ``BackendError`` that says so.

    Notes
    -----
    One environment of Gurobi is made for each thread and kept, because a licence may count them.

    References
    ----------
    Gurobi Optimization, *Gurobi Optimizer Reference Manual*, chapters "Parameters", "Attributes"
    and "Optimization Status Codes".
    """

    name = "gurobi"
    features = (
        Feature.INTEGER
        | Feature.SOS1
        | Feature.INDICATOR
        | Feature.CONVEX_QUADRATIC
        | Feature.NONCONVEX_QUADRATIC
        | Feature.INTEGER_QUADRATIC
        | Feature.PRODUCT_ROWS
        | Feature.CONES
    )
    gives_multipliers = True

    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """See the abstract method."""
        try:
            with gp.Model(env=_environment()) as model:
                return _solve(model, program, limits, start)
        except BilevelError:
            raise
        except gp.GurobiError as error:
            raise BackendError(_explained(error)) from error


class _Environments(threading.local):
    """Gurobi's environments are not safe for threads, nor after a fork."""

    def __init__(self) -> None:
        self.process = -1
        self.environment: Any = None


_ENVIRONMENTS = _Environments()


def _environment() -> Any:
    if _ENVIRONMENTS.process != os.getpid():
        _ENVIRONMENTS.environment = gp.Env(params={"OutputFlag": 0})
        _ENVIRONMENTS.process = os.getpid()
    return _ENVIRONMENTS.environment


def _explained(error: Any) -> str:
    if error.errno == GRB.ERROR_SIZE_LIMIT_EXCEEDED:
        return (
            "Gurobi's licence is too small for this program: the one that comes with gurobipy "
            "takes 2000 columns and 2000 rows, 200 columns where they are quadratic. Install a "
            "licence of your own, or use backend='scip'."
        )
    if error.errno == GRB.ERROR_NO_LICENSE:
        return f"Gurobi found no valid licence: {error}"
    return f"Gurobi failed: {error}"


def _solve(model: Any, program: Program, limits: Limits, start: Array | None) -> RawAnswer:
    _set_parameters(model, program, limits)
    v, rows, cones = _build(model, program)
    is_searched = bool(program.features & _SEARCHED)
    if start is not None and is_searched:
        v.Start = start
    watch = None if limits.progress is None else _Watch(limits.progress)
    began = time.perf_counter()
    # Gurobi answers Ctrl-C itself and ends with the status INTERRUPTED.
    model.optimize(watch)
    seconds = time.perf_counter() - began
    if watch is not None and watch.error is not None:
        raise watch.error
    if model.Status not in _STATUS:
        raise BackendError(f"Gurobi answered with an unknown status: {model.Status}.")
    termination = _STATUS[model.Status]
    point = None
    duals = None
    cone_duals = None
    bound = -np.inf
    if termination not in _NO_POINT and model.SolCount > 0:
        # A barrier's point is 1e-10 outside a bound at times; a bound is meant literally.
        point = np.clip(np.asarray(v.X, float), program.lower, program.upper)
    if is_searched and model.Status != GRB.LOCALLY_OPTIMAL and abs(model.ObjBound) < _HUGE:
        bound = float(model.ObjBound)
    if not is_searched and termination is Termination.OPTIMAL:
        bound = float(model.ObjVal)
        # Gurobi: gradient = A' Pi + RC; ours: gradient + A' lam - sum A_k' z_k = 0.
        duals = -np.asarray(rows.Pi, float)
        cone_duals = tuple(np.asarray(part.Pi, float) for part in cones)
    nodes = int(model.NodeCount) if is_searched else 0
    word = _WORDS.get(model.Status, str(model.Status))
    return RawAnswer(termination, point, bound, duals, nodes, seconds, word, cone_duals)


def _set_parameters(model: Any, program: Program, limits: Limits) -> None:
    model.setParam("OutputFlag", int(limits.verbose))
    for name, value in _PARAMETERS.items():
        model.setParam(name, value)
    if program.cones:
        model.setParam("QCPDual", 1)
    model.setParam("MIPGap", limits.rtol / 10)
    model.setParam("MIPGapAbs", limits.atol)
    if limits.time_limit is not None:
        model.setParam("TimeLimit", max(float(limits.time_limit), 0.0))
    if limits.seed is not None:
        model.setParam("Seed", int(limits.seed))
    for name, value in limits.options.items():
        try:
            model.setParam(name, value)
        except (gp.GurobiError, TypeError, ValueError) as error:
            raise BackendError(
                f"Gurobi does not accept the option {name!r} = {value!r}: {error}"
            ) from error


def _build(model: Any, program: Program) -> tuple[Any, Any, list[Any]]:
    """Write a program; return its columns, its linear rows, and the equations of each cone."""
    kinds = np.full(program.n, GRB.CONTINUOUS)
    kinds[program.integer] = GRB.INTEGER
    # An indicator's switch must be of the type binary.
    kinds[program.integer & (program.lower >= 0) & (program.upper <= 1)] = GRB.BINARY
    v = model.addMVar(program.n, lb=program.lower, ub=program.upper, vtype=kinds)
    objective = program.objective
    half = sp.csr_matrix(0.5 * objective.P) if objective.P.nnz else None
    model.setMObjective(half, objective.c, objective.constant, v, v, v, GRB.MINIMIZE)
    rows = _add_rows(model, program, v)
    cones = [_add_cone(model, cone, v) for cone in program.cones]
    plain = v.tolist()
    for _, columns in program.sos1:
        model.addSOS(GRB.SOS_TYPE1, [plain[c] for c in columns])
    for rule in program.indicators:
        model.addGenConstrIndicator(
            plain[rule.binary], bool(rule.active), plain[rule.target], GRB.EQUAL, 0.0, rule.name
        )
    model.update()
    return v, rows, cones


def _add_rows(model: Any, program: Program, v: Any) -> Any:
    """Add all rows, and return the linear ones, in their order."""
    rows = program.rows
    sense = np.where(rows.equality, GRB.EQUAL, GRB.LESS_EQUAL)
    curved = np.unique(rows.products.row)
    linear = np.setdiff1d(np.arange(len(rows)), curved)
    matrix = sp.csr_matrix(rows.A)
    added = model.addMConstr(matrix[linear], v, sense[linear], rows.b[linear])
    for row in curved.tolist():
        own = rows.products.row == row
        first, second = rows.products.factors[own].T
        shape = (program.n, program.n)
        Q = sp.csr_matrix((rows.products.value[own], (first, second)), shape=shape)
        c = matrix[[row]].toarray()[0]
        model.addMQConstr(Q, c, sense[row], float(rows.b[row]), v, v, v)
    return added


def _add_cone(model: Any, cone: Any, v: Any) -> Any:
    """Add ``A v - b`` in the second-order cone by columns equal to it; return these equations."""
    size = len(cone.b)
    lower = np.full(size, -np.inf)
    lower[0] = 0.0
    image = model.addMVar(size, lb=lower)
    matrix = sp.csr_matrix(sp.hstack([sp.csr_matrix(cone.A), -sp.eye_array(size)]))
    both = gp.concatenate([v, image])
    equations = model.addMConstr(matrix, both, np.full(size, GRB.EQUAL), cone.b)
    form = np.ones(size)
    form[0] = -1.0
    model.addMQConstr(sp.diags_array(form), None, GRB.LESS_EQUAL, 0.0, image, image, None)
    return equations


class _Watch:
    """Reports each better point at once and, a few times a second, the state of the search."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._last = -np.inf
        self._best: float | None = None
        self.error: BaseException | None = None

    def __call__(self, model: Any, where: int) -> None:
        if where != GRB.Callback.MIP or self.error is not None:
            return
        seconds = model.cbGet(GRB.Callback.RUNTIME)
        best = _known(model.cbGet(GRB.Callback.MIP_OBJBST))
        if best == self._best and seconds - self._last < _SILENCE:
            return
        self._best = best
        self._last = seconds
        bound = _known(model.cbGet(GRB.Callback.MIP_OBJBND))
        nodes = int(model.cbGet(GRB.Callback.MIP_NODCNT))
        try:
            if self._progress(Progress(seconds, best, bound, nodes)):
                model.terminate()
        except Exception as error:
            # Kept until Gurobi has returned: an exception must not unwind through it.
            self.error = error
            model.terminate()


def _known(value: float) -> float | None:
    return float(value) if abs(value) < _HUGE else None
