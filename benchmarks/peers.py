"""What a textbook does with an LP-LP problem: KKT conditions with one invented big M, on HiGHS.

Written directly for HiGHS, without this library. PAO 1.0.2 does the same with ``M = 1e5`` as its
default; it cannot be run beside the library because it needs NumPy < 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np

from benchmarks.generators import RandomProblem

Array = np.ndarray

_CLAIMS = {
    highspy.HighsModelStatus.kOptimal: "OPTIMAL",
    highspy.HighsModelStatus.kInfeasible: "INFEASIBLE",
    highspy.HighsModelStatus.kUnbounded: "UNBOUNDED",
}


@dataclass(frozen=True)
class PeerAnswer:
    """A peer's claim in the library's words, its point ``z = (x, y)``, value and bound."""

    claim: str
    z: Array | None
    value: float | None
    bound: float | None
    raw_status: str
    nodes: int = 0
    trace: tuple[tuple[float, float | None, float | None], ...] = ()


def can_write(p: RandomProblem) -> bool:
    """Whether the textbook's form is linear: no quadratic terms and no products."""
    return not (p.P.any() or p.Q.any() or p.has_products or p.pessimistic)


def textbook_big_m(p: RandomProblem, M: float, limit: float, rtol: float = 1e-7) -> PeerAnswer:
    r"""Solve ``KKT`` with ``lam <= M u`` and ``slack <= M (1 - u)``, ``u`` binary, by HiGHS.

    Columns are ``(x, y, lam, u)``. Tolerances are HiGHS's own, the gap is the library's.
    """
    n, m = p.nx + p.ny, len(p.b)
    inequality = np.flatnonzero(~p.equal)
    k, size = len(inequality), n + m + int((~p.equal).sum())
    scale = p.scale[:, None]
    own = np.hstack([scale * p.A, scale * p.B, np.zeros((m, m + k))])
    b, cost = p.scale * p.b, p.cost_scale * p.q
    stationary = np.hstack([np.zeros((p.ny, p.nx + p.ny)), (scale * p.B).T, np.zeros((p.ny, k))])
    pick, eye = np.eye(m)[inequality], np.eye(k)
    multiplier = np.hstack([np.zeros((k, n)), pick, -M * eye])
    slack = -own[inequality]
    slack[:, n + m :] = M * eye
    leader = np.hstack([p.G, np.zeros((len(p.g), m + k))])
    matrix = np.vstack([own, stationary, multiplier, slack, leader])
    free = np.full(m + k, np.inf)
    upper = np.concatenate([b, -cost, np.zeros(k), M - b[inequality], p.g])
    lower = np.concatenate(
        [
            np.where(p.equal, b, -free[:m]),
            -cost,
            -free[:k],
            -free[:k],
            np.where(p.g_equal, p.g, -np.inf),
        ]
    )
    low = np.concatenate(
        [p.lower, np.full(p.ny, -np.inf), np.where(p.equal, -np.inf, 0.0), np.zeros(k)]
    )
    high = np.concatenate([p.upper, np.full(p.ny + m, np.inf), np.ones(k)])
    integer = np.concatenate([p.binary, np.zeros(p.ny + m, bool), np.ones(k, bool)])
    leader_cost = np.concatenate([p.c, np.zeros(size - n)])
    return _solve(p, (leader_cost, low, high, integer), (matrix, lower, upper), limit, rtol)


def _solve(
    p: RandomProblem,
    columns: tuple[Array, Array, Array, Array],
    rows: tuple[Array, Array, Array],
    limit: float,
    rtol: float,
) -> PeerAnswer:
    cost, low, high, integer = columns
    matrix, lower, upper = rows
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("time_limit", float(limit))
    solver.setOptionValue("mip_rel_gap", rtol)
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(cost), len(lower)
    model.col_cost_, model.col_lower_, model.col_upper_ = cost, low, high
    model.row_lower_, model.row_upper_ = lower, upper
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    model.integrality_ = [kinds[int(flag)] for flag in integer]
    count = (matrix != 0).sum(axis=1)
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.num_col_, model.a_matrix_.num_row_ = len(cost), len(lower)
    model.a_matrix_.start_ = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)
    model.a_matrix_.index_ = np.nonzero(matrix)[1].astype(np.int32)
    model.a_matrix_.value_ = matrix[matrix != 0]
    solver.passModel(model)
    solver.run()
    status, info = solver.getModelStatus(), solver.getInfo()
    claim = _CLAIMS.get(status, "NOT_FOUND")
    raw = str(status).rpartition(".k")[2]
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return PeerAnswer("NOT_FOUND" if claim == "OPTIMAL" else claim, None, None, None, raw)
    z = np.array(solver.getSolution().col_value)[: p.nx + p.ny]
    bound = info.mip_dual_bound if np.isfinite(info.mip_dual_bound) else None
    value = p.sign * float(p.c @ z)
    claim = "FEASIBLE" if claim == "NOT_FOUND" else claim
    return PeerAnswer(claim, z, value, None if bound is None else p.sign * bound, raw)
