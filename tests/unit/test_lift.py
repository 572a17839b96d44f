"""Lifting: what it restricts, where it is exact, and what it refuses.

The optimum of a random game and that of the same game with one row moved to the leader come from
``tests.oracle``, which enumerates and does not know ``bl.lift``.
"""

from __future__ import annotations

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import NOTHING, Game, assert_claim_is_true, games

import bilevel as bl
from bilevel import ProblemError, Status

pytestmark = pytest.mark.backend("scip")

EVERY = [
    pytest.param({"penalty": "drop"}, id="drop"),
    pytest.param({"penalty": "l1", "weight": 0.5}, id="l1"),
    pytest.param({"penalty": "quadratic", "weight": 5.0, "atol": 0.1}, id="quadratic"),
]


def demand(sense=cp.Minimize):
    """T22 with its parts at hand; the multiplier of the demand is x."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    row = y >= x
    cost = 0.5 * cp.square(y)
    objective = cp.Minimize(cost) if sense is cp.Minimize else cp.Maximize(-cost)
    follower = bl.Follower(objective, [row], variables=[y], name="supplier")
    return bl.Problem(cp.Minimize(-x), [x >= 0, x <= 1], followers=[follower]), row


def lifted_value(**how):
    problem, row = demand(how.pop("sense", cp.Minimize))
    solution = bl.solve(bl.lift(problem, row, **how))
    assert solution.status is Status.OPTIMAL
    return problem, solution


# -------------------------------------------------------------------------------- T22, by hand


def test_lifting_is_not_equivalent():
    original, lifted = (bl.instances.get(name) for name in ("T22", "T22b"))
    assert (original.optimistic.value, lifted.optimistic.value) == (-1.0, 0.0)
    problem, solution = lifted_value()
    assert bl.solve(problem).leader_value == pytest.approx(-1.0, abs=1e-6)
    assert solution.leader_value == pytest.approx(0.0, abs=1e-6)
    # Lifted-feasible implies feasible, not conversely.
    assert bl.verify(problem, solution).accepted
    (follower,) = problem.followers
    twin = bl.lift(problem, follower)
    best = bl.verify(twin, {"x": 1.0, "y": 1.0})
    assert not best.accepted
    assert best.follower_gap == pytest.approx(0.5)


@pytest.mark.parametrize("sense", [cp.Minimize, cp.Maximize])
@pytest.mark.parametrize(
    ("weight", "value"), [(0.25, -0.25), (0.5, -0.5), (0.99, -0.99), (1.0, -1.0), (7.0, -1.0)]
)
def test_an_absolute_price_is_exact_from_the_multiplier_on(weight, value, sense):
    """The multiplier is x: a price of w makes the demand hold up to x = w."""
    problem, solution = lifted_value(penalty="l1", weight=weight, sense=sense)
    assert solution.leader_value == pytest.approx(value, abs=1e-6)
    assert bl.verify(problem, solution).accepted


def test_the_threshold_is_the_multiplier_that_the_follower_reports():
    problem, row = demand()
    price = problem.followers[0].dual(row)
    threshold = bl.solve(problem)[price].item()
    assert threshold == pytest.approx(1.0, abs=1e-6)
    for factor, exact in ((0.9, False), (1.1, True)):
        solution = bl.solve(bl.lift(problem, row, penalty="l1", weight=factor * threshold))
        assert (solution.leader_value < -1 + 1e-6) is exact


def test_a_quadratic_price_leaves_an_error_of_order_one_over_weight():
    """At x = 1 the follower's violation is 1 / (1 + 2 w); the multiplier is 1."""
    problem, row = demand()
    weights, errors = (1e1, 1e2, 1e3, 1e4), []
    for weight in weights:
        twin = bl.lift(problem, row, penalty="quadratic", weight=weight, atol=1.0)
        solution = bl.solve(twin)
        assert solution.leader_value == pytest.approx(-1.0, abs=1e-6)
        errors.append(float(solution["x"] - solution["y"]))
    exact = 1 / (1 + 2 * np.array(weights))
    np.testing.assert_allclose(errors, exact, rtol=1e-3)
    assert np.polyfit(np.log(weights), np.log(errors), 1)[0] == pytest.approx(-1.0, abs=0.02)


