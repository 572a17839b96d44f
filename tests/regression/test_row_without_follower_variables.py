"""A follower's row without its own variables restricts the leader: elsewhere there is no answer."""

import cvxpy as cp
import numpy as np
import pytest
from tests.registry import OPTIMISTIC, SOLVERS, rows

import bilevel as bl
from bilevel import ProblemError, Status, UnsupportedProblem

EXACT = tuple(row for row in SOLVERS if row.exact and row.stances >= OPTIMISTIC)


def problem():
    """``x <= 3`` and ``x[0] + x[1] >= 1`` stand in the follower and contain no ``y``."""
    x, y = cp.Variable(2, name="x"), cp.Variable(name="y")
    alone = [x[0] <= 3, x[0] + x[1] >= 1]
    follower = bl.Follower(cp.Minimize(y), [y >= x[0], *alone], variables=[y], name="f")
    leading = [x >= -5, x <= 5, y <= 9]
    return bl.Problem(cp.Maximize(x[0] + y - 2 * x[1]), leading, followers=[follower])


@pytest.mark.parametrize("row", rows(EXACT))
def test_decisions_without_an_answer_are_not_available(row):
    try:
        solution = bl.solve(problem(), row.build(), time_limit=200)
    except UnsupportedProblem:
        assert row.may_refuse
        return
    # x[0] = 3, x[1] >= -2: 3 + 3 + 4.
    assert solution.leader_value == pytest.approx(10, abs=1e-4)
    np.testing.assert_allclose(solution["x"], [3, -2], atol=1e-4)
    if row.proves:
        assert solution.status is Status.OPTIMAL


def test_such_a_point_is_refused():
    given = problem()
    assert bl.verify(given, {"x": [3.0, -2.0], "y": 3.0}).accepted
    assert not bl.verify(given, {"x": [4.0, 0.0], "y": 4.0}).accepted
    assert not bl.verify(given, {"x": [0.0, 0.5], "y": 0.0}).accepted


def test_it_has_no_multiplier():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    alone = x <= 3
    follower = bl.Follower(cp.Minimize(y), [y >= x, alone], variables=[y], name="f")
    given = bl.Problem(cp.Maximize(follower.dual(alone)), [x >= 0], followers=[follower])
    with pytest.raises(ProblemError, match=r"constraint 1 .*'f'"):
        bl.solve(given)


@pytest.mark.backend("scip")
def test_a_vector_row_may_be_mixed():
    """Entry 0 contains the follower's variable, entry 1 does not."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    row = cp.hstack([y, 2.0]) >= cp.hstack([x, x])
    follower = bl.Follower(cp.Minimize(y), [row], variables=[y])
    solution = bl.solve(bl.Problem(cp.Maximize(x + y), [x >= 0], followers=[follower]))
    assert solution.leader_value == pytest.approx(4)


@pytest.mark.backend("scip")
def test_a_row_that_no_decision_meets():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x, x >= 9], variables=[y], name="f")
    given = bl.Problem(cp.Maximize(x), [x >= 0, x <= 5], followers=[follower])
    solution = bl.solve(given, throw=False)
    assert solution.status in (Status.FOLLOWER_INFEASIBLE, Status.INFEASIBLE)


@pytest.mark.backend("scip")
def test_a_row_about_another_follower_only():
    """``z <= 2`` in the first follower restricts the leader through the second one's answer."""
    x, y, z = (cp.Variable(name=n) for n in "xyz")
    first = bl.Follower(cp.Minimize(y), [y >= x, z <= 2], variables=[y], name="first")
    second = bl.Follower(cp.Minimize(z), [z >= 2 * x], variables=[z], name="second")
    given = bl.Problem(cp.Maximize(x + y), [x >= 0, x <= 5], followers=[first, second])
    assert bl.solve(given).leader_value == pytest.approx(2)
