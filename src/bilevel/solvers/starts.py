"""Points to begin with: leader decisions without a search, and the followers' responses there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from bilevel.backends import Purpose
from bilevel.problem.cones import interior
from bilevel.problem.functions import Array, Objective
from bilevel.problem.standard import LEADER, FollowerForm, StandardForm
from bilevel.program import Feature, Limits, Program
from bilevel.reformulate.mccormick import high_point
from bilevel.response.best_response import solve_continuous
from bilevel.response.response import optimistic_completion, respond
from bilevel.structure import Stance

# Unbounded decisions are tried up to this many times the size of the first one.
_REACH = 10.0
# More seconds are not worth a first point.
_SECONDS = 2.0


@dataclass(frozen=True)
class Start:
    """A point to begin with.

    Parameters
    ----------
    w
        All columns.
    multipliers
        For each follower.
    feasible
        Whether the followers respond optimally and the leader's constraints hold.
    """

    w: Array
    multipliers: tuple[Array, ...]
    feasible: bool


def initial_point(form: StandardForm) -> Array | None:
    """Return the optimum of the high-point relaxation (followers merely feasible), if it is cheap.

    Where that is unbounded or not convex, any point of it. The followers then respond to its
    leader decision, which gives a feasible point unless a coupling constraint objects.
    """
    if form.rows.products.row.size or any(f.rows.products.row.size for f in form.followers):
        return None
    if form.dual_variables or form.values:
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


def feasible_start(form: StandardForm, w: Array) -> Start | None:
    """Return the leader's best point with the followers' responses to a decision, if there is one.

    ``None`` also for pessimistic problems, where that point need not be feasible.
    """
    if form.stance is Stance.PESSIMISTIC:
        return None
    best = optimistic_completion(form, w)
    response = None if best is None else respond(form, best)
    if best is None or response is None:
        return None
    known = [one.multipliers for one in response.responses]
    return Start(best, tuple(np.empty(0) if lam is None else lam for lam in known), True)


def starts(
    form: StandardForm, given: Array | None, count: int, seed: int | None
) -> Iterator[Start]:
    """Yield starts: the user's, the high-point optimum, then decisions in random directions.

    A random decision is the optimum of a random linear objective over all levels' linear
    constraints, moved a random part of the way back to the first one.
    """
    if given is not None:
        yield _responded(form, given)
    program = linear_high_point(form)
    rng = np.random.default_rng(0 if seed is None else seed)
    first = initial_point(form)
    if first is None:
        first = _extreme(program, np.zeros(program.n), form)
    if first is None:
        first = np.clip(np.zeros(form.n), form.columns.lower, form.columns.upper)
    yield _responded(form, first)
    boxed = _boxed(form, program, first)
    for _ in range(count - 1):
        cost = np.zeros(program.n)
        cost[: form.n] = rng.normal(size=form.n) * (form.columns.owner == LEADER)
        part = rng.uniform()
        far = _extreme(boxed, cost, form)
        if far is None:
            far = first + rng.normal(size=form.n) * np.maximum(1.0, abs(first))
            far = np.clip(far, form.columns.lower, form.columns.upper)
        yield _responded(form, part * first + (1.0 - part) * far)


def linear_high_point(form: StandardForm) -> Program:
    """Return the high-point relaxation without the rows that contain products."""
    program = high_point(form)
    linear = np.ones(len(program.rows), bool)
    linear[program.rows.products.row] = False
    return replace(program, rows=program.rows.take(linear))


def _indifferent(program: Program) -> Program:
    """Return the program without its objective: bounded, and no harder than its constraints."""
    n = program.n
    return replace(program, objective=Objective(sp.csr_array((n, n)), np.zeros(n)))


def _boxed(form: StandardForm, program: Program, first: Array) -> Program:
    """Return the program with bounds on the leader's columns."""
    reach = _REACH * max(1.0, float(abs(first).max(initial=0.0)))
    leader = np.zeros(program.n, bool)
    leader[: form.n] = form.columns.owner == LEADER
    infinite = leader & ~np.isfinite(program.lower), leader & ~np.isfinite(program.upper)
    lower = program.lower.copy()
    upper = program.upper.copy()
    lower[infinite[0]] = np.minimum(-reach, upper[infinite[0]])
    upper[infinite[1]] = np.maximum(reach, lower[infinite[1]])
    return replace(program, lower=lower, upper=upper)


def _extreme(program: Program, cost: Array, form: StandardForm) -> Array | None:
    objective = Objective(sp.csr_array((program.n, program.n)), cost)
    twin = replace(program, objective=objective)
    raw, _ = solve_continuous(twin, Purpose.CONVEX, Limits(time_limit=2.0))
    return None if raw is None or raw.v is None else raw.v[: form.n]


def _responded(form: StandardForm, w: Array) -> Start:
    best = optimistic_completion(form, w)
    response = respond(form, w if best is None else best)
    if response is None:
        return Start(w, tuple(_ones(follower) for follower in form.followers), False)
    known = tuple(
        np.concatenate(
            [
                np.zeros(len(follower.rows)) if one.multipliers is None else one.multipliers,
                *(one.cone_multipliers or [np.zeros(len(c.b)) for c in follower.cones]),
            ]
        )
        for follower, one in zip(form.followers, response.responses, strict=True)
    )
    return Start(response.w if best is None else best, known, best is not None)


def _ones(follower: FollowerForm) -> Array:
    """Return multipliers inside all cones."""
    parts = [interior(cone) for cone in follower.cones]
    return np.concatenate([(~follower.rows.equality).astype(float), *parts])
