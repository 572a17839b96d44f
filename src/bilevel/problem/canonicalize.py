"""From CVXPY levels to ``StandardForm``: compiled once, evaluated for every parameter value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cvxpy as cp
import numpy as np

from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.expand import Expanded, Expander
from bilevel.problem.follower_checks import check_curvature, own_rows, value_row
from bilevel.problem.functions import Array, Rows
from bilevel.problem.leaves import Leaf, make_leaf, parameter_value
from bilevel.problem.level import Level, NotParametric
from bilevel.problem.pattern import Pattern
from bilevel.problem.plain import attribute_rows, plain_parameter, source_of
from bilevel.problem.rewrite import Rewriter
from bilevel.problem.standard import (
    LEADER,
    Columns,
    DualVariable,
    FollowerForm,
    StandardForm,
)
from bilevel.structure import Stance


@dataclass(frozen=True)
class LevelSource:
    """What a level consists of, in CVXPY."""

    who: str
    objective: Any
    constraints: tuple[Any, ...]
    variables: tuple[cp.Variable, ...]


@dataclass(frozen=True)
class DualSource:
    """A leader variable that stands for the multiplier of one constraint of a follower."""

    variable: cp.Variable
    follower: int
    constraint: int


class _Compiled:
    """The levels of one compilation; a level without parameters is expanded once."""

    def __init__(
        self, levels: tuple[Level, ...], places: Sequence[Array], columns: Columns, n: int
    ) -> None:
        self.levels = levels
        self.places = tuple(places)
        self.columns = columns
        self._expanders = tuple(Expander(*pair, n) for pair in zip(levels, places, strict=True))
        self._fixed: dict[int, Expanded] = {}

    def expand(self, k: int, values: Mapping[int, Array]) -> Expanded:
        """Return level ``k`` at parameter values."""
        if k in self._fixed:
            return self._fixed[k]
        expanded = self._expanders[k](self.levels[k].arrays(values))
        if not self.levels[k].has_parameters:
            self._fixed[k] = expanded
        return expanded


class Canonical:
    """A compiled problem: ``at`` gives its matrices for parameter values.

    Parameters
    ----------
    leader
        The leader's level.
    followers
        The followers' levels.
    dual_variables
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
        dual_variables: Sequence[DualSource],
        values: Sequence[tuple[cp.Variable, int]],
        names: Sequence[str],
    ) -> None:
        self._sources = (leader, *followers)
        self._dual_variables = tuple(dual_variables)
        self._values = tuple(values)
        self._names = tuple(names)
        self.leaves: dict[int, Leaf] = {}
        first = 0
        extra = [p.variable for p in dual_variables] + [v for v, _ in values]
        for source in (*self._sources, LevelSource("", None, (), tuple(extra))):
            for variable in source.variables:
                leaf = make_leaf(variable, first)
                self.leaves[variable.id] = leaf
                first += leaf.plain.size
        self._n_plain = first
        self.parameters = _parameters(self._sources)
        self._plain_parameters = {p.id: plain_parameter(p) for p in self.parameters}
        self._compiled: _Compiled | None = None
        self._last_pattern: Pattern | None = None
        self._last_bounds: tuple[Columns, Rows, tuple[Columns, Rows]] | None = None
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

    def levels(self) -> tuple[tuple[Level, Array], ...]:
        """Return each compiled level and where its columns stand: see ``Level.places``."""
        if self._compiled is None:
            raise UnsupportedProblem(
                "The problem multiplies parameters with each other, or breaks CVXPY's rules for "
                "parameters (DPP) otherwise, so derivatives by them are not known here. Make the "
                "product a parameter of its own."
            )
        return tuple(zip(self._compiled.levels, self._compiled.places, strict=True))

    @property
    def columns(self) -> Columns:
        """The columns, with the bounds that attributes declare."""
        if self._compiled is None:
            raise UnsupportedProblem("The columns of this problem depend on parameter values.")
        return self._compiled.columns

    def source(self, level: Level, inputs: Sequence[cp.Parameter]) -> Array:
        """Return, for each compiled parameter entry, its index among the entries of ``inputs``."""
        return source_of(inputs, self._plain_parameters, level)

    def _compile(self, parameters: Mapping[int, Any]) -> _Compiled:
        expressions = {i: leaf.expression for i, leaf in self.leaves.items()}
        levels = []
        places = []
        n = self._n_plain
        starts = {leaf.plain.id: leaf.first for leaf in self.leaves.values()}
        for source in self._sources:
            constraints = [*source.constraints]
            if source is not self._sources[0]:
                constraints += [
                    c for v in source.variables for c in attribute_rows(self.leaves[v.id])
                ]
            rewriter = Rewriter(expressions, parameters)
            level = Level(source.who, source.objective, constraints, rewriter, bool(levels))
            place, n = level.places(starts, n)
            levels.append(level)
            places.append(place)
        return _Compiled(tuple(levels), places, self._columns(places, n), n)

    def _form(self, values: Mapping[int, Array], stance: Stance) -> StandardForm:
        compiled = self._compiled
        if compiled is None:
            # Not affine in the parameters: their values become constants of a new compilation.
            compiled = self._compile({i: cp.Constant(value) for i, value in values.items()})
        plain = {self._plain_parameters[i].id: value for i, value in values.items()}
        expanded = [compiled.expand(k, plain) for k in range(len(compiled.levels))]
        pattern = self._pattern(compiled.columns, expanded)
        followers = []
        moved = []
        for k, level in enumerate(expanded[1:]):
            own = pattern.own[k]
            touched = pattern.touched[k]
            rows = level.rows.take(touched)
            followers.append(FollowerForm(self._names[k], own, level.objective, rows, level.cones))
            moved.append(level.rows.take(~touched))
        dual_variables = self._find_dual_variables(expanded, pattern)
        value_rows = [value_row(self.leaves[v.id].first, followers[k]) for v, k in self._values]
        rows = Rows.stack(expanded[0].rows, *moved, *value_rows)
        columns, rows = self._bounds(compiled.columns, rows)
        check_curvature(followers, columns)
        if len(expanded[0].objective.cubic):
            raise UnsupportedProblem("The leader's objective multiplies three variables.")
        form = StandardForm(
            columns,
            expanded[0].objective,
            rows,
            expanded[0].cones,
            tuple(followers),
            dual_variables,
            tuple((self.leaves[v.id].first, k) for v, k in self._values),
            stance,
        )
        if not self._values:
            # Value rows contain linear costs; without them the structure is that of the matrices.
            pattern.share(form, columns)
        return form

    def _pattern(self, columns: Columns, expanded: Sequence[Expanded]) -> Pattern:
        """Return what depends on the levels' matrices only, from last time if they are the same."""
        last = self._last_pattern
        if last is not None and last.matches(expanded):
            return last
        own = [np.flatnonzero(columns.owner == k) for k in range(len(expanded) - 1)]
        touched = [
            own_rows(source.who, part, level)
            for source, part, level in zip(self._sources[1:], own, expanded[1:], strict=True)
        ]
        self._last_pattern = Pattern(tuple(expanded), own, touched)
        return self._last_pattern

    def _bounds(self, columns: Columns, rows: Rows) -> tuple[Columns, Rows]:
        last = self._last_bounds
        if last is None or last[0] is not columns or last[1] is not rows:
            last = (columns, rows, _bounds_from_rows(columns, rows))
            self._last_bounds = last
        return last[2]

    def _columns(self, places: Sequence[Array], n: int) -> Columns:
        names = [f"epigraph[{i}]" for i in range(n)]
        lower = np.full(n, -np.inf)
        upper = np.full(n, np.inf)
        integer = np.zeros(n, bool)
        owner = np.full(n, LEADER)
        for level, place in enumerate(places):
            owner[place[place >= self._n_plain]] = level - 1
        for level, source in enumerate(self._sources):
            for variable in source.variables:
                owner[self.leaves[variable.id].columns] = level - 1
        for leaf in self.leaves.values():
            names[leaf.first : leaf.first + leaf.plain.size] = leaf.names
            integer[leaf.columns] = leaf.integer
            if leaf.plain.size and owner[leaf.first] == LEADER:
                low, high = leaf.bounds
                if leaf.basis is not None:
                    entry = np.asarray(leaf.basis.argmax(axis=0)).ravel()
                    low = low[entry]
                    high = high[entry]
                lower[leaf.columns] = low
                upper[leaf.columns] = high
        auxiliary = np.arange(n) >= self._n_plain
        return Columns(tuple(names), lower, upper, integer, owner, auxiliary)

    def _find_dual_variables(
        self, expanded: Sequence[Expanded], pattern: Pattern
    ) -> tuple[DualVariable, ...]:
        found = []
        for source in self._dual_variables:
            level = expanded[source.follower + 1]
            kept = np.flatnonzero(pattern.touched[source.follower])
            first = self.leaves[source.variable.id].first
            where = np.flatnonzero(level.row_constraint[kept] == source.constraint)
            if len(where) != source.variable.size:
                raise ProblemError(
                    f"The multiplier of constraint {source.constraint} of follower "
                    f"{self._names[source.follower]!r} is used by the leader, but that constraint "
                    f"does not contain the follower's variables in every row, so it has no "
                    f"multiplier there."
                )
            entries = level.row_entry[kept][where]
            found += [
                DualVariable(first + int(entry), source.follower, int(row))
                for entry, row in zip(entries, where, strict=True)
            ]
        return tuple(found)


def _bounds_from_rows(columns: Columns, rows: Rows) -> tuple[Columns, Rows]:
    """Turn leader rows with a single leader column into bounds of that column."""
    count = np.diff(rows.A.indptr)
    single = (count == 1) & ~rows.equality
    single[rows.products.row] = False
    index = np.flatnonzero(single)
    column = rows.A.indices[rows.A.indptr[index]]
    value = rows.A.data[rows.A.indptr[index]]
    leads = columns.owner[column] == LEADER
    index = index[leads]
    column = column[leads]
    value = value[leads]
    bound = rows.b[index] / value
    lower = columns.lower.copy()
    upper = columns.upper.copy()
    np.minimum.at(upper, column[value > 0], bound[value > 0])
    np.maximum.at(lower, column[value < 0], bound[value < 0])
    keep = np.ones(len(rows), bool)
    keep[index] = False
    return replace(columns, lower=lower, upper=upper), rows.take(keep)


def _parameters(sources: Sequence[LevelSource]) -> tuple[cp.Parameter, ...]:
    found = {}
    for source in sources:
        for part in (source.objective, *source.constraints):
            for parameter in part.parameters() if part is not None else ():
                found[parameter.id] = parameter
    return tuple(found.values())
