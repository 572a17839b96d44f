"""From CVXPY levels to ``StandardForm``: compiled once, evaluated for every parameter value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.expand import Expanded, expand
from bilevel.problem.functions import Array, Monomials, Objective, Rows
from bilevel.problem.leaves import Leaf, label, make_leaf, parameter_value
from bilevel.problem.level import Level, NotParametric
from bilevel.problem.rewrite import Rewriter
from bilevel.problem.standard import (
    LEADER,
    Columns,
    FollowerForm,
    Price,
    StandardForm,
    smallest_curvature,
)
from bilevel.structure import Stance


@dataclass(frozen=True)
class LevelSource:
    """What a level consists of, in the user's CVXPY objects."""

    who: str
    objective: Any
    constraints: tuple[Any, ...]
    variables: tuple[cp.Variable, ...]


@dataclass(frozen=True)
class PriceSource:
    """A leader variable that stands for the multiplier of one constraint of a follower."""

    variable: cp.Variable
    follower: int
    constraint: int


class Canonical:
    """A compiled problem: ``at`` gives its matrices for parameter values.

    Parameters
    ----------
    leader
        The leader's level.
    followers
        The followers' levels.
    prices
        Multipliers that the leader uses.
    values
        ``(variable, follower)`` for each follower value that the leader uses.
    names
        The followers' names.
    """

    def __init__(
        self,
        leader: LevelSource,
        followers: Sequence[LevelSource],
        prices: Sequence[PriceSource],
        values: Sequence[tuple[cp.Variable, int]],
        names: Sequence[str],
    ) -> None:
        self._sources = (leader, *followers)
        self._prices, self._values, self._names = tuple(prices), tuple(values), tuple(names)
        self.leaves: dict[int, Leaf] = {}
        first = 0
        extra = [p.variable for p in prices] + [v for v, _ in values]
        for source in (*self._sources, LevelSource("", None, (), tuple(extra))):
            for variable in source.variables:
                leaf = make_leaf(variable, first)
                self.leaves[variable.id] = leaf
                first += leaf.plain.size
        self._n_plain = first
        self.parameters = _parameters(self._sources)
        self._plain_parameters = {p.id: _plain_parameter(p) for p in self.parameters}
        self._compiled: tuple[list[Level], list[Array], int] | None = None
        try:
            self._compiled = self._compile(self._plain_parameters)
        except NotParametric:
            if not self.parameters:
                raise
        self._constant_form = None if self.parameters else self._form({}, Stance.OPTIMISTIC)

    def at(self, given: Mapping[Any, Any], stance: Stance) -> StandardForm:
        """Return the matrices at parameter values (``given`` overrides ``parameter.value``)."""
        if self._constant_form is not None:
            return replace(self._constant_form, stance=stance)
        values = {p.id: parameter_value(p, given) for p in self.parameters}
        return self._form(values, stance)

    def _compile(self, parameters: Mapping[int, Any]) -> tuple[list[Level], list[Array], int]:
        expressions = {i: leaf.expression for i, leaf in self.leaves.items()}
        rewriter = Rewriter(expressions, parameters)
        levels, places, n = [], [], self._n_plain
        starts = {leaf.plain.id: leaf.first for leaf in self.leaves.values()}
        for source in self._sources:
            constraints = [*source.constraints]
            if source is not self._sources[0]:
                constraints += [c for v in source.variables for c in _attribute_rows(v, self.leaves)]
            level = Level(source.who, source.objective, constraints, rewriter)
            place = np.full(level.n, -1)
            for i, start in level.plain_columns.items():
                size = level.sizes[i]
                if i in starts:
                    place[start : start + size] = np.arange(starts[i], starts[i] + size)
                else:
                    place[start : start + size] = np.arange(n, n + size)
                    n += size
            entry = 0
            for start, (p, _, _) in zip(level.product_columns, level.products, strict=True):
                if start >= 0:
                    place[start : start + p.size] = -2 - np.arange(entry, entry + p.size)
                entry += p.size
            levels.append(level)
            places.append(place)
        return levels, places, n

    def _form(self, values: Mapping[int, Array], stance: Stance) -> StandardForm:
        compiled = self._compiled
        if compiled is None:
            # Not affine in the parameters: their values become constants of a new compilation.
            constants = {i: cp.Constant(value) for i, value in values.items()}
            compiled = self._compile(constants)
        levels, places, n = compiled
        plain = {self._plain_parameters[i].id: value for i, value in values.items()}
        expanded = [
            expand(level, level.arrays(plain), place, n)
            for level, place in zip(levels, places, strict=True)
        ]
        columns = self._columns(places, n)
        followers, moved = [], []
        for k in range(1, len(levels)):
            own = np.flatnonzero(columns.owner == k - 1)
            form, rest = _follower(self._sources[k], self._names[k - 1], own, expanded[k])
            followers.append(form)
            moved.append(rest)
        prices = self._find_prices(expanded, followers)
        value_rows = [_value_row(self.leaves[v.id].first, followers[k]) for v, k in self._values]
        rows = Rows.stack(expanded[0].rows, *moved, *value_rows)
        columns, rows = _bounds_from_rows(columns, rows)
        _check_curvature(followers, columns)
        return StandardForm(
            columns,
            expanded[0].objective,
            rows,
            expanded[0].cones,
            tuple(followers),
            prices,
            tuple((self.leaves[v.id].first, k) for v, k in self._values),
            stance,
        )

    def _columns(self, places: Sequence[Array], n: int) -> Columns:
        names = [f"epigraph[{i}]" for i in range(n)]
        lower, upper = np.full(n, -np.inf), np.full(n, np.inf)
        integer, owner = np.zeros(n, bool), np.full(n, LEADER)
        for level, place in enumerate(places):
            owner[place[place >= self._n_plain]] = level - 1
        for level, source in enumerate(self._sources):
            for variable in source.variables:
                owner[self.leaves[variable.id].columns] = level - 1
        for leaf in self.leaves.values():
            names[leaf.first : leaf.first + leaf.plain.size] = leaf.names
            integer[leaf.columns] = leaf.integer
            if owner[leaf.columns[0]] == LEADER:
                low, high = leaf.bounds
                if leaf.basis is not None:
                    entry = np.asarray(leaf.basis.argmax(axis=0)).ravel()
                    low, high = low[entry], high[entry]
                lower[leaf.columns], upper[leaf.columns] = low, high
        return Columns(tuple(names), lower, upper, integer, owner)

    def _find_prices(
        self, expanded: Sequence[Expanded], followers: Sequence[FollowerForm]
    ) -> tuple[Price, ...]:
        prices = []
        for source in self._prices:
            level = expanded[source.follower + 1]
            follower = followers[source.follower]
            own = np.zeros(level.rows.A.shape[1], bool)
            own[follower.columns] = True
            kept = np.flatnonzero(level.rows.touches(own))
            first = self.leaves[source.variable.id].first
            where = np.flatnonzero(level.row_constraint[kept] == source.constraint)
            if len(where) != source.variable.size:
                raise ProblemError(
                    f"The multiplier of constraint {source.constraint} of follower "
                    f"{follower.name!r} is used by the leader, but that constraint does not "
                    f"contain the follower's variables in every row, so it has no multiplier there."
                )
            entries = level.row_entry[kept][where]
            prices += [
                Price(first + int(entry), source.follower, int(row))
                for entry, row in zip(entries, where, strict=True)
            ]
        return tuple(prices)


