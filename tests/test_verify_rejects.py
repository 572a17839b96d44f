"""Wrong answers built on purpose are refused; right ones accepted, with the tolerances shown."""

from __future__ import annotations

import math

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import linprog
from tests.oracle import games

import bilevel as bl
from bilevel import ProblemError, Tolerances


def carrier(sense="min"):
    """The leader pays ``3 x + y``; the follower's response to ``x`` is ``min(8 - x, 13 - 2 x)``."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    rows = [x + y <= 8, 4 * x + y >= 8, 2 * x + y <= 13, 2 * x <= 7 * y]
    objective = cp.Minimize(-y) if sense == "min" else cp.Maximize(y)
    follower = bl.Follower(objective, rows, variables=[y], name="carrier")
    return bl.Problem(cp.Minimize(3 * x + y), [x >= 0, x <= 5], followers=[follower])


def reaction(x):
    return min(8 - x, 13 - 2 * x)


BOTH = pytest.mark.parametrize("sense", ["min", "max"])


# ------------------------------------------------------------------------- the follower's response


@BOTH
@pytest.mark.parametrize("x", [0.0, 1.0, 4.0, 5.0])
def test_the_best_answer_is_accepted(sense, x):
    certificate = bl.verify(carrier(sense), {"x": x, "y": reaction(x)})
    assert certificate.accepted
    assert certificate.leader_value == pytest.approx(3 * x + reaction(x))
    assert certificate.follower_gap <= 1e-9
    assert certificate.unique_response
    expected = reaction(x) if sense == "max" else -reaction(x)
    assert certificate.follower_values["carrier"] == pytest.approx(expected)


@BOTH
@pytest.mark.parametrize("shortfall", [1e-5, 1e-3, 0.5])
def test_an_answer_that_could_be_better_is_refused(sense, shortfall):
    """The gap is relative to the value: at x = 4 it is 4, so 1e-5 of it is 4e-5."""
    lost = shortfall * 4
    certificate = bl.verify(carrier(sense), {"x": 4.0, "y": 4 - lost})
    assert not certificate.accepted
    assert certificate.follower_gap == pytest.approx(shortfall, rel=1e-3)
    assert certificate.follower_gaps["carrier"] == certificate.follower_gap
    assert certificate.follower_violation == 0


@BOTH
@pytest.mark.parametrize("excess", [1e-5, 1e-2])
def test_an_answer_beyond_its_constraints_is_refused(sense, excess):
    certificate = bl.verify(carrier(sense), {"x": 4.0, "y": 4 + excess})
    assert not certificate.accepted
    assert certificate.follower_violation == pytest.approx(excess / math.sqrt(2), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_violation_does_not_depend_on_how_a_row_is_written(scale):
    """5e-3 below the least answer is wrong, also where the row is multiplied by 1e-4."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [scale * y >= scale * x], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 1, x <= 2], followers=[follower])
    assert bl.verify(problem, {x: 1.0, y: 1.0}).accepted
    wrong = bl.verify(problem, {x: 1.0, y: 0.995})
    assert not wrong.accepted, wrong.summary()


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_follower_objective_of_any_scale(scale):
    """The gap is absolute below a value of one, relative above."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(scale * y), [y >= x], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 1, x <= 2], followers=[follower])
    assert bl.verify(problem, {x: 1.0, y: 1.0}).accepted
    assert not bl.verify(problem, {x: 1.0, y: 1.1}).accepted


def test_a_decision_without_an_answer_is_refused():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x, y <= 1], variables=[y], name="narrow")
    problem = bl.Problem(cp.Maximize(x), [x >= 0, x <= 5], followers=[follower])
    certificate = bl.verify(problem, {x: 3.0, y: 3.0})
    assert not certificate.accepted
    assert any("narrow" in note and "no feasible response" in note for note in certificate.notes)


def test_a_decision_with_an_unbounded_answer_is_refused():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(x * y), [y >= -1], variables=[y], name="greedy")
    problem = bl.Problem(cp.Maximize(x), [x >= -1, x <= 1], followers=[follower])
    certificate = bl.verify(problem, {x: -0.5, y: 100.0})
    assert not certificate.accepted
    assert any("greedy" in note and "unbounded" in note for note in certificate.notes)
    assert bl.verify(problem, {x: 0.5, y: -1.0}).accepted


def test_a_rounded_point_at_the_edge_of_the_followers_domain_is_accepted():
    """At ``x = 1 + 1e-8`` no exact response exists; all violations are within the tolerance."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x, y <= 1], variables=[y])
    problem = bl.Problem(cp.Maximize(x), [x >= 0, x <= 5], followers=[follower])
    certificate = bl.verify(problem, {x: 1 + 1e-8, y: 1.0})
    assert certificate.accepted, certificate.summary()
    assert not bl.verify(problem, {x: 1 + 1e-4, y: 1.0}).accepted


