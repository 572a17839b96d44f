"""Claims put to the test where they are cheap to refute: followers respond at a few decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bilevel.certificates import certify
from bilevel.problem.functions import Array
from bilevel.problem.standard import StandardForm
from bilevel.response.response import optimistic_completion, worst_completion
from bilevel.solution import Tolerances
from bilevel.solvers.solver import Outcome, Request
from bilevel.solvers.starts import initial_point
from bilevel.status import Status
from bilevel.structure import Stance

#: What a verified point contradicts. (That a leader is unbounded is not among them.)
NEGATIVE = (Status.INFEASIBLE, Status.FOLLOWER_INFEASIBLE, Status.FOLLOWER_UNBOUNDED)
# So many of the leader's columns are moved to their bounds, one at a time.
_MOVED = 4


def tested(form: StandardForm, outcome: Outcome, request: Request) -> Outcome:
    """Return an outcome that no verified point at a few decisions contradicts.

    The followers respond where one of the leader's columns lies at a bound. A point there refutes
    that there is none, and a bound that it beats; then the point is kept and the claim falls.

    Parameters
    ----------
    form
        The problem.
    outcome
        A claim: a negative word, or a point with a bound.
    request
        Tolerances of the claim.
    """
    best = None
    value = np.inf if outcome.w is None else form.objective.evaluate(outcome.w)
    short = request.atol + request.rtol * max(1.0, abs(value) if np.isfinite(value) else 1.0)
    finish = worst_completion if form.stance is Stance.PESSIMISTIC else optimistic_completion
    for decision in _decisions(form, outcome.w):
        point = finish(form, decision)
        if point is None or not form.objective.evaluate(point) < value - short:
            continue
        if certify(form, point, Tolerances()).accepted:
            best, value = point, form.objective.evaluate(point)
    if best is None:
        return outcome
    claim = "there is no solution" if outcome.w is None else "a bound"
    note = f"{outcome.note} The claim of {claim} was refuted by a verified point.".strip()
    bound = -np.inf if outcome.w is None or value < outcome.bound - short else outcome.bound
    status = Status.OPTIMAL if request.gap_closed(value, bound) else Status.FEASIBLE
    return replace(outcome, status=status, w=best, bound=bound, multipliers=(), note=note)


def _decisions(form: StandardForm, w: Array | None) -> Iterator[Array]:
    columns = form.columns
    if w is None:
        w = initial_point(form)
        if w is None:
            w = np.clip(np.zeros(form.n), columns.lower, columns.upper)
        yield w
    linking = np.flatnonzero(form.linking_mask & ~form.follower_mask)
    for column in linking[:_MOVED]:
        for side in (columns.lower[column], columns.upper[column]):
            if np.isfinite(side) and side != w[column]:
                moved = w.copy()
                moved[column] = side
                yield moved
