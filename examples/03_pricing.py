"""Prices of two products for eight groups of consumers."""

import numpy as np

import bilevel as bl
from bilevel.applications.pricing import pricing

rng = np.random.default_rng(1)
worth = rng.uniform(4, 16, (8, 2))
sizes = rng.integers(1, 20, 8)
cost = np.array([1.0, 2.0])

profits = {}
for kind, cross in (
    ("substitutes", 0.6),
    ("unrelated", 0.0),
    ("complements", -0.6),
):
    shop = pricing(worth, [[1.5, cross], [cross, 1.5]], cost, sizes=sizes)
    solution = bl.solve(shop.problem)
    profits[kind] = solution.leader_value
    bought = (shop.demands(solution) > 1e-6).sum(axis=0)
    print(
        f"{kind:12} prices {shop.prices(solution).round(3)}, "
        f"bought by {bought} of 8 groups, profit {solution.leader_value:.2f}"
    )
    assert solution.status is bl.Status.OPTIMAL

# Consumers who can do without one product once they have the other are worth
# less to the seller.
assert profits["substitutes"] < profits["unrelated"] < profits["complements"]
