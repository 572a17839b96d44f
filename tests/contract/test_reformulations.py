"""Every reformulation: names survive, points go in and come back, and both problems agree.

Feasible means the same on both sides: an answer that scipy finds for a decision is feasible for the
program, and whatever the program admits is accepted by a certificate.
"""

from __future__ import annotations

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from scipy.optimize import linprog
from tests.oracle import games, holds
from tests.registry import OPTIMISTIC, SOLVERS, rows

import bilevel as bl
from bilevel import Stance, UnsupportedProblem, backends
from bilevel.certificates import certify
from bilevel.problem.functions import Objective
from bilevel.program import Limits
from bilevel.solution import Tolerances

ROWS = [
    row for row in SOLVERS if row.stances == OPTIMISTIC and isinstance(row.build(), bl.SingleLevel)
]
EVERY = pytest.mark.parametrize("row", rows(tuple(ROWS)))
SOLVABLE = [pytest.param(i, id=i.name) for i in bl.instances.all_instances() if i.solvable]


def reformed(row, form):
    """Return the reformulated problem, or ``None`` where the row may refuse."""
    try:
        return row.build().reformulation.apply(form)
    except UnsupportedProblem:
        assert row.may_refuse
        return None


@EVERY
@pytest.mark.parametrize("instance", SOLVABLE)
def test_names_survive_and_are_unique(row, instance):
    form = instance.problem.compile()
    if row.build().reformulation.accepts(form):
        return
    result = reformed(row, form)
    if result is None:
        return
    names = result.program.names
    assert names[: form.n] == form.columns.names
    assert result.n == form.n
    assert len(set(names)) == len(names)
    follower = form.followers[0].name
    added = names[form.n :]
    assert all(follower in name or "*" in name or name.startswith("not[") for name in added), added
    for columns, part in zip(result.multipliers, form.followers, strict=True):
        assert len(columns) == len(part.rows)
        for column, name in zip(columns, part.rows.names, strict=True):
            assert names[column] == f"dual[{part.name}.{name}]"


@EVERY
@pytest.mark.parametrize("instance", SOLVABLE)
def test_bounds_and_integers_survive(row, instance):
    form = instance.problem.compile()
    if row.build().reformulation.accepts(form):
        return
    result = reformed(row, form)
    if result is None:
        return
    first = slice(0, form.n)
    np.testing.assert_array_equal(result.program.lower[first], form.columns.lower)
    np.testing.assert_array_equal(result.program.upper[first], form.columns.upper)
    np.testing.assert_array_equal(result.program.integer[first], form.columns.integer)


@EVERY
@pytest.mark.parametrize("instance", SOLVABLE)
def test_a_point_goes_in_and_comes_back(row, instance):
    form = instance.problem.compile()
    if row.build().reformulation.accepts(form):
        return
    result = reformed(row, form)
    if result is None:
        return
    rng = np.random.default_rng(1)
    w = rng.normal(size=form.n)
    lam = tuple(abs(rng.normal(size=len(columns))) for columns in result.multipliers)
    back, prices = result.invert(result.embed(w, lam))
    np.testing.assert_array_equal(back, w)
    for one, other in zip(prices, lam, strict=True):
        np.testing.assert_array_equal(one, other)


