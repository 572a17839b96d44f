"""A constraint stated twice makes multipliers ambiguous, and must change nothing else."""

import cvxpy as cp
import pytest
from tests.registry import OPTIMISTIC, SOLVERS, rows

import bilevel as bl
from bilevel import Status, UnsupportedProblem

EXACT = tuple(row for row in SOLVERS if row.exact and row.stances >= OPTIMISTIC)


def problem(times, equation=False):
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    demands = [2 * y[0] + y[1] >= x for _ in range(times)]
    balances = [y[0] == y[1] for _ in range(times)] if equation else []
    limits = [y >= 0]
    follower = bl.Follower(cp.Minimize(y[0] + y[1]), demands + balances + limits, variables=[y])
    leading = [x >= 0, x <= 6, y <= 50]
    return bl.Problem(cp.Minimize(cp.square(x - 3) - y[0]), leading, followers=[follower])


# y[0] = x/2 without the balance, x/3 with it: (x - 3)^2 - x/2 at 3.25, (x - 3)^2 - x/3 at 3 + 1/6.
TRUTH = {False: 0.0625 - 1.625, True: 1 / 36 - (3 + 1 / 6) / 3}


@pytest.mark.parametrize("equation", [False, True], ids=["inequality", "equation"])
@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("row", rows(EXACT))
def test_optimum_does_not_depend_on_copies(row, times, equation):
    given = problem(times, equation)
    try:
        solution = bl.solve(given, row.build(), time_limit=200)
    except UnsupportedProblem:
        assert row.may_refuse or row.must_refuse(given)
        return
    room = max(row.tolerance, 1e-5)
    assert solution.leader_value == pytest.approx(TRUTH[equation], abs=room)
    assert solution.certificate.accepted
    if row.proves:
        assert solution.status is Status.OPTIMAL


@pytest.mark.backend("scip")
def test_copies_are_reported_as_ambiguous_multipliers():
    once = bl.solve(problem(1)).certificate
    twice = bl.solve(problem(2)).certificate
    assert once.unique_multipliers is True
    assert twice.unique_multipliers is False
    assert once.unique_response is twice.unique_response is True
    assert once.pessimistic_value == pytest.approx(twice.pessimistic_value, abs=1e-6)


@pytest.mark.backend("scip")
def test_the_same_object_twice_is_an_error():
    y = cp.Variable(name="y")
    row = y >= 1
    with pytest.raises(bl.ProblemError, match="twice"):
        bl.Follower(cp.Minimize(y), [row, row], variables=[y])
