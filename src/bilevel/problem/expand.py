"""Multiplying products out: a compiled level as polynomials of the problem's columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.functions import NO_CUBIC, NO_PRODUCTS, Array, Cone, Monomials, Objective, Rows
from bilevel.problem.level import Level, LevelArrays, symmetric
from bilevel.problem.products import Products, add


@dataclass(frozen=True)
class Expanded:
    """A level over all ``n`` columns of the problem."""

    objective: Objective
    rows: Rows
    cones: tuple[Cone, ...]
    row_constraint: Array
    row_entry: Array


@dataclass(frozen=True)
class _Quadratic:
    """An objective's products at weights, multiplied out."""

    source: sp.csr_array
    weight: Array
    P: sp.csr_array
    c: Array
    constant: float
    cubic: Monomials


@dataclass
class _Matrix:
    """What depends on a level's matrix and on the constants of its products."""

    arrays: LevelArrays
    b: Array
    rows: Rows
    products: Products
    cones: tuple[Cone, ...]
    quadratic: _Quadratic | None = None

    def matches(self, arrays: LevelArrays, sides: Array) -> bool:
        """Return whether other arrays have the same matrix and the same product constants."""
        same_sides = np.array_equal(self.arrays.b[sides], arrays.b[sides])
        return same_sides and _same(self.arrays.A, arrays.A)


def _same(first: sp.csr_array, second: sp.csr_array) -> bool:
    return first is second or (
        np.array_equal(first.indptr, second.indptr)
        and np.array_equal(first.indices, second.indices)
        and np.array_equal(first.data, second.data)
    )


