"""A valid inequality that joins a linear follower's answer and its multipliers at the root."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Monomials, Rows
from bilevel.problem.standard import StandardForm


def root_inequality(form: StandardForm, k: int, multipliers: Array, n: int) -> Rows:
    r"""Return the primal-dual inequality of follower ``k``, or no rows where it has none.

    Strong duality of ``min {d'y : A y <= b - C x}`` is ``d'y + lam'(b - C x) = 0``. With
    ``chi_i`` an upper bound of ``(C x)_i`` over the leader's box and ``lam >= 0``,

        d'y + lam'(b - chi) <= 0

    is linear and holds for every best answer. Without it the relaxation's multipliers have no
    influence on its answer before pairs are decided.

    Parameters
    ----------
    form
        The problem.
    k
        Index of the follower.
    multipliers
        Columns of its multipliers.
    n
        Number of columns of the program.

    Notes
    -----
    There is none for followers with a quadratic objective, products with other columns, equations
    that contain others' columns, or where the box is not finite.

    References
    ----------
    Kleinert, Labbe, Plein and Schmidt (2021), *Optimization Letters* 15.
    """
    follower = form.followers[k]
    nothing, own = Rows.empty(n), follower.columns
    if not follower.is_linear or len(follower.rows.products) or follower.objective.P[own].nnz:
        return nothing
    others = follower.rows.A.tocoo()
    mask = np.zeros(form.n, bool)
    mask[own] = True
    outside = ~mask[others.col]
    row, column, value = others.row[outside], others.col[outside], others.data[outside]
    bound = np.where(value > 0, form.columns.upper[column], form.columns.lower[column])
    if len(row) == 0 or not np.isfinite(bound).all() or follower.rows.equality[row].any():
        return nothing
    chi = np.bincount(row, value * bound, len(follower.rows))
    linear = np.zeros(n)
    linear[own] = follower.objective.c[own]
    linear[multipliers] += follower.rows.b - chi
    return Rows(
        sp.csr_array(linear[None, :]),
        np.zeros(1),
        np.zeros(1, bool),
        Monomials.empty(),
        (f"primal-dual[{follower.name}]",),
    )