@settings(max_examples=15)
@given(games(integer=True, coupled=False))
def test_verdicts_agree_with_scipy(game):
    """The certificate of scipy's answer is good, that of scipy's worst response is not."""
    problem = game.problem()
    (y,) = problem.followers[0].variables
    for x in list(game.decisions())[:4]:
        d, rhs, inequality = game.c + game.D @ x, game.b - game.B @ x, ~game.equality
        sides = (
            game.A[inequality],
            rhs[inequality],
            game.A[game.equality],
            rhs[game.equality],
        )
        best = linprog(d, *sides, bounds=(None, None))
        if best.status != 0:
            continue
        point = {f"x{i}": value for i, value in enumerate(x)}
        good = bl.verify(problem, {**point, y: best.x})
        assert good.accepted, good.summary()
        worst = linprog(-d, *sides, bounds=(None, None))
        lost = d @ worst.x - best.fun
        if worst.status == 0 and lost > 1e-5:
            bad = bl.verify(problem, {**point, y: worst.x})
            assert not bad.accepted
            assert bad.follower_gap == pytest.approx(lost / max(1, abs(best.fun)), rel=1e-5)


# ------------------------------------------------------------------------------ the leader's side


@pytest.mark.parametrize("x", [-1e-5, 5.001])
def test_a_leader_beyond_its_bounds_is_refused(x):
    certificate = bl.verify(carrier(), {"x": x, "y": reaction(x)})
    assert not certificate.accepted
    assert certificate.leader_violation > 1e-6
    assert certificate.coupling_violation == 0


def test_a_violated_leader_row_is_refused():
    x, y = cp.Variable(2, name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x[0]], variables=[y])
    problem = bl.Problem(cp.Minimize(y), [cp.sum(x) == 1, x >= 0], followers=[follower])
    assert bl.verify(problem, {x: [0.25, 0.75], y: 0.25}).accepted
    wrong = bl.verify(problem, {x: [0.25, 0.7501], y: 0.25})
    assert not wrong.accepted
    assert wrong.leader_violation == pytest.approx(1e-4 / math.sqrt(2), rel=1e-3)


@pytest.mark.parametrize("floor", [1.0, 1.00001])
def test_a_violated_coupling_row_is_refused(floor):
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0, y >= floor], followers=[follower])
    certificate = bl.verify(problem, {x: 1.0, y: 1.0})
    assert certificate.accepted == (floor == 1)
    assert certificate.coupling_violation == pytest.approx(floor - 1, abs=1e-12)
    assert certificate.leader_violation == 0


def test_a_violated_cone_is_refused():
    x, y = cp.Variable(2, name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x[0]], variables=[y])
    problem = bl.Problem(cp.Maximize(x[0]), [cp.norm(x) <= 1], followers=[follower])
    assert bl.verify(problem, {x: [1.0, 0.0], y: 1.0}).accepted
    assert not bl.verify(problem, {x: [1.0, 0.1], y: 1.0}).accepted


def test_a_violated_product_row_is_refused():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    problem = bl.Problem(cp.Maximize(x), [x * y <= 4, x >= 0], followers=[follower])
    assert bl.verify(problem, {x: 2.0, y: 2.0}).accepted
    assert not bl.verify(problem, {x: 2.001, y: 2.001}).accepted


@pytest.mark.parametrize("value", [0.5, 0.99999, 1 + 1e-5])
@pytest.mark.parametrize("kind", ["integer", "boolean"])
def test_a_fraction_for_an_integer_is_refused(kind, value):
    k, y = cp.Variable(name="k", **{kind: True}), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= k], variables=[y])
    problem = bl.Problem(cp.Minimize(y), [k >= -3, k <= 3], followers=[follower])
    certificate = bl.verify(problem, {k: value, y: value})
    assert not certificate.accepted
    assert certificate.integrality_violation == pytest.approx(abs(value - round(value)))
    assert bl.verify(problem, {k: 1.0, y: 1.0}).accepted


