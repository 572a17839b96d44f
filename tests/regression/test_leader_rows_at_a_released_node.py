"""A design is only feasible if the leader's own constraints hold at the cell's response.

A first prototype of the strain design problem accepted a node as soon as all complementarity held,
without looking at the leader's rows, and called a design optimal whose growth was below the floor.
"""

import cvxpy as cp
import numpy as np
import pytest
from tests.registry import SOLVERS, rows

import bilevel as bl
from bilevel import Status, UnsupportedProblem


def cell(stance="optimistic"):
    """Removing both routes yields most product (8) but no growth; the floor asks for growth 1.

    ``k`` removes routes; growth is ``3 r0 + 2 r1 + r2`` for an uptake of at most 2, product is
    ``r1 + 4 r2``. Nothing removed: growth 6, product 0. Without r0: growth 4, product 2. Without r0
    and r1: growth 2, product 8. Without all three: growth 0.
    """
    k = cp.Variable(3, name="k", boolean=True)
    r = cp.Variable(3, name="r", nonneg=True)
    growth = np.array([3.0, 2.0, 1.0]) @ r
    rows_ = [cp.sum(r) <= 2, r <= 10 * (1 - k)]
    follower = bl.Follower(cp.Maximize(growth), rows_, variables=[r], name="cell")
    product = np.array([0.0, 1.0, 4.0]) @ r
    leading = [cp.sum(k) <= 3, growth >= 3]
    return bl.Problem(cp.Maximize(product), leading, followers=[follower], stance=stance)


@pytest.mark.parametrize("row", rows(SOLVERS))
def test_the_floor_is_respected(row):
    for stance in row.stances:
        given = cell(stance.value)
        try:
            solution = bl.solve(given, row.build(), time_limit=200)
        except UnsupportedProblem:
            assert row.may_refuse or row.must_refuse(given)
            continue
        assert solution.leader_value == pytest.approx(2, abs=1e-5)
        assert solution.certificate.accepted
        assert solution.certificate.coupling_violation <= 1e-6
        # Whether the third route is removed too makes no difference to the cell.
        np.testing.assert_allclose(solution["k"][:2], [1, 0], atol=1e-6)
        if row.proves:
            assert solution.status is Status.OPTIMAL


def test_the_better_design_below_the_floor_is_refused():
    point = {"k": [1.0, 1.0, 0.0], "r": [0.0, 0.0, 2.0]}
    for stance in ("optimistic", "pessimistic"):
        certificate = bl.verify(cell(stance), point)
        assert certificate.follower_gap <= 1e-9
        assert certificate.coupling_violation > 0.1
        assert not certificate.accepted


@pytest.mark.backend("scip")
def test_no_design_reaches_a_floor_that_is_too_high():
    given = cell()
    (r,) = given.followers[0].variables
    floor = np.array([3.0, 2.0, 1.0]) @ r >= 7
    for stance in ("optimistic", "pessimistic"):
        twin = given.replace(constraints=[floor], stance=stance, objective=cp.Maximize(
            np.array([0.0, 1.0, 4.0]) @ r - 0.01 * cp.sum(given.variables[0])))  # fmt: skip
        solution = bl.solve(twin, throw=False)
        assert solution.status is Status.INFEASIBLE
