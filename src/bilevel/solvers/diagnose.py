"""Why a problem has no solution: the leader's constraints, or a follower without a response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bilevel.backends import Purpose
from bilevel.errors import BackendError, BackendNotFound, UnsupportedProblem
from bilevel.problem.functions import Objective, Rows
from bilevel.problem.standard import StandardForm
from bilevel.program import Limits, Program, Termination
from bilevel.reformulate.mccormick import high_point
from bilevel.response.best_response import solve_continuous
from bilevel.status import Status


def diagnose(
    form: StandardForm, has_response: Callable[[StandardForm], bool | None]
) -> tuple[Status, str]:
    """Return the status of a problem whose reformulation is infeasible, and a sentence.

    Parameters
    ----------
    form
        The problem.
    has_response
        Tells whether the followers have a best response to some decision, given a problem; ``None``
        if that is not known.
    """
    alone = _without_coupling(form)
    leader_only = replace(alone, followers=(), dual_variables=(), values=())
    if _is_infeasible(high_point(_only_leader_rows(leader_only))):
        return Status.INFEASIBLE, "The leader's own constraints contradict each other."
    for k, follower in enumerate(form.followers):
        single = replace(alone, followers=(form.followers[k],), dual_variables=(), values=())
        if _is_infeasible(high_point(single)):
            return (
                Status.FOLLOWER_INFEASIBLE,
                f"No leader decision lets follower {follower.name!r} meet its constraints.",
            )
    try:
        responded = has_response(alone)
    except (UnsupportedProblem, BackendError, BackendNotFound):
        responded = None
    if responded is None:
        return Status.INFEASIBLE, "Whether the followers ever have a best response is not known."
    if responded:
        sentence = "The followers' best responses never satisfy the coupling constraints."
        return Status.INFEASIBLE, sentence
    if _is_infeasible(high_point(replace(alone, dual_variables=(), values=()))):
        return (
            Status.FOLLOWER_INFEASIBLE,
            "The followers' constraints cannot be met together for any leader decision.",
        )
    return (
        Status.FOLLOWER_UNBOUNDED,
        "Wherever the followers have feasible responses, one of them has no best one.",
    )


def _without_coupling(form: StandardForm) -> StandardForm:
    rows = form.rows.take(~form.coupled_rows)
    n = form.n
    nothing = Objective(form.objective.P * 0.0, np.zeros(n), maximize=form.objective.maximize)
    nothing.P.eliminate_zeros()
    return replace(form, rows=rows, cones=(), objective=nothing)


def _only_leader_rows(form: StandardForm) -> StandardForm:
    return form if len(form.rows) else replace(form, rows=Rows.empty(form.n))


def _is_infeasible(program: Program) -> bool:
    raw, _ = solve_continuous(program, Purpose.POINT, Limits(time_limit=60.0))
    return raw is not None and raw.termination is Termination.INFEASIBLE
