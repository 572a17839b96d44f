"""A too small M gives a follower-optimal point that is not the leader's best.

After Pineda and Morales (2019), *IEEE Transactions on Power Systems* 34, arXiv:1809.10448: the
leader maximizes ``x + y``, the follower responds with ``y = max(0, 100 (x - 1))``. The optimum is
(2, 100) with a multiplier of 100; with M = 50 all that is left is (1, 0), whose certificate is
faultless.
"""

import cvxpy as cp
import pytest

import bilevel as bl
from bilevel import Status


def problem():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= 0, x - 0.01 * y <= 1], variables=[y])
    return bl.Problem(cp.Maximize(x + y), [x >= 0, x <= 2], followers=[follower])


@pytest.mark.backend("scip")
def test_the_optimum_is_found_without_an_m():
    solution = bl.solve(problem())
    assert solution.status is Status.OPTIMAL
    assert solution.leader_value == pytest.approx(102)


@pytest.mark.parametrize("backend", ["highs", "scip"])
@pytest.mark.parametrize("multiplier", [0.5, 50.0, 99.0])
def test_a_small_m_is_never_proved(backend, multiplier):
    solver = bl.SingleLevel(bl.KKT(bl.BigM(multiplier=multiplier, slack=1000.0)), backend=backend)
    solution = bl.solve(problem(), solver, throw=False)
    assert solution.status in (Status.FEASIBLE, Status.NOT_FOUND)
    assert solution.bound is None
    if solution.status is Status.FEASIBLE:
        # No certificate can reveal it: the follower's response is best for this decision.
        assert solution.certificate.accepted
        assert solution.leader_value <= 102 + 1e-6


@pytest.mark.parametrize("backend", ["highs", "scip"])
def test_a_large_enough_m_finds_the_optimum_and_still_proves_nothing(backend):
    solver = bl.SingleLevel(bl.KKT(bl.BigM(multiplier=200.0, slack=1000.0)), backend=backend)
    solution = bl.solve(problem(), solver)
    assert solution.leader_value == pytest.approx(102, abs=1e-4)
    assert solution.status is Status.FEASIBLE
    assert solution.gap is None
