"""Free variables at both levels: nothing may be split, shifted or assumed nonnegative."""

import cvxpy as cp
import numpy as np
import pytest
from tests.registry import OPTIMISTIC, SOLVERS, rows

import bilevel as bl
from bilevel import Status, UnsupportedProblem

EXACT = tuple(row for row in SOLVERS if row.exact and row.stances >= OPTIMISTIC)


def problem(leader, inner):
    """``y`` is the point of ``[x - 1, x + 1]`` nearest to -7 (quadratic) or its left end."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    cost = cp.square(y + 7) if inner == "quadratic" else y
    follower = bl.Follower(cp.Minimize(cost), [y >= x - 1, y <= x + 1], variables=[y])
    reach = cp.abs(x + 3) if leader == "absolute" else cp.square(x + 3)
    return bl.Problem(cp.Minimize(reach - y / 10), [], followers=[follower])


# x = -3 (or -2.95 with the square): y = x - 1; the value is -y/10 = 0.4, resp. 0.0025 + 0.395.
TRUTH = {"absolute": 0.4, "square": 0.0025 + 0.395}


@pytest.mark.parametrize("inner", ["linear", "quadratic"])
@pytest.mark.parametrize("leader", ["absolute", "square"])
@pytest.mark.parametrize("row", rows(EXACT))
def test_negative_answers_to_negative_decisions(row, leader, inner):
    given = problem(leader, inner)
    if row.struggles & given.structure:
        return
    try:
        solution = bl.solve(given, row.build(), time_limit=5)
    except UnsupportedProblem:
        assert row.may_refuse or row.must_refuse(given)
        return
    assert solution.leader_value == pytest.approx(TRUTH[leader], abs=1e-4)
    if row.proves:
        assert solution.status is Status.OPTIMAL
        assert float(solution["y"]) == pytest.approx(float(solution["x"]) - 1, abs=1e-4)


@pytest.mark.backend("scip")
def test_a_leader_without_variables():
    """Only the follower's choice among its best responses is left to the leader."""
    y = cp.Variable(2, name="y")
    follower = bl.Follower(cp.Minimize(cp.sum(y)), [cp.sum(y) >= -3, y >= -5], variables=[y])
    problem = bl.Problem(cp.Minimize(y[0] - y[1]), [], followers=[follower])
    solution = bl.solve(problem)
    np.testing.assert_allclose(solution[y], [-5, 2], atol=1e-6)
    worst = bl.solve(problem.replace(stance="pessimistic"))
    assert worst.leader_value == pytest.approx(7, abs=1e-5)


@pytest.mark.backend("scip")
def test_a_free_follower_without_constraints():
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    follower = bl.Follower(
        cp.Minimize(cp.sum_squares(y - cp.hstack([x, -2 * x]))), [], variables=[y]
    )
    problem = bl.Problem(cp.Minimize(cp.sum(y) + cp.square(x)), [], followers=[follower])
    solution = bl.solve(problem)
    assert solution.leader_value == pytest.approx(-0.25, abs=1e-6)
    np.testing.assert_allclose(solution[y], [0.5, -1], atol=1e-4)
