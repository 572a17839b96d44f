"""A first bilevel feasible point: the leader's decision without the followers' objectives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.backends import Purpose
from bilevel.problem.functions import Array, Objective
from bilevel.problem.standard import StandardForm
from bilevel.program import Feature, Limits, Program
from bilevel.reformulate.bounds import high_point
from bilevel.response.answer import solve_continuous

# More is not worth a first point.
_SECONDS = 2.0


def initial_point(form: StandardForm) -> Array | None:
    """Return the optimum of the high-point relaxation (followers merely feasible), if it is cheap.

    Where that is unbounded or not convex, any point of it. The followers then answer to its leader
    decision, which is a feasible point unless a coupling constraint objects.
    """
    if len(form.rows.products) or any(len(f.rows.products) for f in form.followers):
        return None
    if form.prices or form.values:
        return None
    program = high_point(form)
    attempts = [program, _indifferent(program)]
    if program.features & (Feature.NONCONVEX_QUADRATIC | Feature.INTEGER_QUADRATIC):
        attempts = attempts[1:]
    limits = Limits(time_limit=_SECONDS, rtol=1e-2)
    for attempt in attempts:
        raw, _ = solve_continuous(attempt, Purpose.CONVEX, limits)
        if raw is not None and raw.v is not None:
            w = raw.v[: form.n]
            return np.where(form.columns.integer, np.round(w), w)
    return None


def _indifferent(program: Program) -> Program:
    """Return the program without its objective: bounded, and no harder than its constraints."""
    n = program.n
    return replace(program, objective=Objective(sp.csr_array((n, n)), np.zeros(n)))
