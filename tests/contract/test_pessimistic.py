"""The pessimistic value against a grid of decisions with worst responses by linear programs."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import linprog

import bilevel as bl

GRID = np.linspace(0.0, 4.0, 161)


def data(seed):
    """Return a follower with ties: its cost lies in the cone of few rows."""
    rng = np.random.default_rng(seed)
    A = np.vstack([rng.integers(-2, 3, (3, 3)), np.eye(3), -np.eye(3)]).astype(float)
    b = np.concatenate([rng.integers(1, 5, 3), [3.0] * 3, [2.0] * 3])
    B = np.concatenate([rng.integers(-1, 2, 3), np.zeros(6)]).astype(float)
    d = rng.integers(0, 2, 3).astype(float)
    return A, b, B, d, rng.integers(-2, 3, 3).astype(float), float(rng.integers(-1, 2))


def worst(A, b, B, d, c, x):
    """Return the leader's largest cost over the follower's best responses to ``x``."""
    best = linprog(d, A, b - B * x, bounds=(None, None))
    if best.status != 0:
        return None
    face = linprog(
        -c, np.vstack([A, d]), np.append(b - B * x, best.fun + 1e-9), bounds=(None, None)
    )
    return -face.fun if face.status == 0 else None


@pytest.mark.parametrize("seed", range(12))
def test_continuous_decisions(seed):
    A, b, B, d, c, F = data(seed)
    x, y = cp.Variable(name="x"), cp.Variable(3, name="y")
    follower = bl.Follower(cp.Minimize(d @ y), [A @ y <= b - B * x], variables=[y])
    leader = cp.Minimize(F * x + c @ y)
    problem = bl.Problem(leader, [x >= 0, x <= 4], [follower], stance="pessimistic")
    values = {t: worst(A, b, B, d, c, t) for t in GRID}
    known = [F * t + value for t, value in values.items() if value is not None]
    solution = bl.solve(problem, time_limit=20, throw=False)
    if not known:
        assert not solution.status.has_point
        return
    assert solution.status is bl.Status.OPTIMAL
    assert solution.certificate.accepted
    assert solution.leader_value <= min(known) + 1e-6
    decided = float(solution[x])
    assert F * decided + worst(A, b, B, d, c, decided) == pytest.approx(
        solution.leader_value, abs=1e-5
    )
    assert solution.certificate.pessimistic_value == pytest.approx(solution.leader_value, abs=1e-5)


def test_an_unknown_worst_value_certifies_nothing():
    x, y, z = (cp.Variable(name=name) for name in "xyz")
    followers = [
        bl.Follower(cp.Minimize(cp.square(y - z)), [y >= x], variables=[y], name="a"),
        bl.Follower(cp.Minimize(cp.square(z - y)), [z >= 0], variables=[z], name="b"),
    ]
    problem = bl.Problem(cp.Minimize(x + y), [x >= 0], followers, stance="pessimistic")
    certificate = bl.verify(problem, {"x": 1.0, "y": 1.0, "z": 1.0})
    assert not certificate.accepted
    assert any("unknown" in note for note in certificate.notes)
