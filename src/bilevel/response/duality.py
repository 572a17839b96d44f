"""What multipliers prove about a convex program's value, whoever found them."""

from __future__ import annotations

import numpy as np

from bilevel.problem.cones import into_dual
from bilevel.problem.functions import Array
from bilevel.program import Program


def weak_bound(program: Program, v: Array, duals: Array, cone_duals: tuple[Array, ...]) -> float:
    r"""Return a lower bound on the value of ``min f(v)`` with rows and cones, from multipliers.

    For any ``v``, ``lam`` nonnegative on inequalities and ``z`` in the dual cones, every feasible
    point is worth at least

        f(v) + lam'(A v - b) - z'(C v - d) - |grad f + A'lam - C'z| dist

    where ``dist`` is its distance from ``v``. Multipliers are first moved into their cones.

    Parameters
    ----------
    program
        Convex, without bounds on columns.
    v
        Where ``f`` is linearized, shape ``(n,)``.
    duals, cone_duals
        Multipliers of rows and cones.

    Notes
    -----
    Nothing bounds ``dist``; the size of ``v`` stands for it. Where the residual is not tiny the
    bound is therefore poor, and a point that relies on it is refused.
    """
    rows = program.rows
    objective = program.objective
    lam = np.where(rows.equality, duals, np.maximum(duals, 0.0))
    residual = objective.P @ v + objective.c + rows.A.T @ lam
    bound = objective.evaluate(v) + float(lam @ rows.evaluate(v))
    for cone, given in zip(program.cones, cone_duals, strict=True):
        z = into_dual(given, cone.kind)
        residual = residual - cone.A.T @ z
        bound -= float(z @ (cone.A @ v - cone.b))
    return bound - float(abs(residual).sum()) * max(1.0, float(abs(v).max(initial=0.0)))
