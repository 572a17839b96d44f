"""Followers of a compiled problem: their rows sorted out and their convexity checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from bilevel.errors import UnsupportedProblem
from bilevel.problem.expand import Expanded
from bilevel.problem.functions import Array, Monomials, Objective, Rows
from bilevel.problem.standard import Columns, FollowerForm, smallest_curvature


def own_rows(who: str, own: Array, level: Expanded) -> Array:
    """Return which rows contain a follower's own columns, after checking what a follower may be.

    The verdict depends on matrices only, not on right-hand sides and linear costs.

    Raises
    ------
    UnsupportedProblem
        If it is not a convex program in its own columns, with linear and conic constraints.
    """
    mask = np.zeros(level.rows.A.shape[1], bool)
    mask[own] = True
    products = level.rows.products
    both = mask[products.factors].all(axis=1) if products.row.size else np.zeros(0, bool)
    if both.any():
        number = int(level.row_constraint[products.row[both][0]])
        raise UnsupportedProblem(
            f"Constraint {number} (counted from 0) of {who} is quadratic in the follower's "
            f"own variables; a follower's constraints must be linear in them, or convex as CVXPY "
            f"writes them without squares and products (norm(y) <= 1)."
        )
    touched = level.rows.touches(mask)
    cubic = level.objective.cubic
    if cubic.row.size and mask[cubic.factors].all(axis=1).any():
        raise UnsupportedProblem(f"The objective of {who} is cubic in its own variables.")
    curvature = smallest_curvature(level.objective, own)
    if curvature < -1e-9:
        word = "concave" if level.objective.maximize else "convex"
        raise UnsupportedProblem(
            f"The objective of {who} is not {word} in its own variables (smallest relative "
            f"eigenvalue of its quadratic part: {curvature:.3g}). First-order conditions would "
            f"accept points that are not its best response."
        )
    return touched


def check_curvature(followers: Sequence[FollowerForm], columns: Columns) -> None:
    """Refuse a leader column that scales a quadratic and may make it nonconvex."""
    for follower in followers:
        cubic = follower.objective.cubic
        if not cubic.row.size:
            continue
        own = np.zeros(len(columns), bool)
        own[follower.columns] = True
        scaled = own[cubic.factors].sum(axis=1) == 2
        for scale in np.unique(cubic.factors[scaled][~own[cubic.factors[scaled]]]):
            w = np.zeros(len(columns))
            w[scale] = 1.0
            P = follower.objective.project(follower.columns, w).P
            P = P - follower.objective.project(follower.columns, np.zeros(len(columns))).P
            up, down = (Objective(sign * P, np.zeros(P.shape[0])) for sign in (1.0, -1.0))
            safe = (smallest_curvature(up) >= -1e-9 and columns.lower[scale] >= 0) or (
                smallest_curvature(down) >= -1e-9 and columns.upper[scale] <= 0
            )
            if not safe:
                raise UnsupportedProblem(
                    f"Column {columns.names[scale]} scales a quadratic term of follower "
                    f"{follower.name!r}, which is convex only for one sign of it: bound "
                    f"{columns.names[scale]} accordingly (for example nonneg=True)."
                )


def value_row(column: int, follower: FollowerForm) -> Rows:
    """Return the leader row that sets a column to the follower's objective."""
    objective = follower.objective
    if objective.cubic.row.size:
        raise UnsupportedProblem(
            f"The value of follower {follower.name!r} cannot be used by the leader while a leader "
            f"variable scales its quadratic term."
        )
    n = len(objective.c)
    sign = objective.sign
    linear = sign * objective.c
    linear[column] -= 1.0
    coo = objective.P.tocoo()
    factors = np.column_stack([coo.row, coo.col])
    products = np.full(coo.nnz, 0.5 * sign) * coo.data
    return Rows(
        sp.csr_array(linear[None, :].reshape(1, n)),
        np.array([-sign * objective.constant]),
        np.array([True]),
        Monomials.collect(np.zeros(coo.nnz, int), factors, products),
        (f"value[{follower.name}]",),
    )
