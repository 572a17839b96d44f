"""Arrays whose entries are affine functions of a vector of parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilevel.problem.monomials import Array

#: In place of a parameter's index: the number one.
ONE = -1


@dataclass(frozen=True)
class Terms:
    """Terms ``value * theta[source]``, each belonging to a place of some array.

    Parameters
    ----------
    place
        Where each term is added, shape ``(t,)``.
    source
        Index of the parameter entry, or ``ONE``.
    value
        Coefficients.
    """

    place: Array
    source: Array
    value: Array

    @classmethod
    def join(cls, *parts: Terms) -> Terms:
        """Return the terms of all parts."""
        return cls(*(np.concatenate([getattr(p, f) for p in parts]) for f in cls.__match_args__))

    def take(self, mask: Array) -> Terms:
        """Keep the terms of a mask."""
        return Terms(self.place[mask], self.source[mask], self.value[mask])

    def move(self, place: Array) -> Terms:
        """Return the same terms at other places."""
        return Terms(place, self.source, self.value)


@dataclass(frozen=True)
class Affine:
    """A vector ``constant + sum of value[t] * theta[source[t]]`` at ``place[t]``.

    Parameters
    ----------
    constant
        Shape ``(size,)``.
    terms
        Those that depend on parameters: sorted by place, at most one per place and source.
    """

    constant: Array
    terms: Terms

    @classmethod
    def collect(cls, terms: Terms, size: int) -> Affine:
        """Add up the terms of a vector with ``size`` entries."""
        fixed = terms.source == ONE
        constant = np.bincount(terms.place[fixed], terms.value[fixed], minlength=size)
        return cls(constant.astype(float), _unique(terms.take(~fixed)))

    @property
    def size(self) -> int:
        """Number of entries."""
        return len(self.constant)

    @property
    def is_constant(self) -> bool:
        """Whether no entry depends on a parameter."""
        return len(self.terms.place) == 0

    def at(self, theta: Array) -> Array:
        """Return the vector at parameter values, shape ``(size,)``."""
        terms = self.terms
        added = np.bincount(terms.place, terms.value * theta[terms.source], minlength=self.size)
        return self.constant + added


@dataclass(frozen=True)
class AffineMatrix:
    """A matrix with a fixed pattern, its entries affine in the parameters.

    Parameters
    ----------
    shape
        Rows and columns.
    row, column
        Places of the entries, row by row, shape ``(nnz,)``.
    entries
        Their values.
    """

    shape: tuple[int, int]
    row: Array
    column: Array
    entries: Affine

    @classmethod
    def collect(cls, terms: Terms, shape: tuple[int, int]) -> AffineMatrix:
        """Add up terms whose places count the entries of the matrix row by row."""
        width = max(shape[1], 1)
        place, position = np.unique(terms.place, return_inverse=True)
        entries = Affine.collect(terms.move(position.ravel()), len(place))
        return cls(shape, place // width, place % width, entries)

    @property
    def place(self) -> Array:
        """Where each entry stands in the matrix, counted row by row."""
        return self.row * self.shape[1] + self.column

    @property
    def is_full(self) -> bool:
        """Whether every entry of the matrix is in the pattern."""
        return len(self.row) == self.shape[0] * self.shape[1]

    def dense(self) -> Affine:
        """Return all entries of the matrix, row by row, zeros included."""
        if self.is_full:
            return self.entries
        constant = np.zeros(self.shape[0] * self.shape[1])
        constant[self.place] = self.entries.constant
        terms = self.entries.terms
        return Affine(constant, terms.move(self.place[terms.place]))


def _unique(terms: Terms) -> Terms:
    if not len(terms.place):
        return terms
    order = np.lexsort((terms.source, terms.place))
    place = terms.place[order]
    source = terms.source[order]
    first = np.append(True, (np.diff(place) != 0) | (np.diff(source) != 0))
    value = np.add.reduceat(terms.value[order], np.flatnonzero(first))
    return Terms(place[first], source[first], value)
