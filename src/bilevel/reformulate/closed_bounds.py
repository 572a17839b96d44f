"""Bounds on multipliers in closed form, for followers of a special structure.

Where the rows of a follower cancel, its multipliers are unbounded as a set, and still there may be
a bounded vector of best multipliers for every leader decision. One is enough, as long as the
leader does not use the multipliers itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.mccormick import extremes, relaxation

_ENTRY = 1e-12


@dataclass(frozen=True)
class _Matrix:
    """A follower's rows over its own columns, entry by entry, and the range of its gradient."""

    row: Array
    column: Array
    value: Array
    shape: tuple[int, int]
    low: Array
    high: Array

    @property
    def entries(self) -> Array:
        """Number of entries of each row."""
        return np.bincount(self.row, minlength=self.shape[0])


def packing_bounds(form: StandardForm, k: int) -> tuple[Array, str] | None:
    r"""Bound the multipliers of a packing follower; ``None`` if it is none.

    After variables are shifted to their lower bounds ``l`` (and mirrored where it is the upper
    bound that plays this part) a packing follower reads

        maximize  r'y   subject to  A y <= b(x),  y >= 0        with A >= 0

    Knapsack, multiple choice and packing interdiction are of this kind, the interdiction row
    ``y_j <= u_j (1 - x_j)`` being one of ``A y <= b``. For a convex QP follower ``r`` is minus its
    gradient at a best response, for which a range is found by two LPs per variable over both
    levels' constraints.

    With ``t_i = max_j max(r_j, 0) / a_ij`` over the ``j`` with ``a_ij > 0`` there are best
    multipliers with

        lam_i <= t_i,      s_j <= sum_i a_ij t_i - r_j  (rows of several entries; or 0)

    where ``s_j`` belongs to ``y_j >= 0``. For the interdiction row of item ``j`` that is
    ``max(r_j, 0)``: an item cannot be worth more to the follower than its own reward.

    Proof. A decision ``x`` to which the follower has a response has ``b(x) >= 0``, since ``A >= 0``
    and ``y >= 0``. Best multipliers minimize ``b(x)'lam`` over ``A'lam - s = r``, ``lam, s >= 0``.
    Take any. If ``lam_i > t_i``, lower it to ``t_i`` and each ``s_j`` with it: where
    ``a_ij > 0``, ``s_j = (A'lam)_j - r_j >= a_ij t_i - r_j >= 0`` still holds, and the value does
    not rise, as ``b_i(x) >= 0``. So the multipliers are best ones again; row after row, the first
    bound follows. If ``s_j > 0`` and a row of the one entry ``j`` has ``lam_i > 0``, lower both
    until one is zero, for the same reason; then ``s_j > 0`` leaves only rows of several entries in
    ``s_j = (A'lam)_j - r_j``. Of several rows ``y_j >= l`` only the tightest needs a multiplier.

    Returns
    -------
    tuple or None
        Bounds for all rows, shape ``(m,)``, and their origin.
    """
    rows = form.followers[k].rows
    if rows.equality.any() or rows.products.row.size:
        return None
    sides = _sides(matrix := _shape(form, k))
    if sides is None:
        return None
    sign = sides
    matrix = _with_gradient(form, k, matrix)
    if matrix is None:
        return None
    reward = np.where(sign > 0, -matrix.low, matrix.high)
    directed = matrix.value * sign[matrix.column]
    packs = directed > 0
    worth = np.maximum(reward, 0.0)[matrix.column] / abs(matrix.value)
    bounds = np.zeros(len(rows))
    np.maximum.at(bounds, matrix.row[packs], worth[packs])
    several = packs & (matrix.entries[matrix.row] > 1)
    price = directed[several] * bounds[matrix.row[several]]
    price = np.bincount(matrix.column[several], price, matrix.shape[1])
    loss = np.where(sign > 0, matrix.high, -matrix.low)
    floor = np.maximum(price + loss, 0.0)[matrix.column] / abs(matrix.value)
    bounds[matrix.row[~packs]] = floor[~packs]
    return bounds, "closed form of a packing follower"


