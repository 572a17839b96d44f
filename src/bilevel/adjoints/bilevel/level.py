"""A level's functions in torch: objective, rows and cones of all columns and all parameters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bilevel.problem import level as compiled
from bilevel.problem.functions import Array


class LevelFunctions:
    """Evaluates one compiled level at a point ``w`` and inputs ``theta`` with a last entry one.

    Products of variables are multiplied where they stand, so all derivatives are autograd's.

    Parameters
    ----------
    level
        The compiled level.
    place
        Where its columns stand in ``w``: see ``Level.places``.
    source
        For each compiled parameter entry, its index in ``theta``; ``-1`` is the last.
    n
        Length of ``w``.
    """

    def __init__(self, level: compiled.Level, place: Array, source: Array, n: int) -> None:
        self.maximize = level.maximize
        self.equality = level.equality[level.linear_rows]
        self.names = tuple(np.array(level.row_names, object)[level.linear_rows])
        self.constraint = level.row_constraint[level.linear_rows]
        self.entry = level.row_entry[level.linear_rows]
        self.kinds = tuple(level.cone_kinds)
        column = np.where(place >= 0, place, n - 2 - place)
        tensors = level.tensors()
        total = len(level.linear_rows)
        sides = level.sides
        self._count = len(sides[0])
        self._left, self._right = (_Linear(tensors, rows, total, column, source) for rows in sides)
        linear = np.flatnonzero(level.linear_rows)
        self._rows = _Linear(tensors, linear, total, column, source)
        self._cones = [_Linear(tensors, rows, total, column, source) for rows in level.cone_rows]
        self._triangles = [
            None if triangle is None else torch.from_numpy(triangle.toarray())
            for triangle in level.triangles
        ]
        self.cone_sizes = tuple(
            len(rows) if triangle is None else len(triangle)
            for rows, triangle in zip(level.cone_rows, self._triangles, strict=True)
        )
        c = tensors["c"]
        constant = tensors["constant"]
        P = tensors["P"]
        self._linear = _Terms(
            np.zeros(len(c.row), int), column[c.row], source[c.parameter], c.value
        )
        self._constant = _Terms(constant.row, None, source[constant.parameter], constant.value)
        self._first, self._second = (torch.from_numpy(column[part]) for part in (P.row, P.column))
        self._square = _Terms(np.zeros(len(P.row), int), None, source[P.parameter], P.value)
        # A product may contain earlier ones; a flat list needs one pass.
        nested = bool((self._left.columns >= n).any() or (self._right.columns >= n).any())
        self._passes = len(level.products) if nested else min(1, len(level.products))

    def __len__(self) -> int:
        return len(self.equality)

    def objective(self, w: Tensor, theta: Tensor) -> Tensor:
        """Return the objective, to be minimized."""
        full = self._full(w, theta)
        value = self._linear.sums(1, theta, full) + self._constant.sums(1, theta, None)
        if len(self._first):
            pairs = full[self._first] * full[self._second]
            value = value + (self._square.coefficients(theta) * pairs).sum()
        return value[0]

    def rows(self, w: Tensor, theta: Tensor) -> Tensor:
        """Return ``g(w)``, each entry at most zero or, for an equation, zero."""
        return self._rows(theta, self._full(w, theta))

    def cones(self, w: Tensor, theta: Tensor) -> tuple[Tensor, ...]:
        """Return the vectors that must lie in the cones."""
        full = self._full(w, theta)
        return tuple(
            value if triangle is None else triangle @ value
            for triangle, value in zip(
                self._triangles, (cone(theta, full) for cone in self._cones), strict=True
            )
        )

    def structure(self, n: int) -> Array:
        """Return which columns occur in which row, shape ``(rows, n)``, boolean."""
        found = np.zeros((len(self), n), bool)
        inside = self._rows.columns < n
        found[self._rows.at[inside], self._rows.columns[inside]] = True
        for row, product in zip(self._rows.at[~inside], self._rows.columns[~inside], strict=True):
            for side in (self._left, self._right):
                own = side.columns[side.at == product - n]
                found[row, own[own < n]] = True
        return found

    def _full(self, w: Tensor, theta: Tensor) -> Tensor:
        full = torch.cat([w, w.new_zeros(self._count)])
        for _ in range(self._passes):
            products = self._left(theta, full) * self._right(theta, full)
            full = torch.cat([w, products])
        return full


class _Terms:
    """Sums of ``value * theta[source] * full[column]``, by row."""

    def __init__(self, row: Array, column: Array | None, source: Array, value: Array) -> None:
        self._row = torch.from_numpy(row)
        self._source = torch.from_numpy(source)
        self._value = torch.from_numpy(value)
        self._column = None if column is None else torch.from_numpy(column)

    def coefficients(self, theta: Tensor) -> Tensor:
        return self._value * theta[self._source]

    def sums(self, size: int, theta: Tensor, full: Tensor | None) -> Tensor:
        terms = self.coefficients(theta)
        if self._column is not None and full is not None:
            terms = terms * full[self._column]
        return torch.zeros(size, dtype=theta.dtype).index_add(0, self._row, terms)


class _Linear:
    """``A(theta) full - b(theta)`` for some rows of a level."""

    def __init__(
        self,
        tensors: dict[str, compiled.Tensor],
        rows: Array,
        total: int,
        column: Array,
        source: Array,
    ) -> None:
        position = np.full(total, -1)
        position[rows] = np.arange(len(rows))
        A, b = (tensors[name].take(position[tensors[name].row] >= 0) for name in ("A", "b"))
        self._size = len(rows)
        self.at = position[A.row]
        self.columns = column[A.column]
        self._A = _Terms(self.at, self.columns, source[A.parameter], A.value)
        self._b = _Terms(position[b.row], None, source[b.parameter], b.value)

    def __call__(self, theta: Tensor, full: Tensor) -> Tensor:
        return self._A.sums(self._size, theta, full) - self._b.sums(self._size, theta, None)
