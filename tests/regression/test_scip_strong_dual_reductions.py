"""SCIP 10 cuts off optima of programs with indicator constraints by strong dual reductions.

The first answer to this problem was "optimal" with value 4; the truth is -13/27.
"""

import cvxpy as cp
import pytest

import bilevel as bl
from bilevel import Status

pytestmark = pytest.mark.backend("scip")


def problem():
    x, y = cp.Variable(integer=True, name="x"), cp.Variable(2, name="y")
    cost = 0.5 * cp.square(3 * y[0] - y[1]) + y[0]
    rows = [y[1] <= 3 * x, -3 * y[0] - 2 * y[1] - x <= 1]
    follower = bl.Follower(cp.Minimize(cost), rows, variables=[y])
    return bl.Problem(cp.Minimize(2 * x + 3 * y[0]), [x >= -2, x <= 1], followers=[follower])


@pytest.mark.parametrize("encoding", [bl.SOS1(), bl.Indicator(), bl.Product()], ids=repr)
def test_value(encoding):
    solution = bl.solve(problem(), bl.SingleLevel(bl.KKT(encoding)), time_limit=200)
    assert solution.leader_value == pytest.approx(-13 / 27, abs=1e-4)
    if not isinstance(encoding, bl.Product):
        assert solution.status is Status.OPTIMAL
