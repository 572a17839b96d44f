"""Products of columns, term by term."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Monomials:
    """Products of columns: ``value[t] * w[factors[t, 0]] * w[factors[t, 1]] ...`` added to a row.

    Parameters
    ----------
    row
        Row each term belongs to, shape ``(t,)``.
    factors
        Columns multiplied, shape ``(t, degree)``, sorted along the last axis.
    value
        Coefficients, shape ``(t,)``.
    """

    row: Array
    factors: Array
    value: Array

    @staticmethod
    def empty(degree: int = 2) -> Monomials:
        """Return no terms of the given degree; there is one such object of each."""
        return NO_CUBIC if degree == 3 else NO_PRODUCTS

    @classmethod
    def collect(cls, row: Array, factors: Array, value: Array) -> Monomials:
        """Sort factors, add up equal terms and drop zeros."""
        if not len(row):
            return cls.empty(factors.shape[1])
        keys = np.column_stack([row, np.sort(factors, axis=1)])
        unique, inverse = np.unique(keys, axis=0, return_inverse=True)
        total = np.bincount(inverse.ravel(), weights=value, minlength=len(unique))
        keep = total != 0
        return cls(unique[keep, 0], unique[keep, 1:], total[keep])

    def __len__(self) -> int:
        return len(self.row)

    def evaluate(self, w: Array, n_rows: int) -> Array:
        """Return the sum of the terms of each row at ``w``, shape ``(n_rows,)``."""
        if not self.row.size:
            return np.zeros(n_rows)
        return np.bincount(self.row, self.value * w[self.factors].prod(axis=1), n_rows)

    def take(self, rows: Array) -> Monomials:
        """Keep the terms of ``rows`` (a boolean mask) and renumber the rows."""
        keep = rows[self.row]
        renumber = np.cumsum(rows) - 1
        return Monomials(renumber[self.row[keep]], self.factors[keep], self.value[keep])


def _none(degree: int) -> Monomials:
    return Monomials(np.empty(0, int), np.empty((0, degree), int), np.empty(0))


#: No terms of degree two, and of degree three.
NO_PRODUCTS = _none(2)
NO_CUBIC = _none(3)


def split_once(terms: Monomials, inside: Array, w: Array) -> tuple[Array, Array, Array]:
    """Return ``(row, column, coefficient)`` of the terms with exactly one factor inside."""
    once = inside.sum(axis=1) == 1
    factors = terms.factors[once]
    kept = inside[once]
    column = factors[kept]
    others = factors[~kept].reshape(len(column), factors.shape[1] - 1)
    return terms.row[once], column, terms.value[once] * w[others].prod(axis=1)
