"""SCIP cut off an optimum where multipliers are large; there it is asked twice."""

from __future__ import annotations

import pytest
from benchmarks.generators import draw
from benchmarks.modelling import to_problem
from benchmarks.oracle import truth

import bilevel as bl


def test_the_optimum_is_not_lost():
    solution = bl.solve(to_problem(draw("binary QP", 162)), bl.SingleLevel(bl.KKT(bl.SOS1())))
    assert solution.leader_value == pytest.approx(truth("binary QP", 162).value, abs=1e-4)
