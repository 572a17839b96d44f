"""Products with a binary or bounded integer factor, written exactly without products."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Monomials, Objective, Rows
from bilevel.problem.standard import is_convex
from bilevel.reformulate.builder import Bits, Builder
from bilevel.reformulate.encodings import AbstractEncoding

# An integer column with a longer range than this keeps its products.
MOST_BITS = 16


class Linearizer:
    """Replaces ``binary * column`` by a column of its own, each product once.

    With ``p = k * v`` two gates say it exactly and without a bound: ``p = 0`` if ``k = 0``, and
    ``v - p = 0`` if ``k = 1``. A bounded integer column is its lower bound and a sum of binaries
    times powers of two, so its products are sums of such columns.

    Parameters
    ----------
    builder
        Where columns and gates are added.
    encoding
        Writes the gates.
    box
        Derived bounds of the first columns, used for their products only.
    """

    def __init__(
        self,
        builder: Builder,
        encoding: AbstractEncoding,
        box: tuple[Array, Array] | None = None,
    ) -> None:
        self._builder = builder
        self._encoding = encoding
        self._box = box
        self._known: dict[tuple[int, int], int] = {}
        self._bits: dict[int, Bits] = {}

    @property
    def bits(self) -> dict[int, Bits]:
        """The integer columns that were written in binaries."""
        return dict(self._bits)

    def rows(self, rows: Rows) -> Rows:
        """Return rows whose products with a binary are linear columns, over all columns so far."""
        if not self._encoding.linearizes or not rows.products.row.size:
            return rows
        rows = self._in_bits(rows)
        terms = rows.products
        binary = np.array([[self._builder.is_binary(int(c)) for c in f] for f in terms.factors])
        has = binary.reshape(-1, 2).any(axis=1)
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
        keep = np.ones(upper.nnz, bool)
        terms = []
        for t, (i, j, value) in enumerate(zip(upper.row, upper.col, upper.data, strict=True)):
            integer = [c for c in (int(i), int(j)) if self._is_integer(c)]
            if not integer:
                continue
            keep[t] = False
            first = integer[0]
            other = int(j) if int(i) == integer[0] else int(i)
            # The diagonal carries x*x/2.
            value = 0.5 * value if i == j else value
            bits = self._expand(first)
            terms.append((other, value * bits.low))
            terms += [(self._column((b, other)), value * weight) for weight, b in bits.parts]
        n = len(self._builder)
        half = sp.coo_array(
            (upper.data[keep], (upper.row[keep], upper.col[keep])), shape=(n, n)
        ).tocsr()
        square = sp.csr_array(half + half.T - sp.diags_array(half.diagonal()))
        c = np.concatenate([objective.c, np.zeros(n - len(objective.c))])
        for column, value in terms:
            c[column] += value
        return replace(objective, P=square, c=c)

    def _in_bits(self, rows: Rows) -> Rows:
        """Write the products that have no binary factor, but an integer one, in binaries."""
        terms = rows.products
        builder = self._builder
        linear: list[tuple[int, int, float]] = []
        products: list[tuple[int, tuple[int, int], float]] = []
        for row, (i, j), value in zip(terms.row, terms.factors, terms.value, strict=True):
            i = int(i)
            j = int(j)
            if builder.is_binary(i) or builder.is_binary(j) or not self._is_integer(i, j):
                products.append((row, (i, j), value))
                continue
            first, other = (i, j) if self._is_integer(i) else (j, i)
            bits = self._expand(first)
            linear.append((row, other, value * bits.low))
            products += [(row, (b, other), value * weight) for weight, b in bits.parts]
        if not linear:
            return rows
        n = len(builder)
        row, column, value = zip(*linear, strict=True)
        extra = sp.coo_array((value, (row, column)), shape=(len(rows), n))
        kept = Monomials.collect(
            np.array([row for row, _, _ in products], int),
            np.array([factors for _, factors, _ in products], int).reshape(-1, 2),
            np.array([value for _, _, value in products], float),
        )
        return replace(rows.pad(n), A=sp.csr_array(rows.pad(n).A + extra), products=kept)

    def _is_integer(self, *columns: int) -> bool:
        """Return whether one of some columns is an integer of a short range."""
        return any(self._builder.range(c) < 2**MOST_BITS for c in columns)

    def _expand(self, column: int) -> Bits:
        builder = self._builder
        if builder.is_binary(column):
            return Bits(0.0, ((1.0, column),))
        if column not in self._bits:
            low = float(np.ceil(builder.bounds(column)[0]))
            parts = []
            for k in range(int(builder.range(column)).bit_length()):
                name = f"bit{k}[{builder.names[column]}]"
                bit = builder.column(
                    name, 0.0, 1.0, lambda w, k=k: float(round(w[column] - low) >> k & 1), True
                )
                parts.append((2.0**k, bit))
            columns = [column, *(b for _, b in parts)]
            values = [1.0, *(-s for s, _ in parts)]
            builder.row(columns, values, low, f"bits[{builder.names[column]}]", equality=True)
            self._bits[column] = Bits(low, tuple(parts))
        return self._bits[column]

    def _bounds(self, column: int) -> tuple[float, float]:
        low, high = self._builder.bounds(column)
        if self._box is None or column >= len(self._box[0]):
            return low, high
        return max(low, self._box[0][column]), min(high, self._box[1][column])

    def _column(self, factors: Array | tuple[int, int]) -> int:
        first, second = (int(c) for c in factors)
        builder = self._builder
        k, v = (first, second) if builder.is_binary(first) else (second, first)
        if k == v:
            return k
        if (k, v) not in self._known:
            low, high = self._bounds(v)
            name = f"{builder.names[k]}*{builder.names[v]}"
            low = min(low, 0.0)
            high = max(high, 0.0)
            on = builder.column(name, low, high, recipe=lambda w: w[k] * w[v])
            off = builder.column(f"not {name}", low, high, recipe=lambda w: w[v] - w[on])
            builder.row([v, on, off], [1.0, -1.0, -1.0], 0.0, name, equality=True)
            self._encoding.implication(builder, k, 0, on, f"{name}=0")
            self._encoding.implication(builder, k, 1, off, name)
            self._known[k, v] = on
        return self._known[k, v]