def test_a_boolean_of_two_is_refused():
    k, y = cp.Variable(name="k", boolean=True), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= k], variables=[y])
    problem = bl.Problem(cp.Minimize(y + k), [], followers=[follower])
    assert not bl.verify(problem, {k: 2.0, y: 2.0}).accepted


# ----------------------------------------------------------------------- multipliers and values


def priced():
    """The multiplier of ``y >= x`` is ``2 x``."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    demand = y >= x
    follower = bl.Follower(cp.Minimize(cp.square(y)), [demand, y <= 9], variables=[y], name="f")
    price = follower.dual(demand)
    problem = bl.Problem(cp.Maximize(price + y), [x >= 1, x <= 3], followers=[follower])
    return problem, x, y, price


@pytest.mark.parametrize("error", [1e-5, 0.1, -0.1, -10.0])
def test_a_wrong_multiplier_is_refused(error):
    problem, x, y, price = priced()
    good = bl.verify(problem, {x: 2.0, y: 2.0, price: 4.0})
    assert good.accepted
    assert good.leader_value == pytest.approx(6)
    wrong = bl.verify(problem, {x: 2.0, y: 2.0, price: 4.0 + error})
    assert not wrong.accepted
    assert wrong.multiplier_violation >= abs(error) / 10


def test_a_multiplier_of_an_inactive_row_is_refused():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    far = y <= 9
    follower = bl.Follower(cp.Minimize(y), [y >= x, far], variables=[y])
    price = follower.dual(far)
    problem = bl.Problem(cp.Maximize(price), [x >= 0, x <= 1], followers=[follower])
    assert bl.verify(problem, {x: 0.0, y: 0.0, price: 0.0}).accepted
    assert not bl.verify(problem, {x: 0.0, y: 0.0, price: 1e-3}).accepted


def test_any_optimal_multiplier_is_accepted_and_no_other():
    """Spec T8: the demand stands there twice, the two multipliers add up to one."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    demand, again = y >= x, y >= x
    follower = bl.Follower(cp.Minimize(y), [demand, again], variables=[y])
    first, second = follower.dual(demand), follower.dual(again)
    problem = bl.Problem(cp.Minimize(first - second), [x == 1], followers=[follower])
    for share in (0.0, 0.3, 1.0):
        right = bl.verify(problem, {x: 1.0, y: 1.0, first: share, second: 1 - share})
        assert right.accepted
        assert right.unique_multipliers is False
    assert not bl.verify(problem, {x: 1.0, y: 1.0, first: 0.7, second: 0.7}).accepted
    assert not bl.verify(problem, {x: 1.0, y: 1.0, first: 1.5, second: -0.5}).accepted


def test_multipliers_of_an_equation_may_have_either_sign():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    balance = y == x
    follower = bl.Follower(cp.Maximize(3 * y), [balance], variables=[y])
    price = follower.dual(balance)
    problem = bl.Problem(cp.Minimize(price), [x == 1], followers=[follower])
    alone = cp.Problem(cp.Maximize(3 * y), [balance])
    x.value = np.array(1.0)
    alone = cp.Problem(cp.Maximize(3 * (other := cp.Variable())), [other == 1.0])
    alone.solve(solver="CLARABEL")
    sign = float(alone.constraints[0].dual_value)
    assert abs(sign) == pytest.approx(3)
    assert bl.verify(problem, {x: 1.0, y: 1.0, price: sign}).accepted
    assert not bl.verify(problem, {x: 1.0, y: 1.0, price: -sign}).accepted


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("error", [0.0, 1e-4, -1.0])
def test_a_wrong_value_of_a_follower_is_refused(error, maximize):
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    sense = cp.Maximize(5 - y) if maximize else cp.Minimize(5 + y)
    follower = bl.Follower(sense, [y >= x], variables=[y], name="f")
    problem = bl.Problem(cp.Minimize(follower.value), [x >= 1, x <= 3], followers=[follower])
    truth = 5 - 2 if maximize else 5 + 2
    certificate = bl.verify(problem, {x: 2.0, y: 2.0, follower.value: truth + error})
    assert certificate.accepted == (error == 0)
    if error:
        assert certificate.coupling_violation > 1e-6
    left_out = bl.verify(problem, {x: 2.0, y: 2.0})
    assert left_out.accepted
    assert left_out.leader_value == pytest.approx(truth)


