"""A random problem in CVXPY, as a user would write it."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np

import bilevel as bl
from benchmarks.generators import RandomProblem


def to_problem(p: RandomProblem) -> bl.Problem:
    """Return the library's problem; variables are called ``switch``, ``x`` and ``y``."""
    x, y = _leader(p), cp.Variable(p.ny, name="y")
    z = cp.hstack([x, y])
    rows = _bounds(p, x)
    for equality, relation in ((False, _at_most), (True, _equals)):
        pick = p.g_equal == equality
        if pick.any():
            rows.append(relation(p.G[pick] @ z, p.g[pick]))
    follower = bl.Follower(
        _objective(p.follower_maximizes, _follower_cost(p, x, y)),
        _follower_rows(p, x, y),
        variables=[y],
        name="follower",
    )
    cost = p.c @ z if not p.Q.any() else p.c @ z + 0.5 * cp.quad_form(z, cp.psd_wrap(p.Q))
    stance = "pessimistic" if p.pessimistic else "optimistic"
    return bl.Problem(_objective(p.leader_maximizes, cost), rows, [follower], stance)


def point(p: RandomProblem, z: np.ndarray) -> dict[str, Any]:
    """Return values by variable name, for ``bl.verify``."""
    values: dict[str, Any] = {"y": z[p.nx :]}
    if p.binary.any():
        values["switch"] = z[: p.nx][p.binary]
    if not p.binary.all():
        values["x"] = z[: p.nx][~p.binary]
    return values


def _leader(p: RandomProblem) -> Any:
    """Return the leader's vector; binaries come first."""
    parts = []
    if p.binary.any():
        parts.append(cp.Variable(int(p.binary.sum()), boolean=True, name="switch"))
    if not p.binary.all():
        parts.append(cp.Variable(int((~p.binary).sum()), name="x"))
    return cp.hstack(parts) if len(parts) > 1 else parts[0]


def _bounds(p: RandomProblem, x: Any) -> list[Any]:
    # Binaries too: a fixed one has equal bounds.
    low, high = np.isfinite(p.lower), np.isfinite(p.upper)
    rows = [x[low] >= p.lower[low]] if low.any() else []
    return rows + ([x[high] <= p.upper[high]] if high.any() else [])


def _follower_cost(p: RandomProblem, x: Any, y: Any) -> Any:
    cost = (p.cost_scale * p.q) @ y
    if p.P.any():
        cost = cost + 0.5 * cp.quad_form(y, cp.psd_wrap(p.cost_scale * p.P))
    if p.R.any():
        cost = cost + x @ ((p.cost_scale * p.R) @ y)
    return cost


def _follower_rows(p: RandomProblem, x: Any, y: Any) -> list[Any]:
    rows = []
    for equality, relation in ((False, _at_most), (True, _equals)):
        pick = p.equal == equality
        if not pick.any():
            continue
        scale = p.scale[pick]
        left = (scale[:, None] * p.A[pick]) @ x + (scale[:, None] * p.B[pick]) @ y
        for i in np.flatnonzero(p.T[:, pick].any(axis=(1, 2))):
            left = left + x[int(i)] * ((scale[:, None] * p.T[i, pick]) @ y)
        rows.append(relation(left, scale * p.b[pick]))
    return rows


def _objective(maximizes: bool, cost: Any) -> Any:
    return cp.Maximize(-cost) if maximizes else cp.Minimize(cost)


def _at_most(left: Any, right: Any) -> Any:
    return left <= right


def _equals(left: Any, right: Any) -> Any:
    return left == right
