"""Optimistic and pessimistic values against two-stage linear programs solved by scipy."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from tests.oracle import NOTHING, UNBOUNDED, games
from tests.registry import PESSIMISTIC, SOLVERS

import bilevel as bl
from bilevel import Stance, Status, UnsupportedProblem

ROWS = [row for row in SOLVERS if row.stances >= PESSIMISTIC]
LIMIT = 5.0

pytestmark = pytest.mark.backend("scip")


def compare(game, row):
    """Solve the pessimistic game by a row and check all that is claimed."""
    truth = game.worst()
    problem = game.problem("pessimistic")
    try:
        solution = bl.solve(problem, row.build(), throw=False, time_limit=LIMIT)
    except UnsupportedProblem:
        assert row.may_refuse or row.must_refuse(problem)
        return None
    if truth == NOTHING:
        assert not solution.status.has_point, solution.summary()
        assert solution.status is not Status.UNBOUNDED
        return solution
    if truth == UNBOUNDED:
        assert solution.status is not Status.OPTIMAL
        return solution
    room = 1e-5 * max(1.0, abs(truth))
    assert not solution.status.is_proved or solution.status is Status.OPTIMAL, solution.summary()
    if solution.bound is not None:
        assert solution.bound * game.sign <= truth + room
    if not solution.status.has_point:
        return solution
    found = solution.leader_value * game.sign
    assert solution.certificate.accepted
    assert solution.certificate.pessimistic_value * game.sign == pytest.approx(found, abs=room)
    assert found >= truth - room, "better than the best worst case"
    if solution.status is Status.OPTIMAL:
        assert found == pytest.approx(truth, abs=room)
    return solution


@settings(max_examples=8)
@given(games(integer=True, coupled=False))
def test_worst_case_of_random_games(game):
    for row in ROWS:
        compare(game, row)


@settings(max_examples=8)
@given(games(integer=True, coupled=True))
def test_coupling_must_hold_for_every_best_answer(game):
    for row in ROWS:
        compare(game, row)


@settings(max_examples=8)
@given(games(integer=True))
def test_pessimistic_is_never_better(game):
    hopeful = bl.solve(game.problem(), throw=False, time_limit=LIMIT)
    careful = bl.solve(game.problem("pessimistic"), throw=False, time_limit=LIMIT)
    if hopeful.status is Status.OPTIMAL and careful.status is Status.OPTIMAL:
        room = 1e-5 * max(1.0, abs(hopeful.leader_value))
        assert game.sign * hopeful.leader_value <= game.sign * careful.leader_value + room
    if not hopeful.status.has_point and hopeful.status is not Status.UNBOUNDED:
        assert not careful.status.has_point


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=150)
@given(games(integer=True, rows=5))
def test_many_worst_cases(game):
    for row in ROWS:
        compare(game, row)


def test_the_same_for_a_follower_with_one_answer():
    """Strictly convex: both stances are the same problem."""
    for name in ("T1", "T2", "T3", "T6b", "T16"):
        problem = bl.instances.get(name).problem
        hopeful = bl.solve(problem)
        careful = bl.solve(problem.replace(stance="pessimistic"))
        assert careful.leader_value == pytest.approx(hopeful.leader_value, abs=1e-6)
        assert careful.status is hopeful.status


def tie(stance, cost=1.0):
    """The leader sets a price in [0, 4]; at 3 the buyer of 2 units becomes indifferent."""
    price, units = cp.Variable(name="price"), cp.Variable(name="units")
    buyer = bl.Follower(
        cp.Maximize((3 - price) * units), [units >= 0, units <= 2], variables=[units], name="buyer"
    )
    leading = [price >= 0, price <= 4]
    objective = cp.Maximize((price - cost) * units)
    return bl.Problem(objective, leading, followers=[buyer], stance=stance)


def test_a_supremum_that_is_not_attained():
    hopeful = bl.solve(tie("optimistic"))
    assert hopeful.status is Status.OPTIMAL
    assert hopeful.leader_value == pytest.approx(4, abs=1e-5)
    careful = bl.solve(tie("pessimistic"), time_limit=60)
    assert careful.status is Status.NOT_ATTAINED
    assert careful.bound == pytest.approx(4, abs=1e-4)
    assert 3.9 < careful.leader_value < 4
    assert careful.certificate.accepted


def test_an_attained_worst_case_beside_the_tie():
    """With a cost of 3 nothing is earned at any price, and the worst case attains it."""
    careful = bl.solve(tie("pessimistic", cost=3.0), time_limit=60)
    assert careful.leader_value == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("stance", list(Stance))
def test_stance_survives_in_the_problem(stance):
    problem = tie(stance)
    assert problem.stance is stance
    assert problem.compile().stance is stance
    other = next(s for s in Stance if s is not stance)
    assert problem.replace(stance=other).compile().stance is other
    assert problem.compile().stance is stance


@pytest.mark.parametrize("leader_integer", [False, True])
def test_worst_answer_of_a_ray(leader_integer):
    """Where best responses form a ray that hurts the leader, the decision is worth nothing."""
    x = cp.Variable(name="x", integer=leader_integer)
    y, z = cp.Variable(name="y"), cp.Variable(name="z")
    follower = bl.Follower(
        cp.Minimize(z), [z >= x, y >= 0, y <= 5 - x + 100 * z], variables=[y, z], name="f"
    )
    problem = bl.Problem(
        cp.Minimize(y - x), [x >= 0, x <= 1], followers=[follower], stance="pessimistic"
    )
    solution = bl.solve(problem, throw=False, time_limit=LIMIT)
    # z = x, so y runs over [0, 5 + 99 x]: the worst value 5 + 98 x is least at x = 0.
    assert solution.leader_value == pytest.approx(5, abs=1e-4)


def test_several_followers_each_take_their_worst_answer():
    k = cp.Variable(name="k", boolean=True)
    followers, ys = [], []
    for i in range(2):
        y, z = cp.Variable(name=f"y{i}"), cp.Variable(name=f"z{i}")
        rows = [z >= k, y >= 0, y <= 2 + i - k]
        followers.append(bl.Follower(cp.Minimize(z), rows, variables=[y, z], name=f"f{i}"))
        ys.append(y)
    objective = cp.Maximize(3 * ys[0] - ys[1] - 0.5 * k)
    problem = bl.Problem(objective, [], followers=followers)
    # Optimistic, k = 0: 6 - 0; pessimistic: y0 = 0, y1 = 3 - k: -3 at k = 0, -2.5 at k = 1.
    assert bl.solve(problem).leader_value == pytest.approx(6, abs=1e-6)
    careful = bl.solve(problem.replace(stance="pessimistic"), time_limit=LIMIT)
    assert careful.leader_value == pytest.approx(-2.5, abs=1e-5)
    assert careful.status is Status.OPTIMAL


def test_what_the_worst_case_refuses_says_why():
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    flat = bl.Follower(
        cp.Minimize(cp.square(cp.sum(y) - x)), [y >= 0, y <= 2], variables=[y], name="flat"
    )
    problem = bl.Problem(
        cp.Minimize(y[0] + x), [x >= 0, x <= 3], followers=[flat], stance="pessimistic"
    )
    with pytest.raises(UnsupportedProblem) as error:
        bl.solve(problem)
    assert any("LP followers" in reason for reason in error.value.reasons)
    with pytest.raises(UnsupportedProblem):
        bl.solve(problem, bl.SingleLevel(bl.InnerDual()))


def test_a_worst_value_in_a_row_of_the_leader():
    """At most 1 of y is allowed, whatever the follower picks in ``[0, x]``."""
    x, y, z = (cp.Variable(name=n) for n in "xyz")
    follower = bl.Follower(cp.Minimize(z), [z >= x, y >= 0, y <= x], variables=[y, z])
    problem = bl.Problem(
        cp.Maximize(x), [x >= 0, x <= 3, y <= 1], followers=[follower], stance="optimistic"
    )
    assert bl.solve(problem).leader_value == pytest.approx(3)
    careful = bl.solve(problem.replace(stance="pessimistic"), time_limit=LIMIT)
    assert careful.leader_value == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(careful.certificate.coupling_violation, 0, atol=1e-6)
