"""The leader's best and worst value over all the followers' best responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilevel.problem.functions import Array, Objective, Rows
from bilevel.problem.standard import LEADER, StandardForm, is_convex
from bilevel.program import Limits, RawAnswer, Termination
from bilevel.response.response import Response, is_nash, respond
from bilevel.structure import Stance

_REMARK_SECONDS = 1.0
# A backend takes a row for met if it is missed by less.
_HOLDS = 1e-9


@dataclass(frozen=True)
class Extremes:
    """The leader's best and worst value over all best responses to one decision.

    Parameters
    ----------
    optimistic, pessimistic
        In the leader's sense; ``None`` where not computed.
    unique
        Whether there is one best response only.
    worst_coupling
        Largest violation of a coupling row over all best responses.
    notes
        Why something was not computed.
    """

    optimistic: float | None = None
    pessimistic: float | None = None
    unique: bool | None = None
    worst_coupling: float | None = None
    notes: tuple[str, ...] = ()


def extremes(form: StandardForm, w: Array) -> Extremes:
    """Return the leader's best and worst value over all best responses to its decision.

    The responses come from the routes that find vertices exactly, not from those that check a
    point: a face is only as good as the multipliers that define it.
    """
    if is_nash(form):
        note = "Best and worst value over all equilibria are not computed."
        return Extremes(notes=(note,))
    response = respond(form, w)
    if response is None or not response.is_complete:
        conic = any(follower.cones for follower in form.followers)
        note = "Best and worst value over all best responses of a conic follower are not known."
        return Extremes(notes=(note,) if conic else ())
    auxiliary = _auxiliary(form)
    notes = []
    own = form.follower_mask
    is_linear = not form.objective.P[own][:, own].nnz
    slope = np.where(own, form.objective.P @ response.w + form.objective.c, 0.0)
    direction = _direction(form)
    # One linear program for all questions about the set of best responses.
    costs = [direction, -direction, *([-slope, slope] if is_linear else [])]
    ends = response.along(costs)
    if is_linear and not len(auxiliary) and _says_nothing(form, response.w):
        optimistic = _value_at(form.objective, 1.0, *ends[3])
    else:
        optimistic = _extreme_value(response, form.objective, 1.0, auxiliary, True)
    pessimistic = None
    if len(auxiliary) and form.objective.c[auxiliary].any():
        notes.append("The worst value is not computed: the objective is not linear in responses.")
    elif is_linear:
        pessimistic = _value_at(form.objective, -1.0, *ends[2])
    else:
        # Only the pessimistic problem's certificate depends on it. Elsewhere it is a remark, which
        # may need the global maximum of a convex function.
        limits = (
            Limits() if form.stance is Stance.PESSIMISTIC else Limits(time_limit=_REMARK_SECONDS)
        )
        none = np.empty(0, int)
        pessimistic = _extreme_value(response, form.objective, -1.0, none, False, limits)
    if pessimistic is None and not notes:
        notes.append("The worst value at this decision was not found.")
    unique = _is_unique(form, ends[:2])
    if unique and pessimistic is None:
        pessimistic = optimistic
        notes = []
    return Extremes(optimistic, pessimistic, unique, _worst_coupling(response), tuple(notes))


def _says_nothing(form: StandardForm, w: Array) -> bool:
    """Return whether the leader's constraints hold whatever the followers' best response is."""
    if form.coupled_rows.any() or form.cones:
        return False
    return not form.rows.b.size or bool(form.rows.violation(w).max() <= _HOLDS)


def _auxiliary(form: StandardForm) -> Array:
    return np.flatnonzero(form.columns.auxiliary & (form.columns.owner == LEADER))


def _extreme_value(
    response: Response,
    objective: Objective,
    sign: float,
    free: Array,
    with_rows: bool,
    limits: Limits | None = None,
) -> float | None:
    if sign < 0 and _grows(response, objective):
        return objective.sign * np.inf
    scaled = Objective(sign * objective.P, sign * objective.c)
    return _value_at(objective, sign, *response.extreme(scaled, free, with_rows, limits=limits))


def _value_at(objective: Objective, sign: float, raw: RawAnswer | None, w: Array) -> float | None:
    """Return the value at the end of a search, in the leader's sense; ``None`` without an end."""
    if raw is None:
        return None
    if raw.termination is Termination.UNBOUNDED:
        return -sign * objective.sign * np.inf
    if raw.termination is not Termination.OPTIMAL:
        return None
    return objective.sign * objective.evaluate(w)


def _grows(response: Response, objective: Objective) -> bool:
    """Return whether a convex quadratic grows for ever over the face.

    It does along a ray ``d`` of the face with ``P d != 0``, which a random combination of the rows
    of ``P`` sees. A global solver would look for the maximum in vain.
    """
    own = np.flatnonzero(response.form.follower_mask)
    if not objective.P[own][:, own].nnz or not is_convex(objective, own):
        return False
    seen = np.zeros(len(objective.c))
    seen[own] = objective.P[own][:, own] @ np.random.default_rng(0).normal(size=len(own))
    ends = response.along([seen, -seen])
    return any(raw is not None and raw.termination is Termination.UNBOUNDED for raw, _ in ends)


def _direction(form: StandardForm) -> Array:
    """Return a random direction of the followers' columns; a face of one point has no width."""
    direction = np.zeros(form.n)
    own = form.follower_mask & ~form.columns.auxiliary
    direction[own] = np.random.default_rng(0).normal(size=own.sum())
    return direction


def _is_unique(form: StandardForm, ends: Sequence[tuple[RawAnswer | None, Array]]) -> bool | None:
    """Return whether the two ends of the face along a random direction are one point."""
    for raw, _ in ends:
        if raw is None or raw.termination not in (Termination.OPTIMAL, Termination.UNBOUNDED):
            return None
        if raw.termination is Termination.UNBOUNDED:
            return False
    own = form.follower_mask & ~form.columns.auxiliary
    first, second = (w for _, w in ends)
    return bool(abs(first - second)[own].max(initial=0.0) <= 1e-5 * max(1.0, abs(first).max()))


def _worst_coupling(response: Response) -> float | None:
    """Return the largest violation of a coupling row over all best responses."""
    form = response.form
    worst = 0.0
    if not form.coupled_rows.any():
        return worst
    rows = form.rows.take(form.coupled_rows)
    for r in range(len(rows)):
        single = np.arange(len(rows)) == r
        row: Rows = rows.take(single)
        for sign in (1.0, -1.0) if row.equality[0] else (1.0,):
            value = row.project(np.arange(form.n), np.zeros(form.n))
            if value.products.row.size:
                return None
            line = value.A.toarray().ravel()
            ((raw, w),) = response.along([-sign * line])
            if raw is None or raw.termination is not Termination.OPTIMAL:
                return np.inf if raw is not None else None
            worst = max(worst, float(row.violation(w)[0]))
    return worst
