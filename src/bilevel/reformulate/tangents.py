"""Convex quadratics as sums of squares of columns, each square outer-approximated by tangents."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import NO_PRODUCTS, Array, Monomials, Objective, Rows
from bilevel.problem.standard import is_convex
from bilevel.program import Program

_FLAT = 1e-12


@dataclass(frozen=True)
class Outer:
    """A program whose convex quadratics are linear in columns that stand for squares.

    Parameters
    ----------
    program
        The first columns are those of the program it came from.
    base, square
        Column ``square[e]`` is to be at least the square of column ``base[e]``; the program says
        only that it is not negative.
    lines
        The bases as linear functions of the first columns, shape ``(e, n)``.
    """

    program: Program
    base: Array
    square: Array
    lines: sp.csr_array

    def at(self, w: Array) -> Array:
        """Return a point whose first columns are ``w``, with its bases and their squares."""
        v = np.zeros(self.program.n)
        v[: len(w)] = w
        v[self.base] = self.lines @ v[: self.lines.shape[1]]
        v[self.square] = v[self.base] ** 2
        return v

    def violated(self, v: Array, tolerance: float) -> Array:
        """Return which squares a point falls short of, shape ``(e,)``."""
        exact = v[self.base] ** 2
        return exact - v[self.square] > tolerance * np.maximum(1.0, exact)

    def tangents(self, v: Array, which: Array) -> Rows:
        """Return ``2 z0 z - t <= z0^2`` for the squares of a boolean mask, at the point ``v``."""
        base = self.base[which]
        square = self.square[which]
        count = len(base)
        at = v[base]
        row = np.arange(count)
        A = sp.coo_array(
            (
                np.concatenate([2.0 * at, -np.ones(count)]),
                (np.concatenate([row, row]), np.concatenate([base, square])),
            ),
            shape=(count, self.program.n),
        )
        names = tuple(
            f"tangent[{self.program.names[z]}={value:.17g}]"
            for z, value in zip(base, at, strict=True)
        )
        flags = np.zeros(count, bool)
        return Rows(sp.csr_array(A), at**2, flags, NO_PRODUCTS, names)


def outer(program: Program) -> Outer:
    """Write each convex quadratic of a program as a sum of squares of new columns.

    With ``P = sum_e l_e l_e'`` a term ``v'P v`` becomes ``sum_e t_e`` with ``t_e >= z_e^2`` and
    ``z_e = l_e'v``. One tangent per square describes it better than one of the sum (the tangents
    of the sum are sums of theirs). Quadratics that are not convex stay.

    Parameters
    ----------
    program
        Any program.

    References
    ----------
    Tawarmalani and Sahinidis (2005), *Mathematical Programming* 103.
    """
    parts, rows, places = _row_parts(program)
    objective = program.objective
    curved = bool(objective.P.nnz) and is_convex(objective)
    if curved:
        parts.append(("objective", *_factor(objective.P)))
    n = program.n
    firsts = np.cumsum([0] + [len(factor) for *_, factor in parts])
    count = int(firsts[-1])
    base = n + np.arange(count)
    square = n + count + np.arange(count)
    total = n + 2 * count
    if curved:
        c = np.concatenate([objective.c, np.zeros(2 * count)])
        c[square[firsts[-2] :]] = 1.0
        objective = replace(objective, P=sp.csr_array((total, total)), c=c)
    else:
        objective = objective.pad(total)
    sums = [
        sp.csr_array((np.ones(b - a), (np.full(b - a, r), square[a:b])), shape=(len(rows), total))
        for r, a, b in zip(places, firsts, firsts[1:], strict=False)
    ]
    rows = rows.pad(total)
    rows = replace(rows, A=sp.csr_array(sum(sums, start=rows.A)))
    lines = _lines(parts, n, total)
    matrix = sp.csr_array(lines.A[:, :n])
    names = [f"{part}{e}[{name}]" for part in ("base", "square") for name, e in _labels(parts)]
    program = replace(
        program,
        names=(*program.names, *names),
        lower=np.concatenate([program.lower, np.full(count, -np.inf), np.zeros(count)]),
        upper=np.concatenate([program.upper, np.full(2 * count, np.inf)]),
        integer=np.concatenate([program.integer, np.zeros(2 * count, bool)]),
        objective=objective,
        rows=Rows.stack(rows, lines),
        cones=tuple(cone.pad(total) for cone in program.cones),
        recipes=(
            *program.recipes,
            (base, lambda v: matrix @ v[:n]),
            (square, lambda v: v[base] ** 2),
        ),
    )
    return Outer(program, base, square, matrix)


def _row_parts(program: Program) -> tuple[list[tuple[str, Array, Array]], Rows, list[int]]:
    """Return the factors of convex rows, the rows without them, and where they belong."""
    parts: list[tuple[str, Array, Array]] = []
    rows = program.rows
    places = []
    terms = rows.products
    kept = np.ones(rows.products.row.size, bool)
    for r in np.unique(terms.row).tolist():
        here = terms.row == r
        P = _matrix(terms.factors[here], terms.value[here], program.n)
        if not rows.equality[r] and is_convex(Objective(P, np.zeros(program.n))):
            kept[here] = False
            places.append(r)
            parts.append((rows.names[r], *_factor(P)))
    left = Monomials(terms.row[kept], terms.factors[kept], terms.value[kept])
    return parts, replace(rows, products=left), places


def _labels(parts: list[tuple[str, Array, Array]]) -> list[tuple[str, int]]:
    return [(name, e) for name, _, factor in parts for e in range(len(factor))]


def _lines(parts: list[tuple[str, Array, Array]], n: int, total: int) -> Rows:
    """Return the equations ``l_e'v - z_e = 0``."""
    blocks = []
    first = n
    for _, columns, factor in parts:
        count = len(factor)
        row, column = np.nonzero(factor)
        A = sp.coo_array((factor[row, column], (row, columns[column])), shape=(count, total))
        minus = sp.coo_array(
            (-np.ones(count), (np.arange(count), first + np.arange(count))), shape=(count, total)
        )
        blocks.append(sp.csr_array(A + minus))
        first += count
    if not blocks:
        return Rows.empty(total)
    matrix = sp.csr_array(sp.vstack(blocks))
    count = matrix.shape[0]
    names = tuple(f"base{e}[{name}]" for name, e in _labels(parts))
    return Rows(matrix, np.zeros(count), np.ones(count, bool), NO_PRODUCTS, names)


def _matrix(factors: Array, value: Array, n: int) -> sp.csr_array:
    """Return the symmetric ``P`` with ``v'P v / 2`` equal to a sum of products."""
    half = sp.coo_array((value, (factors[:, 0], factors[:, 1])), shape=(n, n)).tocsr()
    return sp.csr_array(half + half.T)


def _factor(P: sp.csr_array) -> tuple[Array, Array]:
    """Return the columns used and a factor ``L`` with ``v'P v / 2 = |L v|^2``."""
    used = np.flatnonzero(np.diff(P.indptr))
    dense = 0.5 * P[used][:, used].toarray()
    diagonal = np.diag(dense)
    if np.count_nonzero(dense) == np.count_nonzero(diagonal):
        values = diagonal
        vectors = np.eye(len(used))
    else:
        values, vectors = np.linalg.eigh(dense)
    keep = values > _FLAT * abs(values).max(initial=0.0)
    return used, np.sqrt(values[keep])[:, None] * vectors[:, keep].T
