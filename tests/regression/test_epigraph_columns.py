"""Columns that a compilation adds are nobody's answer: they make nothing ambiguous or worse."""

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel import Status, UnsupportedProblem


def problem(stance="optimistic", objective=None):
    """``|y - x|`` leaves ``y = x``; the slope keeps the answer unique."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    cost = cp.abs(y - x) + 0.25 * cp.pos(y)
    follower = bl.Follower(cp.Minimize(cost), [y >= -9, y <= 9], variables=[y], name="f")
    leader = objective(x, y) if objective else cp.square(x - 2) + y
    return bl.Problem(cp.Minimize(leader), [x >= 0, x <= 4], followers=[follower], stance=stance)


@pytest.mark.backend("scip")
def test_the_answer_is_unique():
    solution = bl.solve(problem())
    assert solution.status is Status.OPTIMAL
    assert solution.leader_value == pytest.approx(1.75)
    assert solution.certificate.unique_response is True
    assert solution.certificate.optimistic_value == pytest.approx(1.75)
    assert solution.certificate.pessimistic_value == pytest.approx(1.75)


@pytest.mark.backend("scip")
def test_both_stances_agree_where_the_answer_is_unique():
    linear = lambda x, y: y - x / 2  # noqa: E731
    hopeful = bl.solve(problem(objective=linear))
    careful = bl.solve(problem("pessimistic", objective=linear), time_limit=200)
    assert hopeful.leader_value == pytest.approx(0, abs=1e-6)
    assert careful.leader_value == pytest.approx(0, abs=1e-5)
    assert careful.certificate.accepted


def test_no_value_of_an_auxiliary_column_is_asked_for():
    assert bl.verify(problem(), {"x": 1.0, "y": 1.0}).accepted


@pytest.mark.backend("scip")
def test_solution_has_the_users_variables_only():
    solution = bl.solve(problem())
    assert set(solution.names) == {"x", "y"}
    assert float(solution.follower_values["f"]) == pytest.approx(0.25 * float(solution["y"]))


@pytest.mark.backend("scip")
def test_an_epigraph_of_the_leader_over_several_answers():
    """The leader's ``|y - 1|`` over answers ``y in [0, x]``: best 0, worst ``max(1, x - 1)``."""
    x, y, z = (cp.Variable(name=n) for n in "xyz")
    follower = bl.Follower(cp.Minimize(z), [z >= x, y >= 0, y <= x], variables=[y, z])
    given = bl.Problem(
        cp.Minimize(cp.abs(y - 1) + cp.abs(x - 3)), [x >= 0, x <= 4], followers=[follower]
    )
    hopeful = bl.solve(given)
    assert hopeful.leader_value == pytest.approx(0, abs=1e-6)
    # The worst case max(1, x - 1) + |x - 3| is 2 on all of [2, 3]; refusing is right too.
    try:
        careful = bl.solve(given.replace(stance="pessimistic"), throw=False, time_limit=200)
    except UnsupportedProblem as refusal:
        assert "linear in the followers' variables" in str(refusal)
    else:
        assert careful.leader_value == pytest.approx(2, abs=1e-5)


@pytest.mark.backend("scip")
@pytest.mark.parametrize("maximize", [False, True])
def test_a_maximum_in_the_leaders_coupling_row(maximize):
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    follower = bl.Follower(cp.Minimize(cp.sum(y)), [y >= cp.hstack([x, 1 - x])], variables=[y])
    sense = cp.Maximize(x) if maximize else cp.Minimize(-x)
    given = bl.Problem(sense, [x >= 0, x <= 1, cp.max(y) <= 0.75], followers=[follower])
    solution = bl.solve(given)
    assert float(solution[x]) == pytest.approx(0.75, abs=1e-6)
    np.testing.assert_allclose(solution[y], [0.75, 0.25], atol=1e-6)
