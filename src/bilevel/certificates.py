"""Independent evidence about a point: every follower is solved again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bilevel.backends import Purpose
from bilevel.errors import ProblemError
from bilevel.problem.functions import Array
from bilevel.problem.problem import Problem
from bilevel.problem.scaling import Scaling
from bilevel.problem.standard import StandardForm
from bilevel.program import Termination
from bilevel.response.best_response import (
    FollowerResponse,
    best_response,
    follower_program,
    solve_continuous,
)
from bilevel.response.extremes import Extremes, extremes
from bilevel.response.multipliers import multiplier_violation, multipliers_are_unique
from bilevel.response.point import complete_point, values_of
from bilevel.solution import Certificate, Solution, Tolerances
from bilevel.structure import Stance

# From this smallest curvature on, relative to the largest, a response is as certain as its value.
_CURVED = 1e-4
# A response may be missed by ten times the tolerance of a gap.
_MISSED = 10.0


def verify(
    problem: Problem,
    point: Solution | Mapping[Any, Any],
    *,
    parameters: Mapping[Any, Any] | None = None,
    tolerances: Tolerances | None = None,
) -> Certificate:
    r"""Return a certificate for any point, wherever it comes from.

    Each follower is solved again at the leader's decision by another backend than the one that
    usually finds the response, and its value is compared with the point's:
    ``gap = (f(x, y) - min f(x, .)) / max(1, |min f(x, .)|)``.

    Parameters
    ----------
    problem
        The problem.
    point
        A solution, or values by CVXPY variable or by variable name. Follower variables may be left
        out: the best response for the leader is filled in.
    parameters
        Parameter values that override ``parameter.value``.
    tolerances
        Looser or tighter tolerances; they are shown in the summary.

    Returns
    -------
    Certificate
        Violations, follower gaps, the leader's best and worst value over all best responses to this
        decision, whether response and multipliers are unique, and the verdict.

    Raises
    ------
    ProblemError
        If a leader variable is missing, or a value has the wrong shape or is not finite.

    Notes
    -----
    Bilevel feasibility is what can be verified at a point; optimality needs a bound and is a
    matter of the solution's status. With followers that see each other's variables, each is solved
    with the others' values fixed, which verifies a Nash equilibrium. The gap of a follower with
    cones is measured from the value that its multipliers prove by weak duality, whoever found them.

    References
    ----------
    Ketkov and Prokopyev (2026), arXiv:2603.17107, on why optimality cannot be checked cheaply.

    Examples
    --------
    >>> import bilevel as bl
    >>> problem = bl.instances.get("T6b").problem
    >>> print(bl.verify(problem, {"x": 2.0, "y": 3.0}).accepted)
    True
    >>> wrong = bl.verify(problem, {"x": 2.0, "y": 3.5})
    >>> print(wrong.accepted, round(wrong.follower_gap, 4))
    False 0.25
    """
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem must be a bilevel.Problem, not {type(problem).__name__}.")
    form = problem.compile(parameters)
    values = point.values if isinstance(point, Solution) else values_of(point, problem.leaves)
    w = complete_point(form, problem.leaves, values)
    scaling = Scaling.of(form)
    found = certify(scaling.form, scaling.inside(w), tolerances or Tolerances())
    return in_units(scaling, w, found)


def in_units(scaling: Scaling, w: Array, found: Certificate) -> Certificate:
    """Return the certificate of a scaled problem's point with the user's values.

    Parameters
    ----------
    scaling
        How the problem was scaled.
    w
        The point in the user's units.
    found
        Its certificate in the scaled problem; violations and gaps stay as they were judged.
    """
    form = scaling.original
    values = {f.name: f.objective.sign * f.objective.evaluate(w) for f in form.followers}
    if scaling.is_plain:
        return replace(found, follower_values=values, scales=scaling.notes)

    def known(value: float | None) -> float | None:
        return None if value is None else scaling.value(value)

    return replace(
        found,
        leader_value=form.objective.sign * form.objective.evaluate(w),
        follower_values=values,
        optimistic_value=known(found.optimistic_value),
        pessimistic_value=known(found.pessimistic_value),
        scales=scaling.notes,
    )


def certify(form: StandardForm, w: Array, tolerances: Tolerances) -> Certificate:
    """Return the certificate of a full column vector."""
    followers = _check_followers(form, w, tolerances)
    violations = _violations(form, w)
    responses = [check.response for check in followers]
    multipliers = multiplier_violation(form, w)
    ends = extremes(form, w)
    notes = [note for f in followers for note in f.notes] + list(ends.notes)
    gaps = {form.followers[k].name: f.gap for k, f in enumerate(followers)}
    gap = max(gaps.values())
    follower_violation = max(f.violation for f in followers)
    leader_value = form.objective.sign * form.objective.evaluate(w)
    accepted = (
        max(*violations[:2], follower_violation, multipliers) <= tolerances.violation
        and violations[2] <= tolerances.integrality
        and gap <= tolerances.gap
        and not any(f.far for f in followers)
    )
    if form.stance is Stance.PESSIMISTIC:
        verdict, more = _pessimistic_verdict(form, leader_value, ends, tolerances)
    else:
        verdict, more = _optimistic_verdict(form, leader_value, ends, tolerances)
    accepted = accepted and verdict
    notes += more
    return Certificate(
        accepted=bool(accepted),
        leader_value=leader_value,
        leader_violation=violations[0],
        coupling_violation=violations[1],
        integrality_violation=violations[2],
        follower_violation=follower_violation,
        follower_gap=gap,
        follower_gaps=gaps,
        follower_values={
            f.name: f.objective.sign * f.objective.evaluate(w) for f in form.followers
        },
        optimistic_value=ends.optimistic,
        pessimistic_value=ends.pessimistic,
        unique_response=ends.unique,
        unique_multipliers=multipliers_are_unique(form, w, responses),
        multiplier_violation=multipliers,
        route=", ".join(dict.fromkeys(f.response.route for f in followers)),
        tolerances=tolerances,
        notes=tuple(dict.fromkeys(notes)),
    )


@dataclass(frozen=True)
class _Check:
    response: FollowerResponse
    gap: float
    violation: float
    far: bool
    notes: tuple[str, ...]


def _check_followers(form: StandardForm, w: Array, tolerances: Tolerances) -> list[_Check]:
    checks = []
    for k, follower in enumerate(form.followers):
        found = best_response(form, k, w, Purpose.CERTIFICATE)
        violation = float(follower.rows.violation(w).max(initial=0.0))
        violation = max([violation, *(cone.violation(w) for cone in follower.cones)])
        if found.termination is not Termination.OPTIMAL and violation <= tolerances.violation:
            found = best_response(form, k, w, Purpose.CERTIFICATE, admit=True)
        value = _own_value(form, k, w)
        notes = []
        gap = np.inf
        far = False
        if found.termination is Termination.OPTIMAL:
            gap = _relative_gap(form, k, w, value, found, tolerances.gap)
            distance = _distance(form, k, w, found)
            if gap <= tolerances.gap and distance > _MISSED * tolerances.gap:
                far = True
                notes.append(
                    f"The one best response of follower {follower.name!r} is {distance:.2g} away, "
                    f"relative to its size."
                )
        elif found.termination is Termination.INFEASIBLE:
            notes.append(f"Follower {follower.name!r} has no feasible response to this decision.")
        elif found.termination is Termination.UNBOUNDED:
            notes.append(f"Follower {follower.name!r} is unbounded at this decision.")
        else:
            notes.append(
                f"Follower {follower.name!r} could not be solved again ({found.termination.value})."
            )
        checks.append(_Check(found, float(gap), violation, far, tuple(notes)))
    return checks


def _relative_gap(
    form: StandardForm, k: int, w: Array, value: float, found: FollowerResponse, tolerance: float
) -> float:
    """Return a follower's gap, relative to what it can change.

    A large value says nothing about what is at stake: between 1e6 and 1e6 + 1 a follower can change
    one. So where only the value makes a gap small, it is compared with the follower's range.
    """
    short = max(value - found.bound, 0.0)
    if short <= 0.0:
        return 0.0
    size = max(1.0, abs(found.value))
    if tolerance < short <= tolerance * size:
        size = max(1.0, min(size, _range(form, k, w, found.value)))
    return short / size


def _distance(form: StandardForm, k: int, w: Array, found: FollowerResponse) -> float:
    """Return how far a point is from a clearly strictly convex follower's response, relative."""
    follower = form.followers[k]
    own = follower.columns
    if found.y is None or follower.cones:
        return 0.0
    step = w[own] - found.y
    short = _own_value(form, k, w) - found.bound
    if short <= 0.0 or not step.any():
        return 0.0
    curvature = np.linalg.eigvalsh(follower.objective.project(own, w).P.toarray())
    least, most = float(curvature[0]), float(curvature[-1])
    # What a route misses of the response itself is not held against the point: its value must tell.
    if least <= _CURVED * most or short < 0.1 * least * float(step @ step):
        return 0.0
    return float(abs(step).max()) / max(1.0, float(abs(found.y).max(initial=0.0)))