# --------------------------------------------------------------------------- promises and stances


def indifferent(stance):
    """The follower does not care about ``y`` in ``[0, x]``; the leader wants it large."""
    x, y, z = (cp.Variable(name=name) for name in "xyz")
    follower = bl.Follower(cp.Minimize(z), [y >= 0, y <= x, z >= x], variables=[y, z], name="f")
    problem = bl.Problem(cp.Maximize(y - x / 2), [x >= 0, x <= 4], followers=[follower])
    return problem.replace(stance=stance)


def test_a_pessimistic_point_that_promises_too_much_is_refused():
    promised = {"x": 4.0, "y": 4.0, "z": 4.0}
    hopeful = bl.verify(indifferent("optimistic"), promised)
    assert hopeful.accepted
    assert (hopeful.optimistic_value, hopeful.pessimistic_value) == (
        pytest.approx(2),
        pytest.approx(-2),
    )
    assert hopeful.unique_response is False
    cautious = bl.verify(indifferent("pessimistic"), promised)
    assert not cautious.accepted
    assert any("promises" in note for note in cautious.notes)
    assert bl.verify(indifferent("pessimistic"), {"x": 4.0, "y": 0.0, "z": 4.0}).accepted


def test_a_pessimistic_promise_of_a_thousandth_too_much_is_refused():
    certificate = bl.verify(indifferent("pessimistic"), {"x": 4.0, "y": 1e-3, "z": 4.0})
    assert not certificate.accepted


def test_a_coupling_row_must_hold_for_every_best_answer():
    x, y, z = (cp.Variable(name=name) for name in "xyz")
    follower = bl.Follower(cp.Minimize(z), [y >= 0, y <= x, z >= x], variables=[y, z])
    leading = [x >= 0, x <= 4, y <= 1]
    problem = bl.Problem(cp.Minimize(-x), leading, followers=[follower])
    point = {"x": 4.0, "y": 0.0, "z": 4.0}
    assert bl.verify(problem, point).accepted
    cautious = bl.verify(problem.replace(stance="pessimistic"), point)
    assert not cautious.accepted
    assert any("coupling" in note.lower() for note in cautious.notes)
    held = {"x": 1.0, "y": 0.0, "z": 1.0}
    assert bl.verify(problem.replace(stance="pessimistic"), held).accepted


def test_only_the_leader_can_be_given():
    """Followers that are left out get the answer the leader likes best."""
    certificate = bl.verify(indifferent("optimistic"), {"x": 4.0})
    assert certificate.accepted
    assert certificate.leader_value == pytest.approx(2)


# ----------------------------------------------------------------------------- several followers


def duopoly(price_floor=0.0):
    """Two firms: inverse demand ``12 - q0 - q1``, tax ``t`` on the first: Cournot equilibrium."""
    t = cp.Variable(name="t")
    q = [cp.Variable(name=f"q{k}") for k in range(2)]
    followers = []
    for k in range(2):
        cost = t if k == 0 else 0
        profit = (12 - cost) * q[k] - cp.square(q[k]) - q[0] * q[1]
        followers.append(
            bl.Follower(cp.Maximize(profit), [q[k] >= 0], variables=[q[k]], name=f"firm{k}")
        )
    leading = [t >= 0, t <= 6]
    return bl.Problem(cp.Maximize(t * q[0]), leading, followers=followers)


def test_the_equilibrium_is_accepted_and_any_other_pair_is_not():
    problem, t = duopoly(), 1.5
    nash = {"t": t, "q0": (12 - 2 * t) / 3, "q1": (12 + t) / 3}
    certificate = bl.verify(problem, nash)
    assert certificate.accepted
    assert set(certificate.follower_gaps) == {"firm0", "firm1"}
    wrong = bl.verify(problem, {**nash, "q0": nash["q0"] + 0.1})
    assert not wrong.accepted
    # The firm that moved leaves 0.01 of its profit of 9; the other could now gain 0.0025.
    assert wrong.follower_gaps["firm0"] == pytest.approx(0.01 / 9, rel=1e-3)
    assert wrong.follower_gaps["firm1"] > 0
    monopoly = {"t": t, "q0": (12 - t) / 4, "q1": (12 - t) / 4}
    assert not bl.verify(problem, monopoly).accepted


