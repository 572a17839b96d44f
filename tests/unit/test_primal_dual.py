"""The primal-dual inequalities hold at every follower-optimal point, whatever their weights."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel.reformulate.kkt import KKT
from bilevel.reformulate.primal_dual import LinearFollower, root_inequalities
from bilevel.response.response import respond


def game(seed, **more):
    rng = np.random.default_rng(seed)
    x, y = cp.Variable(3, name="x"), cp.Variable(4, name="y")
    A, C = rng.integers(-3, 4, (5, 4)), rng.integers(-3, 4, (5, 3))
    rows = [A @ y + C @ x <= rng.integers(4, 12, 5), y >= 0, y <= 5]
    cost = rng.integers(-4, 5, 4) @ y
    if more.get("curved"):
        cost = cost + cp.sum_squares(y)
    if more.get("equation"):
        rows.append(cp.sum(y) == x[0] + 2)
    upper = [] if more.get("open") else [x <= 2]
    follower = bl.Follower(cp.Minimize(cost), rows, [y])
    return bl.Problem(cp.Minimize(cp.sum(x) + cp.sum(y)), [x >= -2, *upper], [follower])


def inequalities(form, reformed):
    return root_inequalities(form, 0, reformed.multipliers[0], reformed.program)


def answers(form, reformed, seed):
    """Embedded best responses to random decisions."""
    rng = np.random.default_rng(seed)
    for _ in range(30):
        w = np.zeros(form.n)
        w[:3] = rng.uniform(-2, 2, 3)
        response = respond(form, w)
        if response is not None:
            multipliers = tuple(one.multipliers for one in response.responses)
            yield reformed.embed(response.w, multipliers)


@pytest.mark.parametrize("equation", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_they_hold_wherever_the_follower_is_optimal(seed, equation):
    form = game(seed, equation=equation).compile()
    reformed = KKT().apply(form)
    rows = inequalities(form, reformed)
    assert len(rows) >= 1 or equation
    points = list(answers(form, reformed, seed))
    assert points
    for row in rows:
        assert max(row.evaluate(v)[0] for v in points) <= 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_any_weights_give_a_valid_inequality(seed):
    form = game(seed).compile()
    reformed = KKT().apply(form)
    parts = LinearFollower.of(form, form.followers[0])
    rng = np.random.default_rng(seed)
    for v in answers(form, reformed, seed):
        weights = rng.normal(size=(len(parts.own), len(parts.linking)))
        row = parts.row(weights, reformed.multipliers[0], reformed.program.n)
        assert row.evaluate(v)[0] <= 1e-6


def test_an_equation_with_others_columns_has_none_unless_weights_remove_them():
    form = game(0, equation=True).compile()
    reformed = KKT().apply(form)
    parts = LinearFollower.of(form, form.followers[0])
    zero = np.zeros((len(parts.own), len(parts.linking)))
    assert parts.row(zero, reformed.multipliers[0], reformed.program.n) is None


def test_the_best_weights_tighten_the_relaxation():
    tightened = 0
    for seed in range(8):
        form = game(seed).compile()
        reformed = KKT().apply(form)
        every = inequalities(form, reformed)
        bounds = [relaxed(reformed.program, rows) for rows in ((), every[:1], every)]
        assert bounds[0] <= bounds[1] + 1e-7
        assert bounds[1] <= bounds[2] + 1e-7
        tightened += bounds[2] > bounds[1] + 1e-4
    assert tightened >= 2


def relaxed(program, rows):
    """The relaxation's value by CVXPY."""
    v = cp.Variable(program.n)
    every = [program.rows, *rows]
    constraints = [v >= program.lower, v <= program.upper]
    for part in every:
        inequality = ~part.equality
        if inequality.any():
            constraints.append(part.A[inequality] @ v <= part.b[inequality])
        if part.equality.any():
            constraints.append(part.A[part.equality] @ v == part.b[part.equality])
    problem = cp.Problem(cp.Minimize(program.objective.c @ v), constraints)
    value = problem.solve(solver=cp.CLARABEL)
    return value if problem.status == "optimal" else -np.inf


@pytest.mark.parametrize("more", [{"curved": True}, {"open": True}])
def test_there_are_none_where_they_are_not_valid(more):
    form = game(0, **more).compile()
    assert inequalities(form, KKT().apply(form)) == ()
