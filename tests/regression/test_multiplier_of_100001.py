"""PAO answers (0, 0) "optimal" where a multiplier exceeds its M of 1e5; the truth is (5, 5).

For a multiplier of 1e6 it reports that there is no solution.
"""

import cvxpy as cp
import pytest
from tests.registry import OPTIMISTIC, SOLVERS, rows

import bilevel as bl
from bilevel import Status, UnsupportedProblem

EXACT = tuple(row for row in SOLVERS if row.exact and row.stances >= OPTIMISTIC)


def problem(K):
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(K * y), [y >= x, y >= 0, y <= 10], variables=[y])
    return bl.Problem(cp.Minimize(-x - y), [x >= 0, x <= 5], followers=[follower])


@pytest.mark.parametrize("K", [1e-4, 1.0, 1e4, 100001.0, 1e6])
@pytest.mark.parametrize("row", rows(EXACT))
def test_the_size_of_a_multiplier_changes_nothing(row, K):
    try:
        solution = bl.solve(problem(K), row.build(), time_limit=200)
    except UnsupportedProblem as refusal:
        # y has two bounds, so any multiple may be added to their multipliers: no M is valid.
        assert row.must_refuse(problem(K)) or (row.may_refuse and "unbounded" in str(refusal))
        return
    room = max(1e-5, 10 * row.tolerance)
    assert solution.leader_value == pytest.approx(-10, abs=room)
    assert float(solution["x"]) == pytest.approx(5, abs=room)
    assert float(solution["y"]) == pytest.approx(5, abs=room)
    assert solution.certificate.accepted
    if row.proves:
        assert solution.status is Status.OPTIMAL


@pytest.mark.backend("highs")
@pytest.mark.parametrize("backend", ["highs", "scip"])
@pytest.mark.parametrize("K", [1.0, 1e4, 100001.0, 1e6])
def test_an_m_of_1e5_claims_nothing(backend, K):
    """The very formulation of PAO: whatever it finds, it is not called optimal."""
    solver = bl.SingleLevel(bl.KKT(bl.BigM(multiplier=1e5, slack=1e5)), backend=backend)
    solution = bl.solve(problem(K), solver, throw=False)
    assert not solution.status.is_proved
    assert solution.bound is None
    if solution.status.has_point:
        assert solution.certificate.accepted
        assert solution.leader_value >= -10 - 1e-5


@pytest.mark.backend("highs")
@pytest.mark.parametrize("K", [1.0, 1e4, 100001.0, 1e6])
def test_a_derived_m_follows_the_multiplier(K):
    """Without the second bound on y the multiplier is K, and an LP finds that M."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(K * y), [y >= x, y >= 0], variables=[y])
    leading = [x >= 0, x <= 5, y <= 20]
    problem = bl.Problem(cp.Minimize(-x - y), leading, followers=[follower])
    solution = bl.solve(problem, bl.SingleLevel(bl.KKT(bl.BigM()), backend="highs"))
    assert solution.status is Status.OPTIMAL
    assert solution.leader_value == pytest.approx(-10, abs=1e-5)