def test_one_of_two_followers_is_wrong_and_is_named():
    x = cp.Variable(name="x")
    y = [cp.Variable(name=f"y{k}") for k in range(2)]
    followers = [
        bl.Follower(cp.Minimize(y[k]), [y[k] >= (k + 1) * x], variables=[y[k]], name=f"f{k}")
        for k in range(2)
    ]
    problem = bl.Problem(cp.Minimize(x + sum(y)), [x >= 1, x <= 3], followers=followers)
    assert bl.verify(problem, {x: 1.0, y[0]: 1.0, y[1]: 2.0}).accepted
    wrong = bl.verify(problem, {x: 1.0, y[0]: 1.0, y[1]: 2.5})
    assert not wrong.accepted
    assert wrong.follower_gaps["f0"] <= 1e-9
    assert wrong.follower_gaps["f1"] == pytest.approx(0.25)


# --------------------------------------------------------------------------- tolerances and reports


def test_tolerances_are_shown_and_used():
    problem, point = carrier(), {"x": 4.0, "y": 4 - 4e-4}
    strict = bl.verify(problem, point)
    assert not strict.accepted
    assert "REFUSED" in strict.summary()
    loose = bl.verify(problem, point, tolerances=Tolerances(gap=1e-3))
    assert loose.accepted
    assert loose.tolerances.gap == 1e-3
    assert "gap 0.001" in loose.summary()
    assert loose.to_dict()["tolerances"]["gap"] == 1e-3
    tight = bl.verify(problem, {"x": 4.0, "y": 4 - 1e-6}, tolerances=Tolerances(gap=1e-9))
    assert not tight.accepted


def test_default_tolerances_are_those_of_the_design():
    default = Tolerances()
    assert (default.violation, default.gap, default.integrality) == (1e-6, 1e-6, 1e-6)
    assert bl.verify(carrier(), {"x": 4.0, "y": 4.0}).tolerances == default


def test_a_solution_can_be_verified_again_and_elsewhere():
    problem = carrier()
    solution = bl.solve(problem)
    assert bl.verify(problem, solution).accepted
    other = problem.replace(constraints=[*problem.constraints, problem.variables[0] >= 3])
    assert not bl.verify(other, solution).accepted


def test_parameters_of_the_certificate_override_those_of_the_problem():
    p = cp.Parameter(name="p", value=1.0)
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= p * x], variables=[y])
    problem = bl.Problem(cp.Minimize(y), [x >= 1, x <= 2], followers=[follower])
    assert bl.verify(problem, {x: 1.0, y: 1.0}).accepted
    assert not bl.verify(problem, {x: 1.0, y: 1.0}, parameters={p: 2.0}).accepted
    assert bl.verify(problem, {x: 1.0, y: 2.0}, parameters={p: 2.0}).accepted


def test_verification_uses_another_route_than_the_search():
    certificate = bl.verify(carrier(), {"x": 4.0, "y": 4.0})
    assert certificate.route
    assert certificate.route not in ("highs", "scip")


def test_an_epigraph_column_is_not_a_second_answer():
    """``|y|`` compiles to an auxiliary column; the answer is unique all the same."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.abs(y - x) + 0.1 * y), [y <= 9], variables=[y])
    problem = bl.Problem(cp.Minimize(x + y), [x >= 0, x <= 2], followers=[follower])
    certificate = bl.verify(problem, {x: 1.0, y: 1.0})
    assert certificate.accepted
    assert certificate.unique_response is True
    assert not bl.verify(problem, {x: 1.0, y: 1.01}).accepted


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ({"y": 1.0}, "leader's variable x"),
        ({"x": 1.0, "w": 2.0}, "'w'"),
        ({"x": np.ones(2), "y": 1.0}, "shape"),
        ({"x": math.nan, "y": 1.0}, "NaN"),
        ({"x": 1.0, "y": math.inf}, "infinite"),
        ({"x": "one", "y": 1.0}, "not numeric"),
        ([1.0, 2.0], "mapping"),
    ],
)
def test_a_point_that_is_no_point_is_an_error(point, words):
    with pytest.raises(ProblemError, match=words):
        bl.verify(carrier(), point)
