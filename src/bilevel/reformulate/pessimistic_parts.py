"""The pieces of a dualized worst case: dual rows, the homogenised follower, the dual value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Monomials, Rows
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.reformulation import stationarity
from bilevel.response.response import is_nash
from bilevel.structure import Stance


def split(
    form: StandardForm, row: Rows, r: int
) -> tuple[tuple[Array, Monomials], list[tuple[Array, Array, Array, Array]]]:
    """Return the row's terms without follower columns, and each follower's cost.

    A cost is ``(constant (n_k,), own position, leader column, value)``: the last three give
    ``cost[own] += value * w[leader]``.
    """
    line = row.A[[r]].toarray().ravel()
    mask = np.zeros(len(line), bool)
    mask[: form.n] = form.follower_mask
    terms = row.products
    inside = mask[terms.factors].any(axis=1) if len(terms) else np.zeros(0, bool)
    outside = Monomials(terms.row[~inside], terms.factors[~inside], terms.value[~inside])
    remaining = (np.where(mask, 0.0, line), outside)
    costs = []
    for follower in form.followers:
        position = np.full(len(line), -1)
        position[follower.columns] = np.arange(len(follower.columns))
        own = [np.empty(0, int)]
        leader = [np.empty(0, int)]
        value = [np.empty(0)]
        for side in range(2):
            here = position[terms.factors[:, side]] >= 0
            own.append(position[terms.factors[here, side]])
            leader.append(terms.factors[here, 1 - side])
            value.append(terms.value[here])
        costs.append(
            (
                line[follower.columns],
                np.concatenate(own),
                np.concatenate(leader),
                np.concatenate(value),
            )
        )
    return remaining, costs


def dual_rows(
    form: StandardForm, k: int, lam: Array, t: int, cost: tuple[Array, ...], n: int
) -> Rows:
    """Return ``A(x)'lam + t d(x) = c(x)``."""
    follower = form.followers[k]
    base = stationarity(follower, lam, n)
    constant, own, leader, value = cost
    # ``stationarity`` says d(x) + A(x)'lam = 0: move d under t and c to the right.
    d = follower.objective.c[follower.columns]
    cross = follower.objective.P[follower.columns].tocoo()
    count = len(follower.columns)
    gradient = sp.csr_array((cross.data, (cross.row, cross.col)), shape=(count, n))
    change = sp.coo_array(
        (
            np.concatenate([d, -value]),
            (np.concatenate([np.arange(count), own]), np.concatenate([np.full(count, t), leader])),
        ),
        shape=(count, n),
    )
    A = sp.csr_array(base.A - gradient + change)
    factors = np.column_stack([np.full(cross.nnz, t), cross.col])
    products = Monomials.collect(
        np.concatenate([base.products.row, cross.row]),
        np.concatenate([base.products.factors, factors]),
        np.concatenate([base.products.value, cross.data]),
    )
    return Rows(A, constant, base.equality, products, base.names)


def homogenised(form: StandardForm, k: int, copy: Array, t: int, n: int) -> Rows:
    """Return ``A(x) v - t b(x) <= 0``."""
    follower = form.followers[k]
    rows = follower.rows
    own = follower.columns
    position = np.full(form.n, -1)
    position[own] = np.arange(len(own))
    entries = rows.A.tocoo()
    inside = position[entries.col] >= 0
    column = np.concatenate([copy[position[entries.col[inside]]], np.full(len(rows), t)])
    row = np.concatenate([entries.row[inside], np.arange(len(rows))])
    value = np.concatenate([entries.data[inside], -rows.b])
    A = sp.csr_array(sp.coo_array((value, (row, column)), shape=(len(rows), n)))
    outside = ~inside
    row = [entries.row[outside]]
    factors = [np.column_stack([np.full(outside.sum(), t), entries.col[outside]])]
    value = [entries.data[outside]]
    terms = rows.products
    for side in range(2):
        here = position[terms.factors[:, side]] >= 0
        row.append(terms.row[here])
        factors.append(
            np.column_stack(
                [copy[position[terms.factors[here, side]]], terms.factors[here, 1 - side]]
            )
        )
        value.append(terms.value[here])
    products = Monomials.collect(
        np.concatenate(row), np.concatenate(factors).reshape(-1, 2), np.concatenate(value)
    )
    return Rows(A, np.zeros(len(rows)), rows.equality, products, rows.names)


