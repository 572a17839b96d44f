"""A backend's tolerance on a product row must not pass for a better leader value.

Found by random problems: a steep quadratic follower turned an error of 1e-8 in complementarity into
a leader value that was 4e-4 to 6e-3 better than possible, with a bound that shared the error.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel.solvers.completion import on_pattern

METHODS = {
    "kkt-product": bl.SingleLevel(bl.KKT(bl.Product())),
    "strong-duality": bl.SingleLevel(bl.StrongDuality()),
}


def flat(stance="optimistic"):
    """The follower's y follows x very flatly, and the leader's value follows y very steeply."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(
        cp.Minimize(1e-3 * cp.square(y) - 2e-3 * x * y), [y >= 1, y <= 3], variables=[y]
    )
    leader = cp.Minimize(100 * y + cp.square(x - 1.5))
    return bl.Problem(leader, [x >= 0, x <= 3], followers=[follower], stance=stance), x, y


@pytest.mark.parametrize("name", METHODS)
def test_no_value_is_better_than_the_best(name):
    problem, *_ = flat()
    best = 100 + 0.25  # y = max(1, x), so x = 1 is the best decision
    solution = bl.solve(problem, METHODS[name], time_limit=200)
    assert solution.certificate.accepted
    assert solution.leader_value >= best - 1e-5
    assert solution.bound is None or solution.bound <= best + 1e-5
    if solution.status is bl.Status.OPTIMAL:
        assert solution.leader_value == pytest.approx(best, rel=1e-6)


def test_the_decision_moves_to_where_the_answer_is_optimal():
    """T4: at x = 2 the consumer is indifferent; a little above it he buys nothing."""
    problem = bl.instances.get("T4").problem
    form = problem.compile()
    w = np.array([2.00000002, 0.99999999])
    near = on_pattern(form, w, (np.array([0.0, 1e-8]),))
    assert near == pytest.approx([2.0, 1.0], abs=1e-7)
    assert near[0] <= 2.0 + 1e-12


def test_there_is_no_pattern_without_multipliers():
    form = bl.instances.get("T4").problem.compile()
    assert on_pattern(form, np.array([2.0, 1.0]), (np.empty(0),)) is None
    pessimistic = bl.instances.get("T4").problem.replace(stance="pessimistic").compile()
    assert on_pattern(pessimistic, np.array([2.0, 1.0]), (np.zeros(2),)) is None
