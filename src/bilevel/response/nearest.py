"""The feasible point nearest to a given one: a way back from a backend's tolerance."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from bilevel.backends import Purpose
from bilevel.problem.functions import NO_PRODUCTS, Array, Objective, Rows
from bilevel.problem.standard import StandardForm
from bilevel.program import Program
from bilevel.response.best_response import continuous_program, solve_continuous


def nearest_feasible(form: StandardForm, w: Array) -> Array | None:
    """Return the point nearest to ``w`` (sum of distances) that meets all linear constraints.

    A backend's decision may lie outside the followers' domain by its tolerance, where they have no
    response at all. Integers stay where they are.
    """
    columns = form.columns
    rows = Rows.stack(form.rows, *(follower.rows for follower in form.followers))
    linear = np.ones(len(rows), bool)
    linear[rows.products.row] = False
    target = np.where(columns.integer, np.round(w), w)
    lower = np.where(columns.integer, target, columns.lower)
    upper = np.where(columns.integer, target, columns.upper)
    nothing = Objective(sp.csr_array((form.n, form.n)), np.zeros(form.n))
    cones = sum((follower.cones for follower in form.followers), ())
    program = continuous_program(nothing, rows.take(linear), lower, upper, cones)
    return nearest_point(program, target)


def nearest_point(program: Program, target: Array) -> Array | None:
    """Return the feasible point whose first columns are nearest to ``target``, by distances' sum.

    Parameters
    ----------
    program
        Without integers, products or sets; its objective is not used.
    target
        Values of its first columns.
    """
    n = program.n
    k = len(target)
    identity = sp.eye_array(k, n, format="csr")
    tie = Rows(
        sp.csr_array(sp.hstack([identity, -sp.eye_array(k), sp.eye_array(k)])),
        target,
        np.ones(k, bool),
        NO_PRODUCTS,
        ("distance",) * k,
    )
    total = n + 2 * k
    cost = np.append(np.zeros(n), np.ones(2 * k))
    raw, _ = solve_continuous(
        continuous_program(
            Objective(sp.csr_array((total, total)), cost),
            Rows.stack(program.rows.pad(total), tie),
            np.append(program.lower, np.zeros(2 * k)),
            np.append(program.upper, np.full(2 * k, np.inf)),
            tuple(cone.pad(total) for cone in program.cones),
        ),
        Purpose.CONVEX,
    )
    return None if raw is None or raw.v is None else raw.v[:n]
