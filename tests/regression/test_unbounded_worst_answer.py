"""The worst best response may be without limit: the certificate says infinity, and says it soon.

Found by BOLIB's FrankeEtal2018Ex511: SCIP looked for the maximum of a convex function over an
unbounded set for a second and answered with 1e20, its own infinity.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl


def indifferent(weight, stance="optimistic", maximize=False):
    """The follower minimizes y1 >= |y2| + x and does not care about y3 >= 0."""
    x, y = cp.Variable(name="x"), cp.Variable(3, name="y")
    follower = bl.Follower(
        cp.Minimize(y[0]), [y[0] >= y[1] + x, y[0] >= x - y[1], y[2] >= 0], variables=[y]
    )
    cost = cp.square(y[0] - 2) + weight * cp.square(y[2] - 2) + cp.square(x)
    objective = cp.Maximize(-cost) if maximize else cp.Minimize(cost)
    return bl.Problem(objective, [x >= 0, x <= 3], [follower], stance=stance)


@pytest.mark.parametrize("maximize", [False, True])
def test_the_worst_value_is_infinite(maximize):
    sign = -1.0 if maximize else 1.0
    problem = indifferent(1.0, maximize=maximize)
    certificate = bl.verify(problem, {"x": 1.0, "y": [1.0, 0.0, 2.0]})
    assert certificate.accepted
    assert certificate.pessimistic_value == sign * np.inf
    assert certificate.optimistic_value == pytest.approx(sign * 2.0, abs=1e-6)
    assert certificate.unique_response is False


def test_a_direction_that_does_not_matter_is_no_reason():
    certificate = bl.verify(indifferent(0.0), {"x": 1.0, "y": [1.0, 0.0, 2.0]})
    assert certificate.pessimistic_value == pytest.approx(2.0, abs=1e-6)
    assert certificate.unique_response is False
