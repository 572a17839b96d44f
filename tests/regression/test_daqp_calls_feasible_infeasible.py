"""DAQP calls some feasible followers infeasible; a certificate must not repeat it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.families import lplp
from benchmarks.modelling import to_problem
from hypothesis import given, settings
from hypothesis import strategies as st

import bilevel as bl
from bilevel import backends
from bilevel.problem.functions import Monomials, Objective, Rows
from bilevel.program import Limits, Program, Termination


@pytest.mark.parametrize("number", [6, 13])
def test_points_of_large_linear_problems_are_accepted(number):
    problem = to_problem(lplp(20, 30, 30, 10, number))
    solution = bl.solve(problem, bl.Branching(), time_limit=1, throw=False)
    assert solution.certificate is not None
    assert solution.certificate.accepted


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_a_system_with_a_point_is_never_infeasible(seed):
    rng = np.random.default_rng(seed)
    m, n = rng.integers(2, 12), rng.integers(2, 9)
    A, y = rng.normal(size=(m, n)) * 10.0 ** rng.integers(-2, 3, (m, 1)), rng.normal(size=n)
    equality = rng.random(m) < 0.3
    b = A @ y + np.where(equality, 0.0, rng.choice([0.0, 1.0], m))
    rows = Rows(sp.csr_array(A), b, equality, Monomials.empty(), ("row",) * m)
    objective = Objective(sp.csr_array((n, n)), rng.normal(size=n))
    free = np.full(n, np.inf)
    program = Program(("v",) * n, -free, free, np.zeros(n, bool), objective, rows)
    raw = backends.get("daqp").solve(program, Limits())
    assert raw.termination is not Termination.INFEASIBLE
