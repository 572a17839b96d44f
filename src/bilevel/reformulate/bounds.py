"""Bounds on multipliers and slacks that are proved, or a refusal that says why there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.errors import UnsupportedProblem
from bilevel.problem.functions import Array, Objective, Rows
from bilevel.problem.standard import StandardForm
from bilevel.program import Program, Termination
from bilevel.reformulate.reformulation import add_multipliers, begin, stationarity
from bilevel.response.answer import continuous_program, solve_continuous

# A bound is widened by this much, so that the LP's own tolerance cannot make it too small.
_MARGIN = 1e-6
_LARGEST = 1e9


def slack_bounds(form: StandardForm, k: int) -> tuple[Array, str]:
    """Return upper bounds of follower ``k``'s slacks, one LP per inequality row.

    The LPs run over the high-point relaxation: every linear constraint of both levels.

    Raises
    ------
    UnsupportedProblem
        If a slack is unbounded there.
    """
    program = relaxation(form)
    rows = form.followers[k].rows
    bounds = np.zeros(len(rows))
    for r in np.flatnonzero(~rows.equality).tolist():
        if _has_products(rows, r):
            raise _refusal(form, k, r, "slack", "its row contains a product of variables")
        linear = np.zeros(program.n)
        linear[: form.n] = rows.A[[r]].toarray().ravel()
        value = _minimum(program, linear)
        if value is None:
            raise _refusal(form, k, r, "slack", "nothing bounds it")
        bounds[r] = _widen(rows.b[r] - value)
    return bounds, "one LP per slack over both levels' constraints"


def multiplier_bounds(form: StandardForm, k: int) -> tuple[Array, str]:
    """Return upper bounds of follower ``k``'s inequality multipliers, one LP each.

    The LPs run over every linear constraint of both levels together with the follower's
    stationarity; they are bounded only if no nonnegative combination of the follower's rows
    cancels (the recession cone of its multipliers is trivial in that coordinate).

    Raises
    ------
    UnsupportedProblem
        If a multiplier is unbounded, or stationarity is not linear.
    """
    follower = form.followers[k]
    if len(follower.rows.products) or len(follower.objective.cubic):
        raise UnsupportedProblem(
            f"No bound on the multipliers of follower {follower.name!r} is derived while a leader "
            f"variable multiplies its variables inside a constraint. Use SOS1, or give "
            f"BigM(multiplier=...)."
        )
    if len(follower.rows) == 0:
        return np.zeros(0), "no rows"
    _check_recession(form, k)
    program = relaxation(form, k)
    bounds = np.zeros(len(follower.rows))
    for r in np.flatnonzero(~follower.rows.equality).tolist():
        linear = np.zeros(program.n)
        linear[form.n + r] = -1.0
        value = _minimum(program, linear)
        if value is None:
            raise _refusal(form, k, r, "multiplier", "it is unbounded for some leader decisions")
        bounds[r] = _widen(-value)
    return bounds, "trivial recession cone, then one LP per multiplier"


def high_point(form: StandardForm) -> Program:
    """Return the high-point relaxation: all constraints of all levels, the leader's objective."""
    builder = begin(form)
    for rows in (form.rows, *(follower.rows for follower in form.followers)):
        builder.rows(rows)
    builder.cones = sum((follower.cones for follower in form.followers), form.cones)
    return builder.build(form.objective)


def relaxation(form: StandardForm, k: int | None = None) -> Program:
    """Return the linear constraints of all levels, and follower ``k``'s stationarity, if given."""
    builder = begin(form)
    parts = [form.rows, *(follower.rows for follower in form.followers)]
    if k is not None:
        multipliers = add_multipliers(builder, form.followers[k])
        parts.append(stationarity(form.followers[k], multipliers, len(builder)))
    for rows in parts:
        linear = np.ones(len(rows), bool)
        linear[rows.products.row] = False
        builder.rows(rows.take(linear))
    n = len(builder)
    program = builder.build(Objective(sp.csr_array((n, n)), np.zeros(n)))
    return replace(program, integer=np.zeros(n, bool), cones=())


def _check_recession(form: StandardForm, k: int) -> None:
    """Find ``r >= 0`` with ``A'r = 0`` (free for equations): a ray along which multipliers grow."""
    follower = form.followers[k]
    rows = follower.rows
    m, inequality = len(rows), ~rows.equality
    transposed = sp.csr_array(rows.A[:, follower.columns].T)
    count = transposed.shape[0]
    equations = replace(Rows.empty(m), A=transposed, b=np.zeros(count))
    equations = replace(equations, equality=np.ones(count, bool), names=("cancels",) * count)
    objective = Objective(sp.csr_array((m, m)), -inequality.astype(float))
    lower, upper = np.where(inequality, 0.0, -np.inf), np.where(inequality, 1.0, np.inf)
    program = continuous_program(objective, equations, lower, upper)
    raw, _ = solve_continuous(program, ("highs", "clarabel"))
    if raw is None or raw.v is None:
        raise UnsupportedProblem(
            f"Bounds on multipliers of follower {follower.name!r} could not be tested. Use SOS1."
        )
    ray = np.flatnonzero(inequality & (raw.v > 1e-7))
    if len(ray):
        names = ", ".join(rows.names[r] for r in ray[:4])
        raise UnsupportedProblem(
            f"Multipliers of follower {follower.name!r} are unbounded: its rows {names} cancel "
            f"each other, so any multiple may be added to their multipliers. No M is valid. Use "
            f"SOS1 or Indicator on SCIP, or give BigM(multiplier=...) at your own risk."
        )


def _minimum(program: Program, linear: Array) -> float | None:
    objective = Objective(sp.csr_array((program.n, program.n)), linear)
    raw, _ = solve_continuous(replace(program, objective=objective), ("highs", "clarabel"))
    if raw is None or raw.termination is Termination.INFEASIBLE:
        # Nothing is feasible: any bound is valid, and the program will say so.
        return 0.0 if raw is not None else None
    if raw.termination is not Termination.OPTIMAL or abs(raw.bound) > _LARGEST:
        return None
    return raw.bound


def _widen(value: float) -> float:
    return max(value, 0.0) * (1.0 + _MARGIN) + _MARGIN


def _has_products(rows: Rows, r: int) -> bool:
    return bool((rows.products.row == r).any())


def _refusal(form: StandardForm, k: int, r: int, what: str, why: str) -> UnsupportedProblem:
    follower = form.followers[k]
    return UnsupportedProblem(
        f"No bound on the {what} of row {follower.rows.names[r]} of follower {follower.name!r} can "
        f"be derived: {why}. Add bounds to the variables, use SOS1 or Indicator on SCIP, or give "
        f"BigM({what}=...)."
    )
