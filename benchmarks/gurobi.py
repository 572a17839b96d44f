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
    return "Multipliers as variables are not written." if form.prices or form.values else ""


def gurobi_sos1(form: StandardForm, limit: float, rtol: float = 1e-6) -> PeerAnswer:
    """Solve the KKT conditions with one SOS1 set per follower inequality, on one thread.

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
        return _solve(gp, form, limit, rtol)
    except gp.GurobiError as error:
        if error.errno == _TOO_LARGE:
            raise bl.UnsupportedProblem(f"Gurobi's licence: {error}") from None
        raise


@cache
def _environment() -> Any:
    """Gurobi's environment, which its users make once per process."""
    import gurobipy as gp

    return gp.Env(params={"OutputFlag": 0})


def _solve(gp: Any, form: StandardForm, limit: float, rtol: float) -> PeerAnswer:
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

        model.optimize(watch)
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
    """Write a problem into a model; return the columns of the bilevel problem."""
    columns = form.columns
    kinds = np.where(columns.integer, gp.GRB.INTEGER, gp.GRB.CONTINUOUS)
    w = model.addMVar(form.n, lb=columns.lower, ub=columns.upper, vtype=kinds)
    cost = form.objective
    model.setObjective(
        0.5 * (w @ sp.csr_matrix(cost.P) @ w) + cost.c @ w + cost.constant
        if cost.P.nnz
        else cost.c @ w + cost.constant
    )
    _rows(model, form.rows, w)
    for follower in form.followers:
        rows, own = follower.rows, follower.columns
        low = np.where(rows.equality, -gp.GRB.INFINITY, 0.0)
        lam = model.addMVar(len(rows), lb=low)
        slack = model.addMVar(len(rows), ub=np.where(rows.equality, 0.0, gp.GRB.INFINITY))
        if len(rows):
            model.addConstr(sp.csr_matrix(rows.A) @ w + slack == rows.b)
        gradient = sp.csr_matrix(follower.objective.P[own])
        transposed = sp.csr_matrix(rows.A[:, own].T)
        model.addConstr(gradient @ w + transposed @ lam == -follower.objective.c[own])
        for i in np.flatnonzero(~rows.equality):
            model.addSOS(gp.GRB.SOS_TYPE1, [lam[int(i)].item(), slack[int(i)].item()])
    return w


def _rows(model: Any, rows: Any, w: Any) -> None:
    for equality in (False, True):
        pick = rows.equality == equality
        if pick.any():
            left = sp.csr_matrix(rows.A[pick]) @ w
            model.addConstr(left == rows.b[pick] if equality else left <= rows.b[pick])


def _known(value: float) -> float | None:
    return float(value) if abs(value) < 1e99 else None
