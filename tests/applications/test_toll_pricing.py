"""Tolls against the enumeration of all assignments of routes, one linear program each."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse.csgraph import shortest_path

import bilevel as bl
from bilevel.applications.toll_pricing import toll_pricing


def simple_paths(arcs, origin, destination):
    """Return all simple paths as lists of arcs."""
    found, stack = [], [(origin, [], {origin})]
    while stack:
        node, path, seen = stack.pop()
        if node == destination:
            found.append(path)
            continue
        onward = [arc for arc in arcs if arc[0] == node and arc[1] not in seen]
        stack += [(arc[1], [*path, arc], seen | {arc[1]}) for arc in onward]
    return found


def best_revenue(arcs, tolled, commodities, max_toll=np.inf):
    """Return the best revenue: for each choice of routes, the tolls that make them cheapest."""
    index = {arc: i for i, arc in enumerate(tolled)}
    options = []
    for origin, destination, _ in commodities:
        paths = simple_paths(arcs, origin, destination)
        cost = np.array([sum(arc[2] for arc in path) for path in paths])
        uses = np.zeros((len(paths), len(tolled)))
        for row, path in enumerate(paths):
            for arc in path:
                if arc[:2] in index:
                    uses[row, index[arc[:2]]] = 1
        options.append((cost, uses))
    best = 0.0
    bounds = [(0, None if np.isinf(max_toll) else max_toll)] * len(tolled)
    for chosen in itertools.product(*(range(len(cost)) for cost, _ in options)):
        gain, A, b = np.zeros(len(tolled)), [], []
        for k, (cost, uses), (_, _, demand) in zip(chosen, options, commodities, strict=True):
            gain += demand * uses[k]
            A.append(uses[k] - uses)
            b.append(cost - cost[k])
        answer = linprog(-gain, np.vstack(A), np.concatenate(b), bounds=bounds)
        if answer.status == 0:
            best = max(best, -answer.fun)
    return best


def check(game, solution, arcs):
    """Check tolls, routes and revenue of a solution without the problem's own variables."""
    assert solution.status is bl.Status.OPTIMAL
    assert solution.certificate.accepted
    tolls = game.tolls(solution)
    assert all(value >= -1e-9 for value in tolls.values())
    price = {(tail, head): cost + tolls.get((tail, head), 0.0) for tail, head, cost in arcs}
    earned = 0.0
    for commodity in game.commodities:
        paths = simple_paths(arcs, commodity.origin, commodity.destination)
        cheapest = min(sum(price[arc[:2]] for arc in path) for path in paths)
        flows = game.routes(solution)[commodity.name]
        assert sum(flows.values()) == pytest.approx(commodity.demand)
        for nodes, flow in flows.items():
            steps = list(itertools.pairwise(nodes))
            assert sum(price[step] for step in steps) == pytest.approx(cheapest, abs=1e-6)
            earned += flow * sum(tolls.get(step, 0.0) for step in steps)
    assert earned == pytest.approx(solution.leader_value, rel=1e-6, abs=1e-6)


def random_network(seed):
    """Return arcs, tolled arcs and commodities; the ring around is free of tolls."""
    rng = np.random.default_rng(seed)
    ring = [(i, (i + 1) % 6) for i in range(6)] + [((i + 1) % 6, i) for i in range(6)]
    arcs = [(*arc, float(rng.integers(4, 12))) for arc in ring]
    chords = [(i, j) for i in range(6) for j in range(6) if (i - j) % 6 in (2, 3, 4)]
    tolled = [chords[k] for k in rng.choice(len(chords), 4, replace=False)]
    arcs += [(*arc, float(rng.integers(0, 5))) for arc in tolled]
    commodities = {}
    while len(commodities) < 2:
        ends = tuple(rng.choice(6, 2, replace=False).tolist())
        commodities[ends] = float(rng.integers(1, 10))
    return arcs, tolled, [(*ends, demand) for ends, demand in commodities.items()]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("max_toll", [np.inf, 3.0])
def test_revenue_is_that_of_the_enumeration(seed, max_toll):
    arcs, tolled, commodities = random_network(seed)
    expected = best_revenue(arcs, tolled, commodities, max_toll)
    try:
        game = toll_pricing(arcs, tolled, commodities, max_toll=max_toll)
    except bl.ProblemError as error:
        assert "No toll can be earned" in str(error)
        assert expected == pytest.approx(0, abs=1e-9)
        return
    solution = bl.solve(game.problem)
    check(game, solution, arcs)
    assert solution.leader_value == pytest.approx(expected, rel=1e-6, abs=1e-6)


# The 38 streets of Sioux Falls with their travel times, by LeBlanc, Morlok & Pierskalla,
# Transportation Research 9 (1975) 309-318.
SIOUX_FALLS = """1-2 6, 1-3 4, 2-6 5, 3-4 4, 3-12 4, 4-5 2, 4-11 6, 5-6 4, 5-9 5, 6-8 2, 7-8 3,
7-18 2, 8-9 10, 8-16 5, 9-10 3, 10-11 5, 10-15 6, 10-16 4, 10-17 8, 11-12 6, 11-14 4, 12-13 3,
13-24 4, 14-15 5, 14-23 4, 15-19 3, 15-22 3, 16-17 2, 16-18 3, 17-19 2, 18-20 4, 19-20 4, 20-21 6,
20-22 5, 21-22 2, 21-24 3, 22-23 4, 23-24 2"""


