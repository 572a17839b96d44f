"""One regularization weight per feature, tuned where scikit-learn searches one
common weight.

Both minimize the same five-fold cross-validation. More weights can only lower
that; whether a test set agrees is another matter, and is printed.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import softplus

import bilevel as bl
from bilevel.solvers.smooth import Newton

GRID = 10.0 ** np.arange(-3, 4, 0.25)  # of the common weight


class Comparison(NamedTuple):
    one: float
    many: bl.SmoothSolution
    searched: float
    test: list


def compare(X, y, loss, search, solver):
    order = np.random.default_rng(0).permutation(len(y))
    n = len(y) // 2
    train, test = order[:n], order[n:]
    X = StandardScaler().fit(X[train]).transform(X)
    common = search.fit(X[train], y[train]).best_params_
    common = common["alpha"] if "alpha" in common else 1 / common["C"]
    # The last column is not penalized.
    X = torch.tensor(np.column_stack([X, np.ones(len(y))]))
    y = torch.tensor(y)
    held = torch.zeros(n, 5, dtype=torch.float64)  # one column of W per fold
    for fold, (_, rows) in enumerate(KFold(5).split(X[train])):
        held[rows, fold] = 1

    def penalty(log_weight, W):
        return (log_weight.exp()[:, None] * W[:-1].square()).sum() / 2

    def losses(W, rows):
        return loss(X[rows] @ W, y[rows, None])

    cross = bl.SmoothProblem(
        F=lambda x, W: (losses(W, train) * held).sum() / n,
        f=lambda x, W: (losses(W, train) * (1 - held)).sum() + penalty(x, W),
    )
    whole = bl.SmoothProblem(
        F=lambda x, W: losses(W, test).mean(),
        f=lambda x, W: losses(W, train).sum() + penalty(x, W),
    )
    x = torch.full_like(X[0, 1:], np.log(common))
    W = torch.zeros_like(X[:5].mT)
    W, w = Newton().answer(cross, x, W), W[:, :1]
    many = bl.solve(cross, solver, start=(x, W))
    tests = [
        float(whole.F(x, Newton().answer(whole, x, w))) for x in (x, many.x)
    ]
    return Comparison(float(cross.F(x, W)), many, -search.best_score_, tests)


search = GridSearchCV(
    Ridge(), {"alpha": GRID}, cv=KFold(5), scoring="neg_mean_squared_error"
)
X, y = load_diabetes(return_X_y=True)
ridge = compare(
    X,
    (y - y.mean()) / y.std(),
    lambda s, y: (s - y).square() / 2,
    search,
    bl.ReducedNewton(),
)

regression = LogisticRegression(max_iter=10_000, tol=1e-8)
search = GridSearchCV(
    regression, {"C": 1 / GRID}, cv=KFold(5), scoring="neg_log_loss"
)
X, y = load_breast_cancer(return_X_y=True)
adam = bl.HypergradientDescent(partial(torch.optim.Adam, lr=0.3), max_steps=15)
cancer = compare(X, 2.0 * y - 1, lambda s, y: softplus(-y * s), search, adam)

for name, found in (("ridge", ridge), ("logistic", cancer)):
    values = found.one, found.many.leader_value, *found.test
    print(
        "{:8} validation {:.4f} -> {:.4f}, test {:.4f} -> {:.4f}".format(
            name, *values
        )
    )
    assert found.many.status.has_point
    assert found.many.leader_value < 0.995 * found.one
assert abs(cancer.one - cancer.searched) < 1e-3