@EVERY
@settings(max_examples=10)
@given(games(integer=True))
def test_answers_found_by_scipy_are_feasible(row, game):
    """Embed ``x``, scipy's ``y`` and scipy's multipliers; a worse ``y`` is not feasible."""
    form = game.problem().compile()
    solver = row.build()
    if solver.reformulation.accepts(form):
        return
    result = reformed(row, form)
    if result is None:
        return
    # A row without follower variables became the leader's and has no multiplier.
    kept = (game.A != 0).any(axis=1)
    index = {n: i for i, n in enumerate(form.followers[0].rows.names)}
    order = [index.get(f"c{i}[0]", -1) for i in range(len(game.b))]
    equality = game.equality
    for x in list(game.decisions())[:6]:
        found = linprog(
            game.c + game.D @ x,
            game.A[~equality],
            (game.b - game.B @ x)[~equality],
            game.A[equality],
            (game.b - game.B @ x)[equality],
            bounds=(None, None),
        )
        if found.status != 0:
            continue
        lam = np.zeros(len(game.b))
        lam[~equality], lam[equality] = -found.ineqlin.marginals, -found.eqlin.marginals
        ours = np.zeros(len(form.followers[0].rows))
        for i, j in enumerate(order):
            if j >= 0:
                ours[j] = lam[i]
        assert kept.sum() == len(ours)
        v = result.embed(np.concatenate([x, found.x]), (ours,))
        leading = all(game.G[k] @ np.concatenate([x, found.x]) <= game.g[k] + 1e-7
                      for k in range(len(game.g)))  # fmt: skip
        given_m = not result.proved
        assert holds(result.program, v, 1e-6) == leading or given_m
        # Any other feasible answer that costs the follower more.
        d = game.c + game.D @ x
        worst = linprog(
            -d,
            game.A[~equality],
            (game.b - game.B @ x)[~equality],
            game.A[equality],
            (game.b - game.B @ x)[equality],
            bounds=(None, None),
        )
        if worst.status == 0 and d @ worst.x > found.fun + 1e-3:
            wrong = result.embed(np.concatenate([x, worst.x]), (ours,))
            assert not holds(result.program, wrong, 1e-6)


@EVERY
@pytest.mark.parametrize("instance", SOLVABLE)
def test_what_the_program_admits_is_bilevel_feasible(row, instance):
    """Random objectives lead the backend all over the program; every point is certified."""
    solver, form = row.build(), instance.problem.compile()
    backend = backends.get(solver.backend)
    if solver.accepts(form) or row.struggles & form.structure:
        return
    result = reformed(row, form)
    if result is None or backend.missing(replace(result.program, objective=_costs(0, result))):
        return
    seen = 0
    for seed in range(3):
        program = replace(result.program, objective=_costs(seed, result))
        # Only columns with bounds carry a cost, so there is something to return.
        raw = backend.solve(program, Limits(time_limit=5.0))
        if raw.v is None:
            continue
        seen += 1
        w, _ = result.invert(raw.v)
        loose = Tolerances(violation=1e-5, gap=1e-5, integrality=1e-5)
        certificate = certify(form, w, loose)
        assert certificate.accepted, certificate.summary()
    assert seen


def _costs(seed, result):
    rng, program = np.random.default_rng(seed), result.program
    n = program.n
    c = np.where(np.isfinite(program.lower) & np.isfinite(program.upper), rng.normal(size=n), 0.0)
    c[result.n :] = 0.0
    return Objective(sp.csr_array((n, n)), c)


@EVERY
def test_reasons_are_given_for_the_other_stance(row):
    form = replace(bl.instances.get("T14").problem.compile(), stance=Stance.PESSIMISTIC)
    reasons = row.build().accepts(form)
    assert reasons
    assert any("pessimistic" in reason for reason in reasons)


def test_inner_dual_is_for_the_pessimistic_stance():
    form = bl.instances.get("T14").problem.compile()
    assert bl.InnerDual().accepts(form)
    assert not bl.InnerDual().accepts(replace(form, stance=Stance.PESSIMISTIC))


@EVERY
def test_every_follower_keeps_its_own_multipliers(row):
    x = cp.Variable(2, name="x")
    followers = []
    for k in range(2):
        y = cp.Variable(2, name=f"y{k}")
        limits = [y >= x[k], cp.sum(y) <= 5]
        followers.append(bl.Follower(cp.Minimize(cp.sum(y)), limits, variables=[y], name=f"f{k}"))
    leading = [x >= 0, x <= 2]
    problem = bl.Problem(cp.Maximize(cp.sum(x)), leading, followers=followers)
    result = reformed(row, problem.compile())
    if result is None:
        return
    first, second = result.multipliers
    assert len(first) == len(second) == 3
    assert not set(first) & set(second)
    assert all("f0" in result.program.names[c] for c in first)
    assert all("f1" in result.program.names[c] for c in second)