@pytest.mark.parametrize("atol", [1e-3, 1e-4])
def test_a_quadratic_price_shuts_out_what_a_tolerance_does_not_admit(atol):
    problem, solution = lifted_value(penalty="quadratic", weight=100.0, atol=atol)
    assert solution.leader_value == pytest.approx(-atol * 201, abs=1e-6)
    assert not bl.verify(problem, solution).accepted


@pytest.mark.parametrize("stance", ["optimistic", "pessimistic"])
def test_a_pessimistic_leader_needs_a_price_above_the_multiplier(stance):
    """A linear supplier whose multiplier is 2: at that price it is indifferent."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    row = y >= x
    follower = bl.Follower(cp.Minimize(2 * y), [row, y >= 0], variables=[y])
    problem = bl.Problem(cp.Maximize(x), [x >= 0, x <= 1], followers=[follower], stance=stance)
    values = [
        bl.solve(bl.lift(problem, row, penalty="l1", weight=weight)).leader_value
        for weight in (1.0, 2.0, 3.0)
    ]
    middle = 1.0 if stance == "optimistic" else 0.0
    np.testing.assert_allclose(values, [0.0, middle, 1.0], atol=1e-6)


# ------------------------------------------------------------------------- random, enumerated


def moved(game: Game, row: int) -> Game:
    """Move a row of the follower to the leader, an equation as two inequalities."""
    keep = np.arange(len(game.b)) != row
    both = np.hstack([game.B[row], game.A[row]])
    signs = (1.0, -1.0) if game.equality[row] else (1.0,)
    return replace(
        game,
        A=game.A[keep],
        B=game.B[keep],
        b=game.b[keep],
        equality=game.equality[keep],
        price=game.price[keep],
        G=np.vstack([game.G, *(sign * both for sign in signs)]),
        g=np.append(game.g, [sign * game.b[row] for sign in signs]),
    )


def first_row(problem):
    return problem.followers[0].constraints[0]


@given(game=st.booleans().flatmap(lambda quadratic: games(quadratic=quadratic, rows=2)))
@settings(max_examples=25)
def test_dropping_restricts(game):
    original, restricted = game.optimum(), moved(game, 0).optimum()
    assert restricted >= original - 1e-7
    problem = game.problem()
    solution = bl.solve(bl.lift(problem, first_row(problem)), throw=False)
    assert_claim_is_true(solution, game, restricted, 1e-5)
    assert solution.status.is_proved
    if solution.status.has_point:
        assert bl.verify(problem, solution).accepted


@given(game=st.booleans().flatmap(lambda quadratic: games(quadratic=quadratic, rows=2)))
@settings(max_examples=25)
def test_an_absolute_price_above_all_multipliers_is_exact(game):
    """Integer data: vertex multipliers solve 2x2 systems with entries up to 3, far below 1000."""
    original = game.optimum()
    problem = game.problem()
    twin = bl.lift(problem, first_row(problem), penalty="l1", weight=1000.0)
    solution = bl.solve(twin, throw=False)
    assert_claim_is_true(solution, game, original, 1e-5)
    assert solution.status.is_proved
    if solution.status.has_point:
        assert bl.verify(problem, solution).accepted


@given(game=games(rows=2), weight=st.sampled_from([0.3, 1.0, 2.5]))
@settings(max_examples=20)
def test_a_small_absolute_price_lies_between(game, weight):
    original, dropped = game.optimum(), moved(game, 0).optimum()
    problem = game.problem()
    solution = bl.solve(
        bl.lift(problem, first_row(problem), penalty="l1", weight=weight), throw=False
    )
    value = solution.leader_value * game.sign if solution.status.has_point else NOTHING
    assert solution.status.is_proved
    assert original - 1e-5 <= value <= dropped + 1e-5


@given(game=games(integer=True, rows=2))
@settings(max_examples=15)
def test_dropping_restricts_a_pessimistic_leader_too(game):
    original, restricted = game.worst(), moved(game, 0).worst()
    assert restricted >= original - 1e-6
    problem = game.problem("pessimistic")
    solution = bl.solve(bl.lift(problem, first_row(problem)), throw=False)
    if solution.status is Status.OPTIMAL:
        assert solution.leader_value * game.sign == pytest.approx(restricted, abs=1e-5)


# ----------------------------------------------------------------------------- shapes and kinds


def test_an_equation_is_priced_on_both_sides():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    balance = y == 2 * x
    follower = bl.Follower(cp.Minimize(cp.square(y - 1)), [balance], variables=[y])
    problem = bl.Problem(cp.Minimize(cp.square(x - 2)), [x >= -3, x <= 3], followers=[follower])
    # y = 2 x has the multiplier 2 (1 - y) = 2 - 4 x, so a price of w reaches |x - 1/2| <= w / 4.
    for weight, reach in ((1.0, 0.75), (4.0, 1.5), (6.0, 2.0)):
        solution = bl.solve(bl.lift(problem, balance, penalty="l1", weight=weight))
        assert float(solution["x"]) == pytest.approx(reach, abs=1e-4)
        assert bl.verify(problem, solution).accepted
    # A square price leaves 2 x - y = (2 x - 1) / (1 + w).
    twin = bl.lift(problem, balance, penalty="quadratic", weight=9.0, atol=0.2)
    assert float(bl.solve(twin)["x"]) == pytest.approx(1.5, abs=1e-4)


def test_entries_of_a_vector_and_products_are_priced_one_by_one():
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y")
    rows = cp.multiply(x, y) >= np.array([1.0, 2.0])
    follower = bl.Follower(cp.Minimize(cp.sum(y)), [rows, y >= 0], variables=[y])
    problem = bl.Problem(cp.Minimize(cp.sum(x)), [x >= 0.5, x <= 4], followers=[follower])
    # The multipliers are 1 / x, at most 2; a price of 1 makes the follower produce from x = 1 on.
    for weight, value in ((2.5, 1.0), (1.0, 2.0), (0.5, 4.0)):
        solution = bl.solve(bl.lift(problem, rows, penalty="l1", weight=weight))
        assert solution.leader_value == pytest.approx(value, abs=1e-5)
        assert bl.verify(problem, solution).accepted


def two_suppliers():
    x = cp.Variable(2, name="x")
    y = [cp.Variable(name=name) for name in ("a", "b")]
    rows = [y[0] >= x[0], y[1] >= x[1]]
    followers = [
        bl.Follower(cp.Minimize(0.5 * k * cp.square(y[i])), [rows[i]], variables=[y[i]])
        for i, k in enumerate((1.0, 4.0))
    ]
    problem = bl.Problem(cp.Maximize(cp.sum(x)), [x >= 0, x <= 1], followers=followers)
    return problem, rows


def test_several_followers_are_lifted_together_or_alone():
    """The multipliers are x_0 and 4 x_1."""
    problem, rows = two_suppliers()
    for lifted, weight, value in (
        ([rows[0]], 0.5, 1.5),
        ([rows[1]], 0.5, 1.125),
        (rows, 0.5, 0.625),
        (rows, 4.0, 2.0),
        (problem.followers[1], 2.0, 1.5),
    ):
        twin = bl.lift(problem, lifted, penalty="l1", weight=weight)
        solution = bl.solve(twin)
        assert solution.leader_value == pytest.approx(value, abs=1e-5)
        assert bl.verify(problem, solution).accepted
    untouched = bl.lift(problem, rows[0]).followers[1]
    assert untouched is problem.followers[1]


def test_a_constraint_that_stands_at_both_levels_is_demanded_once():
    problem, row = demand()
    both = problem.replace(constraints=[*problem.constraints, row])
    assert len(bl.lift(both, row).constraints) == 3
    twin = bl.lift(both, row, penalty="quadratic", weight=100.0, atol=1e-3)
    assert bl.solve(twin).leader_value == pytest.approx(-0.201, abs=1e-6)


@pytest.mark.parametrize("how", EVERY)
def test_the_original_is_left_as_it_is(how):
    problem, row = demand()
    (follower,) = problem.followers
    before = (problem.objective, problem.constraints, follower.objective, follower.constraints)
    twin = bl.lift(problem, row, **how)
    after = (problem.objective, problem.constraints, follower.objective, follower.constraints)
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert twin.followers[0] is not follower
    assert twin.followers[0].name == "supplier"
    assert twin.stance is problem.stance
    assert bl.solve(problem).leader_value == pytest.approx(-1.0, abs=1e-6)


def test_prices_and_values_of_what_is_kept_stay_usable():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    floor, demanded = y >= 0.5, y >= x
    follower = bl.Follower(cp.Minimize(0.5 * cp.square(y)), [floor, demanded], variables=[y])
    price = follower.dual(floor)
    problem = bl.Problem(
        cp.Maximize(x + price + 2 * follower.value), [x >= 0, x <= 0.4], followers=[follower]
    )
    for each in (problem, bl.lift(problem, demanded)):
        solution = bl.solve(each)
        assert solution.leader_value == pytest.approx(0.4 + 0.5 + 0.25, abs=1e-5)
        assert float(solution[price]) == pytest.approx(0.5, abs=1e-5)


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"penalty": "l2"}, "must be one of"),
        ({"penalty": "l1"}, "needs a weight"),
        ({"penalty": "quadratic", "atol": 1e-3}, "needs a weight"),
        ({"penalty": "quadratic", "weight": 10.0}, "needs atol > 0"),
        ({"penalty": "l1", "weight": 0.0}, "positive, finite"),
        ({"penalty": "l1", "weight": -1.0}, "positive, finite"),
        ({"penalty": "l1", "weight": float("inf")}, "positive, finite"),
        ({"penalty": "l1", "weight": "much"}, "positive, finite"),
        ({"penalty": "l1", "weight": True}, "positive, finite"),
        ({"penalty": "drop", "weight": 1.0}, "has no weight"),
        ({"atol": -1e-9}, "at least 0"),
        ({"atol": float("nan")}, "at least 0"),
    ],
)
def test_what_does_not_fit_the_penalty_is_refused(how, words):
    problem, row = demand()
    with pytest.raises(ProblemError, match=words):
        bl.lift(problem, row, **how)


def test_what_is_not_a_followers_constraint_is_refused():
    problem, row = demand()
    (follower,) = problem.followers
    stranger, other = demand()[0].followers[0], demand()[1]
    with pytest.raises(ProblemError, match="it is the leader's"):
        bl.lift(problem, problem.constraints[0])
    with pytest.raises(ProblemError, match="follower 'supplier'"):
        bl.lift(problem, [row, other])
    with pytest.raises(ProblemError, match="is not in this problem"):
        bl.lift(problem, stranger)
    with pytest.raises(ProblemError, match="is not a constraint"):
        bl.lift(problem, 3)
    with pytest.raises(ProblemError, match="nothing to lift"):
        bl.lift(problem, [])
    with pytest.raises(ProblemError, match=r"must be a bilevel\.Problem"):
        bl.lift(follower, row)


def test_a_multiplier_that_the_leader_uses_cannot_be_lifted_away():
    problem, row = demand()
    price = problem.followers[0].dual(row)
    priced = problem.replace(objective=cp.Minimize(-price))
    with pytest.raises(ProblemError, match="uses the multiplier"):
        bl.lift(priced, row)


def test_a_follower_needs_something_that_determines_its_variables():
    x, y, z = (cp.Variable(name=name) for name in "xyz")
    cap = y + z >= x
    follower = bl.Follower(cp.Minimize(y), [cap, y >= 0], variables=[y, z], name="pair")
    problem = bl.Problem(cp.Minimize(-x), [x >= 0, x <= 1], followers=[follower])
    with pytest.raises(ProblemError, match="nothing determines all variables of follower 'pair'"):
        bl.lift(problem, cap)
    assert bl.solve(bl.lift(problem, cap, penalty="l1", weight=1.0)).leader_value == pytest.approx(
        -1.0, abs=1e-6
    )


def test_a_cone_can_be_dropped_and_not_priced():
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    cone = cp.SOC(x, y)
    follower = bl.Follower(cp.Minimize(cp.sum(y)), [cone, y >= -3], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 10], followers=[follower])
    solution = bl.solve(bl.lift(problem, cone))
    assert solution.leader_value == pytest.approx(np.sqrt(18), abs=1e-4)
    with pytest.raises(ProblemError, match="only equations and inequalities"):
        bl.lift(problem, cone, penalty="l1", weight=1.0)
    with pytest.raises(ProblemError, match="Lift it with atol=0"):
        bl.lift(problem, cone, atol=0.1)
