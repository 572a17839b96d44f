"""Collecting the columns, rows and sets of a single-level program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Cone, Monomials, Objective, Rows
from bilevel.program import Indicator, Program


@dataclass(frozen=True)
class Bits:
    """An integer column as ``low + sum weight * binary`` over ``parts``."""

    low: float
    parts: tuple[tuple[float, int], ...]


class Builder:
    """Collects columns, rows and sets, then freezes them into a ``Program``."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._lower: list[float] = []
        self._upper: list[float] = []
        self._integer: list[bool] = []
        self._rows: list[Rows] = []
        self._entries: list[tuple[Sequence[int], Sequence[float], float, bool, str]] = []
        self._terms: list[tuple[int, int, int, float]] = []
        self._sos1: list[tuple[str, tuple[int, ...]]] = []
        self._indicators: list[Indicator] = []
        self._recipes: list[tuple[Array, Callable[[Array], Any]]] = []
        self._complements: dict[int, int] = {}
        self.cones: tuple[Cone, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def columns(
        self,
        names: Sequence[str],
        lower: Any,
        upper: Any,
        integer: bool | Array = False,
        recipe: Callable[[Array], Any] | None = None,
    ) -> Array:
        """Add columns (scalars are repeated) and say how they follow from earlier ones."""
        first = len(self.names)
        count = len(names)
        self.names.extend(names)
        for part, values in (
            (self._lower, lower),
            (self._upper, upper),
            (self._integer, integer),
        ):
            part.extend(values.tolist() if isinstance(values, np.ndarray) else [values] * count)
        index = np.arange(first, first + count)
        if recipe is not None and count:
            self._recipes.append((index, recipe))
        return index

    def column(
        self,
        name: str,
        lower: float,
        upper: float,
        recipe: Callable[[Array], float] | None = None,
        integer: bool = False,
    ) -> int:
        """Add one column."""
        return int(self.columns([name], lower, upper, integer, recipe)[0])

    def complement(self, binary: int) -> int:
        """Return a column that equals ``1 - binary``, added when first asked for."""
        if binary not in self._complements:
            name = f"not[{self.names[binary]}]"
            column = self.column(name, 0.0, 1.0, recipe=lambda v: 1.0 - v[binary])
            self.row([binary, column], [1.0, 1.0], 1.0, name, equality=True)
            self._complements[binary] = column
        return self._complements[binary]

    def bounds(self, column: int) -> tuple[float, float]:
        """Return a column's bounds."""
        return self._lower[column], self._upper[column]

    def is_binary(self, column: int) -> bool:
        """Return whether a column is integer between 0 and 1."""
        return self._integer[column] and self._lower[column] >= 0 and self._upper[column] <= 1

    def range(self, column: int) -> float:
        """Return how many values but one an integer column may take; infinity for others."""
        low = np.ceil(self._lower[column])
        high = np.floor(self._upper[column])
        return float(high - low) if self._integer[column] else np.inf

    def rows(self, rows: Rows) -> None:
        """Add rows over the columns that exist so far (or a first part of them)."""
        if rows.b.size:
            self._rows.append(rows)

    def row(
        self,
        columns: Sequence[int],
        values: Sequence[float],
        rhs: float,
        name: str,
        equality: bool = False,
        products: Sequence[tuple[int, int, float]] = (),
    ) -> None:
        """Add ``sum values * v[columns] + sum coefficient * v[i] * v[j] <= rhs`` (or ``==``)."""
        self._terms.extend((len(self._entries), i, j, value) for i, j, value in products)
        self._entries.append((columns, values, rhs, equality, name))

    def sos1(self, name: str, columns: Sequence[int]) -> None:
        """Add a set of which at most one column is nonzero."""
        self._sos1.append((name, tuple(int(c) for c in columns)))

    def indicator(self, binary: int, active: int, target: int, name: str) -> None:
        """Add: if ``binary`` equals ``active``, column ``target`` is zero."""
        self._indicators.append(Indicator(int(binary), active, int(target), name))

    def build(self, objective: Objective) -> Program:
        """Freeze everything into a program that minimises ``objective``."""
        n = len(self.names)
        parts = [rows.pad(n) for rows in self._rows]
        if self._entries:
            parts.append(self._own_rows(n))
        return Program(
            tuple(self.names),
            np.array(self._lower, float),
            np.array(self._upper, float),
            np.array(self._integer, bool),
            objective.pad(n),
            Rows.stack(*parts) if parts else Rows.empty(n),
            tuple(cone.pad(n) for cone in self.cones),
            tuple(self._sos1),
            tuple(self._indicators),
            tuple(self._recipes),
        )

    def _own_rows(self, n: int) -> Rows:
        counts = [len(columns) for columns, *_ in self._entries]
        row = np.repeat(np.arange(len(counts)), counts)
        column = np.concatenate([np.asarray(c, int) for c, *_ in self._entries])
        value = np.concatenate([np.asarray(v, float) for _, v, *_ in self._entries])
        A = sp.csr_array(sp.coo_array((value, (row, column)), shape=(len(counts), n)))
        terms = np.array(self._terms, float).reshape(-1, 4)
        products = Monomials.collect(
            terms[:, 0].astype(int), terms[:, 1:3].astype(int), terms[:, 3]
        )
        return Rows(
            A,
            np.array([rhs for _, _, rhs, _, _ in self._entries], float),
            np.array([equality for *_, equality, _ in self._entries], bool),
            products,
            tuple(name for *_, name in self._entries),
        )
