"""The primal-dual inequality holds at every follower-optimal point."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel.reformulate.kkt import KKT
from bilevel.reformulate.root_inequality import root_inequality
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


@pytest.mark.parametrize("seed", range(8))
def test_it_holds_wherever_the_follower_is_optimal(seed):
    form = game(seed).compile()
    reformed = KKT().apply(form)
    row = root_inequality(form, 0, reformed.multipliers[0], reformed.program.n)
    assert len(row) == 1
    rng, seen = np.random.default_rng(seed), 0
    for _ in range(30):
        w = np.zeros(form.n)
        w[:3] = rng.uniform(-2, 2, 3)
        response = respond(form, w)
        if response is None:
            continue
        seen += 1
        multipliers = tuple(one.multipliers for one in response.answers)
        assert row.evaluate(reformed.embed(response.w, multipliers))[0] <= 1e-6
    assert seen


@pytest.mark.parametrize("more", [{"curved": True}, {"equation": True}, {"open": True}])
def test_there_is_none_where_it_is_not_valid(more):
    form = game(0, **more).compile()
    reformed = KKT().apply(form)
    assert len(root_inequality(form, 0, reformed.multipliers[0], reformed.program.n)) == 0
