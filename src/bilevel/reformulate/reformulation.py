"""The contract of a reformulation, and what all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from bilevel.problem.functions import NO_PRODUCTS, Array, Monomials, Rows
from bilevel.problem.sparse import entries, from_entries
from bilevel.problem.standard import FollowerForm, StandardForm
from bilevel.program import Program
from bilevel.reformulate.builder import Bits, Builder
from bilevel.structure import Stance


@dataclass(frozen=True)
class Reformulated:
    """A single-level program and the way back.

    Parameters
    ----------
    program
        Its first ``n`` columns are those of the bilevel problem.
    n
        Number of columns of the bilevel problem.
    multipliers
        For each follower, the program's columns that hold its multipliers (empty if none do).
    proved
        Whether the program's optimum is the problem's; ``False`` with bounds from the user.
    note
        How bounds were obtained, or other things to tell a person.
    tolerant
        Whether the followers' optimality stands in rows with products, which a backend meets only
        to its tolerance.
    scales
        Columns whose growth without limit means that the optimum is not attained.
    bits
        The integer columns that the program also holds in binaries.
    """

    program: Program
    n: int
    multipliers: tuple[Array, ...]
    proved: bool = True
    note: str = ""
    tolerant: bool = False
    scales: tuple[int, ...] = ()
    bits: Mapping[int, Bits] = field(default_factory=dict)

    def invert(self, v: Array) -> tuple[Array, tuple[Array, ...]]:
        """Return the problem's columns and the followers' multipliers at a point."""
        return v[: self.n], tuple(v[columns] for columns in self.multipliers)

    def embed(self, w: Array, multipliers: tuple[Array, ...]) -> Array:
        """Return a point of the program from the problem's columns and multipliers."""
        v = np.zeros(self.program.n)
        v[: self.n] = w
        for columns, values in zip(self.multipliers, multipliers, strict=True):
            if len(columns):
                v[columns] = values
        return self.program.complete(v)


class AbstractReformulation(ABC):
    """Replaces the followers by conditions, so that one program remains."""

    @abstractmethod
    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """Return the reasons why this is not valid for a problem; empty if it is valid."""

    @abstractmethod
    def apply(self, form: StandardForm) -> Reformulated:
        """Return the single-level program.

        Parameters
        ----------
        form
            A problem for which ``accepts`` returned no reason.

        Raises
        ------
        UnsupportedProblem
            If bounds that the encoding needs cannot be derived.
        """

    @final
    def applied(self, form: StandardForm) -> Reformulated:
        """Return ``apply(form)``, made once: asking and solving share it."""
        if self not in form.kept:
            form.kept[self] = self.apply(form)
        return form.kept[self]


def refuse_cones(form: StandardForm) -> tuple[str, ...]:
    """Return why a method that needs linear constraints does not take conic followers."""
    instead = "use Continuation"
    if form.stance is Stance.PESSIMISTIC:
        instead = "Continuation takes them in optimistic problems only"
    return tuple(
        f"Follower {follower.name!r} has cones (norms, logarithms, exponentials or matrix "
        f"inequalities), which this method does not take; {instead}."
        for follower in form.followers
        if follower.cones
    )


def begin(form: StandardForm) -> Builder:
    """Return a builder that holds the problem's columns and the leader's cones."""
    columns = form.columns
    builder = Builder()
    builder.columns(columns.names, columns.lower, columns.upper, columns.integer)
    builder.cones = form.cones
    return builder


def add_multipliers(
    builder: Builder, follower: FollowerForm, upper: Array | None = None, label: str = "dual"
) -> Array:
    """Add a multiplier column per row: nonnegative for inequalities, free for equations."""
    names = [f"{label}[{follower.name}.{name}]" for name in follower.rows.names]
    lower = np.where(follower.rows.equality, -np.inf, 0.0)
    top = np.full(len(names), np.inf) if upper is None else upper
    return builder.columns(names, lower, np.where(follower.rows.equality, np.inf, top))


def stationarity(follower: FollowerForm, multipliers: Array, n: int) -> Rows:
    r"""Return ``d/dw_j [f + lam'g + nu'h] = 0``, ``j`` own, over ``n`` columns."""
    own = follower.columns
    objective = follower.objective
    position = np.full(n, -1)
    position[own] = np.arange(len(own))
    # A row of the follower becomes a column of its multiplier.
    row, column, value = entries(follower.rows.A)
    mine = position[column] >= 0
    first, second, curvature = entries(objective.P)
    curved = position[first] >= 0
    A = from_entries(
        np.concatenate([position[first[curved]], position[column[mine]]]),
        np.concatenate([second[curved], multipliers[row[mine]]]),
        np.concatenate([curvature[curved], value[mine]]),
        (len(own), n),
    )
    names = tuple(f"stationarity[{follower.name}.{j}]" for j in range(len(own)))
    products = _stationary_products(follower, multipliers, n)
    return Rows(A, -objective.c[own], np.ones(len(own), bool), products, names)


def _stationary_products(follower: FollowerForm, multipliers: Array, n: int) -> Monomials:
    terms = follower.rows.products
    cubic = follower.objective.cubic
    if not len(terms) and not cubic.row.size:
        return NO_PRODUCTS
    own = follower.columns
    position = np.full(n, -1)
    position[own] = np.arange(len(own))
    row = []
    factors = []
    value = []
    for side in range(2):
        inside = position[terms.factors[:, side]] >= 0
        row.append(position[terms.factors[inside, side]])
        other = terms.factors[inside, 1 - side]
        factors.append(np.column_stack([multipliers[terms.row[inside]], other]))
        value.append(terms.value[inside])
    for side in range(3):
        inside = position[cubic.factors[:, side]] >= 0
        row.append(position[cubic.factors[inside, side]])
        factors.append(np.delete(cubic.factors[inside], side, axis=1))
        value.append(cubic.value[inside])
    return Monomials.collect(
        np.concatenate(row), np.concatenate(factors).reshape(-1, 2), np.concatenate(value)
    )


def with_slacks(rows: Rows, slacks: Array, n: int) -> Rows:
    """Return inequality rows as equations with one slack column each, over ``n`` columns."""
    inequality = np.flatnonzero(~rows.equality)
    row, column, value = entries(rows.A)
    A = from_entries(
        np.concatenate([row, inequality]),
        np.concatenate([column, slacks]),
        np.concatenate([value, np.ones(len(slacks))]),
        (len(rows), n),
    )
    return replace(rows, A=A, equality=np.ones(len(rows), bool))
