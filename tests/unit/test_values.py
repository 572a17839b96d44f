"""Values come back under the user's own objects, multipliers too."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl


def test_multipliers_the_leader_does_not_use():
    """They are those CVXPY finds for the follower alone, under maximization."""
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    rows = [y >= x, cp.sum(y) == 3]
    follower = bl.Follower(cp.Maximize(-cp.sum_squares(y) - y[0]), rows, variables=[y])
    problem = bl.Problem(cp.Maximize(x), [x <= 1.4], followers=[follower])
    duals = [follower.dual(row) for row in rows]
    solution = bl.solve(problem)
    alone = cp.Problem(follower.objective, [y >= float(x.value), cp.sum(y) == 3])
    alone.solve(solver="CLARABEL")
    for dual, row in zip(duals, alone.constraints, strict=True):
        np.testing.assert_allclose(dual.value, row.dual_value, atol=1e-5)
        np.testing.assert_allclose(solution[dual], dual.value)
    assert follower.value.value == pytest.approx(alone.value, abs=1e-6)


def test_two_variables_of_one_name():
    x, y = cp.Variable(name="v"), cp.Variable(name="v")
    follower = bl.Follower(cp.Minimize(y), [y >= 2 * x], variables=[y], name="cell")
    solution = bl.solve(bl.Problem(cp.Minimize(y - x), [x >= 1, x <= 2], followers=[follower]))
    assert solution["v"] == pytest.approx(1)
    assert solution["cell.v"] == pytest.approx(2)
    assert solution.to_dict()["values"] == {
        "v": pytest.approx(1),
        "cell.v": pytest.approx(2),
    }
    with pytest.raises(KeyError, match="has no value"):
        solution["w"]


def test_values_of_maximizing_levels():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Maximize(3 - y), [y >= x], variables=[y])
    solution = bl.solve(bl.Problem(cp.Maximize(5 - y), [x >= 1], followers=[follower]))
    assert solution.leader_value == pytest.approx(4)
    assert solution.follower_values["y"] == pytest.approx(2)
    assert follower.value.value == pytest.approx(2)
