"""A single-level program, what a backend must be able to do for it, and its raw answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Cone, Monomials, Objective, Rows
from bilevel.problem.standard import is_convex


class Feature(Flag):
    """What a program contains; a backend states which features it can take.

    Examples
    --------
    >>> from bilevel.program import Feature
    >>> (Feature.SOS1 | Feature.INTEGER).sentence()
    'integer variables, SOS1 sets'
    """

    NONE = 0
    INTEGER = auto()
    SOS1 = auto()
    INDICATOR = auto()
    CONVEX_QUADRATIC = auto()
    NONCONVEX_QUADRATIC = auto()
    PRODUCT_ROWS = auto()
    CONES = auto()
    INTEGER_QUADRATIC = auto()

    def sentence(self) -> str:
        """Return the features in words."""
        return ", ".join(_WORDS[flag] for flag in _WORDS if flag in self)


_WORDS = {
    Feature.INTEGER: "integer variables",
    Feature.SOS1: "SOS1 sets",
    Feature.INDICATOR: "indicator constraints",
    Feature.CONVEX_QUADRATIC: "a convex quadratic objective",
    Feature.NONCONVEX_QUADRATIC: "a nonconvex quadratic objective",
    Feature.PRODUCT_ROWS: "products of variables in constraints",
    Feature.CONES: "second-order cones",
    Feature.INTEGER_QUADRATIC: "a quadratic objective with integer variables",
}


@dataclass(frozen=True)
class Indicator:
    """If column ``binary`` equals ``active``, column ``target`` is zero."""

    binary: int
    active: int
    target: int
    name: str


@dataclass(frozen=True)
class Program:
    r"""``min f(v)`` over columns with bounds, rows, cones, SOS1 sets and indicators.

    Parameters
    ----------
    names, lower, upper, integer
        The columns, each of shape ``(n,)``.
    objective
        ``f``, quadratic.
    rows
        Constraints ``A v + products - b <= 0`` or ``== 0``.
    cones
        Second-order cones.
    sos1
        Sets ``(name, columns)`` of which at most one column is nonzero.
    indicators
        Implications between a binary and a column.
    recipes
        For columns that a reformulation introduced: how to compute them from earlier columns, so
        that a point of the bilevel problem can be handed over as a start.
    """

    names: tuple[str, ...]
    lower: Array
    upper: Array
    integer: Array
    objective: Objective
    rows: Rows
    cones: tuple[Cone, ...] = ()
    sos1: tuple[tuple[str, tuple[int, ...]], ...] = ()
    indicators: tuple[Indicator, ...] = ()
    recipes: tuple[tuple[int, Callable[[Array], float]], ...] = field(default=(), repr=False)

    @property
    def n(self) -> int:
        """Number of columns."""
        return len(self.names)

    @cached_property
    def features(self) -> Feature:
        """What a backend must be able to do."""
        flags = Feature.NONE
        if self.integer.any():
            flags |= Feature.INTEGER
        if self.sos1:
            flags |= Feature.SOS1
        if self.indicators:
            flags |= Feature.INDICATOR
        if self.objective.P.nnz:
            convex = is_convex(self.objective)
            flags |= Feature.CONVEX_QUADRATIC if convex else Feature.NONCONVEX_QUADRATIC
            if self.integer.any():
                flags |= Feature.INTEGER_QUADRATIC
        if len(self.rows.products):
            flags |= Feature.PRODUCT_ROWS
        if self.cones:
            flags |= Feature.CONES
        return flags

    def complete(self, v: Array) -> Array:
        """Fill the columns that have recipes, in order, from those before them."""
        v = v.copy()
        for column, recipe in self.recipes:
            v[column] = recipe(v)
        return v


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
        self._recipes: list[tuple[int, Callable[[Array], float]]] = []
        self._complements: dict[int, int] = {}
        self.cones: tuple[Cone, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def columns(
        self, names: Sequence[str], lower: Any, upper: Any, integer: Any = False
    ) -> Array:
        """Add columns; scalars are repeated. Return their indices."""
        first, count = len(self.names), len(names)
        self.names.extend(names)
        self._lower.extend(np.broadcast_to(lower, count).tolist())
        self._upper.extend(np.broadcast_to(upper, count).tolist())
        self._integer.extend(np.broadcast_to(integer, count).tolist())
        return np.arange(first, first + count)

    def column(
        self,
        name: str,
        lower: float,
        upper: float,
        recipe: Callable[[Array], float] | None = None,
        integer: bool = False,
    ) -> int:
        """Add one column and say how it follows from earlier ones."""
        index = int(self.columns([name], lower, upper, integer)[0])
        if recipe is not None:
            self._recipes.append((index, recipe))
        return index

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

    def rows(self, rows: Rows) -> None:
        """Add rows over the columns that exist so far (or a first part of them)."""
        if len(rows):
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
        products = Monomials.collect(terms[:, 0].astype(int), terms[:, 1:3].astype(int), terms[:, 3])
        return Rows(
            A,
            np.array([rhs for _, _, rhs, _, _ in self._entries], float),
            np.array([equality for *_, equality, _ in self._entries], bool),
            products,
            tuple(name for *_, name in self._entries),
        )


class Termination(Enum):
    """How a backend ended, in one vocabulary for all vendors."""

    OPTIMAL = "optimal"
    LIMIT = "limit"
    INTERRUPTED = "interrupted"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    INFEASIBLE_OR_UNBOUNDED = "infeasible or unbounded"
    NUMERICAL = "numerical trouble"


@dataclass(frozen=True)
class Progress:
    """A moment of a running solve: seconds since its start, best value, bound and nodes so far.

    ``incumbent`` and ``bound`` are in the leader's sense, ``None`` where not yet known.
    """

    seconds: float
    incumbent: float | None
    bound: float | None
    nodes: int

    @property
    def gap(self) -> float | None:
        """Relative distance between incumbent and bound."""
        return relative_gap(self.incumbent, self.bound)


@dataclass(frozen=True)
class Limits:
    """When and how carefully a backend should stop.

    Parameters
    ----------
    time_limit
        Seconds, or ``None``.
    rtol, atol
        The gap at which optimality is claimed.
    seed
        For randomised choices inside the backend.
    verbose
        Whether the backend may write to the terminal.
    options
        Passed to the vendor verbatim.
    progress
        Called now and then; returning ``True`` stops the solve.
    """

    time_limit: float | None = None
    rtol: float = 1e-6
    atol: float = 1e-8
    seed: int | None = None
    verbose: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    progress: Callable[[Progress], bool | None] | None = None


@dataclass(frozen=True)
class RawAnswer:
    """What a backend returned.

    Parameters
    ----------
    termination
        How it ended.
    v
        Best point, shape ``(n,)``, or ``None``.
    bound
        Proved lower bound on the objective, ``-inf`` if none.
    duals
        Multipliers of the rows (continuous programs only), with the sign of ``Rows``.
    nodes
        Branch-and-bound nodes.
    seconds
        Time inside the vendor's code.
    raw_status
        The vendor's own word.
    """

    termination: Termination
    v: Array | None
    bound: float
    duals: Array | None
    nodes: int
    seconds: float
    raw_status: str


def relative_gap(value: float | None, bound: float | None) -> float | None:
    """Return ``|value - bound| / max(1, |value|)``, or ``None`` where one is unknown."""
    if value is None or bound is None or not np.isfinite([value, bound]).all():
        return None
    return abs(value - bound) / max(1.0, abs(value))