def _range(form: StandardForm, k: int, w: Array, least: float) -> float:
    """Return by how much a linear follower's value can vary; infinite where that is not known."""
    program = follower_program(form, k, w)
    if program.objective.P.nnz or program.cones:
        return np.inf
    turned = replace(program, objective=replace(program.objective, c=-program.objective.c))
    raw, _ = solve_continuous(turned, Purpose.EXTREME)
    if raw is None or raw.v is None or raw.termination is not Termination.OPTIMAL:
        return np.inf
    return program.objective.evaluate(raw.v) - least


def _own_value(form: StandardForm, k: int, w: Array) -> float:
    follower = form.followers[k]
    own = follower.columns
    return follower.objective.project(own, w).evaluate(w[own])


def _violations(form: StandardForm, w: Array) -> tuple[float, float, float]:
    columns = form.columns
    leader = ~form.follower_mask
    rows = form.rows.violation(w)
    bounds = np.maximum(columns.lower - w, w - columns.upper)[leader].max(initial=0.0)
    own = max(float(rows[~form.coupled_rows].max(initial=0.0)), float(bounds), 0.0)
    coupled = float(rows[form.coupled_rows].max(initial=0.0))
    coupled = max([coupled, *(cone.violation(w) for cone in form.cones)])
    integer = columns.integer
    integrality = float(abs(w - np.round(w))[integer].max(initial=0.0))
    return own, coupled, integrality


