"""Market clearing against merit order, a second solver, and costs recovered from observations."""

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel import ProblemError
from bilevel.applications.market_clearing import market_clearing

UNITS = [("hydro", "b", 100), ("gas", "c", 60), ("oil", "c", 50)]
LINES = [("a", "b", 10, 60), ("b", "c", 10, 30), ("a", "c", 10, 25)]


def cleared(market, cost, rise, demand):
    """Return outputs and prices by another solver than the library's."""
    market.cost.value, market.rise.value, market.demand.value = cost, rise, demand
    problem = cp.Problem(market.operator.objective, market.operator.constraints)
    problem.solve(solver="OSQP", eps_abs=1e-9, eps_rel=1e-9, max_iter=100_000)
    return market.output.value, market.operator.constraints[0].dual_value


def test_one_node_is_the_merit_order():
    market = market_clearing([(name, "bus", most) for name, _, most in UNITS])
    output, price = cleared(market, [20, 45, 60], [0, 0, 0], [130])
    assert output == pytest.approx([100, 30, 0], abs=1e-5)
    assert price == pytest.approx([45], abs=1e-5)


def test_narrow_lines_separate_prices():
    market = market_clearing(UNITS, LINES, ["a"])
    assert market.network.nodes == ("a", "b", "c")
    output, price = cleared(market, [20, 45, 60], [0.01, 0.1, 0.1], [10, 0, 80])
    into_c = 80 - output[1] - output[2]
    assert into_c <= 55 + 1e-6
    assert price[1] < price[0] < price[2]
    # A unit between its limits is paid its marginal cost.
    assert price[1] == pytest.approx(20 + 0.01 * output[0], abs=1e-5)
    assert price[2] == pytest.approx(45 + 0.1 * output[1], abs=1e-5)


def test_a_price_is_what_another_mw_costs():
    market = market_clearing(UNITS, LINES)
    cost, rise, demand = [20, 45, 60], [0.01, 0.1, 0.1], np.array([10.0, 0.0, 80.0])
    _, price = cleared(market, cost, rise, demand)

    def spent(load):
        cleared(market, cost, rise, load)
        return market.operator.objective.value

    step = 1e-2
    for node in range(3):
        unit = step * np.eye(3)[node]
        slope = (spent(demand + unit) - spent(demand - unit)) / (2 * step)
        assert price[node] == pytest.approx(slope, abs=1e-4)


def test_it_is_a_follower_like_others():
    market = market_clearing([(name, "bus", most) for name, _, most in UNITS])
    values = {market.cost: [20, 45, 60], market.rise: [0.01, 0.1, 0.1], market.demand: [150]}
    problem = bl.Problem(cp.Minimize(market.price[0]), [], [market.operator])
    solution = bl.solve(problem, parameters=values)
    assert solution.leader_value == pytest.approx(45 + 0.1 * 50, abs=1e-6)


def test_a_layer_agrees_with_another_solver_and_finds_the_costs():
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    pytest.importorskip("numba", reason="needs the extra `torch` (numba)")
    from bilevel.layers import FollowerLayer

    market = market_clearing(UNITS, LINES)
    inputs, outputs = [market.cost, market.rise, market.demand], [market.output, market.price]
    layer = FollowerLayer(market.operator, inputs, outputs)
    demand = torch.tensor([[10.0, 0, 30], [10, 0, 80], [0, 20, 110]], dtype=torch.float64)
    cost, rise = torch.tensor([[20.0, 45, 60], [0.01, 0.1, 0.1]], dtype=torch.float64)
    output, price = layer(cost, rise, demand)
    for i, load in enumerate(demand):
        other = cleared(market, cost.numpy(), rise.numpy(), load.numpy())
        assert output[i].numpy() == pytest.approx(other[0], abs=1e-4)
        assert price[i].numpy() == pytest.approx(other[1], abs=1e-4)

    guess = torch.full((3,), 30.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([guess], max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        found, value = layer(guess, rise, demand)
        error = (found - output).square().mean() + (value - price).square().mean()
        error.backward()
        return error

    optimizer.step(loss)
    assert guess.detach().numpy() == pytest.approx([20, 45, 60], abs=1e-4)


@pytest.mark.parametrize(
    ("units", "lines", "said"),
    [
        ([], [], "no unit"),
        ([("a", "n")], [], "A unit is"),
        ([("a", "n", 1), ("a", "n", 2)], [], "Two units are called 'a'"),
        ([("a", "n", 0)], [], "capacity of unit 'a' must be above 0"),
        ([("a", "n", float("nan"))], [], "capacity of unit 'a' must be finite"),
        ([("a", "n", 1)], [("m", "k", 1, 1)], "falls apart"),
    ],
)
def test_bad_data_are_named(units, lines, said):
    with pytest.raises(ProblemError, match=said):
        market_clearing(units, lines)
