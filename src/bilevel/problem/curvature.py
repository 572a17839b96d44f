"""The quadratic part of an objective: products of affine expressions that depend on parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from bilevel.problem.affine import ONE, Affine, AffineMatrix, Terms
from bilevel.problem.functions import Array

# Products of a constant and a parametric side are multiplied out up to this many terms.
_MOST_TERMS = 5_000_000


@dataclass(frozen=True)
class Side:
    """One factor of each product: ``linear @ y + offset``."""

    linear: AffineMatrix
    offset: Affine

    def take(self, keep: Array) -> Side:
        """Keep the factors of a mask."""
        number = np.cumsum(keep) - 1
        width = self.linear.shape[1]
        terms = _all_terms(self.linear.entries)
        terms = terms.move(self.linear.place[terms.place])
        inside = keep[terms.place // width]
        terms = terms.take(inside)
        terms = terms.move(number[terms.place // width] * width + terms.place % width)
        offset = _all_terms(self.offset)
        offset = offset.take(keep[offset.place])
        count = int(keep.sum())
        return Side(
            AffineMatrix.collect(terms, (count, width)),
            Affine.collect(offset.move(number[offset.place]), count),
        )

    @property
    def varies(self) -> Array:
        """Which factors depend on parameters, shape ``(k,)``."""
        mask = np.zeros(self.linear.shape[0], bool)
        mask[self.linear.row[self.linear.entries.terms.place]] = True
        mask[self.offset.terms.place] = True
        return mask

    def equals(self, other: Side) -> bool:
        """Return whether both are the same functions."""
        return all(np.array_equal(a, b) for a, b in zip(_arrays(self), _arrays(other), strict=True))


@dataclass(frozen=True)
class Curvature:
    """Products ``weight (left y + l) (right y + r)`` of which two factors depend on parameters.

    They add ``left' diag(weight) right`` to ``H``. ``right`` is ``None`` where it equals ``left``.
    """

    left: Side
    right: Side | None
    weight: Affine


def split(
    left: Side, right: Side, weight: Affine, n: int
) -> tuple[tuple[Curvature, ...], tuple[Terms, Terms, Terms]]:
    """Multiply products out where at most one factor depends on parameters.

    Returns
    -------
    tuple
        What remains, and the terms of ``H`` (places row by row), ``q`` and the constant, where
        the quadratic form is ``H + H'``.
    """
    varying = np.zeros(weight.size, bool)
    varying[weight.terms.place] = True
    count = varying.astype(int) + left.varies + right.varies
    size = np.bincount(left.linear.row, minlength=weight.size) * np.bincount(
        right.linear.row, minlength=weight.size
    )
    simple = count <= 1
    if size[simple & (count == 1)].sum() > _MOST_TERMS:
        simple &= count == 0
    used = np.zeros(weight.size, bool)
    used[weight.terms.place] = True
    used |= weight.constant != 0
    fixed = simple & (count == 0) & used
    parts = [_constant(left, right, weight, fixed, n)]
    once = simple & (count == 1) & used
    if once.any():
        parts.append(_once(left, right, weight, once, n))
    remaining = ~simple & used
    terms = tuple(Terms.join(*column) for column in zip(*parts, strict=True))
    if not remaining.any():
        return (), terms  # type: ignore[return-value]
    sides = left.take(remaining), right.take(remaining)
    number = np.cumsum(remaining) - 1
    weights = _all_terms(weight)
    weights = weights.take(remaining[weights.place])
    kept = Affine.collect(weights.move(number[weights.place]), int(remaining.sum()))
    other = None if sides[0].equals(sides[1]) else sides[1]
    return (Curvature(sides[0], other, kept),), terms  # type: ignore[return-value]


def _constant(
    left: Side, right: Side, weight: Affine, mask: Array, n: int
) -> tuple[Terms, Terms, Terms]:
    """Return the products of constant factors, by matrix products."""
    w = sp.diags_array(np.where(mask, weight.constant, 0.0))
    L, R = (_matrix(side.linear) for side in (left, right))
    half = L.T @ (w @ R)
    H = sp.coo_array(half)
    l0 = left.offset.constant
    r0 = right.offset.constant
    q = L.T @ (w @ r0) + R.T @ (w @ l0)
    constant = float(l0 @ (w @ r0))
    return (
        Terms(H.coords[0] * n + H.coords[1], np.full(H.nnz, ONE), H.data),
        Terms(np.arange(n), np.full(n, ONE), q),
        Terms(np.zeros(1, int), np.full(1, ONE), np.array([constant])),
    )


def _once(
    left: Side, right: Side, weight: Affine, mask: Array, n: int
) -> tuple[Terms, Terms, Terms]:
    """Return the products with one parametric factor, term by term.

    A factor's offset is treated as the coefficient of one more column, ``n``.
    """
    first, second = (_with_offset(side, n).take_rows(mask) for side in (left, right))
    weights = _all_terms(weight)
    third = _Factor(weights.place, np.zeros(len(weights.place), int), weights)
    pairs = first.times(second, n + 1).times(third.take_rows(mask), 1)
    i = pairs.column // (n + 1)
    j = pairs.column % (n + 1)
    terms = pairs.terms
    square = (i < n) & (j < n)
    linear = (i < n) ^ (j < n)
    constant = (i == n) & (j == n)
    H = terms.take(square).move((i * n + j)[square])
    q = terms.take(linear).move(np.minimum(i, j)[linear])
    return H, q, terms.take(constant).move(np.zeros(int(constant.sum()), int))


@dataclass(frozen=True)
class _Factor:
    """Terms of affine expressions: the expression, the column and the parametric coefficient."""

    row: Array
    column: Array
    terms: Terms

    def take_rows(self, mask: Array) -> _Factor:
        keep = mask[self.row]
        return _Factor(self.row[keep], self.column[keep], self.terms.take(keep))

    def times(self, other: _Factor, width: int) -> _Factor:
        """Multiply expression by expression; columns become ``mine * width + other's``."""
        order = np.argsort(other.row, kind="stable")
        start = np.searchsorted(other.row[order], self.row)
        count = np.searchsorted(other.row[order], self.row, side="right") - start
        mine = np.repeat(np.arange(len(self.row)), count)
        offset = np.arange(len(mine)) - np.repeat(np.cumsum(count) - count, count)
        theirs = order[np.repeat(start, count) + offset]
        a = self.terms
        b = other.terms
        # At most one of the factors depends on a parameter.
        source = np.maximum(a.source[mine], b.source[theirs])
        value = a.value[mine] * b.value[theirs]
        column = self.column[mine] * width + other.column[theirs]
        return _Factor(self.row[mine], column, Terms(self.row[mine], source, value))


def _with_offset(side: Side, n: int) -> _Factor:
    linear = _all_terms(side.linear.entries)
    offset = _all_terms(side.offset)
    row = np.concatenate([side.linear.row[linear.place], offset.place])
    column = np.concatenate([side.linear.column[linear.place], np.full(len(offset.place), n)])
    return _Factor(row, column, Terms.join(linear, offset))


def _all_terms(vector: Affine) -> Terms:
    """Return all terms of a vector, its constants among them."""
    place = np.flatnonzero(vector.constant)
    fixed = Terms(place, np.full(len(place), ONE), vector.constant[place])
    return Terms.join(fixed, vector.terms)


def _matrix(matrix: AffineMatrix) -> sp.csr_array:
    return sp.csr_array((matrix.entries.constant, (matrix.row, matrix.column)), shape=matrix.shape)


def _arrays(side: Side) -> tuple[Array, ...]:
    entries = side.linear.entries
    offset = side.offset
    return (
        side.linear.place,
        entries.constant,
        *(getattr(entries.terms, name) for name in Terms.__match_args__),
        offset.constant,
        *(getattr(offset.terms, name) for name in Terms.__match_args__),
    )