def _follower(
    source: LevelSource, name: str, own: Array, level: Expanded
) -> tuple[FollowerForm, Rows]:
    if level.cones:
        raise UnsupportedProblem(
            f"The problem of {source.who} needs a second-order cone (a norm, or a convex function "
            f"inside a constraint). Followers are linear or convex quadratic programs here: write "
            f"its constraints with linear terms, absolute values or maxima."
        )
    mask = np.zeros(level.rows.A.shape[1], bool)
    mask[own] = True
    products = level.rows.products
    both = mask[products.factors].all(axis=1) if len(products) else np.zeros(0, bool)
    if both.any():
        number = int(level.row_constraint[products.row[both][0]])
        raise UnsupportedProblem(
            f"Constraint {number} (counted from 0) of {source.who} is quadratic in the follower's "
            f"own variables; a follower's constraints must be linear in them."
        )
    touched = level.rows.touches(mask)
    cubic = level.objective.cubic
    if len(cubic) and mask[cubic.factors].all(axis=1).any():
        raise UnsupportedProblem(f"The objective of {source.who} is cubic in its own variables.")
    curvature = smallest_curvature(level.objective, own)
    if curvature < -1e-9:
        word = "concave" if level.objective.maximize else "convex"
        raise UnsupportedProblem(
            f"The objective of {source.who} is not {word} in its own variables (smallest relative "
            f"eigenvalue of its quadratic part: {curvature:.3g}). First-order conditions would "
            f"accept points that are not its best answer."
        )
    return FollowerForm(name, own, level.objective, level.rows.take(touched)), level.rows.take(
        ~touched
    )


