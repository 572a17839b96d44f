"""What units, constants and mixed coefficients turned into a wrong claim once."""

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl


@pytest.mark.parametrize("a", [1e3, 3e6, 2e7, 5e8])
def test_a_large_willingness_is_not_infeasible(a):
    """Buyer ``max a y - y^2 - x y``: ``y = (a - x) / 2``; the seller's best price is 30."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    buyer = bl.Follower(cp.Maximize(a * y - cp.square(y) - x * y), [y >= 0], variables=[y])
    problem = bl.Problem(cp.Maximize(x * y - y), [x >= 1, x <= 30], [buyer])
    solution = bl.solve(problem)
    assert solution.status.name == "OPTIMAL"
    assert solution.leader_value == pytest.approx(29 * (a - 30) / 2, rel=1e-5)


@pytest.mark.parametrize("large", [3e4, 2e5])
@pytest.mark.parametrize("sign", [1, -1])
def test_mixed_coefficients_cut_nothing_off(large, sign):
    """No row couples and every decision has a response, so ``-2 x - x^2`` is least at 3: -15."""
    A, b = np.array([[large, -2.0], [1.0, sign * large]]), np.array([2.0, 5.0])
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    cost = (np.array([-1.0, 2.0]) + np.array([1.0, -2.0]) * x) @ y
    rows = [2 * y[0] + 3 * y[1] <= 6, A @ y <= b, y >= 0]
    follower = bl.Follower(cp.Minimize(cost), rows, [y])
    problem = bl.Problem(cp.Minimize(-2 * x - cp.square(x)), [x >= 0, x <= 3], [follower])
    solution = bl.solve(problem)
    assert solution.status.name == "OPTIMAL"
    assert solution.leader_value == pytest.approx(-15.0, abs=1e-4)


@pytest.mark.parametrize(("big", "small"), [(1e4, 1e-5), (1e6, 1e-3), (1e3, 1e-7)])
def test_a_small_cost_beside_a_large_one_decides_too(big, small):
    """``big y0 + small y1`` over ``y0 >= 1, 0 <= y1 <= 10`` has one response, (1, 0)."""
    for stance, sign in (("optimistic", -1), ("pessimistic", 1)):
        x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
        rows = [y[0] >= 1, y[1] >= 0, y[1] <= 10]
        follower = bl.Follower(cp.Minimize(big * y[0] + small * y[1]), rows, [y])
        leader = cp.Minimize(x + sign * y[1])
        problem = bl.Problem(leader, [x >= 0, x <= 1], [follower], stance=stance)
        for solver in (None, bl.Substitution(), bl.SingleLevel()):
            if stance == "pessimistic" and solver is not None:
                continue
            solution = bl.solve(problem, solver, throw=False)
            assert solution.status.has_point
            assert solution.leader_value == pytest.approx(0.0, abs=1e-5)
            assert solution.certificate.accepted
        assert not bl.verify(problem, {"x": 0.0, "y": [1.0, 10.0]}).accepted


@pytest.mark.parametrize("k", [1.0, 10.0, 1e5])
def test_prices_have_units(k):
    """A leader that withholds capacity of a market whose costs are times ``k`` earns 20000 k."""
    for solver in (bl.Auto(), bl.SingleLevel(bl.StrongDuality()), bl.Substitution()):
        q, g = cp.Variable(name="q"), cp.Variable(4, name="g")
        balance = cp.sum(g) == 100
        cost = k * (50 * g[1] + 100 * g[2] + 1000 * g[3])
        rows = [balance, g[0] <= q, g[1] <= 40, g[2] <= 40, g[3] <= 100, g >= 0]
        market = bl.Follower(cp.Minimize(cost), rows, variables=[g], name="market")
        leader = cp.Maximize(-market.dual(balance) * g[0])
        problem = bl.Problem(leader, [q >= 0, q <= 100], [market])
        solution = bl.solve(problem, solver, time_limit=60)
        assert solution.status.name == "OPTIMAL"
        assert solution.leader_value == pytest.approx(20000.0 * k, rel=1e-5)
