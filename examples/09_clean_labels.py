"""Wrong labels of handwritten digits lose their weight in training, because
clean data judge it.
"""

from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy

import bilevel as bl
from bilevel.solvers.smooth import Newton

rng = np.random.default_rng(0)
X, y = load_digits(return_X_y=True)
X, truth = (
    torch.tensor(np.column_stack([X / 16, np.ones(len(y))])),
    torch.tensor(y),
)
train, valid, test = np.split(rng.permutation(len(y)), [500, 700])
wrong = rng.random(len(train)) < 0.4
labels = truth[train].clone()
labels[wrong] = (
    labels[wrong] + torch.tensor(rng.integers(1, 10, wrong.sum()))
) % 10


def training(x, W):
    """Return the follower's loss: every sample counts by sigmoid(x_i)."""
    losses = cross_entropy(X[train] @ W, labels, reduction="none")
    return (x.sigmoid() * losses).mean() + 1e-3 * W.square().sum()


def validation(x, W):
    """Return the leader's loss, on clean labels."""
    return cross_entropy(X[valid] @ W, truth[valid])


def plain(rows, labels):
    """Return what training without weights gives."""

    def loss(x, W):
        return cross_entropy(X[rows] @ W, labels) + 1e-3 * W.square().sum()

    return Newton().answer(bl.SmoothProblem(validation, loss), *start)


def accuracy(W):
    return float(((X[test] @ W).argmax(1) == truth[test]).double().mean())


start = (
    torch.zeros(len(train), dtype=torch.float64),
    torch.zeros(65, 10, dtype=torch.float64),
)
solver = bl.HypergradientDescent(
    partial(torch.optim.Adam, lr=0.5), max_steps=20
)
solution = bl.solve(bl.SmoothProblem(validation, training), solver, start=start)
weights = solution.x.sigmoid().numpy()
auc = roc_auc_score(~wrong, weights)
found = {
    "all labels, 40 % wrong": accuracy(plain(train, labels)),
    "200 clean ones alone": accuracy(plain(valid, truth[valid])),
    "weighted": accuracy(solution.y),
    "all labels corrected": accuracy(plain(train, truth[train])),
}
for name, share in found.items():
    print(f"{name:22} test accuracy {share:.3f}")
print(
    f"median weight: wrong {np.median(weights[wrong]):.4f}, "
    f"right {np.median(weights[~wrong]):.4f}"
)
print(f"a right label outweighs a wrong one with probability {auc:.3f}")

# What the weights gain over training on the clean samples alone is small, and
# not asserted.
assert solution.status.has_point
assert auc > 0.9
assert found["weighted"] > found["all labels, 40 % wrong"] + 0.1
