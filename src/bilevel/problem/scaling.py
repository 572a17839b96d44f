"""Every level in its own scale: powers of two for columns, rows, objectives, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import Array, Cone, Monomials, Objective, Rows
from bilevel.problem.standard import Columns, FollowerForm, StandardForm

# Exponents within which data are left as they are: nobody's tolerances suffer from them, and
# problems in sensible units are solved as they were written.
_PLAIN = (-7.0, 10.0)
_COLUMN = 6.0
_ROW = (-5.0, 5.0)
_COST = (-5.0, 5.0)
_LEADER = (-10.0, 17.0)
_SWEEPS = 30
# What a right-hand side, and what a bound counts beside a coefficient.
_SIDE = 0.1
_BOUND = 0.02
# So many powers of two below its row's largest, an entry does not count; where its column is
# bounded and it is below rounding at that bound, it is taken out.
_FAR = 50.0
_ROUNDING = 2.0**-53
#: A bound or a right-hand side of this size is a placeholder, not a size.
PLACEHOLDER = 1e12


@dataclass(frozen=True)
class FollowerScale:
    """How one follower was scaled.

    Parameters
    ----------
    objective
        Factor of its objective.
    rows
        Factor of each row, shape ``(m,)``.

    Examples
    --------
    >>> import bilevel as bl
    >>> from bilevel.problem.scaling import Scaling
    >>> scaling = Scaling.of(bl.instances.get("T1").problem.compile())
    >>> scaling.followers[0].objective
    1.0
    """

    objective: float
    rows: Array


@dataclass(frozen=True)
class Scaling:
    r"""A problem in its own scale, and the way back.

    ::

        w = columns * u,    F'(u) = factor (F(w) - constant),    f_k'(u) = factor_k f_k(w) + ...
        row factors for each row,    multiplier of a row = (row factor / factor_k) multiplier'

    All factors are powers of two, so that no digit is lost. What a follower cannot change (its
    constant, terms of others' columns alone) is taken off its objective.

    Parameters
    ----------
    original
        The problem in the user's units.
    form
        The problem that solvers see; ``original`` itself where nothing had to be scaled.
    columns
        Factor of each column, shape ``(n,)``.
    objective
        Factor of the leader's objective.
    followers
        The followers' factors.

    Notes
    -----
    Columns are scaled by the least squares of Curtis and Reid over the logarithms of coefficients,
    right-hand sides and bounds, rows and objectives by their largest coefficient. Problems whose
    data lie between ``2**-7`` and ``2**10`` are not scaled at all.

    References
    ----------
    Curtis and Reid (1972), "On the automatic scaling of matrices for Gaussian elimination".

    Examples
    --------
    >>> import bilevel as bl
    >>> from bilevel.problem.scaling import Scaling
    >>> Scaling.of(bl.instances.get("T1").problem.compile()).is_plain
    True
    """

    original: StandardForm
    form: StandardForm
    columns: Array
    objective: float
    followers: tuple[FollowerScale, ...]

    @classmethod
    def of(cls, form: StandardForm) -> Scaling:
        """Return the scaling of a problem; it is made once for each form."""
        kept = form.kept
        if "scaling" not in kept:
            kept["scaling"] = _scaled(form)
        return kept["scaling"]

    @property
    def is_plain(self) -> bool:
        """Whether all factors are one."""
        return (
            self.objective == 1.0
            and bool((self.columns == 1.0).all())
            and all(f.objective == 1.0 for f in self.followers)
        )

    def inside(self, w: Array) -> Array:
        """Return the scaled columns of a point, shape ``(n,)``."""
        return w / self.columns

    def outside(self, u: Array) -> Array:
        """Return a point in the user's units, shape ``(n,)``."""
        return u * self.columns

    def value(self, value: float) -> float:
        """Return a value of the leader's objective in the user's units."""
        return value / self.objective

    def multipliers(self, k: int, multipliers: Array) -> Array:
        """Return multipliers of follower ``k``, rows first, then cones, in the user's units."""
        scale = self.followers[k]
        m = len(scale.rows)
        factor = np.full(len(multipliers), 1.0 / scale.objective)
        factor[:m] *= scale.rows[: len(factor[:m])]
        return multipliers * factor

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was scaled."""
        return tuple(self._sentences())

    def _sentences(self) -> list[str]:
        said = []
        if far := _placeholders(self.original):
            more = f" and {len(far) - 3} more" if len(far) > 3 else ""
            said.append(f"bounds of 1e12 and more taken as none: {', '.join(far[:3])}{more}")
        names = self.original.columns.names
        moved = np.flatnonzero(self.columns != 1.0)
        if len(moved):
            few = ", ".join(f"{names[i]} by {self.columns[i]:.3g}" for i in moved[:3])
            more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
            said.append(f"columns in units of their size: {few}{more}")
        for follower, scale in zip(self.original.followers, self.followers, strict=True):
            if scale.objective != 1.0:
                said.append(f"the objective of {follower.name!r} times {scale.objective:.3g}")
        if self.objective != 1.0:
            said.append(f"the leader's objective times {self.objective:.3g}")
        return said


def _scaled(form: StandardForm) -> Scaling:
    columns = _without_far_bounds(form.columns)
    own = tuple(_own_part(form, k) for k in range(len(form.followers)))
    rows = _without_idle(form.rows, form)
    reduced = form
    same = rows is form.rows and all(a is b for a, b in zip(own, form.followers, strict=True))
    if not same or columns is not form.columns:
        reduced = replace(form, columns=columns, followers=own, rows=rows)
    ones = np.ones(form.n)
    if _is_plain(reduced):
        followers = tuple(FollowerScale(1.0, np.ones(len(f.rows))) for f in form.followers)
        return Scaling(form, reduced, ones, 1.0, followers)
    columns = _column_factors(reduced)
    followers = []
    for follower in reduced.followers:
        rows = _row_factors(follower.rows, columns)
        cost = _cost_factor(follower.objective, columns, follower.columns, _COST)
        followers.append(FollowerScale(cost, rows))
    # A dual variable is the multiplier of a row, and a value that of an objective.
    for dual in form.dual_variables:
        scale = followers[dual.follower]
        columns[dual.column] = scale.rows[dual.row] / scale.objective
    for column, k in form.values:
        columns[column] = 1.0 / followers[k].objective
    leader = _cost_factor(reduced.objective, columns, np.arange(form.n), _LEADER)
    scaled = replace(
        reduced,
        columns=replace(
            reduced.columns,
            lower=reduced.columns.lower / columns,
            upper=reduced.columns.upper / columns,
        ),
        objective=_objective(reduced.objective, columns, leader),
        rows=_rows(reduced.rows, columns, _row_factors(reduced.rows, columns)),
        cones=tuple(_cone(cone, columns) for cone in reduced.cones),
        followers=tuple(
            replace(
                follower,
                objective=_objective(follower.objective, columns, scale.objective),
                rows=_rows(follower.rows, columns, scale.rows),
                cones=tuple(_cone(cone, columns) for cone in follower.cones),
                units=(scale.rows / scale.objective, 1.0 / scale.rows),
            )
            for follower, scale in zip(reduced.followers, followers, strict=True)
        ),
    )
    return Scaling(form, scaled, columns, leader, tuple(followers))


def _placeholders(form: StandardForm) -> list[str]:
    """Return the names of columns and rows whose bounds are placeholders."""
    columns = form.columns
    far = np.isfinite(columns.lower) & (columns.lower <= -PLACEHOLDER)
    far |= np.isfinite(columns.upper) & (columns.upper >= PLACEHOLDER)
    found = [columns.names[i] for i in np.flatnonzero(far)]
    for rows in (form.rows, *(f.rows for f in form.followers)):
        if len(rows):
            cleared = _without_idle(rows, form)
            gone = np.diff(rows.A.indptr) > 0
            gone &= np.diff(cleared.A.indptr) == 0
            found += [rows.names[i] for i in np.flatnonzero(gone)]
    return found


def _own_part(form: StandardForm, k: int) -> FollowerForm:
    """Return a follower without the terms of its objective that it cannot change."""
    follower = form.followers[k]
    rows = _without_idle(follower.rows, form)
    if any(k == other for _, other in form.values):
        return replace(follower, rows=rows) if rows is not follower.rows else follower
    own = np.zeros(form.n, bool)
    own[follower.columns] = True
    objective = follower.objective
    P = objective.P
    entries = np.repeat(own, np.diff(P.indptr)) | own[P.indices]
    cubic = objective.cubic
    terms = own[cubic.factors].any(axis=1) if cubic.row.size else np.empty(0, bool)
    others = ~own
    if (
        objective.constant == 0.0
        and entries.all()
        and not objective.c[others].any()
        and terms.all()
        and rows is follower.rows
    ):
        return follower
    P = P.copy()
    P.data = np.where(entries, P.data, 0.0)
    P.eliminate_zeros()
    if not terms.all():
        cubic = Monomials(cubic.row[terms], cubic.factors[terms], cubic.value[terms])
    c = np.where(own, objective.c, 0.0)
    objective = replace(objective, P=P, c=c, constant=0.0, cubic=cubic)
    return replace(follower, objective=objective, rows=rows)


def _without_far_bounds(columns: Columns) -> Columns:
    """Return columns in which a placeholder is no bound."""
    lower = np.where(columns.lower <= -PLACEHOLDER, -np.inf, columns.lower)
    upper = np.where(columns.upper >= PLACEHOLDER, np.inf, columns.upper)
    same = (lower == columns.lower).all() and (upper == columns.upper).all()
    return columns if same else replace(columns, lower=lower, upper=upper)


def _without_idle(rows: Rows, form: StandardForm) -> Rows:
    """Return rows without coefficients that play no role anywhere within their column's bounds.

    A row whose right-hand side is a placeholder becomes ``0 <= 1``: it keeps its place, and has no
    multiplier.
    """
    A = rows.A
    if not A.nnz:
        return rows
    size = abs(A.data)
    largest = np.zeros(len(rows))
    entry = np.repeat(np.arange(len(rows)), np.diff(A.indptr))
    np.maximum.at(largest, entry, size)
    far = ~rows.equality & (rows.b >= PLACEHOLDER * largest) & (largest > 0.0)
    far[rows.products.row] = False
    if far.any():
        A = sp.csr_array(
            (np.where(far[entry], 0.0, A.data), A.indices.copy(), A.indptr.copy()), A.shape
        )
        A.eliminate_zeros()
        return _without_idle(replace(rows, A=A, b=np.where(far, 1.0, rows.b)), form)
    largest = np.maximum(largest, abs(rows.b))
    if not (size <= _ROUNDING * largest[entry]).any():
        return rows
    reach = np.maximum(abs(form.columns.lower), abs(form.columns.upper))[A.indices]
    with np.errstate(invalid="ignore"):
        idle = (size > 0) & (size * reach <= _ROUNDING * largest[entry])
    if not idle.any():
        return rows
    kept = sp.csr_array((np.where(idle, 0.0, A.data), A.indices.copy(), A.indptr.copy()), A.shape)
    kept.eliminate_zeros()
    return replace(rows, A=kept)


# ------------------------------------------------------------------------------------- what is big


def _is_plain(form: StandardForm) -> bool:
    """Return whether all data lie within sizes that need no scaling."""
    low = 2.0 ** _PLAIN[0]
    high = 2.0 ** _PLAIN[1]
    parts = [form.columns.lower, form.columns.upper]
    for objective in (form.objective, *(f.objective for f in form.followers)):
        parts += [objective.P.data, objective.c, objective.cubic.value]
    for rows in (form.rows, *(f.rows for f in form.followers)):
        parts += [rows.A.data, rows.b, rows.products.value]
    for cone in (*form.cones, *(c for f in form.followers for c in f.cones)):
        parts += [cone.A.data, cone.b]
    size = np.abs(np.concatenate(parts))
    size = size[(size > 0) & (size < np.inf)]
    return not size.size or bool(size.min() >= low and size.max() <= high)


def _exponent(values: Array) -> Array:
    return np.log2(np.abs(values))


def _column_factors(form: StandardForm) -> Array:
    """Return powers of two that bring the coefficients of all rows as near to one as they come.

    The least squares of Curtis and Reid (1972) over logarithms of entries; rows absorb what they
    can, and the gradient of a curved follower gives rows too. Right-hand sides and bounds count
    little: they say how large values may be, not in which units. Integers stay integers.
    """
    n = form.n
    found = _Entries(n)
    for rows in (form.rows, *(f.rows for f in form.followers)):
        A = rows.A.tocoo()
        found.add(A.row, A.col, A.data, rows.b)
    for bound in (form.columns.lower, form.columns.upper):
        index = np.flatnonzero(np.isfinite(bound))
        found.add(np.arange(len(index)), index, np.ones(len(index)), bound[index], _BOUND)
    for follower in form.followers:
        P = follower.objective.P[follower.columns].tocoo()
        if P.nnz:
            found.add(P.row, P.col, P.data, follower.objective.c[follower.columns])
    for cone in (*form.cones, *(c for f in form.followers for c in f.cones)):
        A = cone.A.tocoo()
        # One row, since entries of a cone cannot be scaled one by one.
        found.add(np.zeros(A.nnz, int), A.col, A.data, np.array([abs(cone.b).max(initial=0.0)]))
    # The constant's column and those of integers keep their unit.
    exponent = np.round(found.exponents(np.append(form.columns.integer, True))[:n])
    exponent[abs(exponent) <= _COLUMN] = 0.0
    return 2.0**exponent


class _Entries:
    """Entries of rows with weights; column ``n`` is that of constants."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._count = 0
        self._parts: list[tuple[Array, Array, Array, Array]] = []

    def add(
        self, rows: Array, columns: Array, values: Array, b: Array, weight: float = 1.0
    ) -> None:
        """Add rows ``values w = b``."""
        side = np.full(len(b), min(weight, _SIDE))
        self._parts.append((rows + self._count, columns, values, np.full(len(values), weight)))
        places = np.arange(len(b)) + self._count
        self._parts.append((places, np.full(len(b), self._n), b, side))
        self._count += len(b)

    def exponents(self, fixed: Array) -> Array:
        """Return the exponent of each column, zero where ``fixed``."""
        count = self._count
        n = self._n
        rows, columns, values, weight = (
            np.concatenate(part) for part in zip(*self._parts, strict=True)
        )
        used = (values != 0) & ((abs(values) < PLACEHOLDER) | (columns < n))
        # An entry far below its row's largest says nothing about units.
        size = np.full(len(values), -np.inf)
        size[used] = _exponent(values[used])
        largest = np.full(count, -np.inf)
        np.maximum.at(largest, rows, size)
        used &= size > largest[rows] - _FAR
        rows = rows[used]
        columns = columns[used]
        weight = weight[used]
        size = size[used]
        in_row = np.bincount(rows, weight, count)
        in_column = np.bincount(columns, weight, n + 1)
        in_row[in_row == 0.0] = 1.0
        in_column[in_column == 0.0] = 1.0
        c = np.zeros(n + 1)
        for _ in range(_SWEEPS):
            r = -np.bincount(rows, weight * (size + c[columns]), count) / in_row
            c = -np.bincount(columns, weight * (size + r[rows]), n + 1) / in_column
            c[fixed] = 0.0
        return c


def _row_factors(rows: Rows, columns: Array) -> Array:
    """Return powers of two after which the largest coefficient of every row is near one."""
    if not len(rows):
        return np.empty(0)
    A = rows.A
    largest = np.zeros(len(rows))
    entry = np.repeat(np.arange(len(rows)), np.diff(A.indptr))
    np.maximum.at(largest, entry, abs(A.data) * columns[A.indices])
    terms = rows.products
    if terms.row.size:
        np.maximum.at(largest, terms.row, abs(terms.value) * columns[terms.factors].prod(axis=1))
    return _power(largest, _ROW)


def _cost_factor(objective: Objective, columns: Array, own: Array, plain: tuple) -> float:
    """Return the power of two after which the largest coefficient of ``own`` is near one.

    Where there are terms of degree two, they decide: beside a linear term that is larger by far
    they would not be seen any more.
    """
    P = objective.P[own]
    entry = np.repeat(own, np.diff(P.indptr))
    sizes = [abs(P.data) * columns[entry] * columns[P.indices]]
    if not P.nnz:
        sizes.append(abs(objective.c[own]) * columns[own])
    if objective.cubic.row.size:
        sizes.append(abs(objective.cubic.value) * columns[objective.cubic.factors].prod(axis=1))
    largest = max(float(part.max(initial=0.0)) for part in sizes)
    return float(_power(np.array([largest]), plain)[0])


def _power(largest: Array, plain: tuple[float, float]) -> Array:
    exponent = np.zeros(len(largest))
    used = largest > 0
    exponent[used] = np.round(_exponent(largest[used]))
    exponent[(exponent >= plain[0]) & (exponent <= plain[1])] = 0.0
    return 2.0**-exponent


# ------------------------------------------------------------------------------------- the new form


def _matrix(A: sp.csr_array, rows: Array, columns: Array) -> sp.csr_array:
    data = A.data * np.repeat(rows, np.diff(A.indptr)) * columns[A.indices]
    # Sorting one matrix in place must not move the other's places.
    return sp.csr_array((data, A.indices.copy(), A.indptr.copy()), shape=A.shape)


def _rows(rows: Rows, columns: Array, factor: Array) -> Rows:
    terms = rows.products
    if terms.row.size:
        scale = factor[terms.row] * columns[terms.factors].prod(axis=1)
        terms = replace(terms, value=terms.value * scale)
    return replace(rows, A=_matrix(rows.A, factor, columns), b=rows.b * factor, products=terms)


def _cone(cone: Cone, columns: Array) -> Cone:
    return replace(cone, A=_matrix(cone.A, np.ones(len(cone.b)), columns))


def _objective(objective: Objective, columns: Array, factor: float) -> Objective:
    cubic = objective.cubic
    if cubic.row.size:
        scale = factor * columns[cubic.factors].prod(axis=1)
        cubic = replace(cubic, value=cubic.value * scale)
    return replace(
        objective,
        P=_matrix(objective.P, factor * columns, columns),
        c=objective.c * columns * factor,
        constant=objective.constant * factor,
        cubic=cubic,
    )
