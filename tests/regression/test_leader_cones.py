"""A leader with norms and powers: at the apex of a cone an error of t in its square is sqrt(t)."""

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel import Status

pytestmark = pytest.mark.backend("scip")


def follower():
    """The answer is the part of ``x`` below 3."""
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y")
    return x, y, bl.Follower(cp.Minimize(cp.sum_squares(y - x)), [y <= 3], variables=[y])


CASES = {
    "distance of the answer": (lambda x, y: cp.norm(y - np.array([1.0, 2.0])), [], 0.0),
    "distance out of reach": (lambda x, y: cp.norm(y - np.array([4.0, 7.0])), [], np.sqrt(17)),
    "squared norm": (lambda x, y: cp.square(cp.norm(y - 4)), [], 2.0),
    "third power": (lambda x, y: cp.sum(cp.power(cp.pos(y + 2), 3)), [], 0.0),
    "largest singular value": (
        lambda x, y: cp.sigma_max(cp.reshape(y, (2, 1), order="F")),
        [],
        0.0,
    ),
    "answer in a disc": (lambda x, y: -cp.sum(y), [lambda x, y: cp.norm(y) <= 2], -2 * np.sqrt(2)),
    "cone of both": (lambda x, y: -cp.sum(x), [lambda x, y: cp.norm(x - y) <= 1], -6 - np.sqrt(2)),
}


@pytest.mark.parametrize("case", CASES)
def test_value(case):
    objective, coupling, truth = CASES[case]
    x, y, one = follower()
    leading = [x >= -5, x <= 9, *(row(x, y) for row in coupling)]
    try:
        solution = bl.solve(bl.Problem(cp.Minimize(objective(x, y)), leading, followers=[one]))
    except bl.UnsupportedProblem as refusal:
        assert case in ("squared norm", "largest singular value")
        assert "leader" in str(refusal)
        return
    assert solution.leader_value == pytest.approx(truth, abs=1e-4)
    assert solution.certificate.accepted
    assert solution.status in (Status.OPTIMAL, Status.FEASIBLE)


def test_third_power_of_the_linking_variable():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    one = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    problem = bl.Problem(cp.Minimize(x**3), [x >= 0, x <= 1], followers=[one])
    solution = bl.solve(problem, throw=False)
    assert solution.status.has_point, solution.summary()
    assert solution.leader_value == pytest.approx(0, abs=1e-4)
