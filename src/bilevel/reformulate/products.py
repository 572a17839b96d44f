"""Products with a binary factor, written exactly without products."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Monomials, Objective, Rows
from bilevel.problem.standard import is_convex
from bilevel.reformulate.builder import Builder
from bilevel.reformulate.encodings import AbstractEncoding


class Linearizer:
    """Replaces ``binary * column`` by a column of its own, each product once.

    With ``p = k * v`` two gates say it exactly and without a bound: ``p = 0`` if ``k = 0``, and
    ``v - p = 0`` if ``k = 1``.

    Parameters
    ----------
    builder
        Where columns and gates are added.
    encoding
        Writes the gates.
    """

    def __init__(self, builder: Builder, encoding: AbstractEncoding) -> None:
        self._builder = builder
        self._encoding = encoding
        self._known: dict[tuple[int, int], int] = {}

    def rows(self, rows: Rows) -> Rows:
        """Return rows whose products with a binary are linear columns, over all columns so far."""
        terms = rows.products
        if not self._encoding.linearizes or not len(terms):
            return rows
        binary = np.array([[self._builder.is_binary(int(c)) for c in f] for f in terms.factors])
        has = binary.any(axis=1)
        if not has.any():
            return rows
        column = np.array([self._column(f) for f in terms.factors[has]])
        n = len(self._builder)
        A = rows.pad(n).A + sp.coo_array(
            (terms.value[has], (terms.row[has], column)), shape=(len(rows), n)
        )
        kept = Monomials(terms.row[~has], terms.factors[~has], terms.value[~has])
        return replace(rows, A=sp.csr_array(A), products=kept)

    def objective(self, objective: Objective) -> Objective:
        """Return a nonconvex objective with its binary products linear, over all columns."""
        if not self._encoding.linearizes or objective.is_linear or is_convex(objective):
            return objective
        upper = sp.triu(objective.P).tocoo()
        keep, terms = np.ones(upper.nnz, bool), []
        for t, (i, j, value) in enumerate(zip(upper.row, upper.col, upper.data, strict=True)):
            if self._builder.is_binary(int(i)) or self._builder.is_binary(int(j)):
                keep[t] = False
                # The diagonal carries x*x/2, and x*x = x for a binary.
                terms.append((i, 0.5 * value) if i == j else (self._column((i, j)), value))
        n = len(self._builder)
        half = sp.coo_array(
            (upper.data[keep], (upper.row[keep], upper.col[keep])), shape=(n, n)
        ).tocsr()
        square = sp.csr_array(half + half.T - sp.diags_array(half.diagonal()))
        c = np.concatenate([objective.c, np.zeros(n - len(objective.c))])
        for column, value in terms:
            c[column] += value
        return replace(objective, P=square, c=c)

    def _column(self, factors: Array | tuple[int, int]) -> int:
        first, second = (int(c) for c in factors)
        builder = self._builder
        k, v = (first, second) if builder.is_binary(first) else (second, first)
        if k == v:
            return k
        if (k, v) not in self._known:
            low, high = builder.bounds(v)
            name = f"{builder.names[k]}*{builder.names[v]}"
            low, high = min(low, 0.0), max(high, 0.0)
            on = builder.column(name, low, high, recipe=lambda w: w[k] * w[v])
            off = builder.column(f"not {name}", low, high, recipe=lambda w: w[v] - w[on])
            builder.row([v, on, off], [1.0, -1.0, -1.0], 0.0, name, equality=True)
            self._encoding.gate(builder, k, 0, on, f"{name}=0")
            self._encoding.gate(builder, k, 1, off, name)
            self._known[k, v] = on
        return self._known[k, v]
