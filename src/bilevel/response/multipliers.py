"""Whether dual variables are optimal multipliers of followers, and whether there is a choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from bilevel.backends import Purpose
from bilevel.problem.functions import NO_PRODUCTS, Array, Objective, Rows
from bilevel.problem.standard import StandardForm
from bilevel.program import Program, Termination
from bilevel.response.best_response import (
    FollowerResponse,
    continuous_program,
    follower_program,
    solve_continuous,
    sweep_continuous,
)

_ACTIVE = 1e-6


def multiplier_violation(form: StandardForm, w: Array) -> float:
    """Return how far the dual variables the leader uses are from being optimal multipliers.

    For each follower the smallest ``t`` is found such that multipliers with these values exist with
    ``|grad f + A'lam| <= t`` and ``lam_i s_i <= t`` row by row. It is taken relative to the largest
    multiplier and the largest entry of the gradient, since multipliers have units.
    """
    worst = 0.0
    for k in sorted({dual.follower for dual in form.dual_variables}):
        program = follower_program(form, k, w)
        y = w[form.followers[k].columns]
        gradient = program.objective.P @ y + program.objective.c
        A = program.rows.A
        slack = np.maximum(-program.rows.evaluate(y), 0.0)
        size = max(1.0, float(abs(gradient).max(initial=0.0)))
        negative = 0.0
        m = len(slack)
        n = len(y)
        lower = np.where(program.rows.equality, -np.inf, 0.0)
        upper = np.full(m, np.inf)
        for dual in form.dual_variables:
            if dual.follower == k:
                value = w[dual.column]
                size = max(size, abs(value))
                negative = max(negative, -min(value, 0.0) if lower[dual.row] == 0 else 0.0)
                lower[dual.row] = upper[dual.row] = max(value, lower[dual.row])
        slack = np.where(program.rows.equality, 0.0, slack)
        transposed = sp.csr_array(A.T)
        ones = sp.csr_array(np.ones((n, 1)))
        matrix = sp.vstack(
            [
                sp.hstack([transposed, -ones]),
                sp.hstack([-transposed, -ones]),
                sp.hstack([sp.diags_array(slack), -sp.csr_array(np.ones((m, 1)))]),
            ]
        )
        rhs = np.concatenate([-gradient, gradient, np.zeros(m)])
        cost = np.append(np.zeros(m), 1.0)
        small = continuous_program(
            Objective(sp.csr_array((m + 1, m + 1)), cost),
            _inequalities(sp.csr_array(matrix), rhs),
            np.append(lower, 0.0),
            np.append(upper, np.inf),
        )
        raw, _ = solve_continuous(small, Purpose.CONVEX)
        if raw is None or raw.v is None:
            return np.inf
        worst = max(worst, max(float(raw.v[-1]), negative) / size)
    return worst


def multipliers_are_unique(
    form: StandardForm, w: Array, responses: Sequence[FollowerResponse]
) -> bool | None:
    """Return whether every follower has only one vector of optimal multipliers.

    ``None`` where that is not known, as for followers with cones.
    """
    if any(follower.cones for follower in form.followers):
        return None
    for k, one in enumerate(responses):
        if one.y is None:
            return None
        verdict = _is_unique(follower_program(form, k, w), one.y)
        if verdict is not True:
            return verdict
    return True


def _is_unique(program: Program, y: Array) -> bool | None:
    gradient = program.objective.P @ y + program.objective.c
    slack = -program.rows.evaluate(y)
    active = program.rows.equality | (slack <= _ACTIVE)
    transposed = sp.csr_array(program.rows.A[active].T)
    count = transposed.shape[1]
    lower = np.where(program.rows.equality[active], -np.inf, 0.0)
    direction = np.random.default_rng(0).normal(size=count)
    # The optimum is known to a tolerance only, so stationarity may be missed by that much.
    tolerance = 1e-7 * max(1.0, float(abs(gradient).max(initial=0.0)))
    matrix = sp.csr_array(sp.vstack([transposed, -transposed]))
    rows = _inequalities(matrix, np.concatenate([-gradient + tolerance, gradient + tolerance]))
    nothing = Objective(sp.csr_array((count, count)), np.zeros(count))
    multipliers = continuous_program(nothing, rows, lower, np.full(count, np.inf))
    ends = []
    for raw in sweep_continuous(multipliers, [direction, -direction]):
        if raw is not None and raw.termination is Termination.UNBOUNDED:
            return False
        if raw is None or raw.v is None:
            return None
        ends.append(raw.v)
    size = max(1.0, float(abs(np.concatenate(ends)).max(initial=0.0)))
    return bool(abs(ends[0] - ends[1]).max(initial=0.0) <= 1e-4 * size)


def _inequalities(matrix: sp.csr_array, rhs: Array) -> Rows:
    count = len(rhs)
    return Rows(matrix, rhs, np.zeros(count, bool), NO_PRODUCTS, ("row",) * count)
