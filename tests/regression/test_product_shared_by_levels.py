"""One product object that stands in several levels is taken out in each of them.

It was taken out at the first level only; in the others it was a variable without a definition, so
that a priced consumer was called unbounded and a priced violation was free.
"""

import cvxpy as cp
import pytest

import bilevel as bl
from bilevel import Status


@pytest.mark.backend("scip")
def test_a_payment_is_named_once():
    """T16 with the payment as one object at both levels."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    payment = x * y
    follower = bl.Follower(
        cp.Maximize(10 * y - cp.square(y) - payment), [y >= 0], variables=[y], name="consumer"
    )
    problem = bl.Problem(cp.Maximize(payment - y), [x >= 0, x <= 10], followers=[follower])
    solution = bl.solve(problem)
    assert solution.status is Status.OPTIMAL
    assert solution.leader_value == pytest.approx(10.125, abs=1e-6)


@pytest.mark.backend("scip")
def test_two_followers_share_a_square():
    x = cp.Variable(name="x")
    y = [cp.Variable(name=name) for name in "ab"]
    square = cp.square(x)
    followers = [
        bl.Follower(cp.Minimize(cp.square(y[i] - i) + square), [y[i] >= x], variables=[y[i]])
        for i in range(2)
    ]
    problem = bl.Problem(cp.Minimize(square + cp.sum(y)), [x >= 0.5, x <= 2], followers=followers)
    solution = bl.solve(problem)
    assert solution.leader_value == pytest.approx(0.25 + 0.5 + 1.0, abs=1e-5)
    assert solution.follower_values == pytest.approx({"a": 0.5, "b": 0.25}, abs=1e-4)


def test_the_follower_sees_the_definition():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    row = x * y >= 1
    follower = bl.Follower(cp.Minimize(y), [row, y >= 0], variables=[y])
    form = bl.Problem(cp.Minimize(x), [x >= 0, row], followers=[follower]).compile()
    assert len(form.rows.products) == len(form.followers[0].rows.products) == 1
    assert form.columns.names == ("x", "y")
