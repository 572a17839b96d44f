"""A tax on the emissions of 30 firms: for revenue, for welfare, and to meet a
quota.
"""

import numpy as np

import bilevel as bl
from bilevel.applications.tax import emission_tax

rng = np.random.default_rng(0)
margin, slope, intensity = rng.uniform(
    [[5], [0.5], [0.5]], [[20], [2.0], [2.0]], (3, 30)
)
untaxed = float(intensity @ (margin / slope))

aims = {
    "revenue": {"objective": "revenue"},
    "welfare, damage of 4": {"objective": "welfare", "damage": 4.0},
    "welfare, quota of 40 %": {"objective": "welfare", "quota": 0.4 * untaxed},
}
tax, emissions = {}, {}
for name, aim in aims.items():
    game = emission_tax(margin, slope, intensity, **aim)
    solution = bl.solve(game.problem)
    tax[name] = float(solution[game.tax])
    emissions[name] = game.emissions(solution).sum()
    producing = int((game.outputs(solution) > 1e-6).sum())
    print(
        f"{name:23} tax {tax[name]:7.4f}, "
        f"emissions {emissions[name] / untaxed:6.1%} of untaxed, "
        f"{producing} of 30 firms produce"
    )
    assert solution.status is bl.Status.OPTIMAL

# Pigou's rule: the tax is the damage. Welfare is flat there, so that its gap of
# 1e-6 leaves the tax a few thousandths.
assert abs(tax["welfare, damage of 4"] - 4.0) < 1e-2
assert abs(emissions["welfare, quota of 40 %"] / untaxed - 0.4) < 1e-5
