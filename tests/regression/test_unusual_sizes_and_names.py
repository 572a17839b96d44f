"""Empty parts, one-entry shapes, and names that look like those the library makes itself."""

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel import BilevelError, Status

pytestmark = pytest.mark.backend("scip")


def test_a_variable_without_entries():
    x, y, z = cp.Variable(name="x"), cp.Variable(name="y"), cp.Variable(0, name="z")
    try:
        follower = bl.Follower(cp.Minimize(y), [y >= x, z >= 0], variables=[y, z], name="f")
        solution = bl.solve(bl.Problem(cp.Minimize(x), [x >= 1], followers=[follower]))
    except BilevelError as refusal:
        assert "z" in str(refusal)
    else:
        assert solution.leader_value == pytest.approx(1)
        assert solution[z].shape == (0,)


def test_a_constraint_without_entries():
    x, y = cp.Variable(name="x"), cp.Variable(3, name="y")
    rows = [y >= x, y[0:0] >= x]
    follower = bl.Follower(cp.Minimize(cp.sum(y)), rows, variables=[y])
    solution = bl.solve(bl.Problem(cp.Minimize(x + y[0]), [x >= 1], followers=[follower]))
    assert solution.leader_value == pytest.approx(2)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1)])
def test_one_entry_in_any_shape(shape):
    x, y = cp.Variable(shape, name="x"), cp.Variable(shape, name="y")
    row = y >= 2 * x
    follower = bl.Follower(cp.Minimize(cp.sum(y)), [row], variables=[y])
    price = follower.dual(row)
    objective = cp.Minimize(cp.sum(y) + 3 * cp.sum(price))
    problem = bl.Problem(objective, [x >= 1, x <= 2], followers=[follower])
    solution = bl.solve(problem)
    assert solution.leader_value == pytest.approx(5)
    for variable, value in ((x, 1.0), (y, 2.0), (price, 1.0)):
        assert solution[variable].shape == shape
        np.testing.assert_allclose(solution[variable], np.full(shape, value), atol=1e-6)
        assert bl.verify(problem, solution).accepted
    assert bl.verify(problem, {x: np.ones(shape), y: np.full(shape, 2.0), price: np.ones(shape)})


def test_a_follower_that_wants_nothing():
    """Every feasible answer is a best one."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(0), [y <= x, y >= 0], variables=[y])
    problem = bl.Problem(cp.Minimize(x - 2 * y), [x >= 1, x <= 2], followers=[follower])
    assert bl.solve(problem).leader_value == pytest.approx(-2)
    worst = bl.solve(problem.replace(stance="pessimistic"), time_limit=200)
    assert worst.leader_value == pytest.approx(1, abs=1e-5)


def test_a_follower_without_rows_that_is_indifferent_at_one_price_only():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize((x - 1.5) * y), [], variables=[y])
    leading = [x >= 1, x <= 2]
    boxed = bl.Problem(cp.Minimize(x + y), [*leading, y >= -4], followers=[follower])
    assert bl.solve(boxed).leader_value == pytest.approx(-2.5)
    free = bl.Problem(cp.Minimize(x + y), leading, followers=[follower])
    assert bl.solve(free, throw=False).status is Status.UNBOUNDED


def test_one_follower_in_two_problems():
    """A price taken for the second problem must not disturb the first."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    row = y >= x
    follower = bl.Follower(cp.Minimize(cp.square(y)), [row], variables=[y])
    first = bl.Problem(cp.Minimize(x + y), [x >= 1], followers=[follower])
    assert bl.solve(first).leader_value == pytest.approx(2)
    second = bl.Problem(cp.Maximize(follower.dual(row) - x), [x >= 1, x <= 2], followers=[follower])
    assert bl.solve(second).leader_value == pytest.approx(2)
    assert bl.solve(first).leader_value == pytest.approx(2)


def test_a_price_taken_after_the_problem_was_stated_has_no_effect_on_it():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    row = y >= x
    follower = bl.Follower(cp.Minimize(y), [row], variables=[y])
    problem = bl.Problem(cp.Minimize(x + y), [x >= 1], followers=[follower])
    follower.dual(row)
    assert bl.solve(problem).leader_value == pytest.approx(2)


@pytest.mark.parametrize("name", ["epigraph[0]", "epigraph[7]", "slack", "worst", "objective"])
def test_an_answer_with_a_name_like_ours_is_still_ambiguous(name):
    x, y, free = cp.Variable(name="x"), cp.Variable(name="y"), cp.Variable(name=name)
    rows = [y >= x, free >= 0, free <= x]
    follower = bl.Follower(cp.Minimize(y), rows, variables=[y, free])
    problem = bl.Problem(cp.Minimize(x - free), [x >= 1, x <= 2], followers=[follower])
    certificate = bl.verify(problem, {x: 1.0, y: 1.0, free: 1.0})
    assert certificate.accepted
    assert certificate.unique_response is False
    assert certificate.pessimistic_value == pytest.approx(1)


@pytest.mark.parametrize("names", [("dual[a]", "value[b]"), ("x", "x"), ("sos1[x]", "not[x]")])
def test_any_names_may_be_used(names):
    x, y = (cp.Variable(name=name) for name in names)
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    solution = bl.solve(bl.Problem(cp.Minimize(x + y), [x >= 1], followers=[follower]))
    assert solution.leader_value == pytest.approx(2)
    assert float(solution[x]) == float(solution[y]) == pytest.approx(1)


def test_large_integers():
    x, y = cp.Variable(name="x", integer=True), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= -9999], variables=[y])
    leading = [x >= -5000, x <= 5000]
    problem = bl.Problem(cp.Minimize(cp.abs(y - 1234.4)), leading, followers=[follower])
    solution = bl.solve(problem)
    assert solution.status is Status.OPTIMAL
    assert solution.leader_value == pytest.approx(0.4, abs=1e-5)
