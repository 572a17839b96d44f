"""Payments between leader and follower, written without products by strong duality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Objective
from bilevel.problem.standard import FollowerForm, is_convex

# Relative to the largest product: what is left is rounding.
_ROUNDING = 1e-12


def exchange(
    objective: Objective,
    followers: tuple[FollowerForm, ...],
    multipliers: list[Array],
    n: int,
) -> Objective:
    r"""Return a leader's objective with its products replaced, where that makes it convex.

    A best response ``y`` to ``x`` and its multipliers satisfy

        y'P y + x'R y + c'y + lam'b = 0        (min y'Py/2 + (R'x + c)'y : A y <= b)

    so that ``t x'R y``, such as a toll that the leader earns and the follower pays, may be written
    without products of ``x`` and ``y``.

    Parameters
    ----------
    objective
        The leader's.
    followers
        The followers.
    multipliers
        For each follower the columns that hold its multipliers.
    n
        Number of columns, multipliers included.

    Returns
    -------
    Objective
        Over ``n`` columns. Its value is the leader's at every point that satisfies the optimality
        conditions of all followers, and nowhere else.

    References
    ----------
    Labbe, Marcotte and Savard (1998), *Management Science* 44 (toll setting).
    """
    if objective.is_linear or objective.cubic.row.size or is_convex(objective):
        return objective
    result = objective.pad(n)
    for follower, columns in zip(followers, multipliers, strict=True):
        result = _without_products(result, follower, columns)
    return result if is_convex(result) else objective


def _without_products(objective: Objective, follower: FollowerForm, lam: Array) -> Objective:
    own = follower.columns
    rows = follower.rows
    n = len(objective.c)
    others = np.ones(follower.objective.P.shape[0], bool)
    others[own] = False
    products = follower.objective.P[own][:, others]
    # With others' columns in its rows, products of those with multipliers would take their place.
    if follower.objective.cubic.row.size or rows.products.row.size or rows.A[:, others].nnz:
        return objective
    if not products.nnz:
        return objective
    wanted = objective.P[own][:, np.flatnonzero(others)]
    factor = float((wanted * products).sum() / (products * products).sum())
    if abs(wanted - factor * products).max() > _ROUNDING * abs(products).max() or factor == 0.0:
        return objective
    # factor times the identity of the docstring is taken off: zero at every best response.
    cross = follower.objective.P[own].tocoo()
    block = sp.coo_array((cross.data, (own[cross.row], cross.col)), shape=(n, n)).tocsr()
    c = objective.c.copy()
    c[own] -= factor * follower.objective.c[own]
    c[lam] -= factor * rows.b
    P = sp.csr_array(objective.P - factor * (block + block.T))
    P.data[abs(P.data) <= _ROUNDING * abs(objective.P).max()] = 0.0
    P.eliminate_zeros()
    return replace(objective, P=P, c=c)