def network_bounds(form: StandardForm, k: int) -> tuple[Array, str] | None:
    r"""Bound the multipliers of a network follower; ``None`` if it is none.

    Each row is either a bound on one variable or, scaled to entries ``1`` and ``-1``, part of the
    incidence matrix of a directed graph: no variable enters more than two such rows, and two it
    enters with opposite signs. With ``g`` the follower's gradient (its costs, for an LP) and rows
    scaled to entries of size one, there are best multipliers with

        |lam_i| <= |g_1| + ... + |g_n|        for every row

    Proof. At a best response the multipliers solve ``A'lam = -g``, ``lam_i >= 0`` for inequalities,
    at least cost; where there is a best solution there is a basic one, in which the rows ``B`` of
    nonzero multipliers are linearly independent. So ``S'lam_B = -g_T`` for a nonsingular square
    part ``S`` of ``A_B``. The matrix is totally unimodular (Poincare; rows of one entry keep it
    so), hence ``S`` has determinant 1 or -1 and its inverse, by Cramer's rule, entries in
    ``{-1, 0, 1}``. For a QP the gradient is the same at all best responses, and its multipliers are
    those of the LP with that gradient as costs.

    Returns
    -------
    tuple or None
        Bounds for all rows, shape ``(m,)``, and their origin.

    References
    ----------
    Schrijver (1986), *Theory of Linear and Integer Programming*, sections 19.3 and 19.4.
    """
    rows = form.followers[k].rows
    if rows.products.row.size:
        return None
    matrix = _shape(form, k)
    size = np.zeros(matrix.shape[0])
    np.maximum.at(size, matrix.row, abs(matrix.value))
    several = matrix.entries[matrix.row] > 1
    unit = matrix.value / size[matrix.row]
    if (abs(abs(unit) - 1.0) > _ENTRY)[several].any():
        return None
    sign = np.sign(unit[several])
    column = matrix.column[several]
    for side in (1.0, -1.0):
        if (np.bincount(column[sign == side], minlength=matrix.shape[1]) > 1).any():
            return None
    matrix = _with_gradient(form, k, matrix)
    if matrix is None:
        return None
    total = np.maximum(abs(matrix.low), abs(matrix.high)).sum()
    bounds = np.divide(total, size, out=np.zeros(len(size)), where=size > 0)
    return bounds, "closed form of a network follower"


def _sides(matrix: _Matrix) -> Array | None:
    """Return 1 or -1 per column such that rows of several entries have the sign of their columns.

    ``None`` if there is no such choice, or a column has no bound on the other side.
    """
    n = matrix.shape[1]
    single = matrix.entries[matrix.row] == 1
    positive = np.bincount(matrix.column[~single & (matrix.value > 0)], minlength=n) > 0
    negative = np.bincount(matrix.column[~single & (matrix.value < 0)], minlength=n) > 0
    below = np.bincount(matrix.column[single & (matrix.value < 0)], minlength=n) > 0
    above = np.bincount(matrix.column[single & (matrix.value > 0)], minlength=n) > 0
    if (positive & negative).any():
        return None
    sign = np.where(positive | (~negative & below), 1.0, -1.0)
    return sign if np.where(sign > 0, below, above).all() else None


def _shape(form: StandardForm, k: int) -> _Matrix:
    follower = form.followers[k]
    own = follower.rows.A[:, follower.columns].tocoo()
    keep = abs(own.data) > _ENTRY
    nothing = np.zeros(own.shape[1])
    return _Matrix(
        own.row[keep], own.col[keep], own.data[keep], (own.shape[0], own.shape[1]), nothing, nothing
    )


def _with_gradient(form: StandardForm, k: int, matrix: _Matrix) -> _Matrix | None:
    """Add the gradient's range over both levels' constraints; ``None`` where it is unbounded."""
    follower = form.followers[k]
    curved = sp.csr_array(follower.objective.P[follower.columns])
    constant = follower.objective.c[follower.columns]
    low = constant.copy()
    high = constant.copy()
    moving = np.flatnonzero(np.diff(curved.indptr))
    if len(moving):
        program = relaxation(form).program
        lines = np.zeros((len(moving), program.n))
        lines[:, : form.n] = curved[moving].toarray()
        found = extremes(program, [*lines, *-lines])
        if any(value is None for value in found):
            return None
        change = np.array(found, float)
        low[moving] += change[: len(moving)]
        high[moving] -= change[len(moving) :]
    return _Matrix(matrix.row, matrix.column, matrix.value, matrix.shape, low, high)
