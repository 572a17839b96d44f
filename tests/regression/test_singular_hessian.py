"""A quadratic follower with a singular Hessian: an interior point answers to 1e-5 only.

At weakly active rows such an answer, taken as exact, moved the leader's value by 3e-5 to 1e-4.
"""

import cvxpy as cp
import pytest

import bilevel as bl
from bilevel import Status

pytestmark = pytest.mark.backend("scip")


def continuous():
    """The optimum is x = 0, y = (-2, 0) of value 6."""
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    cost = 0.5 * cp.square(y[0] + y[1]) + 2 * y[0]
    rows = [2 * y[0] + 2 * x <= 1, y[1] - x <= 2, 3 * y[1] - 3 * x <= 0, y >= -2, y <= 4]
    follower = bl.Follower(cp.Minimize(cost), rows, variables=[y])
    leading = [x >= 0, x <= 2]
    return bl.Problem(cp.Minimize(-3 * y[0] + y[1]), leading, followers=[follower]), 6.0


def integer():
    """The optimum is x = (2, -2), y = (4, 4, -2) of value -28."""
    x, y = cp.Variable(2, name="x", integer=True), cp.Variable(3, name="y")
    cost = 2 * cp.square(y[0] + y[2]) + 2 * y[0] + 2 * y[1] - 3 * y[2]
    balance = -2 * y[0] - y[1] - y[2] + 2 * x[0] - 3 * x[1] == 0
    follower = bl.Follower(cp.Minimize(cost), [balance, y >= -2, y <= 4], variables=[y])
    leading = [x[0] >= 0, x[0] <= 4, x[1] >= -2, x[1] <= 1]
    F = -2 * x[0] + 3 * x[1] - y[0] - 2 * y[1] + 3 * y[2]
    return bl.Problem(cp.Minimize(F), leading, followers=[follower]), -28.0


@pytest.mark.parametrize("case", [continuous, integer], ids=lambda case: case.__name__)
def test_value_and_proof(case):
    problem, truth = case()
    solution = bl.solve(problem)
    assert solution.leader_value == pytest.approx(truth, rel=1e-6)
    assert solution.status is Status.OPTIMAL