@pytest.mark.parametrize(("n_tolled", "n_commodities"), [(10, 10), (20, 30)])
def test_sioux_falls_is_solved_and_its_tolls_pay_what_is_claimed(n_tolled, n_commodities):
    arcs = []
    for street in SIOUX_FALLS.replace("\n", " ").split(", "):
        ends, time = street.split()
        tail, head = map(int, ends.split("-"))
        arcs += [(tail, head, float(time)), (head, tail, float(time))]
    rng = np.random.default_rng(0)
    tolled = [arcs[a][:2] for a in rng.choice(len(arcs), n_tolled, replace=False)]
    ends = {tuple((1 + rng.choice(24, 2, replace=False)).tolist()) for _ in range(n_commodities)}
    commodities = [(*pair, float(rng.integers(1, 20))) for pair in sorted(ends)]
    game = toll_pricing(arcs, tolled, commodities, max_toll=12.0)
    solution = bl.solve(game.problem)
    assert len(arcs) == 76
    assert solution.status is bl.Status.OPTIMAL
    tolls, earned = game.tolls(solution), 0.0
    price = {arc[:2]: arc[2] + tolls.get(arc[:2], 0.0) for arc in arcs}
    graph = np.zeros((25, 25))
    for (tail, head), cost in price.items():
        graph[tail, head] = cost
    distance = shortest_path(graph)
    for commodity in game.commodities:
        for nodes, flow in game.routes(solution)[commodity.name].items():
            steps = list(itertools.pairwise(nodes))
            paid = sum(price[step] for step in steps)
            assert paid == pytest.approx(distance[commodity.origin, commodity.destination])
            earned += flow * sum(tolls.get(step, 0.0) for step in steps)
    assert earned == pytest.approx(solution.leader_value, rel=1e-6)


def test_limits_stand_in_where_there_is_no_route_without_tolls():
    arcs = [("a", "b", 1.0), ("b", "c", 2.0), ("a", "c", 5.0), ("c", "d", 0.0)]
    tolled = [("a", "b"), ("a", "c")]
    game = toll_pricing(arcs, tolled, [("a", "d", 2.0)], max_toll={("a", "c"): 4.0})
    solution = bl.solve(game.problem)
    check(game, solution, arcs)
    # At most 9 is paid in all; the route over b costs 3.
    assert solution.leader_value == pytest.approx(2 * 6, abs=1e-6)


def test_a_toll_of_nobody_is_zero_and_routes_without_choice_are_listed():
    arcs = [("a", "b", 1.0), ("a", "m", 3.0), ("m", "b", 0.0), ("b", "c", 1.0)]
    game = toll_pricing(
        arcs, [("a", "b"), ("m", "b")], [("a", "b", 1.0), ("b", "c", 4.0)], max_toll=9
    )
    solution = bl.solve(game.problem)
    check(game, solution, arcs)
    assert game.commodities[1].share is None
    assert game.routes(solution)["b->c"] == {("b", "c"): 4.0}


def test_the_table_of_a_networkx_graph_is_taken():
    networkx = pytest.importorskip("networkx")
    graph = networkx.DiGraph()
    graph.add_weighted_edges_from([("a", "b", 2), ("a", "m", 4), ("m", "b", 3)], weight="cost")
    game = toll_pricing(graph.edges(data="cost"), [("a", "b")], [("a", "b", 2)])
    assert bl.solve(game.problem).leader_value == pytest.approx(10)


GOOD = {
    "arcs": [("a", "b", 2), ("a", "m", 7), ("m", "b", 0), ("z", "a", 1)],
    "tolled": [("a", "b")],
    "commodities": [("a", "b", 10)],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arcs": [("a", "b", -2)]}, "cost of arc 'a' -> 'b' must be at least 0"),
        ({"arcs": [("a", "b", np.nan)]}, "cost of arc 'a' -> 'b' must be finite"),
        ({"arcs": [("a", "b", None)]}, "cost of arc 'a' -> 'b' must be a number"),
        ({"arcs": [("a", "b")]}, "An arc is"),
        ({"arcs": [("a", "b", 1), ("a", "b", 2)]}, "'a' -> 'b' is given twice"),
        ({"tolled": [("b", "a")]}, "Tolled arc .* is not in the table"),
        ({"tolled": []}, "at least one tolled arc"),
        ({"tolled": [("a", "b")] * 2}, "tolled arc is given twice"),
        ({"tolled": [("m", "b")]}, "No toll can be earned"),
        ({"commodities": []}, "No toll can be earned"),
        ({"commodities": [("a", "b", 0)]}, "demand of commodity 'a' -> 'b' must be above 0"),
        ({"commodities": [("a", "b", np.inf)]}, "demand of commodity 'a' -> 'b' must be finite"),
        ({"commodities": [("a", "b")]}, "A commodity is"),
        ({"commodities": [("a", "a", 1)]}, "ends where it begins"),
        ({"commodities": [("a", "q", 1)]}, "destination of commodity 'a' -> 'q' is 'q'"),
        ({"commodities": [("b", "z", 1)]}, "'b' -> 'z' is disconnected"),
        ({"commodities": [("a", "b", 1)] * 2}, "a->b is given twice"),
        ({"arcs": GOOD["arcs"][:1]}, "no route without tolls.*max_toll"),
        ({"max_toll": -1}, "max_toll of arc 'a' -> 'b'"),
        ({"max_toll": np.nan}, "max_toll of arc 'a' -> 'b'"),
        ({"max_toll": {("m", "b"): 1}}, "not a tolled arc"),
    ],
)
def test_bad_input_is_named(change, words):
    with pytest.raises(bl.ProblemError, match=words):
        toll_pricing(**{**GOOD, **change})
