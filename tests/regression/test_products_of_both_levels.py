"""Leader and follower variables multiplied anywhere: objectives, rows, and a scaled square."""

import cvxpy as cp
import numpy as np
import pytest
from tests.registry import OPTIMISTIC, SOLVERS, rows

import bilevel as bl
from bilevel import Status, UnsupportedProblem

EXACT = tuple(row for row in SOLVERS if row.exact and row.stances >= OPTIMISTIC)


def tolls():
    """The toll ``x`` scales what the user pays; each user answers ``(3 - x/2)/2``."""
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y")
    use = 3 * cp.sum(y) - cp.sum_squares(y) - x @ y / 2
    follower = bl.Follower(cp.Maximize(use), [y >= 0], variables=[y])
    leading = [x >= 0, x <= 4, y <= 9]
    problem = bl.Problem(cp.Maximize(x @ y - cp.sum(x)), leading, followers=[follower])
    return problem, 0.5


def product_row_of_the_leader():
    """A budget on what is paid: ``x y <= 2`` with the answer ``y = 4 - x``."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y + x - 4)), [y <= 5], variables=[y])
    leading = [x >= 0, x <= 2, y >= 0, x * y <= 2]
    problem = bl.Problem(cp.Maximize(x), leading, followers=[follower])
    return problem, 2 - np.sqrt(2)


def product_row_of_the_follower():
    """The leader sets the efficiency ``x``: ``x y >= 6``, so ``y = 6/x``."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [x * y >= 6, y <= 50], variables=[y])
    leading = [x >= 1, x <= 5, y >= 0]
    problem = bl.Problem(cp.Minimize(y + 1.5 * x), leading, followers=[follower])
    return problem, 6.0


def binary_efficiency():
    """The same with a binary: ``(1 + 2 k) y >= 6``."""
    k, y = cp.Variable(name="k", boolean=True), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [(1 + 2 * k) * y >= 6, y <= 50], variables=[y])
    problem = bl.Problem(cp.Minimize(y + 3.5 * k), [y >= 0], followers=[follower])
    return problem, 5.5


def integer_efficiency():
    """An integer ``n`` in 1..5: ``6/n + 1.4 n`` is least at 2."""
    n, y = cp.Variable(name="n", integer=True), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [n * y >= 6, y <= 50], variables=[y])
    leading = [n >= 1, n <= 5, y >= 0]
    problem = bl.Problem(cp.Minimize(y + 1.4 * n), leading, followers=[follower])
    return problem, 5.8


def binary_price_in_both_objectives():
    """A binary discount: the follower buys where its margin is positive."""
    k, y = cp.Variable(3, name="k", boolean=True), cp.Variable(3, name="y")
    margin = np.array([1.0, -1.0, -3.0])
    gain = (margin + 2 * k) @ y
    follower = bl.Follower(cp.Maximize(gain), [y >= 0, y <= 1], variables=[y])
    income = np.array([4.0, 3.0, 9.0]) @ y - 2 * cp.sum(cp.multiply(k, y))
    problem = bl.Problem(cp.Maximize(income), [y <= 5], followers=[follower])
    return problem, 5.0


def scaled_square():
    """The leader's stiffness ``x`` scales the square: ``y = min(1, 1/(2 x))``."""
    x, y = cp.Variable(name="x", nonneg=True), cp.Variable(2, name="y")
    cost = x * cp.sum_squares(y) - cp.sum(y)
    follower = bl.Follower(cp.Minimize(cost), [y <= 1], variables=[y])
    objective = cp.sum_squares(y - 0.25) + 0.01 * x
    problem = bl.Problem(cp.Minimize(objective), [x <= 10, y >= -1], followers=[follower])
    x = np.linspace(0.5, 10, 950001)
    return problem, (2 * (1 / (2 * x) - 0.25) ** 2 + 0.01 * x).min()


CASES = [
    tolls,
    product_row_of_the_leader,
    product_row_of_the_follower,
    binary_efficiency,
    integer_efficiency,
    binary_price_in_both_objectives,
    scaled_square,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("row", rows(EXACT))
def test_value(row, case):
    given, truth = case()
    main = row.name in ("auto", "kkt sos1 scip")
    try:
        solution = bl.solve(given, row.build(), time_limit=200 if main else 2, throw=False)
    except UnsupportedProblem:
        assert row.may_refuse or row.must_refuse(given)
        return
    room = max(1e-4, 10 * row.tolerance)
    if solution.status is Status.OPTIMAL:
        assert solution.leader_value == pytest.approx(truth, abs=room)
    if solution.status.has_point:
        assert solution.certificate.accepted
        sign = -1 if isinstance(given.objective, cp.Maximize) else 1
        assert sign * solution.leader_value >= sign * truth - room
    assert not solution.status.is_proved or solution.status is Status.OPTIMAL
    if main:
        assert solution.leader_value == pytest.approx(truth, abs=room)
        assert solution.status is Status.OPTIMAL