class Expander:
    """Expands a level at any parameter values; what does not depend on them is kept.

    Parameters
    ----------
    level
        The compiled level.
    place
        Where its columns stand: see ``Level.places``.
    n
        Number of global columns.
    """

    def __init__(self, level: Level, place: Array, n: int) -> None:
        self._level = level
        self._place = place
        self._n = n
        self._keep = np.flatnonzero(level.linear_rows)
        parts = [*level.sides, self._keep, *level.cone_rows]
        self._order = np.concatenate(parts)
        ends = np.cumsum([len(part) for part in parts])
        self._slices = [slice(e - len(p), e) for e, p in zip(ends, parts, strict=True)]
        self._count = len(level.sides[0])
        local = np.arange(level.n)
        plain = local[place >= 0]
        inside = local[place < 0]
        ones = np.ones(level.n)
        self._columns = sp.csr_array(
            (ones[plain], (plain, place[plain])), shape=(level.n, n), dtype=float
        )
        self._inside = sp.csr_array(
            (ones[inside], (inside, -2 - place[inside])), shape=(level.n, self._count), dtype=float
        )
        self._row_constraint = level.row_constraint[self._keep]
        self._row_entry = level.row_entry[self._keep]
        self._last: _Matrix | None = None
        self._names = tuple(level.row_names[row] for row in self._keep)

    def __call__(self, arrays: LevelArrays) -> Expanded:
        """Return the level as polynomials over all columns."""
        matrix = self._matrix(arrays)
        linear = self._slices[2]
        b = arrays.b[self._order]
        rows = replace(matrix.rows, b=matrix.rows.b + (b - matrix.b)[linear])
        objective = self._objective(arrays, matrix)
        cones = [
            replace(cone, b=b[part] if triangle is None else triangle @ b[part])
            for cone, part, triangle in zip(
                matrix.cones, self._slices[3:], self._level.triangles, strict=True
            )
        ]
        return Expanded(objective, rows, tuple(cones), self._row_constraint, self._row_entry)

    def _matrix(self, arrays: LevelArrays) -> _Matrix:
        """Return what depends on the constraints' matrix; often parameters leave it as it was."""
        sides = self._order[: self._slices[1].stop]
        last = self._last
        if last is not None and last.matches(arrays, sides):
            return last
        b = arrays.b[self._order]
        columns, inside = self._split(arrays.A[self._order])
        left, right, linear, *cones = self._slices
        products = Products(
            self._level.who,
            [(columns[part], -b[part], inside[part]) for part in (left, right)],
        )
        rows = self._rows(columns[linear], b[linear], inside[linear], products)
        made = _Matrix(arrays, b, rows, products, self._cones(columns, b, inside, cones))
        self._last = made
        return made

    def _cones(
        self, columns: sp.csr_array, b: Array, inside: sp.csr_array, parts: list[slice]
    ) -> tuple[Cone, ...]:
        found = []
        for number, part in enumerate(parts):
            kind = self._level.cone_kinds[number]
            triangle = self._level.triangles[number]
            if inside[part].nnz:
                raise UnsupportedProblem(
                    f"A norm or another nonlinear function (a {kind.value} cone) in the problem "
                    f"of {self._level.who} contains a product of variables."
                )
            A = columns[part]
            rhs = b[part]
            if triangle is not None:
                A = sp.csr_array(triangle @ A)
                rhs = triangle @ rhs
            found.append(Cone(A, rhs, f"cone{number}", kind))
        return tuple(found)

    def _split(self, A: sp.csr_array) -> tuple[sp.csr_array, sp.csr_array]:
        """Return the parts of a matrix over columns and over products."""
        columns = sp.csr_array(A @ self._columns)
        columns.eliminate_zeros()
        if not self._count:
            return columns, sp.csr_array((A.shape[0], 0))
        inside = sp.csr_array(A @ self._inside)
        inside.eliminate_zeros()
        return columns, inside

    def _objective(self, arrays: LevelArrays, matrix: _Matrix) -> Objective:
        weight = arrays.c @ self._inside if self._count else np.empty(0)
        known = matrix.quadratic
        if known is None or not (
            np.array_equal(known.weight, weight) and _same(known.source, arrays.P)
        ):
            known = self._quadratic(arrays.P, weight, matrix.products)
            matrix.quadratic = known
        c = arrays.c @ self._columns + known.c
        constant = arrays.constant + known.constant
        return Objective(known.P, c, constant, known.cubic, self._level.maximize)

    def _quadratic(self, source: sp.csr_array, weight: Array, products: Products) -> _Quadratic:
        """Return the products in the objective, each with its weight, multiplied out."""
        n = self._n
        P = self._place_square(source)
        c = np.zeros(n)
        constant = 0.0
        cubic = NO_CUBIC
        if weight.any() and products.is_flat:
            (L, R), (l0, r0) = products.linear, products.offset
            half = L.T @ (sp.diags_array(weight) @ R)
            P = P + half + half.T
            c = L.T @ (weight * r0) + R.T @ (weight * l0)
            constant = float(l0 @ (weight * r0))
        elif weight.any():
            terms: list[tuple[Array, Array]] = []
            for k in np.flatnonzero(weight).tolist():
                terms = add(terms, [(f, weight[k] * v) for f, v in products.polynomial(k)])
            constant = float(terms[0][1].sum())
            np.add.at(c, terms[1][0][:, 0], terms[1][1])
            pairs, value = terms[2]
            half = sp.coo_array((value, (pairs[:, 0], pairs[:, 1])), shape=(n, n)).tocsr()
            P = P + half + half.T
            if len(terms) > 3:
                factors, value = terms[3]
                cubic = Monomials.collect(np.zeros(len(value), int), factors, value)
        P = sp.csr_array(P)
        P.eliminate_zeros()
        if not np.isfinite(P.data).all():
            raise ProblemError(f"The objective of {self._level.who} contains NaN or infinite data.")
        return _Quadratic(source, weight, P, c, constant, cubic)

    def _place_square(self, P: sp.csr_array) -> sp.csr_array:
        if not P.nnz:
            return sp.csr_array((self._n, self._n))
        if self._count and sp.csr_array(P @ self._inside).nnz:
            raise UnsupportedProblem(
                f"The objective of {self._level.who} has degree four or more in its variables."
            )
        return sp.csr_array(self._columns.T @ symmetric(P) @ self._columns)

    def _rows(self, A: sp.csr_array, b: Array, inside: sp.csr_array, products: Products) -> Rows:
        equality = self._level.equality[self._keep]
        if not inside.nnz:
            return Rows(A, b, equality, NO_PRODUCTS, self._names)
        b = b.copy()
        row = []
        factors = []
        value = []
        extra: tuple[list[int], list[int], list[float]] = ([], [], [])
        for i in np.flatnonzero(np.diff(inside.indptr)).tolist():
            part = slice(inside.indptr[i], inside.indptr[i + 1])
            for k, weight in zip(inside.indices[part], inside.data[part], strict=True):
                terms = products.polynomial(int(k))
                if len(terms) > 3 and len(terms[3][1]):
                    raise UnsupportedProblem(
                        f"A constraint of {self._level.who} multiplies three variables; at most "
                        f"two may be multiplied in a constraint."
                    )
                b[i] -= weight * terms[0][1].sum()
                extra[0].extend([i] * len(terms[1][1]))
                extra[1].extend(terms[1][0][:, 0])
                extra[2].extend(weight * terms[1][1])
                row.append(np.full(len(terms[2][1]), i))
                factors.append(terms[2][0])
                value.append(weight * terms[2][1])
        if extra[0]:
            A = sp.csr_array(A + sp.coo_array((extra[2], (extra[0], extra[1])), shape=A.shape))
        collected = Monomials.collect(
            np.concatenate(row), np.concatenate(factors), np.concatenate(value)
        )
        return Rows(A, b, equality, collected, self._names)
