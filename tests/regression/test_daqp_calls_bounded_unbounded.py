"""DAQP calls some convex quadratic programs unbounded that have an optimum."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.generators import draw
from benchmarks.modelling import to_problem
from benchmarks.oracle import truth
from hypothesis import given, settings
from hypothesis import strategies as st

import bilevel as bl
from bilevel.backends.tree import _session
from bilevel.backends.tree.compact import Compact
from bilevel.problem.functions import Monomials, Objective, Rows
from bilevel.program import Program, Termination


def test_a_problem_with_an_optimum_is_not_unbounded():
    solution = bl.solve(to_problem(draw("QP-QP", 360)), bl.Branching())
    assert solution.status is bl.Status.OPTIMAL
    assert solution.leader_value == pytest.approx(truth("QP-QP", 360).value, abs=1e-5)


def test_a_node_that_is_unbounded_is_seen_to_be():
    k, z, y = cp.Variable(boolean=True), cp.Variable(bounds=[-1, 1]), cp.Variable()
    follower = bl.Follower(cp.Minimize(cp.square(y) - 3 * y), [y <= 3, y >= -3], [y])
    for leader, value in ((cp.square(z) + k * y, 0.0), (cp.square(z) - z - 3 * y + k * y, -4.75)):
        solution = bl.solve(bl.Problem(cp.Minimize(leader), [], [follower]), bl.Branching())
        assert solution.status is bl.Status.OPTIMAL
        assert solution.leader_value == pytest.approx(value, abs=1e-5)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6))
def test_an_unbounded_node_has_a_ray(seed):
    """A ray keeps to all bounds, is not curved, and falls."""
    rng = np.random.default_rng(seed)
    m, n = rng.integers(1, 5), rng.integers(2, 6)
    L = rng.integers(-2, 3, (n, rng.integers(1, n)))
    A, y = rng.integers(-3, 4, (m, n)).astype(float), rng.integers(-2, 3, n)
    rows = Rows(sp.csr_array(A), A @ y + 1.0, np.zeros(m, bool), Monomials.empty(), ("row",) * m)
    lower = np.where(rng.random(n) < 0.5, -3.0, -np.inf)
    upper = np.where(rng.random(n) < 0.5, 3.0, np.inf)
    objective = Objective(sp.csr_array((L @ L.T).astype(float)), rng.integers(-4, 5, n) * 1.0)
    program = Program(("v",) * n, lower, upper, np.zeros(n, bool), objective, rows)
    compact = Compact(program)
    answer = _session(compact).solve(compact.low, compact.high)
    if answer.termination is Termination.OPTIMAL:
        return
    assert answer.termination is Termination.UNBOUNDED
    d, scale = answer.ray[:n], np.abs(answer.ray).max()
    assert np.abs(objective.P @ d).max() <= 1e-6 * scale
    assert objective.c @ d < 0
    assert (answer.ray[np.isfinite(compact.high)] <= 1e-7 * scale).all()
    assert (answer.ray[np.isfinite(compact.low)] >= -1e-7 * scale).all()