def _optimistic_verdict(
    form: StandardForm, leader_value: float, ends: Extremes, tolerances: Tolerances
) -> tuple[bool, list[str]]:
    """Refuse a point that is worth more to the leader than every best response to its decision."""
    best = ends.optimistic
    if best is None or not np.isfinite(best):
        return True, []
    better = (leader_value - best) * form.objective.sign
    if better >= -tolerances.gap * max(1.0, abs(best)) * 10:
        return True, []
    return False, [
        f"The point promises {leader_value:.9g}, but the best of the followers' best responses "
        f"gives {best:.9g}: it lives on a tolerance."
    ]


def _pessimistic_verdict(
    form: StandardForm, leader_value: float, ends: Extremes, tolerances: Tolerances
) -> tuple[bool, list[str]]:
    if ends.pessimistic is None:
        return False, ["The worst value at this decision is unknown, so nothing is certified."]
    better = (leader_value - ends.pessimistic) * form.objective.sign
    notes = []
    accepted = True
    if better < -tolerances.gap * max(1.0, abs(ends.pessimistic)) * 10:
        accepted = False
        notes.append(
            f"The point promises {leader_value:.9g}, but the worst best response gives "
            f"{ends.pessimistic:.9g}."
        )
    elif better > tolerances.gap * max(1.0, abs(ends.pessimistic)) * 10:
        accepted = False
        notes.append(
            f"The point is worth {leader_value:.9g}, but no best response is worse than "
            f"{ends.pessimistic:.9g}: it is none."
        )
    if ends.worst_coupling is None:
        notes.append("Whether coupling constraints hold for every best response is unknown.")
    elif ends.worst_coupling > 10 * tolerances.violation:
        accepted = False
        notes.append(
            f"A coupling constraint is violated by {ends.worst_coupling:.2g} at another best "
            f"response."
        )
    return accepted, notes
