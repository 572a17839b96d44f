"""A bilevel problem at fixed parameter values, as sparse matrices over one row of columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from bilevel.deprecation import Renamed
from bilevel.problem.functions import NEARLY, Array, Cone, Objective, Rows
from bilevel.structure import Stance, Structure

LEADER = -1


@dataclass(frozen=True)
class Columns:
    """All variables of all levels, one column each.

    Parameters
    ----------
    names
        Readable names such as ``"y[2]"``.
    lower, upper
        Bounds, shape ``(n,)``, infinite where absent. Only the leader's columns have finite
        ones: a follower's bounds are rows, because each has a multiplier.
    integer
        Which columns must be integers, shape ``(n,)``.
    owner
        Index of the follower that decides a column, or ``LEADER``, shape ``(n,)``.
    auxiliary
        Which columns the compilation introduced (epigraphs), shape ``(n,)``.
    """

    names: tuple[str, ...]
    lower: Array
    upper: Array
    integer: Array
    owner: Array
    auxiliary: Array

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class FollowerForm:
    r"""One follower: ``min f(w) s.t. g(w) <= 0, h(w) = 0`` over its own columns.

    Parameters
    ----------
    name
        Its name.
    columns
        Indices of the columns it owns, shape ``(n_k,)``.
    objective
        ``f``, quadratic in the owned columns.
    rows
        ``g`` and ``h``, linear in the owned columns.
    cones
        Its conic constraints.
    units
        What one unit of each row's multiplier, and of its slack, is in the user's units, where the
        problem was scaled.
    """

    name: str
    columns: Array
    objective: Objective
    rows: Rows
    cones: tuple[Cone, ...] = ()
    units: tuple[Array, Array] | None = None

    @cached_property
    def is_linear(self) -> bool:
        """Whether the follower is an LP at every leader decision."""
        if self.objective.cubic.row.size or self.cones:
            return False
        return self.objective.P[self.columns][:, self.columns].nnz == 0


@dataclass(frozen=True)
class DualVariable:
    """A leader column that equals a multiplier of a follower's row."""

    column: int
    follower: int
    row: int


