"""The pieces of a dualized worst case: dual rows, the homogenised follower, the dual value."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Monomials, Rows
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.reformulation import stationarity


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
    rest = (np.where(mask, 0.0, line), outside)
    costs = []
    for follower in form.followers:
        position = np.full(len(line), -1)
        position[follower.columns] = np.arange(len(follower.columns))
        own, leader, value = [np.empty(0, int)], [np.empty(0, int)], [np.empty(0)]
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
    return rest, costs


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
    rows, own = follower.rows, follower.columns
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
    own, rows = follower.columns, follower.rows
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
