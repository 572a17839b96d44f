"""A parameter in a variable's bounds must follow its value, or be refused, never be frozen."""

import cvxpy as cp
import pytest

import bilevel as bl
from bilevel import BilevelError, Status

pytestmark = pytest.mark.backend("scip")


def problem():
    """``x >= p`` and ``y <= p``; the follower responds with ``y = min(x, p)``."""
    p = cp.Parameter(name="p", value=2.0)
    x, y = cp.Variable(name="x", bounds=[p, 5]), cp.Variable(name="y", bounds=[0, p])
    follower = bl.Follower(cp.Minimize(-y), [y <= x], variables=[y], name="f")
    return p, bl.Problem(cp.Minimize(x + y), [], followers=[follower])


@pytest.mark.parametrize("how", ["value", "parameters"])
def test_new_values_move_the_bounds(how):
    try:
        p, given = problem()
        assert bl.solve(given).leader_value == pytest.approx(4)
    except BilevelError as refusal:
        assert "bound" in str(refusal)
        return
    for value in (3.0, 1.0):
        if how == "value":
            p.value = value
        solution = bl.solve(given, parameters={p: value} if how == "parameters" else None)
        assert solution.status is Status.OPTIMAL
        assert solution.leader_value == pytest.approx(2 * value)
        assert float(solution["x"]) == pytest.approx(value)
