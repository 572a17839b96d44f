"""Tolls on the streets of Sioux Falls: ten streets are charged, every traveller
takes the cheapest.

The 38 streets and their travel times: LeBlanc, Morlok & Pierskalla,
Transportation Research 9 (1975) 309-318. The travellers are drawn at random.
"""

from itertools import pairwise

import numpy as np

import bilevel as bl
from bilevel.applications.toll_pricing import toll_pricing

STREETS = """1-2 6, 1-3 4, 2-6 5, 3-4 4, 3-12 4, 4-5 2, 4-11 6, 5-6 4, 5-9 5,
6-8 2, 7-8 3, 7-18 2, 8-9 10, 8-16 5, 9-10 3, 10-11 5, 10-15 6, 10-16 4,
10-17 8, 11-12 6, 11-14 4, 12-13 3, 13-24 4, 14-15 5, 14-23 4, 15-19 3,
15-22 3, 16-17 2, 16-18 3, 17-19 2, 18-20 4, 19-20 4, 20-21 6, 20-22 5,
21-22 2, 21-24 3, 22-23 4, 23-24 2"""

arcs = []
for street in STREETS.replace("\n", " ").split(", "):
    ends, minutes = street.split()
    tail, head = (int(node) for node in ends.split("-"))
    arcs += [(tail, head, float(minutes)), (head, tail, float(minutes))]

rng = np.random.default_rng(0)
tolled = [arcs[a][:2] for a in rng.choice(len(arcs), 10, replace=False)]
pairs = {
    tuple((1 + rng.choice(24, 2, replace=False)).tolist()) for _ in range(12)
}
travellers = [(*pair, float(rng.integers(1, 20))) for pair in sorted(pairs)]

game = toll_pricing(arcs, tolled, travellers, max_toll=12.0)
solution = bl.solve(game.problem)
print(solution.summary())
for (tail, head), toll in game.tolls(solution).items():
    if toll > 1e-6:
        print(f"street {tail} -> {head}: {toll:.2f}")

# Everybody's route costs what the cheapest does, and the tolls on the routes
# are the revenue.
tolls = game.tolls(solution)
earned = 0.0
for routes in game.routes(solution).values():
    for nodes, flow in routes.items():
        earned += flow * sum(tolls.get(step, 0.0) for step in pairwise(nodes))
assert solution.status is bl.Status.OPTIMAL
assert abs(earned - solution.leader_value) <= 1e-6 * earned
