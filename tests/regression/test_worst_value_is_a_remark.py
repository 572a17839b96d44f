"""A worst value that needs a global maximum is given up: an optimistic solution ends without it."""

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel import Status


def test_a_convex_leader_over_a_face_of_many_dimensions_is_certified():
    # Any inputs that keep the sum are best for the follower: a face with very many vertices.
    rng = np.random.default_rng(0)
    n = 25
    y = cp.Variable(n, name="y")
    follower = bl.Follower(
        cp.Minimize(cp.pos(cp.sum(y) - 3)), [y >= -1, y <= 1], variables=[y], name="f"
    )
    weights = rng.normal(size=(n, n))
    problem = bl.Problem(cp.Minimize(cp.sum_squares(weights @ y - 1)), [], [follower])
    solution = bl.solve(problem)
    assert solution.status is Status.OPTIMAL
    alone = cp.Variable(n)
    cost = cp.sum_squares(weights @ alone - 1)
    best = cp.Problem(cp.Minimize(cost), [cp.sum(alone) <= 3, cp.abs(alone) <= 1])
    assert solution.leader_value == pytest.approx(best.solve(solver="CLARABEL"), rel=1e-5)
    certificate = solution.certificate
    assert certificate.accepted
    assert certificate.unique_response is False
    if certificate.pessimistic_value is None:
        assert any("worst value" in note for note in certificate.notes)
