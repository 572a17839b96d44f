"""The figures of docs/applications.md, drawn by ``make.py``.

Curves come from what the followers are known to answer, dots from ``bl.solve``.
"""

import numpy as np
from matplotlib.figure import Figure

import bilevel as bl
from bilevel.applications.lexicographic_mpc import lexicographic_mpc
from bilevel.applications.market_bid import market_bid
from bilevel.applications.pricing import pricing
from bilevel.applications.tax import emission_tax
from bilevel.applications.toll_pricing import toll_pricing

BLUE, RED, GREY = "#0072B2", "#D55E00", "#9a9a9a"


def panel(xlabel, ylabel):
    """Return a figure with one plain panel."""
    figure = Figure(layout="constrained", dpi=130, figsize=(5.2, 3.0))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def curve(axis, values, best, xlabel, ylabel):
    """Return a curve with the solution on it."""
    figure, axes = panel(xlabel, ylabel)
    axes.plot(axis, values, color=BLUE, linewidth=1.6)
    axes.plot(*best, "o", color=RED, label="bl.solve")
    axes.legend(frameon=False)
    return figure


def toll():
    """Return the revenue of one toll."""
    arcs = [("a", "b", 2), ("a", "m", 7), ("m", "b", 0), ("c", "a", 1), ("c", "b", 6)]
    game = toll_pricing(arcs, [("a", "b")], [("a", "b", 10), ("c", "b", 5)])
    solution = bl.solve(game.problem)
    axis = np.linspace(0, 6, 1201)
    values = axis * (10 * (axis <= 5) + 5 * (axis <= 3))
    best = game.tolls(solution)["a", "b"], solution.leader_value
    return curve(axis, values, best, "Toll", "Revenue")


def market():
    """Return the profit of one offer; every clearing is solved."""
    units = [("own", "c", 25, 60), ("hydro", "b", 20, 100), ("gas", "c", 45, 30)]
    lines = [("a", "b", 10, 60), ("b", "c", 10, 30), ("a", "c", 10, 25)]
    bid = market_bid(units, ["own"], {"a": 10, "c": 100}, lines, price_cap=100)
    # The offer jumps over that of the gas unit at 45.
    axis = np.array([25, 35, 45, 45.001, 55, 70, 85, 100])
    values = [
        bl.solve(
            bid.problem.replace(constraints=[*bid.problem.constraints, bid.offer == offer])
        ).leader_value
        for offer in axis
    ]
    solution = bl.solve(bid.problem)
    best = bid.offers(solution)["own"], solution.leader_value
    labels = "Offer of the own unit (per MWh)", "Profit"
    return curve(axis, values, best, *labels)


def prices():
    """Return the profit of one price."""
    worth, slope = np.array([6.0, 9.0, 20.0]), np.array([0.5, 1.0, 2.0])
    shop = pricing(worth[:, None], slope[:, None, None], [1.0])
    solution = bl.solve(shop.problem)
    axis = np.linspace(1, 20, 600)
    units = np.maximum(worth - axis[:, None], 0) / slope
    best = shop.prices(solution)[0], solution.leader_value
    values = (axis - 1) * units.sum(axis=1)
    return curve(axis, values, best, "Price", "Profit")


def control():
    """Return a closed loop."""
    free = float("inf")
    mpc = lexicographic_mpc(
        [[1, 1], [0, 1]], [[0.5], [1]], 5, input_limit=1, state_limit=[1, free], Q=0.1 * np.eye(2)
    )
    state, path = np.array([3.0, 0.0]), [3.0]
    for _ in range(12):
        solution = bl.solve(mpc.problem, parameters={mpc.state: state})
        state = mpc.A @ state + mpc.B @ mpc.first_input(solution)
        path.append(state[0])
    figure, axes = panel("Step", "Position")
    axes.axhspan(-1, 1, color=GREY, alpha=0.2, lw=0, label="allowed")
    axes.plot(path, "o-", color=BLUE, label="closed loop")
    axes.legend(frameon=False)
    return figure


def tax():
    """Return the revenue of a tax."""
    rng = np.random.default_rng(0)
    margin, slope, emits = rng.uniform([[5], [0.5], [0.5]], [[20], [2.0], [2.0]], (3, 30))
    game = emission_tax(margin, slope, emits)
    solution = bl.solve(game.problem)
    axis = np.linspace(0, game.largest_tax, 600)
    units = np.maximum(margin - axis[:, None] * emits, 0) / slope
    best = float(solution[game.tax]), solution.leader_value
    return curve(axis, axis * (units @ emits), best, "Tax", "Revenue")


FIGURES = {
    "applications-toll": toll,
    "applications-market": market,
    "applications-pricing": prices,
    "applications-mpc": control,
    "applications-tax": tax,
}
