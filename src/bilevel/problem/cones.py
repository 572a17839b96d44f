"""Cones, their duals, and how far a vector is from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import scipy.sparse as sp

from bilevel.problem.monomials import Array
from bilevel.problem.sparse import widen

_ROOT = np.sqrt(2.0)


class Kind(Enum):
    """Which cone; the value is its name for people."""

    SECOND_ORDER = "second-order"
    EXPONENTIAL = "exponential"
    SEMIDEFINITE = "semidefinite"


@dataclass(frozen=True)
class Cone:
    """A constraint ``A w - b`` in a cone.

    Parameters
    ----------
    A
        Shape ``(k, n)``.
    b
        Shape ``(k,)``.
    name
        Readable name.
    kind
        Second-order: ``(t, u)`` with ``norm(u) <= t``. Exponential: the closure of ``(r, s, t)``
        with ``s exp(r / s) <= t`` and ``s > 0``. Semidefinite: the upper triangle of a matrix,
        column by column, with off-diagonal entries times the square root of 2.
    """

    A: sp.csr_array
    b: Array
    name: str
    kind: Kind = Kind.SECOND_ORDER

    def violation(self, w: Array) -> float:
        """Return by how much some entries must be moved to reach the cone, 0 inside."""
        return outside(self.A @ w - self.b, self.kind)

    def project(self, free: Array, w: Array) -> Cone:
        """Return the cone over the columns ``free`` only, all others fixed at ``w``."""
        fixed = w.copy()
        fixed[free] = 0.0
        return replace(self, A=sp.csr_array(self.A[:, free]), b=self.b - self.A @ fixed)

    def pad(self, n: int) -> Cone:
        """Return the same cone over ``n`` columns."""
        return replace(self, A=widen(self.A, n))


def order(k: int) -> int:
    """Return the order of a matrix whose triangle has ``k`` entries."""
    return round((np.sqrt(8 * k + 1) - 1) / 2)


def triangle(n: int) -> tuple[Array, Array]:
    """Return rows and columns of the upper triangle, column by column."""
    column, row = np.tril_indices(n)
    return row, column


def to_matrix(vector: Array) -> Array:
    """Return the symmetric matrix of a scaled triangle."""
    n = order(len(vector))
    row, column = triangle(n)
    matrix = np.zeros((n, n))
    matrix[row, column] = matrix[column, row] = np.where(row == column, vector, vector / _ROOT)
    return matrix


def to_triangle(matrix: Array) -> Array:
    """Return the scaled triangle of a symmetric matrix."""
    row, column = triangle(len(matrix))
    return np.where(row == column, 1.0, _ROOT) * matrix[row, column]


def symmetrizer(n: int) -> sp.csr_array:
    """Return the map from a matrix's entries, column by column, to its scaled triangle."""
    row, column = triangle(n)
    k = np.arange(len(row))
    half = np.where(row == column, 0.5, _ROOT / 2)
    places = [(half, (k, row + n * column)), (half, (k, column + n * row))]
    return sp.csr_array(sum(sp.coo_array(place, shape=(len(k), n * n)) for place in places))


def outside(value: Array, kind: Kind) -> float:
    """Return an upper bound on the distance of a vector from a cone, 0 inside."""
    if kind is Kind.SECOND_ORDER:
        return max(float(np.linalg.norm(value[1:]) - value[0]), 0.0)
    if kind is Kind.SEMIDEFINITE:
        return max(-float(np.linalg.eigvalsh(to_matrix(value))[0]), 0.0)
    r, s, t = (float(part) for part in value)
    moves = [max(r, -min(s, 0.0), abs(s), -t, 0.0)]
    if s > 0 and r / s < 700:
        moves.append(max(s * float(np.exp(r / s)) - t, 0.0))
    if s > 0 and t > 0:
        moves.append(max(r - s * float(np.log(t / s)), 0.0))
    return min(moves)


def interior(cone: Cone) -> Array:
    """Return a vector by whose multiples every vector can be moved into the cone."""
    if cone.kind is Kind.EXPONENTIAL:
        return np.array([-2.0, 1.0, 3.0])
    if cone.kind is Kind.SEMIDEFINITE:
        return to_triangle(np.eye(order(len(cone.b))))
    return np.eye(len(cone.b))[0]


def into_dual(value: Array, kind: Kind) -> Array:
    """Return a vector of the dual cone that is near to ``value``.

    Second-order and semidefinite cones are their own duals. The dual of the exponential cone is
    the closure of ``(u, v, w)`` with ``-u exp(v / u - 1) <= w`` and ``u < 0``.
    """
    moved = value.copy()
    if kind is Kind.SECOND_ORDER:
        moved[0] += outside(value, kind)
    elif kind is Kind.SEMIDEFINITE:
        moved += outside(value, kind) * to_triangle(np.eye(order(len(value))))
    else:
        u = min(moved[0], 0.0)
        w = max(moved[2], 0.0)
        if u == 0.0 or w == 0.0:
            moved[:] = 0.0, max(moved[1], 0.0), w
        else:
            moved[:] = u, max(moved[1], u - u * np.log(-u / w)), w
    return moved
