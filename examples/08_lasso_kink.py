"""The LASSO's answer has kinks in its weight; the layer says where, and gives
either slope.
"""

import cvxpy as cp
import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_diabetes
from sklearn.linear_model import lars_path
from sklearn.preprocessing import StandardScaler

from bilevel.adjoints import KKT, GradientKind
from bilevel.layers import FollowerLayer

# A coefficient that is about to move: held, or let go.
SIDES = ("active", "lstsq")


def lasso(quadratic, linear, degenerate):
    """Return argmin of w'Qw/2 - c'w + weight |w|_1 as a layer of the weight."""
    w = cp.Variable(len(linear), name="w")
    weight = cp.Parameter(nonneg=True, name="weight")
    loss = cp.quad_form(w, cp.psd_wrap(quadratic)) / 2 - linear @ w
    problem = cp.Problem(cp.Minimize(loss + weight * cp.norm1(w)))
    return FollowerLayer(
        problem, [weight], [w], adjoint=KKT(degenerate=degenerate)
    )


def slope(layer, weight):
    """Return the derivative of every coefficient in the weight, and what kind
    it is.
    """
    weight = torch.tensor([weight], dtype=torch.float64)
    found = torch.autograd.functional.jacobian(
        lambda at: layer(at)[0][0], weight
    )
    return found[:, 0], layer.solve(weight).report.kind[0]


# The smallest case, w = max(1 - weight, 0), has its kink at 1 and the one-sided
# slopes 0 and -1.
for side, expected in zip(SIDES, (0.0, -1.0), strict=True):
    value, kind = slope(lasso(np.eye(1), np.ones(1), side), 1.0)
    print(
        f"w = max(1 - weight, 0) at 1, {side:6}: "
        f"slope {value.item():7.4f}, {kind.name}"
    )
    assert kind is GradientKind.ONE_SIDED
    assert abs(value.item() - expected) < 1e-6

X, y = load_diabetes(return_X_y=True)
order = np.random.default_rng(0).permutation(len(y))
train, valid = order[:221], order[221:]
X = StandardScaler().fit(X[train]).transform(X)
y = (y - y[train].mean()) / y[train].std()
layers = [
    lasso(X[train].T @ X[train] / 221, X[train].T @ y[train] / 221, side)
    for side in SIDES
]
# The path of scikit-learn is piecewise linear.
kinks, _, path = lars_path(X[train], y[train], method="lasso")

# At every kink one coefficient begins to move: either slope is that of a piece
# of the path.
pieces = np.diff(path) / np.diff(kinks)
for k, kink in enumerate(kinks[1:-1], start=1):
    for layer, piece in zip(
        layers, (pieces[:, k - 1], pieces[:, k]), strict=True
    ):
        value, kind = slope(layer, kink)
        assert kind is GradientKind.ONE_SIDED
        assert np.allclose(value, piece, atol=1e-9)

# Between kinks there is one derivative, which finite differences of full
# re-solves confirm.
for weight in (kinks[1:] + kinks[:-1]) / 2:
    value, kind = slope(layers[0], weight)
    ahead, back = (
        layers[0](torch.tensor(weight + step))[0] for step in (1e-5, -1e-5)
    )
    assert kind is GradientKind.CLASSICAL
    assert torch.allclose(value, (ahead - back) / 2e-5, rtol=0, atol=1e-7)


def validation(log_weight):
    """Return the loss on data that were held out, and its derivative."""
    log_weight = torch.tensor(log_weight, requires_grad=True)
    (w,) = layers[1](log_weight[0].exp())
    loss = (torch.tensor(X[valid]) @ w - torch.tensor(y[valid])).square().mean()
    loss.backward()
    return loss.item(), log_weight.grad.numpy()


found = minimize(validation, [-4.0], jac=True)
# On each piece of the path this loss is a parabola: its minimum over all is
# known.
gaps = X[valid] @ path - y[valid, None]
first, step = gaps[:, :-1], np.diff(gaps)
part = np.clip(-(first * step).sum(0) / (step**2).sum(0), 0, 1)
least = ((first + part * step) ** 2).mean(0).min()
print(
    f"weight {np.exp(found.x[0]):.4f}: "
    f"validation loss {found.fun:.8f}, least {least:.8f}"
)
assert least - 1e-9 < found.fun < least + 1e-7