def dual_value(
    form: StandardForm, k: int, lam: Array, copy: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return the linear and bilinear terms of ``lam'b(x) + d(x)'v``."""
    follower = form.followers[k]
    own = follower.columns
    rows = follower.rows
    mask = np.zeros(form.n, bool)
    mask[own] = True
    linear = (
        np.concatenate([lam, copy]),
        np.concatenate([rows.b, follower.objective.c[own]]),
    )
    entries = rows.A.tocoo()
    outside = ~mask[entries.col]
    cross = follower.objective.P[own].tocoo()
    factors = np.concatenate(
        [
            np.column_stack([lam[entries.row[outside]], entries.col[outside]]),
            np.column_stack([copy[cross.row], cross.col]),
        ]
    )
    return linear, (factors, np.concatenate([-1.0 * entries.data[outside], cross.data]))


def objective_row(form: StandardForm, mask: Array, n: int, worst: int | None = None) -> Rows:
    """Return the row ``F's terms with follower columns - worst <= 0`` over ``n`` columns."""
    linear = np.zeros(n)
    linear[: form.n] = np.where(mask, form.objective.c, 0.0)
    if worst is not None:
        linear[worst] = -1.0
    cross = form.objective.P[np.flatnonzero(mask)].tocoo()
    factors = np.column_stack([np.flatnonzero(mask)[cross.row], cross.col])
    products = Monomials.collect(np.zeros(cross.nnz, int), factors, cross.data)
    return Rows(sp.csr_array(linear[None, :]), np.zeros(1), np.zeros(1, bool), products, ("worst",))


def reasons_against(form: StandardForm) -> list[str]:
    """Return why the worst response of a problem cannot be written exactly."""
    reasons = list(form.integer_followers)
    if form.stance is not Stance.PESSIMISTIC:
        reasons.append("The worst case is dualized for the pessimistic stance only.")
    if is_nash(form):
        reasons.append("The pessimistic problem is not defined for followers in equilibrium.")
    if form.dual_variables or form.values:
        reasons.append(
            "Followers' multipliers and values are not supported in pessimistic problems."
        )
    if not all(f.is_linear for f in form.followers):
        reasons.append("The worst case is dualized for LP followers only.")
    mask = form.follower_mask
    if form.objective.P[mask][:, mask].nnz or any(c.A[:, mask].nnz for c in form.cones):
        reasons.append("The leader's objective must be linear in the followers' variables.")
    factors = form.rows.products.factors
    if mask[factors].all(axis=1).any():
        reasons.append("The leader's constraints must be linear in the followers' variables.")
    # An epigraph that the leader minimises over responses follower by follower: the worst response
    # must be taken before that minimum, which this form does not do.
    if _epigraph_of_responses(form):
        reasons.append(
            "The leader's problem must be linear in the followers' variables (no absolute "
            "values or maxima of them)."
        )
    own_products = [_has_pure_products(form, k) for k in range(len(form.followers))]
    if any(own_products):
        reasons.append("A product of two leader variables stands in a follower's constraint.")
    return reasons


def _epigraph_of_responses(form: StandardForm) -> bool:
    """Return whether auxiliary leader columns are tied to follower columns by leader rows."""
    auxiliary = form.columns.auxiliary & ~form.follower_mask
    if not auxiliary.any():
        return False
    both = form.rows.touches(auxiliary) & form.rows.touches(form.follower_mask)
    return bool(both.any())


def _has_pure_products(form: StandardForm, k: int) -> bool:
    mask = np.zeros(form.n, bool)
    mask[form.followers[k].columns] = True
    factors = form.followers[k].rows.products.factors
    return bool((~mask[factors].any(axis=1)).any()) if len(factors) else False


def as_inequalities(rows: Rows, r: int) -> list[Rows]:
    """Return row ``r`` as one inequality, or an equation as two."""
    single = np.zeros(len(rows), bool)
    single[r] = True
    row = rows.take(single)
    if not row.equality[0]:
        return [row]
    flipped = Rows(
        -row.A,
        -row.b,
        np.zeros(1, bool),
        replace(row.products, value=-row.products.value),
        row.names,
    )
    return [replace(row, equality=np.zeros(1, bool)), flipped]


def follows_from_optimality(form: StandardForm, row: Rows) -> bool:
    """Return whether a row asks for no more of a follower than a small objective value.

    A row ``a f(y) + ... <= b`` with ``a >= 0`` that holds for one best response holds for all.
    """
    if row.products.row.size:
        return False
    line = row.A.toarray().ravel()
    for follower in form.followers:
        cost = follower.objective.c[follower.columns]
        part = line[follower.columns]
        if not part.any():
            continue
        others = np.ones(form.n, bool)
        others[follower.columns] = False
        if follower.objective.P[follower.columns][:, others].nnz:
            return False
        scale = (part @ cost) / max(float(cost @ cost), 1e-300)
        if scale < 0 or not np.allclose(part, scale * cost, rtol=1e-12, atol=1e-12):
            return False
    return True
