"""Peers answer differently in different modes; here every method gives the same answer.

Cases after reports about other libraries: 0 instead of 1 in a product mode, another value with
another solver, a maximized level, a coupling constraint whose optimistic meaning was missed.
"""

import cvxpy as cp
import numpy as np
import pytest
from tests.registry import OPTIMISTIC, SOLVERS

import bilevel as bl
from bilevel import Status, UnsupportedProblem

EXACT = [row for row in SOLVERS if row.exact and row.is_installed and row.stances >= OPTIMISTIC]
LIMIT = 5.0


def textbook():
    """Bard's example: min x - 4 y, follower min y over four lines; optimum (4, 4) of value -12."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    rows = [x + y >= 3, -2 * x + y <= 0, 2 * x + y <= 12, 3 * x - 2 * y <= 4]
    follower = bl.Follower(cp.Minimize(y), rows, variables=[y])
    return bl.Problem(cp.Minimize(x - 4 * y), [x >= 0, y >= 0], followers=[follower]), -12.0


def disconnected():
    """The coupling row removes the middle of the leader's interval."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x - 2, y >= 2 - x, y <= 9], variables=[y])
    leading = [x >= 0, x <= 4, y >= 1]
    return bl.Problem(cp.Minimize(cp.square(x - 2.5)), leading, followers=[follower]), 0.25


def indifferent():
    """The follower does not care, so an optimistic leader takes the better answer."""
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    follower = bl.Follower(cp.Minimize(cp.sum(y)), [cp.sum(y) >= x, y >= 0, y <= 3], variables=[y])
    leading = [x >= 1, x <= 4]
    return bl.Problem(cp.Minimize(x - 2 * y[0] + y[1]), leading, followers=[follower]), -3.0


def follower_maximizes():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Maximize(x * y - cp.square(y)), [y <= 1, y >= -1], variables=[y])
    leading = [x >= -4, x <= 4]
    # y = x/2 clipped to [-1, 1]: (x - 3)^2 + 4 y has a kink at x = 2 and its minimum at 3.
    return bl.Problem(cp.Minimize(cp.square(x - 3) + 4 * y), leading, followers=[follower]), None


def binary_switch():
    """A switch closes a route; the follower takes the cheapest that is open."""
    k, y = cp.Variable(3, name="k", boolean=True), cp.Variable(3, name="y")
    rows = [cp.sum(y) == 1, y >= 0, y <= 1 - k]
    follower = bl.Follower(cp.Minimize(np.array([1.0, 2.0, 4.0]) @ y), rows, variables=[y])
    objective = cp.Maximize(np.array([1.0, 2.0, 4.0]) @ y - 0.9 * cp.sum(k))
    return bl.Problem(objective, [cp.sum(k) <= 2], followers=[follower]), 4 - 1.8


CASES = [textbook, disconnected, indifferent, follower_maximizes, binary_switch]


@pytest.mark.backend("scip", "highs")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_all_methods_give_one_answer(case):
    given, truth = case()
    if truth is None:
        x = np.linspace(-4, 4, 800001)
        truth = ((x - 3) ** 2 + 4 * np.clip(x / 2, -1, 1)).min()
    found = {}
    for row in EXACT:
        try:
            solution = bl.solve(given, row.build(), time_limit=LIMIT, throw=False)
        except UnsupportedProblem:
            assert row.may_refuse or row.must_refuse(given)
            continue
        assert solution.certificate.accepted
        found[row.name] = solution.leader_value
        assert solution.leader_value == pytest.approx(truth, abs=max(1e-5, 10 * row.tolerance))
        if row.proves and not row.struggles & given.structure:
            assert solution.status is Status.OPTIMAL
    assert len(found) >= 5


@pytest.mark.backend("scip")
def test_a_response_that_is_none_is_never_returned():
    """PAO's PCCG returned (3, 6), which is no answer; every method's point is certified."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    rows = [x + y >= 3, 2 * x - y >= 0, -2 * x - y >= -12, -3 * x + 2 * y >= -4]
    follower = bl.Follower(cp.Minimize(y), rows, variables=[y])
    given = bl.Problem(cp.Minimize(x - 4 * y), [x >= 0, y >= 0], followers=[follower])
    assert not bl.verify(given, {x: 3.0, y: 6.0}).accepted
    solution = bl.solve(given)
    assert solution.leader_value == pytest.approx(-12)
    assert [float(solution[x]), float(solution[y])] == pytest.approx([4, 4])
