"""A single-level program, what a backend must be able to do for it, and its raw answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

from bilevel.problem.functions import Array, Cone, Kind, Objective, Rows
from bilevel.problem.standard import is_convex

#: ``(seconds, incumbent, bound)``, whenever one of them improved.
Moment = tuple[float, float | None, float | None]


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
    EXPONENTIAL_CONES = auto()
    SEMIDEFINITE_CONES = auto()
    INTEGER_QUADRATIC = auto()
    CUTS = auto()

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
    Feature.EXPONENTIAL_CONES: "exponential cones",
    Feature.SEMIDEFINITE_CONES: "semidefinite cones",
    Feature.INTEGER_QUADRATIC: "a quadratic objective with integer variables",
    Feature.CUTS: "rows that are found during the search",
}


_CONES = {
    Kind.SECOND_ORDER: Feature.CONES,
    Kind.EXPONENTIAL: Feature.EXPONENTIAL_CONES,
    Kind.SEMIDEFINITE: Feature.SEMIDEFINITE_CONES,
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
        Second-order, exponential and semidefinite cones.
    sos1
        Sets ``(name, columns)`` of which at most one column is nonzero.
    indicators
        Implications between a binary and a column.
    recipes
        For columns that a reformulation introduced: how to compute them from earlier columns, so
        that a point of the bilevel problem can be handed over as a start.
    cuts
        Finds rows during the search, each with a name of its own. Called with a point and whether
        it meets everything else, integrality included: then the point counts as feasible if and
        only if no row comes back. Otherwise it is a point of a relaxation, and rows are a help.
        A row must hold for all points that may still become the answer.
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
    recipes: tuple[tuple[Array, Callable[[Array], Any]], ...] = field(default=(), repr=False)
    cuts: Callable[[Array, bool], Rows] | None = field(default=None, repr=False)

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
        if self.rows.products.row.size:
            flags |= Feature.PRODUCT_ROWS
        for cone in self.cones:
            flags |= _CONES[cone.kind]
        if self.cuts is not None:
            flags |= Feature.CUTS
        return flags

    @cached_property
    def digest(self) -> bytes:
        """A digest of all numbers, which tells the program from others."""
        rows = self.rows
        objective = self.objective
        parts: list[Any] = [self.lower, self.upper, self.integer, rows.b, rows.equality]
        for matrix in (rows.A, objective.P):
            parts += [matrix.data, matrix.indices, matrix.indptr]
        parts += [objective.c, np.array([objective.constant])]
        digest = blake2b(repr(self.sos1).encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.digest()

    def complete(self, v: Array) -> Array:
        """Fill the columns that have recipes, in order, from those before them."""
        v = v.copy()
        for columns, recipe in self.recipes:
            v[columns] = recipe(v)
        return v


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

    Examples
    --------
    >>> from bilevel import Progress
    >>> Progress(seconds=0.5, incumbent=8.0, bound=6.0, nodes=12).gap
    0.25
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
class Resume:
    """Where a search that met a limit goes on: opaque, and handed through as it is.

    Parameters
    ----------
    digest
        ``Program.digest`` of the program that was searched.
    state
        What the backend knew when it stopped; nobody else reads it.
    seconds
        Time spent in the search so far.
    trace
        ``(seconds, incumbent, bound)`` so far, in the leader's sense.
    """

    digest: bytes = field(repr=False)
    state: Any = field(repr=False)
    seconds: float
    trace: tuple[Moment, ...] = field(default=(), repr=False)

    def belongs_to(self, program: Program) -> bool:
        """Return whether the search was one of this very program."""
        return self.digest == program.digest


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
    improve
        Called with a relaxation's point; returns a feasible point made from it, or ``None``.
        Backends without such a hook do not use it.
    resume
        ``RawAnswer.resume`` of an earlier solve, to go on from; ignored for another program.
    """

    time_limit: float | None = None
    rtol: float = 1e-6
    atol: float = 1e-8
    seed: int | None = None
    verbose: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    progress: Callable[[Progress], bool | None] | None = None
    improve: Callable[[Array], Array | None] | None = None
    resume: Resume | None = None


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
    cone_duals
        Multipliers of the cones, each in the dual cone: the Lagrangian is
        ``f + duals'rows - sum cone_duals'(A v - b)``.
    resume
        The state from which a search that met a limit can go on, for backends that can; opaque.
    """

    termination: Termination
    v: Array | None
    bound: float
    duals: Array | None
    nodes: int
    seconds: float
    raw_status: str
    cone_duals: tuple[Array, ...] | None = None
    resume: Resume | None = None

    def __post_init__(self) -> None:
        # Some vendors call an answer to broken numbers optimal.
        broken = self.v is not None and not np.isfinite(self.v).all()
        if broken or np.isnan(self.bound):
            object.__setattr__(self, "termination", Termination.NUMERICAL)
            object.__setattr__(self, "v", None)
            object.__setattr__(self, "bound", -np.inf)


def relative_gap(value: float | None, bound: float | None) -> float | None:
    """Return ``|value - bound| / max(1, |value|)``, or ``None`` where one is unknown."""
    if value is None or bound is None or not np.isfinite([value, bound]).all():
        return None
    return abs(value - bound) / max(1.0, abs(value))
