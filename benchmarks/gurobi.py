"""A peer: KKT conditions with SOS1 sets on Gurobi, written from a problem's matrices.

Only what an expert would write by hand: no presolve, bounds or starts of this library's. Needs the
extra ``gurobi``; its size-limited licence takes 2000 columns, 200 with quadratic terms.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse as sp

import bilevel as bl
from benchmarks.peers import PeerAnswer
from bilevel.problem.standard import StandardForm

# What Gurobi says where its licence is too small.
_TOO_LARGE = 10010


def _obstacle(form: StandardForm) -> str:
    rows = [form.rows, *(follower.rows for follower in form.followers)]
    costs = [form.objective, *(follower.objective for follower in form.followers)]
    if any(len(r.products) for r in rows) or any(len(c.cubic) for c in costs) or form.cones:
        return "Products and cones are not written by this peer."
    return "Multipliers as variables are not written." if form.dual_variables or form.values else ""


def gurobi_sos1(
    form: StandardForm, limit: float, rtol: float = 1e-6, traced: bool = False
) -> PeerAnswer:
    """Solve the KKT conditions with one SOS1 set per follower inequality, on one thread.

    ``traced`` keeps incumbents and bounds, by a callback.

    Raises
    ------
    BackendNotFound
        Without gurobipy.
    UnsupportedProblem
        Where this peer does not write a problem, or the licence is too small for it.
    """
    try:
        import gurobipy as gp
    except ImportError:
        raise bl.BackendNotFound("gurobipy is not installed (extra `gurobi`).") from None
    if obstacle := _obstacle(form):
        raise bl.UnsupportedProblem(obstacle)
    try:
        return _solve(gp, form, limit, rtol, traced)
    except gp.GurobiError as error:
        if error.errno == _TOO_LARGE:
            raise bl.UnsupportedProblem(f"Gurobi's licence: {error}") from None
        raise


@cache
def _environment() -> Any:
    """Gurobi's environment, which its users make once per process."""
    import gurobipy as gp

    return gp.Env(params={"OutputFlag": 0})


def _solve(gp: Any, form: StandardForm, limit: float, rtol: float, traced: bool) -> PeerAnswer:
    with gp.Model(env=_environment()) as model:
        began = time.perf_counter()
        w = _write(gp, model, form)
        for name, value in (("Threads", 1), ("TimeLimit", limit), ("MIPGap", rtol)):
            model.setParam(name, value)
        trace: list[tuple[float, float | None, float | None]] = []

        def watch(model: Any, where: int) -> None:
            if where == gp.GRB.Callback.MIP:
                best = model.cbGet(gp.GRB.Callback.MIP_OBJBST)
                bound = model.cbGet(gp.GRB.Callback.MIP_OBJBND)
                if not trace or trace[-1][1:] != (_known(best), _known(bound)):
                    trace.append((time.perf_counter() - began, _known(best), _known(bound)))

        model.optimize(watch if traced else None)
        claims = {
            gp.GRB.OPTIMAL: "OPTIMAL",
            gp.GRB.INFEASIBLE: "INFEASIBLE",
            gp.GRB.UNBOUNDED: "UNBOUNDED",
        }
        claim, found = claims.get(model.Status, "NOT_FOUND"), model.SolCount > 0
        bound = _known(model.ObjBound) if claim in ("OPTIMAL", "NOT_FOUND") else None
        return PeerAnswer(
            "FEASIBLE" if found and claim == "NOT_FOUND" else claim,
            np.array(w.X) if found else None,
            float(model.ObjVal) if found else None,
            bound,
            f"status {model.Status}",
            int(model.NodeCount),
            (*trace, (time.perf_counter() - began, model.ObjVal if found else None, bound)),
        )


def _write(gp: Any, model: Any, form: StandardForm) -> Any:
    """Write a problem in three matrix calls; return the columns of the bilevel problem.

    Columns are ``w`` and, for each follower, multipliers and slacks.
    """
    columns, followers = form.columns, form.followers
    sizes = [len(follower.rows) for follower in followers]
    total = form.n + 2 * sum(sizes)
    low, high = np.full(total, -np.inf), np.full(total, np.inf)
    low[: form.n], high[: form.n] = columns.lower, columns.upper
    kinds = np.full(total, gp.GRB.CONTINUOUS)
    kinds[: form.n][columns.integer] = gp.GRB.INTEGER
    matrices, rhs = [_widen(form.rows.A, 0, total)], [form.rows.b]
    senses = [np.where(form.rows.equality, gp.GRB.EQUAL, gp.GRB.LESS_EQUAL)]
    pairs, at = [], form.n
    for follower, m in zip(followers, sizes, strict=True):
        rows, own = follower.rows, follower.columns
        lam, slack = at + np.arange(m), at + m + np.arange(m)
        low[slack], low[lam[~rows.equality]] = 0.0, 0.0
        high[slack[rows.equality]] = 0.0
        pairs += list(zip(lam[~rows.equality], slack[~rows.equality], strict=True))
        gradient, eye = follower.objective.P[own], sp.eye_array(m, format="csr")
        matrices += [
            _widen(rows.A, 0, total) + _widen(eye, at + m, total),
            _widen(gradient, 0, total) + _widen(sp.csr_array(rows.A[:, own].T), at, total),
        ]
        rhs += [rows.b, -follower.objective.c[own]]
        senses.append(np.full(m + len(own), gp.GRB.EQUAL))
        at += 2 * m
    v = model.addMVar(total, lb=low, ub=high, vtype=kinds)
    cost = form.objective
    c = np.concatenate([cost.c, np.zeros(total - form.n)])
    Q = _widen(0.5 * cost.P, 0, total)
    Q.resize((total, total))
    model.setMObjective(Q if Q.nnz else None, c, cost.constant, v, v, v, gp.GRB.MINIMIZE)
    A = sp.csr_matrix(sp.vstack(matrices))
    model.addMConstr(A, v, np.concatenate(senses), np.concatenate(rhs))
    plain = v.tolist()
    for first, second in pairs:
        model.addSOS(gp.GRB.SOS_TYPE1, [plain[first], plain[second]])
    return v[: form.n]


def _widen(matrix: sp.csr_array, first: int, total: int) -> sp.csr_array:
    """Return a matrix moved to the columns from ``first`` on, ``total`` columns in all."""
    shape = (matrix.shape[0], total)
    return sp.csr_array((matrix.data, matrix.indices + first, matrix.indptr), shape=shape)


def _known(value: float) -> float | None:
    return float(value) if abs(value) < 1e99 else None