def _check_curvature(followers: Sequence[FollowerForm], columns: Columns) -> None:
    """A leader column may scale a convex quadratic only where its sign is known."""
    for follower in followers:
        cubic = follower.objective.cubic
        if not len(cubic):
            continue
        own = np.zeros(len(columns), bool)
        own[follower.columns] = True
        scaled = own[cubic.factors].sum(axis=1) == 2
        for scale in np.unique(cubic.factors[scaled][~own[cubic.factors[scaled]]]):
            w = np.zeros(len(columns))
            w[scale] = 1.0
            P = follower.objective.project(follower.columns, w).P
            P = P - follower.objective.project(follower.columns, np.zeros(len(columns))).P
            up, down = (Objective(sign * P, np.zeros(P.shape[0])) for sign in (1.0, -1.0))
            safe = (smallest_curvature(up) >= -1e-9 and columns.lower[scale] >= 0) or (
                smallest_curvature(down) >= -1e-9 and columns.upper[scale] <= 0
            )
            if not safe:
                raise UnsupportedProblem(
                    f"Column {columns.names[scale]} scales a quadratic term of follower "
                    f"{follower.name!r}, which is convex only for one sign of it: bound "
                    f"{columns.names[scale]} accordingly (for example nonneg=True)."
                )


def _value_row(column: int, follower: FollowerForm) -> Rows:
    objective = follower.objective
    if len(objective.cubic):
        raise UnsupportedProblem(
            f"The value of follower {follower.name!r} cannot be used by the leader while a leader "
            f"variable scales its quadratic term."
        )
    n, sign = len(objective.c), objective.sign
    linear = sign * objective.c
    linear[column] -= 1.0
    coo = objective.P.tocoo()
    factors = np.column_stack([coo.row, coo.col])
    products = np.full(coo.nnz, 0.5 * sign) * coo.data
    return Rows(
        sp.csr_array(linear[None, :].reshape(1, n)),
        np.array([-sign * objective.constant]),
        np.array([True]),
        Monomials.collect(np.zeros(coo.nnz, int), factors, products),
        (f"value[{follower.name}]",),
    )


def _bounds_from_rows(columns: Columns, rows: Rows) -> tuple[Columns, Rows]:
    """Turn leader rows with a single leader column into bounds of that column."""
    count = np.diff(rows.A.indptr)
    single = (count == 1) & ~rows.equality
    single[rows.products.row] = False
    index = np.flatnonzero(single)
    column = rows.A.indices[rows.A.indptr[index]]
    value = rows.A.data[rows.A.indptr[index]]
    leads = columns.owner[column] == LEADER
    index, column, value = index[leads], column[leads], value[leads]
    bound = rows.b[index] / value
    lower, upper = columns.lower.copy(), columns.upper.copy()
    np.minimum.at(upper, column[value > 0], bound[value > 0])
    np.maximum.at(lower, column[value < 0], bound[value < 0])
    keep = np.ones(len(rows), bool)
    keep[index] = False
    return Columns(columns.names, lower, upper, columns.integer, columns.owner), rows.take(keep)


def _attribute_rows(variable: cp.Variable, leaves: Mapping[int, Leaf]) -> list[Any]:
    """Bounds that a follower's variable declares, as constraints: each has a multiplier."""
    leaf = leaves[variable.id]
    lower, upper = leaf.bounds
    rows, vector = [], cp.vec(variable, order="F")
    for bound, build in ((lower, lambda v, s: v >= s), (upper, lambda v, s: v <= s)):
        finite = np.flatnonzero(np.isfinite(bound))
        if len(finite):
            part = vector if len(finite) == variable.size else vector[finite]
            rows.append(build(part, bound[finite]))
    return rows


def _parameters(sources: Sequence[LevelSource]) -> tuple[cp.Parameter, ...]:
    found = {}
    for source in sources:
        for part in (source.objective, *source.constraints):
            for parameter in part.parameters() if part is not None else ():
                found[parameter.id] = parameter
    return tuple(found.values())


def _plain_parameter(parameter: cp.Parameter) -> cp.Parameter:
    if parameter.is_complex():
        raise UnsupportedProblem(f"Parameter {label(parameter)} is complex; use real data.")
    return cp.Parameter(
        parameter.shape,
        name=label(parameter),
        nonneg=parameter.is_nonneg(),
        nonpos=parameter.is_nonpos() and not parameter.is_nonneg(),
    )
