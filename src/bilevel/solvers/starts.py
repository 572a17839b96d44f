"""Where local methods begin: the followers' answers at different leader decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from bilevel.backends import Purpose
from bilevel.problem.cones import interior
from bilevel.problem.functions import Array, Objective
from bilevel.problem.standard import LEADER, FollowerForm, StandardForm
from bilevel.program import Limits, Program
from bilevel.reformulate.bounds import high_point
from bilevel.response.answer import solve_continuous
from bilevel.response.response import optimistic_completion, respond
from bilevel.solvers.initial import initial_point

# Unbounded decisions are tried up to this many times the size of the first one.
_REACH = 10.0


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
        Whether the followers answer optimally and the leader's constraints hold.
    """

    w: Array
    multipliers: tuple[Array, ...]
    feasible: bool


def starts(
    form: StandardForm, given: Array | None, count: int, seed: int | None
) -> Iterator[Start]:
    """Yield starts: the user's, the high-point optimum, then decisions in random directions.

    A random decision is the optimum of a random linear objective over all levels' linear
    constraints, moved a random part of the way back to the first one.
    """
    if given is not None:
        yield _answered(form, given)
    program = linear_high_point(form)
    rng = np.random.default_rng(0 if seed is None else seed)
    first = initial_point(form)
    if first is None:
        first = _extreme(program, np.zeros(program.n), form)
    if first is None:
        first = np.clip(np.zeros(form.n), form.columns.lower, form.columns.upper)
    yield _answered(form, first)
    boxed = _boxed(form, program, first)
    for _ in range(count - 1):
        cost = np.zeros(program.n)
        cost[: form.n] = rng.normal(size=form.n) * (form.columns.owner == LEADER)
        part = rng.uniform()
        far = _extreme(boxed, cost, form)
        if far is None:
            far = first + rng.normal(size=form.n) * np.maximum(1.0, abs(first))
            far = np.clip(far, form.columns.lower, form.columns.upper)
        yield _answered(form, part * first + (1.0 - part) * far)


def linear_high_point(form: StandardForm) -> Program:
    """Return the high-point relaxation without the rows that contain products."""
    program = high_point(form)
    linear = np.ones(len(program.rows), bool)
    linear[program.rows.products.row] = False
    return replace(program, rows=program.rows.take(linear))


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


def _answered(form: StandardForm, w: Array) -> Start:
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
        for follower, one in zip(form.followers, response.answers, strict=True)
    )
    return Start(response.w if best is None else best, known, best is not None)


def _ones(follower: FollowerForm) -> Array:
    """Return multipliers inside all cones."""
    parts = [interior(cone) for cone in follower.cones]
    return np.concatenate([(~follower.rows.equality).astype(float), *parts])
