"""Substitution against enumeration of complementarity patterns, and where it must refuse."""

from __future__ import annotations

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import linprog
from tests.oracle import NOTHING, UNBOUNDED, assert_claim_is_true, games

import bilevel as bl
from bilevel import Status, UnsupportedProblem


def compare(game):
    """Solve by substitution and by enumeration; what is claimed must be true and proved."""
    game = replace(game, integer=np.zeros(len(game.low), bool))
    truth = game.optimum()
    solution = bl.solve(game.problem(), bl.Substitution(), throw=False)
    assert_claim_is_true(solution, game, truth, 1e-6)
    if truth == NOTHING:
        assert solution.status.is_proved, solution.summary()
    elif truth == UNBOUNDED:
        assert solution.status is Status.UNBOUNDED, solution.summary()
    else:
        assert solution.status is Status.OPTIMAL, solution.summary()


@settings(max_examples=15)
@given(games())
def test_linear_followers(game):
    compare(game)


@settings(max_examples=15)
@given(games(quadratic=True))
def test_quadratic_followers(game):
    compare(game)


@settings(max_examples=10)
@given(games(quadratic=True, priced=True))
def test_prices(game):
    compare(game)


@settings(max_examples=10)
@given(games(boxed=False))
def test_followers_without_bounds(game):
    compare(game)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=200)
@given(games(quadratic=True, priced=True, boxed=False, rows=4))
def test_many_games(game):
    compare(game)


GRID = np.linspace(0.0, 4.0, 161)


def tied_follower(seed):
    """Return an LP follower whose cost leaves ties; its decision shifts costs or right sides."""
    rng = np.random.default_rng(seed)
    A = np.vstack([rng.integers(-2, 3, (3, 3)), np.eye(3), -np.eye(3)]).astype(float)
    b = np.concatenate([rng.integers(1, 5, 3), [3.0] * 3, [2.0] * 3])
    B = np.concatenate([rng.integers(-1, 2, 3), np.zeros(6)]).astype(float)
    d, D = rng.integers(0, 2, 3).astype(float), rng.integers(-1, 2, 3).astype(float)
    return A, b, B, d, D * float(rng.random() < 0.5), rng.integers(-2, 3, 3).astype(float)


def worst(data, F, x):
    """Return the leader's largest cost over the follower's best responses to ``x``."""
    A, b, B, d, D, c = data
    best = linprog(d + D * x, A, b - B * x, bounds=(None, None))
    if best.status != 0:
        return None
    rows, sides = np.vstack([A, d + D * x]), np.append(b - B * x, best.fun + 1e-9)
    face = linprog(-c, rows, sides, bounds=(None, None))
    return F * x - face.fun


@pytest.mark.parametrize("seed", range(20))
def test_pessimistic_continuous_decisions(seed):
    data, F = tied_follower(seed), float(seed % 3 - 1)
    A, b, B, d, D, c = data
    x, y = cp.Variable(name="x"), cp.Variable(3, name="y")
    follower = bl.Follower(cp.Minimize((d + D * x) @ y), [A @ y <= b - B * x], variables=[y])
    leader = cp.Minimize(F * x + c @ y)
    problem = bl.Problem(leader, [x >= 0, x <= 4], [follower], stance="pessimistic")
    known = [value for t in GRID if (value := worst(data, F, t)) is not None]
    solution = bl.solve(problem, bl.Substitution(), throw=False)
    if not known:
        assert not solution.status.has_point
        return
    assert solution.status in (Status.OPTIMAL, Status.NOT_ATTAINED), solution.summary()
    assert solution.certificate.accepted
    assert solution.bound <= min(known) + 1e-6
    value = worst(data, F, float(solution[x]))
    assert value == pytest.approx(solution.leader_value, abs=1e-5)
    if solution.status is Status.OPTIMAL:
        assert solution.leader_value == pytest.approx(solution.bound, abs=1e-5)
    else:
        assert solution.bound < solution.leader_value < solution.bound + 0.05


