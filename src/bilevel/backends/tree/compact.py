"""A program without its slack columns: they become two-sided rows, or bounds of other columns."""

from __future__ import annotations

from copy import copy

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array
from bilevel.problem.sparse import entries, from_entries
from bilevel.program import Program


class Compact:
    """What remains of a program when each slack column is eliminated.

    A slack is a column without cost that occurs in one row, an equation ``d'w + a s = b``. Bounds
    of ``s`` are bounds of ``d'w``; where ``d`` has one entry, they are bounds of that column. So
    every column of the program is an affine function of one *entry*: a remaining column, or the
    activity of a remaining row.

    Parameters
    ----------
    program
        With linear rows.

    Attributes
    ----------
    P, c, constant, A
        Objective and rows over the remaining columns.
    low, high
        Bounds of all entries, first the columns, then the rows.
    entry, factor, offset
        Column ``j`` of the program is ``offset[j] + factor[j] * entries[entry[j]]``.
    """

    def __init__(self, program: Program) -> None:
        row, slack, size = _slacks(program)
        n = program.n
        A = program.rows.A
        remains = np.ones(n, bool)
        remains[slack] = False
        columns = np.flatnonzero(remains)
        position = np.cumsum(remains) - 1
        at, column, value = entries(A)
        inside = remains[column]
        at = at[inside]
        column = position[column[inside]]
        value = value[inside]
        counts = np.bincount(at, minlength=A.shape[0])
        single = counts[row] == 1
        keep = np.ones(A.shape[0], bool)
        keep[row[single]] = False
        kept = keep[at]
        place = np.cumsum(keep) - 1
        shape = (int(keep.sum()), len(columns))
        self.A = from_entries(place[at[kept]], column[kept], value[kept], shape)
        i, j, curvature = entries(program.objective.P)  # slacks have none
        self.P = from_entries(position[i], position[j], curvature, (len(columns), len(columns)))
        self.c = program.objective.c[columns]
        self.constant = program.objective.constant
        self.count = len(columns)
        self._columns = columns
        b = program.rows.b
        equality = program.rows.equality

        self.entry = np.zeros(n, int)
        self.factor: Array = np.ones(n)
        self.offset: Array = np.zeros(n)
        self.entry[columns] = np.arange(self.count)
        starts = np.searchsorted(at, row[single])
        self.entry[slack[single]] = column[starts]
        self.factor[slack[single]] = np.negative(value[starts]) / size[single]
        self.entry[slack[~single]] = self.count + place[row[~single]]
        self.factor[slack[~single]] = -1.0 / size[~single]
        self.offset[slack] = b[row] / size

        own = np.zeros(A.shape[0], bool)
        own[row] = True
        low = np.where(equality & ~own, b, -np.inf)[keep]
        high = np.where(own, np.inf, b)[keep]
        self.low = np.concatenate([np.full(self.count, -np.inf), low])
        self.high = np.concatenate([np.full(self.count, np.inf), high])
        first = (program.lower - self.offset) / self.factor
        last = (program.upper - self.offset) / self.factor
        # A column's bounds are bounds of its entry, exchanged where the factor is negative.
        np.maximum.at(self.low, self.entry, np.where(self.factor < 0, last, first))
        np.minimum.at(self.high, self.entry, np.where(self.factor < 0, first, last))

    def without_cost(self) -> Compact:
        """Return the same rows and bounds with the objective zero."""
        other = copy(self)
        other.P = sp.csr_array((self.count, self.count))
        other.c = np.zeros(self.count)
        other.constant = 0.0
        return other

    def recession(self) -> Compact:
        """Return the directions along which nothing bounds a point and nothing is curved.

        Their entries are those of this program, then the gradient of the curved part, which is
        zero; ``directions`` makes their bounds.
        """
        other = copy(self)
        size = abs(self.P).max() if self.P.nnz else 1.0
        other.A = sp.csr_array(sp.vstack([self.A, self.P / size]))
        other.P = sp.csr_array((self.count, self.count))
        other.constant = 0.0
        other.low, other.high = self.directions(self.low, self.high)
        return other

    def directions(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return the bounds of ``recession`` that belong to bounds of entries."""
        fixed = np.zeros(self.count)
        return (
            np.append(np.where(np.isfinite(low), 0.0, -1.0), fixed),
            np.append(np.where(np.isfinite(high), 0.0, 1.0), fixed),
        )

    def collapse(self, v: Array) -> Array:
        """Return the entries at a point of the program."""
        y = v[self._columns]
        return np.concatenate([y, self.A @ y])

    def expand(self, entries: Array) -> Array:
        """Return all columns of the program from the entries."""
        return self.offset + self.factor * entries[self.entry]


def _slacks(program: Program) -> tuple[Array, Array, Array]:
    """Return rows, columns and coefficients of slack columns, one a row."""
    A = program.rows.A.tocsc()
    curved = np.diff(program.objective.P.indptr) > 0
    plain = ~curved & (program.objective.c == 0) & ~program.integer
    free = np.flatnonzero((np.diff(A.indptr) == 1) & plain)
    row = A.indices[A.indptr[free]]
    value = A.data[A.indptr[free]]
    # A row of the slack alone says nothing about others and stays as it is.
    usable = program.rows.equality[row] & (value != 0) & (np.diff(program.rows.A.indptr)[row] > 1)
    row, first = np.unique(row[usable], return_index=True)
    return row, free[usable][first], value[usable][first]
