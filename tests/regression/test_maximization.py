"""All four combinations of senses, with values, prices and follower values worked out by hand.

The leader chooses ``x`` in [0, 4]; the follower's response is ``y = min(x, 6 - x)``, its objective
is ``-y`` when minimized and ``y`` when maximized, and the multiplier of the active row is 1.
"""

import cvxpy as cp
import pytest
from tests.registry import OPTIMISTIC, SOLVERS, rows

import bilevel as bl
from bilevel import Status, UnsupportedProblem

EXACT = tuple(row for row in SOLVERS if row.exact and row.stances >= OPTIMISTIC)
SENSES = [(a, b) for a in ("min", "max") for b in ("min", "max")]


def objective(sense, minimized):
    return cp.Minimize(minimized) if sense == "min" else cp.Maximize(-minimized)


def follower(sense):
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    rows_ = [y <= x, y <= 6 - x]
    return x, y, bl.Follower(objective(sense, -y), rows_, variables=[y], name="f")


@pytest.mark.parametrize(("leader", "sense"), SENSES)
@pytest.mark.parametrize("row", rows(EXACT))
def test_value(row, leader, sense):
    x, y, one = follower(sense)
    # min x - 3 y over 0 <= x <= 4: best at x = 3, y = 3 with value -6.
    given = bl.Problem(objective(leader, x - 3 * y), [x >= 0, x <= 4, y >= -9], followers=[one])
    try:
        solution = bl.solve(given, row.build(), time_limit=200)
    except UnsupportedProblem:
        assert row.may_refuse
        return
    value, inner = (-6 if leader == "min" else 6), (-3 if sense == "min" else 3)
    assert solution.leader_value == pytest.approx(value, abs=1e-4)
    assert solution.follower_values["f"] == pytest.approx(inner, abs=1e-4)
    if row.proves:
        assert solution.status is Status.OPTIMAL
        assert solution.bound == pytest.approx(value, abs=1e-4)
    assert solution.certificate.leader_value == pytest.approx(value, abs=1e-4)


@pytest.mark.backend("scip")
@pytest.mark.parametrize(("leader", "sense"), SENSES)
def test_the_bound_lies_on_the_right_side(leader, sense):
    """A callback sees incumbent and bound in the leader's own sense, whenever it is called."""
    x, y, one = follower(sense)
    moments = []
    given = bl.Problem(objective(leader, x - 3 * y), [x >= 0, x <= 4], followers=[one])
    solution = bl.solve(given, bl.SingleLevel(), callback=lambda m: moments.append(m))
    for moment in moments:
        if moment.incumbent is not None and moment.bound is not None:
            ahead = moment.incumbent - moment.bound
            assert (ahead if leader == "min" else -ahead) >= -1e-6
    assert solution.gap == pytest.approx(0, abs=1e-6)


@pytest.mark.backend("scip")
@pytest.mark.parametrize(("leader", "sense"), SENSES)
def test_follower_value_in_its_own_sense(leader, sense):
    """The leader wants the follower's value small (or large): the sense of the value is its own."""
    x, y, one = follower(sense)
    given = bl.Problem(
        cp.Minimize(one.value) if leader == "min" else cp.Maximize(one.value),
        [x >= 0, x <= 4],
        followers=[one],
    )
    # y runs over [0, 3]; the value is -y or y.
    expected = {("min", "min"): -3, ("max", "min"): 0, ("min", "max"): 0, ("max", "max"): 3}
    solution = bl.solve(given)
    assert solution.leader_value == pytest.approx(expected[leader, sense], abs=1e-6)
    assert float(solution[one.value]) == pytest.approx(solution.follower_values["f"])


@pytest.mark.backend("scip")
@pytest.mark.parametrize(("leader", "sense"), SENSES)
def test_prices_are_nonnegative_under_both_senses(leader, sense):
    """At x = 1 only ``y <= x`` is active: its multiplier is 1 whatever the sense, the other's 0."""
    x, y, one = follower(sense)
    prices = [one.dual(row) for row in one.constraints]
    given = bl.Problem(objective(leader, prices[0] + 2 * prices[1]), [x == 1], followers=[one])
    solution = bl.solve(given)
    assert [float(solution[p]) for p in prices] == pytest.approx([1, 0], abs=1e-6)
    assert solution.leader_value == pytest.approx(1 if leader == "min" else -1, abs=1e-6)


@pytest.mark.backend("scip")
@pytest.mark.parametrize(("leader", "sense"), SENSES)
def test_both_stances(leader, sense):
    """The follower does not care for z in [0, x], which the leader wants large."""
    x, y, z = (cp.Variable(name=n) for n in "xyz")
    rows_ = [y <= x, y <= 6 - x, z >= 0, z <= x]
    one = bl.Follower(objective(sense, -y), rows_, variables=[y, z], name="f")
    given = bl.Problem(objective(leader, x / 2 - y - z), [x >= 0, x <= 4], followers=[one])
    sign = 1 if leader == "min" else -1
    # Optimistic z = x: x/2 - min(x, 6 - x) - x at x = 4: 2 - 2 - 4; x = 3: 1.5 - 3 - 3 = -4.5.
    assert bl.solve(given).leader_value == pytest.approx(-4.5 * sign, abs=1e-6)
    # Pessimistic z = 0: x/2 - min(x, 6 - x) at x = 3: -1.5.
    worst = bl.solve(given.replace(stance="pessimistic"), time_limit=200)
    assert worst.leader_value == pytest.approx(-1.5 * sign, abs=1e-5)
