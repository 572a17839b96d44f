"""A regulator tunes a subsidy by gradients through a seller's price and its
buyers' answers.
"""

import cvxpy as cp
import torch

import bilevel as bl
from bilevel.layers import BilevelLayer

COST = 2.0  # of a unit
PUBLIC_FUNDS = 0.3  # lost for each unit of money that is raised by taxes
worth = [6.0, 9.0, 14.0]  # of the first unit, to each kind of buyer

price = cp.Variable(name="price")
subsidy = cp.Parameter(name="subsidy")
bought = [cp.Variable(name=f"bought[{i}]") for i in range(3)]
buyers = [
    bl.Follower(
        cp.Maximize(a * q - cp.square(q) / 2 - price * q),
        [q >= 0],
        [q],
        f"buyer {i}",
    )
    for i, (a, q) in enumerate(zip(worth, bought, strict=True))
]
# By complementarity price q = a q - q^2, so that the seller's profit is
# concave.
sold = sum(bought)
profit = (
    sum(a * q - cp.square(q) for a, q in zip(worth, bought, strict=True))
    - COST * sold
)
seller = cp.Maximize(profit + subsidy * sold)
problem = bl.Problem(seller, [price >= 0, price <= 20], buyers)
layer = BilevelLayer(problem, parameters=[subsidy], variables=[price, *bought])


def welfare(paid):
    """Return what buyers and seller gain, less what the subsidy costs."""
    _, *quantities = layer(paid)
    gain = sum(
        a * q - q**2 / 2 - COST * q
        for a, q in zip(worth, quantities, strict=True)
    )
    return gain - PUBLIC_FUNDS * paid * sum(quantities)


paid = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.SGD([paid], lr=0.55)
for _ in range(10):
    optimizer.zero_grad()
    (-welfare(paid)).backward()
    optimizer.step()

best = welfare(paid.detach()).item()
answer = layer.solve(paid.detach())
print(
    f"subsidy {paid.item():.4f}, welfare {best:.4f}, "
    f"price {answer.values[0].item():.4f}"
)
print(answer.report.summary())

# While all kinds buy, a seller's best price is half way between their mean
# worth and its cost.
expected = (sum(worth) / 3 + COST - paid.item()) / 2
assert abs(answer.values[0].item() - expected) < 1e-6
with torch.no_grad():
    grid = {
        s: welfare(torch.tensor(s, dtype=torch.float64)).item()
        for s in (0.0, 1.0, 2.0, 3.0)
    }
for s, value in grid.items():
    print(f"  subsidy {s:.1f}: welfare {value:.4f}")
assert best > max(grid.values())
assert abs(paid.grad.item()) < 1e-6
