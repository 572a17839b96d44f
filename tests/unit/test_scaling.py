"""Scaling loses no digit, leaves sensible problems alone, and translates everything back."""

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel.problem.scaling import Scaling


def market(money=1.0, size=1.0):
    """A buyer of ``y`` units of ``size`` each; the leader is paid the cap's shadow price."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    gain = money * (12 * size * y - (size * y) ** 2 - x * size * y)
    buyer = bl.Follower(cp.Maximize(gain), [size * y <= 4], variables=[y], name="buyer")
    price = buyer.dual(buyer.constraints[0])
    leader = cp.Maximize(x * y * size + price / money)
    return bl.Problem(leader, [x >= 0, x <= 10], [buyer]), x, y


def test_a_sensible_problem_is_left_as_it_is():
    form = market()[0].compile()
    scaling = Scaling.of(form)
    assert scaling.is_plain
    assert scaling.form is form
    assert Scaling.of(form) is scaling


@pytest.mark.parametrize("money", [1e-8, 1e-3, 1e6])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e5])
def test_all_factors_are_powers_of_two_and_values_agree(money, size):
    form = market(money, size)[0].compile()
    scaling = Scaling.of(form)
    objectives = [scale.objective for scale in scaling.followers]
    rows = [scale.rows for scale in scaling.followers]
    factors = np.concatenate([scaling.columns, objectives, *rows, [scaling.objective]])
    assert set(np.frexp(factors)[0]) == {0.5}
    w = np.random.default_rng(0).uniform(1, 2, form.n) * scaling.columns
    u = scaling.inside(w)
    np.testing.assert_array_equal(scaling.outside(u), w)
    assert scaling.value(scaling.form.objective.evaluate(u)) == pytest.approx(
        form.objective.evaluate(w), rel=1e-12
    )
    for one, two, scale in zip(
        form.followers, scaling.form.followers, scaling.followers, strict=True
    ):
        np.testing.assert_allclose(
            two.rows.evaluate(u), scale.rows * one.rows.evaluate(w), rtol=1e-12
        )
        gradient = scaling.columns * (one.objective.P @ w + one.objective.c) * scale.objective
        own = one.columns
        np.testing.assert_allclose(
            (two.objective.P @ u + two.objective.c)[own], gradient[own], rtol=1e-12
        )


@pytest.mark.parametrize("money", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_market_in_any_currency_and_any_unit(money, size):
    """The cap binds up to ``x = 4``, where the leader earns ``4 x`` and the cap's price ``4 - x``.

    Beyond, ``y = (12 - x) / 2``: 18 at 6.
    """
    problem, x, y = market(money, size)
    solution = bl.solve(problem)
    assert solution.status.name == "OPTIMAL"
    assert solution.leader_value == pytest.approx(18.0, abs=2e-5)
    assert float(solution[x]) == pytest.approx(6.0, abs=1e-2)
    assert size * float(solution[y]) == pytest.approx(3.0, abs=1e-2)
    assert bool(solution.certificate.scales) == (money != 1.0 or size != 1.0)


def test_what_a_follower_cannot_change_is_taken_off():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    cost = cp.square(y - x) + 1e8 + 1000 * x
    follower = bl.Follower(cp.Minimize(cost), [y >= -100, y <= 100], [y])
    problem = bl.Problem(cp.Minimize(2 * x - y), [x >= 0, x <= 1], [follower])
    scaled = Scaling.of(problem.compile()).form.followers[0].objective
    assert scaled.constant == 0.0
    solution = bl.solve(problem)
    assert solution.follower_values[follower.name] == pytest.approx(1e8)
    assert not bl.verify(problem, {"x": 0.0, "y": 9.0}).accepted
    assert bl.verify(problem, {"x": 0.0, "y": 0.0}).accepted


@pytest.mark.parametrize("far", [1e12, 1e15, 1e20, 1e30])
def test_a_placeholder_is_no_bound_and_is_said_once(far):
    for leader, follower in ((far, None), (10.0, far)):
        x, y = cp.Variable(name="x"), cp.Variable(name="y")
        rows = [y >= 0] if follower is None else [y >= 0, y <= follower]
        shop = bl.Follower(cp.Maximize(10 * y - cp.square(y) - x * y), rows, [y], name="shop")
        problem = bl.Problem(cp.Maximize(x * y), [x >= 0, x <= leader], [shop])
        solution = bl.solve(problem)
        assert solution.status.name == "OPTIMAL"
        assert solution.leader_value == pytest.approx(12.5, abs=1e-5)
        assert [one.count("taken as none") for one in solution.certificate.scales] == [1]


def test_a_coefficient_that_plays_no_role_is_left_out():
    """``c x + y >= 2`` with ``x <= 5`` is ``y >= 2`` in doubles: 9, as without the term."""
    for c in (1e-20, 1e-60, 1e-100):
        x, y, z = (cp.Variable(name=name) for name in "xyz")
        rows = [y + z == 3, y >= 0, z >= 0, y <= 5, z <= 5]
        follower = bl.Follower(cp.Minimize(-y + z), rows, variables=[y, z])
        leader_rows = [x >= 0, x <= 5, x + y <= 8, x + y >= 6, c * x + y >= 2]
        solution = bl.solve(bl.Problem(cp.Minimize(x + 2 * y), leader_rows, [follower]))
        assert solution.status.name == "OPTIMAL"
        assert solution.leader_value == pytest.approx(9.0, abs=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e8, 1e12, 1e14])
def test_a_tiny_unit_does_not_hide_the_leader_from_a_row(size):
    """``y = 5 - x`` violates ``3 y - 3 x <= 4`` for every ``x <= 1``, in whatever unit ``y`` is."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    rows = [size * y + x <= 5, size * y >= 1]
    follower = bl.Follower(cp.Maximize(3 * size * y), rows, variables=[y])
    leader_rows = [x >= 0.5, x <= 1, 3 * size * y - 3 * x <= 4]
    problem = bl.Problem(cp.Minimize(-x), leader_rows, [follower])
    for solver in (None, bl.Branching(), bl.SingleLevel(), bl.Substitution()):
        assert bl.solve(problem, solver, throw=False).status is bl.Status.INFEASIBLE