@dataclass(frozen=True)
class StandardForm:
    r"""``min F(w) s.t. G(w) <= 0, H(w) = 0, w_k in argmin follower k`` at fixed parameters.

    One vector ``w`` holds the columns of every level: the leader's variables, the followers',
    dual variables (multipliers the leader uses) and auxiliary columns of the compilation.

    Parameters
    ----------
    columns
        Names, bounds, integrality and owners.
    objective
        The leader's ``F``.
    rows
        The leader's ``G`` and ``H``.
    cones
        The leader's second-order cones.
    followers
        The followers.
    dual_variables
        Which leader columns are multipliers of followers.
    values
        For each leader column that is a follower's optimal value: ``(column, follower)``.
    stance
        Optimistic or pessimistic.

    Notes
    -----
    Multipliers follow the Lagrangian ``f + lam'g + nu'h`` with ``lam >= 0``, which is the sign of
    CVXPY's ``dual_value`` for minimization and maximization alike.
    """

    columns: Columns
    objective: Objective
    rows: Rows
    cones: tuple[Cone, ...]
    followers: tuple[FollowerForm, ...]
    dual_variables: tuple[DualVariable, ...]
    values: tuple[tuple[int, int], ...]
    stance: Stance
    prices = Renamed("dual_variables")

    @property
    def n(self) -> int:
        """Number of columns."""
        return len(self.columns)

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What methods made of this form and may ask for again; a changed copy begins afresh."""
        return {}

    @cached_property
    def follower_mask(self) -> Array:
        """Which columns belong to a follower, shape ``(n,)``."""
        return self.columns.owner != LEADER

    @cached_property
    def coupled_rows(self) -> Array:
        """Which leader rows contain columns that the followers determine, shape ``(m,)``."""
        determined = self.follower_mask.copy()
        determined[[p.column for p in self.dual_variables]] = True
        determined[[column for column, _ in self.values]] = True
        return self.rows.touches(determined)

    def linking(self, follower: int) -> Array:
        """Return which columns of others occur in a follower's problem, shape ``(n,)``.

        Columns that only add a constant to its objective do not count.
        """
        form = self.followers[follower]
        own = np.zeros(self.n, bool)
        own[form.columns] = True
        seen = np.asarray(abs(form.rows.A).sum(axis=0)).ravel() > 0
        seen[form.rows.products.factors.ravel()] = True
        for cone in form.cones:
            seen[cone.A.indices] = True
        seen[np.asarray(abs(form.objective.P[form.columns]).sum(axis=0)).ravel() > 0] = True
        factors = form.objective.cubic.factors
        seen[factors[own[factors].any(axis=1)].ravel()] = True
        return seen & ~own

    @cached_property
    def linking_mask(self) -> Array:
        """Which columns occur in a follower that does not own them, shape ``(n,)``."""
        masks = [self.linking(k) for k in range(len(self.followers))]
        return np.logical_or.reduce(masks) if masks else np.zeros(self.n, bool)

    @cached_property
    def integer_followers(self) -> tuple[str, ...]:
        """A reason against every method for continuous followers, per integer follower."""
        names = self.columns.names
        integer = self.columns.integer
        decides = [(f.name, f.columns[integer[f.columns]]) for f in self.followers]
        return tuple(
            f"Follower {name!r} decides the integer variable {names[own[0]]}. Optimality "
            f"conditions and strong duality do not hold for integer followers, and no solver for "
            f"them exists yet: relax {names[own[0]]} (which is another problem), or wait for one."
            for name, own in decides
            if len(own)
        )

    @cached_property
    def structure(self) -> Structure:
        """The flags of this problem."""
        return sum_flags(_flags(self))


def sum_flags(flags: Iterator[Structure]) -> Structure:
    """Return the union of flags."""
    result = Structure.PLAIN
    for flag in flags:
        result |= flag
    return result


def _flags(form: StandardForm) -> Iterator[Structure]:
    columns = form.columns
    linking = form.linking_mask
    leader = ~form.follower_mask
    if not form.objective.is_linear:
        yield Structure.LEADER_QUADRATIC
        if not is_convex(form.objective):
            yield Structure.LEADER_NONCONVEX
    if form.cones or form.rows.products.row.size:
        yield Structure.LEADER_NONLINEAR_ROWS
    if columns.integer[leader].any():
        yield Structure.LEADER_INTEGER
    if columns.integer[~leader].any():
        yield Structure.FOLLOWER_INTEGER
    if not all(follower.is_linear or follower.cones for follower in form.followers):
        yield Structure.FOLLOWER_QUADRATIC
    if any(follower.cones for follower in form.followers):
        yield Structure.FOLLOWER_CONIC
    if form.coupled_rows.any() or any(np.any(c.A[:, form.follower_mask].data) for c in form.cones):
        yield Structure.COUPLED
    if any(f.rows.products.row.size or _cross(f) for f in form.followers):
        yield Structure.PRODUCTS
    if any(f.objective.cubic.row.size for f in form.followers):
        yield Structure.CURVED_BY_LEADER
    if (linking & leader & columns.integer).any():
        yield Structure.LINKING_INTEGER
    if (linking & leader & ~columns.integer).any():
        yield Structure.LINKING_CONTINUOUS
    if form.dual_variables:
        yield Structure.DUAL_VARIABLES
    if form.values:
        yield Structure.VALUES
    if len(form.followers) > 1:
        yield Structure.SEVERAL_FOLLOWERS
    if (linking & ~leader).any():
        yield Structure.NASH


def _cross(follower: FollowerForm) -> bool:
    others = np.ones(follower.objective.P.shape[0], bool)
    others[follower.columns] = False
    return follower.objective.P[follower.columns][:, others].nnz > 0


def is_convex(objective: Objective, own: Array | None = None) -> bool:
    """Return whether the quadratic part is positive semidefinite (in the columns ``own``)."""
    return smallest_curvature(objective, own) >= -NEARLY


def is_strictly_convex(objective: Objective, own: Array, margin: float = NEARLY) -> bool:
    """Return whether the quadratic part is positive definite in the columns ``own``.

    Its smallest eigenvalue must exceed its largest entry times ``margin``.
    """
    matrix = objective.P[own][:, own].toarray()
    if not matrix.size or not abs(matrix).max():
        return False
    return bool(np.linalg.eigvalsh(matrix)[0] > margin * abs(matrix).max())


def smallest_curvature(objective: Objective, own: Array | None = None) -> float:
    """Return the smallest eigenvalue of ``P`` over ``own``, relative to its largest entry.

    Zero stands for any value that is not negative. Cubic terms are left out; a problem that has
    them is checked where the sign of the scaling column is known.
    """
    if own is None:
        return objective.curvature
    return replace(objective, P=sp.csr_array(objective.P[own][:, own])).curvature
