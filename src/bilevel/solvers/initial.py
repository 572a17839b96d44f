"""A first bilevel feasible point: the leader's decision without the followers' objectives."""

from __future__ import annotations

import numpy as np

from bilevel.problem.functions import Array
from bilevel.problem.standard import StandardForm
from bilevel.program import Feature, Limits
from bilevel.reformulate.bounds import high_point
from bilevel.response.answer import solve_continuous

# More is not worth a first point.
_SECONDS = 2.0


def initial_point(form: StandardForm) -> Array | None:
    """Return the optimum of the high-point relaxation (followers merely feasible), if it is cheap.

    The followers then answer to its leader decision, which is a feasible point unless a coupling
    constraint objects.
    """
    if len(form.rows.products) or any(len(f.rows.products) for f in form.followers):
        return None
    if form.prices or form.values:
        return None
    program = high_point(form)
    if program.features & (Feature.NONCONVEX_QUADRATIC | Feature.INTEGER_QUADRATIC):
        return None
    limits = Limits(time_limit=_SECONDS, rtol=1e-2)
    raw, _ = solve_continuous(program, ("highs", "clarabel"), limits)
    if raw is None or raw.v is None:
        return None
    w = raw.v[: form.n]
    return np.where(form.columns.integer, np.round(w), w)