def test_pessimistic_plane_with_a_jump_along_a_line():
    """Costs tie on the line x0 = x1: an infimum that no decision on it attains."""
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y")
    follower = bl.Follower(cp.Minimize(x @ y), [y >= 0, cp.sum(y) == 1], variables=[y])
    leader = cp.Minimize(y[0] - x[0] + 2 * x[1])
    box = [x >= 0, x <= 1, x[1] >= 0.25]
    problem = bl.Problem(leader, box, followers=[follower], stance="pessimistic")
    # y = (0, 1) needs x0 > x1; best is x = (1, 0.25): -1 + 0.5.
    solution = bl.solve(problem, bl.Substitution())
    assert solution.status is Status.OPTIMAL
    assert solution.leader_value == pytest.approx(-0.5)
    # With x0 charged the leader goes down to the line, where the worst response costs 1 more.
    leader = cp.Minimize(y[0] + x[0] + 2 * x[1])
    problem = bl.Problem(leader, box, followers=[follower], stance="pessimistic")
    solution = bl.solve(problem, bl.Substitution())
    assert solution.status is Status.NOT_ATTAINED
    assert solution.bound == pytest.approx(0.75)
    assert 0.75 < solution.leader_value < 0.77
    hopeful = bl.solve(problem.replace(stance="optimistic"), bl.Substitution())
    assert hopeful.status is Status.OPTIMAL
    assert hopeful.leader_value == pytest.approx(0.75)


def test_leader_variables_that_no_follower_sees():
    x, y, z = (cp.Variable(name=name) for name in "xyz")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y <= 1], variables=[y])
    leader = cp.Minimize(cp.square(z - y) + cp.square(x - 3) + z)
    problem = bl.Problem(leader, [x >= 0, x <= 4, z >= 0], followers=[follower])
    solution = bl.solve(problem, bl.Substitution())
    assert solution.status is Status.OPTIMAL
    assert solution.leader_value == pytest.approx(0.75)  # x = 3, y = 1, z = 1/2
    assert float(solution[z]) == pytest.approx(0.5)


def test_indefinite_over_a_face_of_answers():
    """On the region where any y in [0, x] is best, x and y multiply: no convex program."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(0 * y), [y >= 0, y <= x], variables=[y])
    problem = bl.Problem(cp.Maximize((x - 3) * y - x), [x >= 0, x <= 4], followers=[follower])
    solution = bl.solve(problem, bl.Substitution())
    assert solution.status is Status.OPTIMAL
    assert solution.leader_value == pytest.approx(0.0)  # x = 0, or x = y = 4
    worse = bl.solve(problem.replace(stance="pessimistic"), bl.Substitution())
    assert worse.status is Status.OPTIMAL
    assert worse.leader_value == pytest.approx(0.0)


def test_indefinite_in_three_directions_is_refused():
    x, z, y = cp.Variable(2, name="x"), cp.Variable(name="z"), cp.Variable(2, name="y")
    follower = bl.Follower(cp.Minimize(0 * cp.sum(y)), [y >= 0, y <= 1 + x], variables=[y])
    problem = bl.Problem(
        cp.Minimize(x[0] * y[0] - x[1] * y[1] + z), [x >= 0, x <= 1, z >= 0], followers=[follower]
    )
    with pytest.raises(UnsupportedProblem, match="two can be minimized exactly"):
        bl.solve(problem, bl.Substitution())


def test_a_map_with_a_gap_proves_nothing():
    solution = bl.solve(
        bl.instances.get("T3").problem, bl.Substitution(), time_limit=1e-6, throw=False
    )
    assert solution.status in (Status.NOT_FOUND, Status.FEASIBLE)
    assert solution.bound is None


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        (lambda x, y: [x >= 1, x <= 0], Status.INFEASIBLE),
        (lambda x, y: [x >= 0, x <= 1, y <= -1], Status.INFEASIBLE),
        (lambda x, y: [x >= 8, x <= 9], Status.FOLLOWER_INFEASIBLE),
    ],
)
def test_what_is_impossible_is_said(rows, status):
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x, y <= 5], variables=[y])
    problem = bl.Problem(cp.Minimize(y), rows(x, y), followers=[follower])
    assert bl.solve(problem, bl.Substitution(), throw=False).status is status


def test_a_follower_without_best_answers():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(-y), [y >= x], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], followers=[follower])
    solution = bl.solve(problem, bl.Substitution(), throw=False)
    assert solution.status is Status.FOLLOWER_UNBOUNDED


def test_the_callback_stops_it():
    moments = []
    solution = bl.solve(
        bl.instances.get("T3").problem,
        bl.Substitution(),
        callback=lambda moment: bool(moments.append(moment)) or True,
    )
    assert moments
    assert solution.status is Status.FEASIBLE
