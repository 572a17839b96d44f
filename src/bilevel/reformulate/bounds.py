"""Bounds on multipliers and slacks that are proved, or a refusal that says why there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.backends import Purpose
from bilevel.errors import UnsupportedProblem
from bilevel.problem.functions import Array, Objective, Rows
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.closed_bounds import network_bounds, packing_bounds
from bilevel.reformulate.mccormick import MARGIN, extremes, relaxation, unit
from bilevel.response.best_response import continuous_program, solve_continuous


def slack_bounds(form: StandardForm, k: int) -> tuple[Array, str]:
    """Return upper bounds of follower ``k``'s slacks, one LP per inequality row.

    The LPs run over the high-point relaxation: every constraint of both levels, products of
    variables replaced by columns between McCormick's planes.

    Raises
    ------
    UnsupportedProblem
        If a slack is unbounded there.
    """
    relaxed = relaxation(form)
    rows = relaxed.rows[k]
    asked = np.flatnonzero(~rows.equality)
    found = extremes(relaxed.program, list(rows.A[asked].toarray()))
    bounds = np.zeros(len(rows))
    for r, value in zip(asked.tolist(), found, strict=True):
        if value is None:
            raise _refusal(form, k, r, "slack", "nothing bounds it")
        bounds[r] = _widen(rows.b[r] - value)
    return bounds, "one LP per slack over both levels' constraints"


def multiplier_bounds(form: StandardForm, k: int, needed: Array | None = None) -> tuple[Array, str]:
    """Return upper bounds of follower ``k``'s inequality multipliers, and how they were derived.

    Three derivations are tried in this order.

    1. One LP per multiplier over every constraint of both levels together with the follower's
       stationarity. It bounds *every* multiplier, which is possible only if no nonnegative
       combination of the follower's rows cancels (the recession cone of its multipliers is
       trivial in the coordinates asked for); one LP tests that, and names the rows if it fails.
    2. ``packing_bounds``, for packing and interdiction followers, in closed form.
    3. ``network_bounds``, for followers whose matrix is that of a network, in closed form.

    The last two bound *some* best multipliers. They are not used where the leader uses the
    follower's multipliers, since it may then prefer others.

    Parameters
    ----------
    form
        The problem.
    k
        Index of the follower.
    needed
        Which rows need a bound, shape ``(m,)``; all if left out. The others get infinity.

    Raises
    ------
    UnsupportedProblem
        If a multiplier is unbounded, or the leader scales the follower's quadratic term.
    """
    follower = form.followers[k]
    if follower.objective.cubic.row.size:
        raise UnsupportedProblem(
            f"No bound on the multipliers of follower {follower.name!r} is derived while a leader "
            f"variable scales its quadratic term. Use SOS1, or give BigM(multiplier=...)."
        )
    rows = follower.rows
    asked = ~rows.equality if needed is None else ~rows.equality & needed
    if not asked.any():
        return np.full(len(rows), 0.0 if needed is None else np.inf), "no bound is needed"
    try:
        return _by_programs(form, k, asked)
    except UnsupportedProblem:
        if any(dual.follower == k for dual in form.dual_variables):
            raise
        for derive in (packing_bounds, network_bounds):
            if (found := derive(form, k)) is not None:
                bounds, origin = found
                return np.array([_widen(bound) for bound in bounds]), origin
        raise


def _by_programs(form: StandardForm, k: int, asked: Array) -> tuple[Array, str]:
    if not form.followers[k].rows.products.row.size:
        _check_recession(form, k, asked)
    relaxed = relaxation(form, k)
    columns = relaxed.multipliers[asked]
    found = extremes(relaxed.program, [unit(relaxed.program.n, c, -1.0) for c in columns])
    bounds = np.full(len(asked), np.inf)
    for r, value in zip(np.flatnonzero(asked).tolist(), found, strict=True):
        if value is None:
            raise _refusal(form, k, r, "multiplier", "it is unbounded for some leader decisions")
        bounds[r] = _widen(-value)
    return bounds, "trivial recession cone, then one LP per multiplier"


def _check_recession(form: StandardForm, k: int, asked: Array) -> None:
    """Find ``r >= 0`` with ``A'r = 0`` (free for equations): a ray along which multipliers grow.

    One LP: the sum of the coordinates asked for, each at most 1, is zero at best if and only if
    each of them is zero on the whole cone.
    """
    follower = form.followers[k]
    rows = follower.rows
    m = len(rows)
    transposed = sp.csr_array(rows.A[:, follower.columns].T)
    count = transposed.shape[0]
    equations = replace(Rows.empty(m), A=transposed, b=np.zeros(count))
    equations = replace(equations, equality=np.ones(count, bool), names=("cancels",) * count)
    objective = Objective(sp.csr_array((m, m)), -asked.astype(float))
    lower = np.where(rows.equality, -np.inf, 0.0)
    upper = np.where(asked, 1.0, np.inf)
    program = continuous_program(objective, equations, lower, upper)
    raw, _ = solve_continuous(program, Purpose.CONVEX)
    if raw is None or raw.v is None:
        raise UnsupportedProblem(
            f"Bounds on multipliers of follower {follower.name!r} could not be tested. Use SOS1."
        )
    ray = np.flatnonzero(abs(raw.v) > 1e-7)
    if (raw.v[asked] > 1e-7).any():
        first = np.flatnonzero(asked & (raw.v > 1e-7))[0]
        others = [rows.names[r] for r in ray if r != first]
        beside = f" and {', '.join(others[:4])}" if others else ""
        raise UnsupportedProblem(
            f"Multipliers of follower {follower.name!r} are unbounded: its rows "
            f"{rows.names[first]}{beside} cancel each other, so any multiple may be added to their "
            f"multipliers. No M is valid. Use SOS1 or Indicator on SCIP, or give "
            f"BigM(multiplier=...) at your own risk."
        )


def _widen(value: float) -> float:
    return max(value, 0.0) * (1.0 + MARGIN) + MARGIN


def _refusal(form: StandardForm, k: int, r: int, what: str, why: str) -> UnsupportedProblem:
    follower = form.followers[k]
    return UnsupportedProblem(
        f"No bound on the {what} of row {follower.rows.names[r]} of follower {follower.name!r} can "
        f"be derived: {why}. Add bounds to the variables, use SOS1 or Indicator on SCIP, or give "
        f"BigM({what}=...)."
    )
