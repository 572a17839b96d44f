"""The weight of total variation is learned: to clean images, and to find where
a bar is soft.
"""

import cvxpy as cp
import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from bilevel.layers import FollowerLayer


def total_variation(A, D, backend=None):
    """Return argmin of |A u - measured|^2 / 2 + weight |D u|_1 as a layer of
    both.
    """
    u = cp.Variable(A.shape[1], name="u")
    weight = cp.Parameter(nonneg=True, name="weight")
    measured = cp.Parameter(len(A), name="measured")
    objective = cp.sum_squares(A @ u - measured) / 2 + weight * cp.norm1(D @ u)
    problem = cp.Problem(cp.Minimize(objective))
    return FollowerLayer(problem, [weight, measured], [u], backend=backend)


def learn(layer, measured, loss, start):
    """Return the weight for which the layer's answers have the least loss."""

    def value_and_slope(log_weight):
        log_weight = torch.tensor(log_weight, requires_grad=True)
        value = loss(layer(log_weight[0].exp(), measured)[0])
        value.backward()
        return value.item(), log_weight.grad.numpy()

    return torch.tensor(
        np.exp(minimize(value_and_slope, np.log([start]), jac=True).x[0])
    )


# The smallest case: u = (weight, 4 - weight) up to 2, then (2, 2); nearest to
# (1, 3) at 1.
small = total_variation(np.eye(2), np.array([[-1.0, 1.0]]))
pair = torch.tensor([0.0, 4.0]).double()
wanted = torch.tensor([1.0, 3.0])
for weight, answer in ((0.5, (0.5, 3.5)), (3.0, (2.0, 2.0))):
    assert np.allclose(
        small(torch.tensor(weight).double(), pair)[0], answer, atol=1e-9
    )
best = learn(small, pair, lambda u: (u - wanted).square().sum(), start=0.3)
print(f"the smallest case: weight {best:.6f}")
assert abs(best - 1) < 1e-5

# Handwritten digits with noise: the weight is learned on eight images, and
# judged on twenty others.
rng = np.random.default_rng(0)
clean = torch.tensor(rng.permutation(load_digits().data)[:28] / 16)
noisy = clean + 0.25 * torch.tensor(rng.standard_normal(clean.shape))
steps, eye = np.diff(np.eye(8), axis=0), np.eye(8)
D = np.vstack([np.kron(eye, steps), np.kron(steps, eye)])
# The multipliers of a flat patch are not unique, which an interior-point method
# copes with better.
images = total_variation(np.eye(64), D, backend="clarabel")


def error(u, rows):
    """Return the mean squared error; grey values lie between 0 and 1."""
    return (u.clamp(0, 1) - clean[rows]).square().mean()


learned, judged = slice(0, 8), slice(8, 28)
grey = learn(images, noisy[learned], lambda u: error(u, learned), start=0.1)
denoised = images(grey, noisy[judged])[0]
before = error(noisy[judged], judged).item()
after = error(denoised, judged).item()
print(
    f"digits: weight {grey:.4f}, mean squared error {before:.4f} -> {after:.4f}"
)
assert after < 0.9 * before

# A bar of 40 springs, fixed at one end: part i is pulled by all loads beyond it
# and grows by that pull over its stiffness. One load case is fitted, the other
# one chooses the weight.
stiffness = np.repeat([4.0, 1.0, 3.0, 2.0], 10)
# From compliances to displacements, loaded at the tip.
tip = np.tril(np.ones((40, 40)))
hung = tip * np.linspace(2, 0, 40, endpoint=False)  # loaded by its own weight
first, second = (torch.tensor(A / stiffness @ np.ones(40)) for A in (tip, hung))
first, second = (
    u + 0.05 * torch.tensor(rng.standard_normal(40)) for u in (first, second)
)
bar = total_variation(tip, np.diff(np.eye(40), axis=0))
predict = torch.tensor(hung)
soft = learn(
    bar, first, lambda u: (predict @ u - second).square().mean(), start=0.05
)
found = 1 / bar(soft, first)[0].numpy()
direct = 1 / np.diff(first, prepend=0.0)
errors = [np.abs(guess - stiffness).mean() for guess in (direct, found)]
print(
    f"bar: weight {soft:.4f}, mean error of the stiffness "
    f"{errors[0]:.3f} -> {errors[1]:.3f}"
)
assert errors[1] < 0.25 * errors[0]
