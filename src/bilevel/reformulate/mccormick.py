"""Relaxations of both levels: the high point, and a linear one that boxes products in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import NO_PRODUCTS, Array, Objective, Rows
from bilevel.problem.standard import StandardForm, is_convex
from bilevel.program import Program, Termination
from bilevel.reformulate.builder import Builder
from bilevel.reformulate.reformulation import add_multipliers, begin, stationarity
from bilevel.response.best_response import sweep_continuous

# Beyond this size a value is taken for unbounded, and an optimum is widened by the margin, so that
# an LP's own tolerance cannot make a bound too small.
LARGEST = 1e9
MARGIN = 1e-6


@dataclass(frozen=True)
class Relaxation:
    """A linear program whose feasible set contains every point of the problem.

    Parameters
    ----------
    program
        Its first columns are those of the problem.
    rows
        The rows of each follower, linear over the program's columns.
    multipliers
        The columns that hold one follower's multipliers; empty if its stationarity was not asked
        for.
    """

    program: Program
    rows: tuple[Rows, ...]
    multipliers: Array


def high_point(form: StandardForm) -> Program:
    """Return the high-point relaxation: all constraints of all levels, the leader's objective."""
    builder = begin(form)
    for rows in (form.rows, *(follower.rows for follower in form.followers)):
        builder.rows(rows)
    builder.cones = sum((follower.cones for follower in form.followers), form.cones)
    return builder.build(form.objective)


def relaxation(form: StandardForm, k: int | None = None) -> Relaxation:
    """Relax all levels, with follower ``k``'s stationarity if given; integers and cones go.

    A product ``i * j`` becomes a column between the planes through its factors' bounds, as far as
    these are finite (McCormick 1976). With one finite factor and a multiplier, which is only known
    to be nonnegative, ``low * lam <= p <= high * lam`` remains.
    """
    builder = begin(form)
    multipliers = np.empty(0, int)
    own = [follower.rows for follower in form.followers]
    parts = [form.rows, *own]
    if k is not None:
        multipliers = add_multipliers(builder, form.followers[k])
        parts.append(stationarity(form.followers[k], multipliers, len(builder)))
    lower, upper = box_of(form, np.concatenate([part.products.factors.ravel() for part in parts]))
    box = {c: (lower[c], upper[c]) for c in range(form.n)}
    box |= {int(c): builder.bounds(int(c)) for c in multipliers}
    known: dict[tuple[int, int], int] = {}
    linear = [_without_products(builder, part, box, known) for part in parts]
    for part in linear:
        builder.rows(part)
    program = replace(_build(builder), integer=np.zeros(len(builder), bool), cones=())
    return Relaxation(
        program, tuple(r.pad(program.n) for r in linear[1 : 1 + len(own)]), multipliers
    )


def product_columns(form: StandardForm) -> Array:
    """Return the columns that occur in a product anywhere in a problem."""
    parts = [form.rows.products.factors.ravel()]
    if not is_convex(form.objective):
        parts.append(np.flatnonzero(np.diff(form.objective.P.indptr)))
    for follower in form.followers:
        parts.append(follower.rows.products.factors.ravel())
        cross = follower.objective.P[follower.columns].tocoo()
        outside = ~np.isin(cross.col, follower.columns)
        parts += [follower.columns[cross.row[outside]], cross.col[outside]]
    return np.unique(np.concatenate(parts))


def extremes(program: Program, costs: list[Array]) -> list[float | None]:
    """Return the least value of each cost over a program; ``None`` where nothing bounds it.

    Over an empty set every bound is valid, and zero is returned.
    """
    values: list[float | None] = []
    for raw in sweep_continuous(program, costs):
        if raw is not None and raw.termination is Termination.INFEASIBLE:
            values.append(0.0)
        elif raw is None or raw.termination is not Termination.OPTIMAL or abs(raw.bound) > LARGEST:
            values.append(None)
        else:
            values.append(raw.bound)
    return values


def unit(n: int, j: int, value: float = 1.0) -> Array:
    """Return a vector with one entry."""
    vector = np.zeros(n)
    vector[j] = value
    return vector


def _build(builder: Builder) -> Program:
    n = len(builder)
    return builder.build(Objective(sp.csr_array((n, n)), np.zeros(n)))


def box_of(form: StandardForm, asked: Array) -> tuple[Array, Array]:
    """Bound the columns asked for by one LP for each open side, over the rows without products.

    Returns
    -------
    tuple
        Lower and upper bounds of all columns, shape ``(n,)`` each, infinite where none is known.
    """
    lower = form.columns.lower.copy()
    upper = form.columns.upper.copy()
    asked = np.unique(asked[asked < form.n])
    low = asked[np.isinf(lower[asked])].tolist()
    high = asked[np.isinf(upper[asked])].tolist()
    if not low + high:
        return lower, upper
    builder = begin(form)
    for rows in (form.rows, *(follower.rows for follower in form.followers)):
        linear = np.ones(len(rows), bool)
        linear[rows.products.row] = False
        builder.rows(rows.take(linear))
    program = replace(_build(builder), integer=np.zeros(form.n, bool), cones=())
    costs = [unit(form.n, c) for c in low] + [unit(form.n, c, -1.0) for c in high]
    found = extremes(program, costs)
    for c, value in zip(low, found[: len(low)], strict=True):
        lower[c] = -np.inf if value is None else value - MARGIN * max(1.0, abs(value))
    for c, value in zip(high, found[len(low) :], strict=True):
        upper[c] = np.inf if value is None else -value + MARGIN * max(1.0, abs(value))
    return lower, upper


def _without_products(
    builder: Builder,
    rows: Rows,
    box: dict[int, tuple[float, float]],
    known: dict[tuple[int, int], int],
) -> Rows:
    terms = rows.products
    if not len(terms):
        return rows
    columns = []
    for i, j in ((int(a), int(b)) for a, b in terms.factors):
        if (i, j) not in known:
            known[i, j] = builder.column(f"{builder.names[i]}*{builder.names[j]}", -np.inf, np.inf)
            _planes(builder, i, j, known[i, j], (box[i], box[j]))
        columns.append(known[i, j])
    n = len(builder)
    extra = sp.coo_array((terms.value, (terms.row, columns)), shape=(len(rows), n))
    return replace(rows, A=sp.csr_array(rows.pad(n).A + extra), products=NO_PRODUCTS)


def _planes(
    builder: Builder, i: int, j: int, p: int, box: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    """Add ``(i - a)(j - b) >= 0`` for like bounds and ``<= 0`` for unlike ones, multiplied out."""
    for first, a in enumerate(box[0]):
        for second, b in enumerate(box[1]):
            if np.isfinite(a) and np.isfinite(b):
                sign = -1.0 if first == second else 1.0
                values = [sign, -sign * b, -sign * a]
                builder.row([p, i, j], values, -sign * a * b, builder.names[p])
