"""Bids against grids of bids, each cleared again by plain linear programs."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

import bilevel as bl
from bilevel.applications.market_bid import Generator, market_bid


def cleared(units, owned, demand, lines, cap, offers):
    """Return the best profit over all optimal dispatches and prices of one clearing.

    Every optimal dispatch fits every optimal price, and the profit is linear in each: the best is
    at a vertex of what (at most two) own units can be dispatched to, seen from many directions.
    """
    nodes = list(dict.fromkeys([n for line in lines for n in line[:2]] + list(demand)))
    n, m, k = len(nodes), len(units), len(lines)
    cost = np.array([offers.get(u[0], u[2]) for u in units] + [cap] * n + [0.0] * n)
    balance = np.zeros((n, m + 2 * n))
    for j, unit in enumerate(units):
        balance[nodes.index(unit[1]), j] = 1
    balance[:, m : m + n] = np.eye(n)
    flow = np.zeros((k, m + 2 * n))
    for row, (tail, head, susceptance, _) in enumerate(lines):
        a, b = nodes.index(tail), nodes.index(head)
        flow[row, m + n + a], flow[row, m + n + b] = susceptance, -susceptance
        balance[a] -= flow[row]
        balance[b] += flow[row]
    load = np.array([demand.get(node, 0.0) for node in nodes])
    limit = np.array([line[3] for line in lines])
    finite = np.isfinite(limit)
    upper = np.concatenate([[u[3] for u in units], load, np.full(n, np.inf)])
    lower = np.concatenate([np.zeros(m + n), np.full(n, -np.inf)])
    lower[m + n] = upper[m + n] = 0.0  # one reference angle
    A, b = np.vstack([flow[finite], -flow[finite]]), np.concatenate([limit[finite]] * 2)
    bounds = np.c_[lower, upper]
    first = linprog(cost, A, b, balance, load, bounds)
    assert first.status == 0
    # All optimal dispatches, and all optimal prices (the dual written out).
    hold = np.vstack([A, cost]), np.append(b, first.fun + 1e-7)
    own = [j for j, unit in enumerate(units) if unit[0] in owned]
    plans = []
    for angle in np.linspace(0, 2 * np.pi, 2 if len(own) == 1 else 16, endpoint=False):
        aim = np.zeros(m + 2 * n)
        aim[own] = [np.cos(angle), np.sin(angle)][: len(own)]
        plans.append(linprog(aim, *hold, balance, load, bounds).x[:m])
    # Variables of the dual: prices, line multipliers, multipliers of upper bounds (m + n).
    width = n + len(b) + m + n
    transposed = np.hstack([balance.T, -A.T, np.vstack([-np.eye(m + n), np.zeros((n, m + n))])])
    objective = np.concatenate([load, -b, -upper[: m + n]])
    sides = [(None, None)] * n + [(0, None)] * (width - n)
    rows = np.arange(m + 2 * n)
    angles = rows[m + n + 1 :]
    usual = rows[: m + n]
    dual = {
        "A_ub": np.vstack([transposed[usual], -objective]),
        "b_ub": np.append(cost[usual], -first.fun + 1e-7),
        "A_eq": transposed[angles],
        "b_eq": np.zeros(len(angles)),
        "bounds": sides,
    }
    if not len(angles):
        del dual["A_eq"], dual["b_eq"]
    best = -np.inf
    for plan in plans:
        aim, base = np.zeros(width), 0.0
        for j, unit in enumerate(units):
            if unit[0] in owned:
                aim[nodes.index(unit[1])] += plan[j]
                base -= unit[2] * plan[j]
        best = max(best, -linprog(-aim, **dual).fun + base)
    return best


ONE_BUS = {
    "units": [("coal", "bus", 10, 120), ("gas", "bus", 30, 70)],
    "demand": {"bus": 120},
    "lines": [],
}
# The cheap unit at a, most demand at c; the line a - c is the narrow one.
TRIANGLE = {
    "units": [("own", "a", 12, 150), ("hydro", "b", 20, 60), ("gas", "c", 45, 100)],
    "demand": {"b": 20, "c": 110},
    "lines": [("a", "b", 10, np.inf), ("b", "c", 10, 60), ("a", "c", 10, 50)],
}
# Little gets into c, where the own unit stands: prices differ.
POCKET = {
    "units": [("own", "c", 25, 60), ("hydro", "b", 20, 100), ("gas", "c", 45, 30)],
    "demand": {"a": 10, "c": 100},
    "lines": [("a", "b", 10, 60), ("b", "c", 10, 30), ("a", "c", 10, 25)],
}
TWO_OWN = {
    "units": [("own1", "a", 12, 60), ("own2", "c", 25, 40), ("h", "b", 20, 60), ("g", "c", 45, 50)],
    "demand": {"a": 15, "b": 30, "c": 90},
    "lines": [("a", "b", 8, 40), ("b", "c", 12, 45), ("a", "c", 5, 15)],
}


def solved(case, owned, price_cap=100, **changes):
    bid = market_bid(
        case["units"], owned, case["demand"], case["lines"], price_cap=price_cap, **changes
    )
    solution = bl.solve(bid.problem)
    assert solution.status is bl.Status.OPTIMAL
    assert solution.certificate.accepted
    assert bid.profit(solution) == pytest.approx(solution.leader_value, rel=1e-6, abs=1e-5)
    return bid, solution


@pytest.mark.parametrize(
    ("case", "owned", "n"),
    [
        (ONE_BUS, ["coal"], 21),
        (TRIANGLE, ["own"], 21),
        (POCKET, ["own"], 21),
        (TWO_OWN, ["own1", "own2"], 5),
    ],
)
def test_no_bid_on_a_grid_is_better_and_the_bid_found_is_worth_it(case, owned, n):
    bid, solution = solved(case, owned)
    arguments = (case["units"], owned, case["demand"], case["lines"], 100)
    found = cleared(*arguments, bid.offers(solution))
    assert found == pytest.approx(solution.leader_value, rel=1e-5, abs=1e-3)
    grid = np.union1d(np.linspace(0, 100, n), [unit[2] for unit in case["units"]])
    tried = [
        cleared(*arguments, dict(zip(owned, offers, strict=True)))
        for offers in itertools.product(grid, repeat=len(owned))
    ]
    assert max(tried) <= solution.leader_value + 1e-3


def test_congestion_makes_prices_differ():
    bid, solution = solved(POCKET, ["own"])
    assert bid.prices(solution) == pytest.approx({"a": 60, "b": 20, "c": 100}, abs=1e-5)
    assert bid.outputs(solution) == pytest.approx({"own": 30, "hydro": 50, "gas": 30}, abs=1e-5)
    assert solution.certificate.unique_multipliers


def test_withholding_never_costs_and_its_profit_is_cleared_again():
    for case, owned in ((POCKET, ["own"]), (TWO_OWN, ["own1", "own2"])):
        _, without = solved(case, owned)
        bid, solution = solved(case, owned, withholding=True)
        assert solution.leader_value >= without.leader_value - 1e-5
        offered = bid.quantities(solution)
        units = [(*unit[:3], offered.get(unit[0], unit[3])) for unit in case["units"]]
        arguments = (units, owned, case["demand"], case["lines"], 100, bid.offers(solution))
        assert cleared(*arguments) >= solution.leader_value - 1e-3


def test_the_certificate_tells_that_prices_are_not_unique():
    # The demand is what both units have, so that any price up to the cap clears the market.
    case = {**ONE_BUS, "units": [("coal", "bus", 10, 50), ("gas", "bus", 30, 70)]}
    bid, solution = solved(case, ["coal"])
    assert bid.prices(solution)["bus"] == pytest.approx(100, abs=1e-5)
    point = {bid.offer: [20.0], bid.output: [50.0, 70.0], "shed": [0.0]}
    certificate = bl.verify(bid.problem, point)
    assert certificate.accepted
    assert certificate.unique_multipliers is False
    # Of all prices that clear the market, the leader reckons with the best.
    assert certificate.leader_value == pytest.approx(4500, abs=1e-4)


def test_without_rivals_everything_is_sold_at_the_cap():
    bid, solution = solved(
        {"units": [("own", 1, 10, 40)], "demand": {2: 30}, "lines": [(1, 2, 5, 20)]}, ["own"]
    )
    assert solution.leader_value == pytest.approx(20 * 90, abs=1e-4)
    assert bid.quantities(solution) == {"own": 40.0}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_of_24_nodes_is_solved(seed):
    rng = np.random.default_rng(seed)
    lines = [(i, (i + 1) % 24, *rng.uniform([5, 20], [15, 60])) for i in range(24)]
    lines += [(i, (i + 7) % 24, *rng.uniform([5, 20], [15, 60])) for i in range(0, 24, 3)]
    units = [(f"u{j}", int(rng.integers(24)), *rng.uniform([10, 30], [50, 120])) for j in range(30)]
    demand = dict(enumerate(rng.uniform(10, 60, 24)))
    bid = market_bid(units, [f"u{j}" for j in range(6)], demand, lines, price_cap=100)
    solution = bl.solve(bid.problem)
    assert solution.status is bl.Status.OPTIMAL
    assert bid.profit(solution) == pytest.approx(solution.leader_value, rel=1e-6)


GOOD = {
    "generators": [("own", "a", 10, 40), ("gas", "b", 30, 40)],
    "owned": ["own"],
    "demand": {"b": 50},
    "lines": [("a", "b", 10, 30)],
    "price_cap": 100,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generators": [("own", "a", -1, 40)]}, "cost of generator 'own' must be at least 0"),
        ({"generators": [("own", "a", np.nan, 40)]}, "cost of generator 'own' must be finite"),
        ({"generators": [("own", "a", 10, 0)]}, "capacity of generator 'own' must be above 0"),
        ({"generators": [("own", "a", 10, "big")]}, "capacity of generator 'own' must be a number"),
        ({"generators": [("own", "a", 10)]}, r"A generator is \(name, node, cost, capacity\)"),
        ({"generators": [("own", "a", 10, 5)] * 2}, "Two generators are called 'own'"),
        ({"generators": [("own", "a", 120, 5)]}, "'own' costs 120, not below the price cap"),
        ({"generators": [Generator("own", "q", 10, 5)]}, "falls apart: .* 'q'"),
        ({"owned": ["coal"]}, r"no generator 'coal'; there are \['own', 'gas'\]"),
        ({"owned": []}, "owns no generator"),
        ({"demand": {"b": -5}}, "demand of node 'b' must be at least 0"),
        ({"demand": {"b": 0}}, "No node has a demand"),
        ({"demand": {"z": 5}}, "falls apart: .* 'z'"),
        ({"lines": []}, "falls apart"),
        ({"lines": [("a", "b", 0, 30)]}, "susceptance of line 'a' - 'b' must be above 0"),
        ({"lines": [("a", "b", 10, 0)]}, "limit of line 'a' - 'b' must be above 0.*Leave"),
        ({"lines": [("a", "b", 10, np.nan)]}, "limit of line 'a' - 'b' must be finite"),
        ({"lines": [("a", "a", 10, 30)]}, "ends where it begins"),
        ({"lines": [("a", "b", 10)]}, "A line is"),
        ({"price_cap": np.inf}, "price_cap must be finite"),
    ],
)
def test_bad_input_is_named(change, words):
    arguments = {**GOOD, **change}
    with pytest.raises(bl.ProblemError, match=words):
        market_bid(**arguments)
