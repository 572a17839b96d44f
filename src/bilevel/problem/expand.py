"""Multiplying products out: a compiled level as polynomials of the problem's columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from bilevel.errors import UnsupportedProblem
from bilevel.problem.functions import Array, Cone, Monomials, Objective, Rows
from bilevel.problem.level import Level, LevelArrays


@dataclass(frozen=True)
class Expanded:
    """A level over all ``n`` columns of the problem."""

    objective: Objective
    rows: Rows
    cones: tuple[Cone, ...]
    row_constraint: Array
    row_entry: Array


class _Products:
    """The products of a level: for each entry, two affine functions of columns and earlier ones."""

    def __init__(self, level: Level, arrays: LevelArrays, place: Array, n: int) -> None:
        # Local column -> global column (>= 0) or product entry (as -2 - entry).
        self._n, self._who = n, level.who
        sides = []
        for which in range(2):
            index = np.concatenate([np.empty(0, int)] + [pair[which] for pair in level.side_rows])
            sides.append((arrays.A[index], -arrays.b[index]))
        count = sides[0][0].shape[0]
        self.linear, self.offset, self.nested = [], [], []
        for A, offset in sides:
            columns, products = split(A, place, n, count)
            self.linear.append(columns)
            self.offset.append(offset)
            self.nested.append(products)
        self.count = count
        self.is_flat = not any(nested.nnz for nested in self.nested)
        self._memo: dict[int, list[tuple[Array, Array]]] = {}

    def polynomial(self, entry: int) -> list[tuple[Array, Array]]:
        """Return the terms of a product by degree: ``[(factors (t, d), value (t,)), ...]``."""
        if entry not in self._memo:
            left, right = (self._side(which, entry) for which in range(2))
            self._memo[entry] = _multiply(left, right, self._who)
        return self._memo[entry]

    def _side(self, which: int, entry: int) -> list[tuple[Array, Array]]:
        row = self.linear[which][[entry]]
        terms = [
            (np.empty((1, 0), int), self.offset[which][[entry]]),
            (row.indices[:, None], row.data),
        ]
        inner = self.nested[which][[entry]]
        for k, value in zip(inner.indices, inner.data, strict=True):
            terms = _add(terms, [(f, value * v) for f, v in self.polynomial(int(k))])
        return terms


def expand(level: Level, arrays: LevelArrays, place: Array, n: int) -> Expanded:
    """Return a level as polynomials over all columns.

    Parameters
    ----------
    level
        The compiled level.
    arrays
        Its arrays at the parameters' values.
    place
        For each local column, its global column, or ``-2 - k`` for entry ``k`` of the products.
    n
        Number of global columns.
    """
    products = _Products(level, arrays, place, n)
    objective = _objective(level, arrays, place, n, products)
    keep = level.linear_rows
    rows = _rows(level, arrays, place, n, products)
    cones = []
    for number, index in enumerate(level.cone_rows):
        columns, inside = split(arrays.A[index], place, n, products.count)
        if inside.nnz:
            raise UnsupportedProblem(
                f"A norm in the problem of {level.who} contains a product of variables."
            )
        cones.append(Cone(-columns, -arrays.b[index], f"cone{number}"))
    return Expanded(
        objective, rows, tuple(cones), level.row_constraint[keep], level.row_entry[keep]
    )


def split(A: sp.csr_array, place: Array, n: int, count: int) -> tuple[sp.csr_array, sp.csr_array]:
    """Return the parts of a matrix over columns and over products."""
    coo = A.tocoo()
    target = place[coo.col]
    plain = target >= 0
    rows = A.shape[0]
    columns = sp.csr_array(
        sp.coo_array((coo.data[plain], (coo.row[plain], target[plain])), shape=(rows, n))
    )
    inside = ~plain
    products = sp.csr_array(
        sp.coo_array(
            (coo.data[inside], (coo.row[inside], -2 - target[inside])), shape=(rows, count)
        )
    )
    columns.eliminate_zeros()
    products.eliminate_zeros()
    return columns, products


def _objective(
    level: Level, arrays: LevelArrays, place: Array, n: int, products: _Products
) -> Objective:
    line, inside = split(sp.csr_array(arrays.c[None, :]), place, n, products.count)
    c, constant = line.toarray().ravel(), arrays.constant
    P = _place_square(level, arrays.P, place, n)
    cubic = Monomials.empty(3)
    if inside.nnz and products.is_flat:
        weight = sp.diags_array(inside.toarray().ravel())
        (L, R), (l0, r0) = products.linear, products.offset
        half = L.T @ weight @ R
        P = P + half + half.T
        c = c + L.T @ (weight @ r0) + R.T @ (weight @ l0)
        constant += float(l0 @ (weight @ r0))
    elif inside.nnz:
        terms: list[tuple[Array, Array]] = []
        for k, value in zip(inside.indices, inside.data, strict=True):
            terms = _add(terms, [(f, value * v) for f, v in products.polynomial(int(k))])
        constant += float(terms[0][1].sum())
        np.add.at(c, terms[1][0][:, 0], terms[1][1])
        pairs, value = terms[2]
        half = sp.coo_array((value, (pairs[:, 0], pairs[:, 1])), shape=(n, n)).tocsr()
        P = P + half + half.T
        if len(terms) > 3:
            factors, value = terms[3]
            cubic = Monomials.collect(np.zeros(len(value), int), factors, value)
    P = sp.csr_array(P)
    P.eliminate_zeros()
    return Objective(P, c, constant, cubic, level.maximize)


def _place_square(level: Level, P: sp.csr_array, place: Array, n: int) -> sp.csr_array:
    if not P.nnz:
        return sp.csr_array((n, n))
    coo = P.tocoo()
    row, column = place[coo.row], place[coo.col]
    if (row < 0).any() or (column < 0).any():
        raise UnsupportedProblem(
            f"The objective of {level.who} has degree four or more in its variables."
        )
    # The compiler may hand over one triangle only.
    one_sided = not ((coo.row > coo.col).any() and (coo.row < coo.col).any())
    square = sp.csr_array(sp.coo_array((coo.data, (row, column)), shape=(n, n)))
    if one_sided:
        square = square + square.T - sp.diags_array(square.diagonal())
    return sp.csr_array(square)


def _rows(level: Level, arrays: LevelArrays, place: Array, n: int, products: _Products) -> Rows:
    keep = level.linear_rows
    A, inside = split(arrays.A[keep], place, n, products.count)
    b, equality = arrays.b[keep].copy(), level.equality[keep]
    row, factors, value = [np.empty(0, int)], [np.empty((0, 2), int)], [np.empty(0)]
    extra = ([], [], [])
    for i in np.flatnonzero(np.diff(inside.indptr)):
        part = inside[[i]]
        for k, weight in zip(part.indices, part.data, strict=True):
            terms = products.polynomial(int(k))
            if len(terms) > 3 and len(terms[3][1]):
                raise UnsupportedProblem(
                    f"A constraint of {level.who} multiplies three variables; at most two may be "
                    f"multiplied in a constraint."
                )
            b[i] -= weight * terms[0][1].sum()
            extra[0].extend([i] * len(terms[1][1]))
            extra[1].extend(terms[1][0][:, 0])
            extra[2].extend(weight * terms[1][1])
            row.append(np.full(len(terms[2][1]), i))
            factors.append(terms[2][0])
            value.append(weight * terms[2][1])
    if extra[0]:
        A = A + sp.coo_array((extra[2], (extra[0], extra[1])), shape=A.shape)
    collected = Monomials.collect(
        np.concatenate(row), np.concatenate(factors), np.concatenate(value)
    )
    names = tuple(
        f"c{number}[{entry}]" if number >= 0 else "epigraph"
        for number, entry in zip(level.row_constraint[keep], level.row_entry[keep], strict=True)
    )
    return Rows(sp.csr_array(A), b, equality, collected, names)


def _add(
    first: list[tuple[Array, Array]], second: list[tuple[Array, Array]]
) -> list[tuple[Array, Array]]:
    result = []
    for degree in range(max(len(first), len(second))):
        parts = [terms[degree] for terms in (first, second) if degree < len(terms)]
        result.append(
            (np.concatenate([f for f, _ in parts]), np.concatenate([v for _, v in parts]))
        )
    return result


def _multiply(
    left: list[tuple[Array, Array]], right: list[tuple[Array, Array]], who: str
) -> list[tuple[Array, Array]]:
    result = [(np.empty((0, d), int), np.empty(0)) for d in range(3)]
    for lf, lv in left:
        for rf, rv in right:
            if not len(lv) or not len(rv) or not lv.any() or not rv.any():
                continue
            degree = lf.shape[1] + rf.shape[1]
            if degree > 3:
                raise UnsupportedProblem(f"The problem of {who} multiplies four or more variables.")
            factors = np.hstack([np.repeat(lf, len(rv), axis=0), np.tile(rf, (len(lv), 1))])
            term: list[tuple[Array, Array]] = [(np.empty((0, d), int), np.empty(0)) for d in range(degree)]
            term.append((factors, np.outer(lv, rv).ravel()))
            result = _add(result, term)
    return result
