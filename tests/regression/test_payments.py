"""Tolls without an upper bound: the leader's products are the follower's, and need no branching.

Found by BOLIB's TollSettingP1, of which spatial branch and bound over unbounded tolls found neither
a point nor a bound in ten seconds.
"""

from __future__ import annotations

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel.problem.standard import is_convex
from bilevel.reformulate.exchange import exchange
from bilevel.solvers.starts import initial_point
from bilevel.structure import Structure

METHODS = {
    "kkt-sos1": bl.SingleLevel(bl.KKT(bl.SOS1())),
    "kkt-indicator": bl.SingleLevel(bl.KKT(bl.Indicator())),
    "strong-duality": bl.SingleLevel(bl.StrongDuality()),
}


def tolls(bend=0.0, coupled=False, paid=1.0):
    """Two roads of 2 and 6 beside the leader's toll; the best toll is the difference, 4."""
    toll = cp.Variable(name="toll")
    road = cp.Variable(2, name="road")
    cost = 2 * road[0] + 6 * road[1] + paid * toll * road[0] + bend * cp.sum_squares(road)
    rows = [cp.sum(road) == 1, road >= 0]
    if coupled:
        rows.append(road[0] <= 4 - 0.5 * toll)
    follower = bl.Follower(cp.Minimize(cost), rows, variables=[road], name="driver")
    return bl.Problem(cp.Maximize(toll * road[0]), [toll >= 0], [follower])


def columns_of(form):
    count = len(form.followers[0].rows)
    return [form.n + np.arange(count)], form.n + count


@pytest.mark.parametrize("name", METHODS)
def test_an_unbounded_toll(name):
    solution = bl.solve(tolls(), METHODS[name], time_limit=200)
    assert solution.status is bl.Status.OPTIMAL
    assert solution.leader_value == pytest.approx(4.0, abs=1e-6)
    assert solution.certificate.accepted


def test_a_big_m_backend_takes_it():
    """Nothing nonconvex is left, so HiGHS can solve it; a bound of the user's proves nothing."""
    solver = bl.SingleLevel(bl.KKT(bl.BigM(multiplier=100, slack=100)), "highs")
    solution = bl.solve(tolls(), solver, time_limit=200)
    assert solution.status is bl.Status.FEASIBLE
    assert solution.leader_value == pytest.approx(4.0, abs=1e-6)


def test_a_quadratic_follower():
    # road0 = (4 - toll + 2 bend)/(4 bend) inside [0, 1]; toll * road0 is best at toll 3.
    solution = bl.solve(tolls(bend=1.0), time_limit=200)
    assert solution.status is bl.Status.OPTIMAL
    assert solution.leader_value == pytest.approx(3 * 3 / 4, abs=1e-6)


@pytest.mark.parametrize("bend", [0.0, 1.0])
@pytest.mark.parametrize("paid", [1.0, 2.5])
def test_the_value_stays_at_every_best_answer(bend, paid):
    form = tolls(bend, paid=paid).compile()
    lam, n = columns_of(form)
    convex = exchange(form.objective, form.followers, lam, n)
    assert Structure.LEADER_NONCONVEX in form.structure
    assert is_convex(convex)
    toll, road = cp.Parameter(nonneg=True), cp.Variable(2)
    rows = [cp.sum(road) == 1, road >= 0]
    cost = 2 * road[0] + 6 * road[1] + paid * toll * road[0] + bend * cp.sum_squares(road)
    alone = cp.Problem(cp.Minimize(cost), rows)
    for value in (0.0, 0.7, 3.0, 9.0):
        toll.value = value
        alone.solve(solver="CLARABEL")
        w = np.zeros(n)
        w[: form.n] = [value, *road.value]
        duals = {"sum": np.atleast_1d(rows[0].dual_value), "sign": rows[1].dual_value}
        equality = form.followers[0].rows.equality
        w[lam[0][equality]], w[lam[0][~equality]] = duals["sum"], duals["sign"]
        expected = form.objective.evaluate(w[: form.n])
        assert convex.evaluate(w) == pytest.approx(expected, abs=1e-5)


def test_what_is_not_the_followers_product_stays():
    form = tolls(coupled=True).compile()
    assert exchange(form.objective, form.followers, *columns_of(form)) is form.objective
    form = tolls().compile()
    # Products with the other road, which the follower does not pay.
    P = form.objective.P.tolil()
    P[0, 2] = P[2, 0] = 1.0
    foreign = replace(form.objective, P=P.tocsr())
    assert exchange(foreign, form.followers, *columns_of(form)) is foreign


def test_a_coupled_toll_is_solved_all_the_same():
    # The road's capacity 4 - toll/2 binds from toll 6 on, so the best toll is 4 as before.
    solution = bl.solve(tolls(coupled=True), time_limit=200)
    assert solution.leader_value == pytest.approx(4.0, abs=1e-5)


def test_there_is_a_first_point_where_the_leader_is_not_convex():
    form = tolls().compile()
    point = initial_point(form)
    assert point is not None
    assert max(form.followers[0].rows.violation(point)) <= 1e-8


def test_there_is_a_first_point_where_the_relaxation_is_unbounded():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    form = bl.Problem(cp.Maximize(y - 2 * x), [x >= 0], [follower]).compile()
    assert initial_point(form) is not None
