"""Equations in a follower: multipliers of either sign, no complementarity, nothing else changes."""

import cvxpy as cp
import numpy as np
import pytest
from tests.registry import OPTIMISTIC, SOLVERS, rows

import bilevel as bl
from bilevel import Status, UnsupportedProblem

EXACT = tuple(row for row in SOLVERS if row.exact and row.stances >= OPTIMISTIC)


def split(kind):
    """The follower splits ``x`` between two plants; a sum written in three ways."""
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    balance = {
        "equation": [cp.sum(y) == x],
        "reversed": [x == cp.sum(y)],
        "two inequalities": [cp.sum(y) <= x, cp.sum(y) >= x],
        "cone": [cp.constraints.Zero(x - cp.sum(y))],
    }[kind]
    rows_ = [*balance, y >= 0, y[0] <= 2]
    follower = bl.Follower(cp.Minimize(y[0] + 3 * y[1]), rows_, variables=[y], name="f")
    leading = [x >= 0, x <= 5]
    return bl.Problem(cp.Maximize(2 * x - 2 * y[1]), leading, followers=[follower])


@pytest.mark.parametrize("kind", ["equation", "reversed", "two inequalities", "cone"])
@pytest.mark.parametrize("row", rows(EXACT))
def test_three_ways_to_write_an_equation(row, kind):
    """y[1] = max(x - 2, 0): the leader earns 4 from x = 2 on."""
    given = split(kind)
    try:
        solution = bl.solve(given, row.build(), time_limit=200)
    except UnsupportedProblem:
        assert row.may_refuse
        return
    assert solution.leader_value == pytest.approx(4, abs=1e-4)
    assert solution.certificate.accepted
    if row.proves:
        assert solution.status is Status.OPTIMAL


@pytest.mark.backend("scip")
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_sign_of_the_multiplier_is_that_of_cvxpy(maximize, flip):
    x, y, price = (cp.Variable(name=n) for n in ("x", "y", "price"))

    def level(x, y):
        balance = (2 * x == y) if flip else (y == 2 * x)
        cost = 5 * y + cp.square(y)
        return cp.Maximize(-cost) if maximize else cp.Minimize(cost), balance

    sense, balance = level(x, y)
    follower = bl.Follower(sense, [balance], variables=[y])
    keep = [x == 1.5, price == follower.dual(balance)]
    solution = bl.solve(bl.Problem(cp.Minimize(0), keep, followers=[follower]))
    alone = cp.Variable()
    sense, row = level(cp.Constant(1.5), alone)
    cp.Problem(sense, [row]).solve(solver="CLARABEL")
    assert abs(float(row.dual_value)) == pytest.approx(11, abs=1e-5)
    assert float(solution[price]) == pytest.approx(float(row.dual_value), abs=1e-5)


@pytest.mark.backend("scip")
def test_a_follower_with_nothing_but_equations_is_a_linear_system():
    """No choice is left: the follower's response is the solution of ``A y = b + x``."""
    A, b = np.array([[2.0, 1.0], [1.0, -3.0]]), np.array([1.0, 2.0])
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y")
    follower = bl.Follower(cp.Minimize(0), [A @ y == b + x], variables=[y])
    target = np.array([0.5, -1.0])
    objective = cp.Minimize(cp.sum_squares(y - target))
    problem = bl.Problem(objective, [x >= -9, x <= 9], followers=[follower])
    solution = bl.solve(problem)
    assert solution.leader_value == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(solution[x], A @ target - b, atol=1e-3)
    assert solution.certificate.unique_response
