"""A producer behind narrow lines bids high, and the price differs from node to
node.
"""

import bilevel as bl
from bilevel.applications.market_bid import market_bid

# Name, node, cost per MWh, capacity in MW.
units = [("own", "c", 25, 60), ("hydro", "b", 20, 100), ("gas", "c", 45, 30)]
demand = {"a": 10, "c": 100}
# Two nodes, susceptance, limit in MW.
wide = [("a", "b", 10, 200), ("b", "c", 10, 200), ("a", "c", 10, 200)]
narrow = [("a", "b", 10, 60), ("b", "c", 10, 30), ("a", "c", 10, 25)]

profit = {}
for name, lines in (("wide", wide), ("narrow", narrow)):
    bid = market_bid(units, ["own"], demand, lines, price_cap=100)
    solution = bl.solve(bid.problem)
    profit[name] = bid.profit(solution)
    print(
        f"{name} lines: offer {bid.offers(solution)['own']:.2f}, "
        f"profit {profit[name]:.2f}"
    )
    print(
        "  prices ",
        {node: round(price, 2) for node, price in bid.prices(solution).items()},
    )
    print(
        "  outputs",
        {unit: round(mw, 2) for unit, mw in bid.outputs(solution).items()},
    )
    print("  prices are unique:", solution.certificate.unique_multipliers)

# The 50 MW that get in and the 30 MW of the rival leave 30 MW to sell at the
# price cap.
assert abs(profit["narrow"] - 30 * (100 - 25)) < 1e-4
assert profit["wide"] < profit["narrow"]
