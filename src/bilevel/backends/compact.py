"""A program without its slack columns: they become two-sided rows, or bounds of other columns."""

from __future__ import annotations

from copy import copy

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array
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
        n, A = program.n, program.rows.A
        columns = np.setdiff1d(np.arange(n), slack)
        rest = sp.csr_array(A[:, columns])
        counts = np.diff(rest.indptr)[row]
        single = counts == 1
        keep = np.ones(A.shape[0], bool)
        keep[row[single]] = False
        self.A = sp.csr_array(rest[keep])
        self.P = sp.csr_array(program.objective.P[columns][:, columns])
        self.c, self.constant = program.objective.c[columns], program.objective.constant
        self.count, self._columns = len(columns), columns
        b, equality = program.rows.b, program.rows.equality

        self.entry = np.zeros(n, int)
        self.factor: Array = np.ones(n)
        self.offset: Array = np.zeros(n)
        self.entry[columns] = np.arange(self.count)
        starts = rest.indptr[row[single]]
        self.entry[slack[single]] = rest.indices[starts]
        self.factor[slack[single]] = np.negative(rest.data[starts]) / size[single]
        position = np.cumsum(keep) - 1
        self.entry[slack[~single]] = self.count + position[row[~single]]
        self.factor[slack[~single]] = -1.0 / size[~single]
        self.offset[slack] = b[row] / size

        own = np.zeros(A.shape[0], bool)
        own[row] = True
        low = np.where(equality & ~own, b, -np.inf)[keep]
        high = np.where(own, np.inf, b)[keep]
        self.low = np.concatenate([np.full(self.count, -np.inf), low])
        self.high = np.concatenate([np.full(self.count, np.inf), high])
        for j in range(n):
            self.restrict(self.low, self.high, j, program.lower[j], program.upper[j])

    def restrict(self, low: Array, high: Array, j: int, lower: float, upper: float) -> None:
        """Tighten entries' bounds, in place, to those that bounds of column ``j`` imply."""
        e, factor, offset = self.entry[j], self.factor[j], self.offset[j]
        first, last = (lower - offset) / factor, (upper - offset) / factor
        if factor < 0:
            first, last = last, first
        low[e] = max(low[e], first)
        high[e] = min(high[e], last)

    def without_cost(self) -> Compact:
        """Return the same rows and bounds with the objective zero."""
        other = copy(self)
        other.P = sp.csr_array((self.count, self.count))
        other.c, other.constant = np.zeros(self.count), 0.0
        return other

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
    row, value = A.indices[A.indptr[free]], A.data[A.indptr[free]]
    # A row of the slack alone says nothing about others and stays as it is.
    usable = program.rows.equality[row] & (value != 0) & (np.diff(program.rows.A.indptr)[row] > 1)
    row, first = np.unique(row[usable], return_index=True)
    return row, free[usable][first], value[usable][first]
