"""A new task must not undo what was learned: how firmly each parameter is held
is learned, too.

Five tasks follow: odd or even, of the digits 0 and 1, of 2 and 3, and so on,
for one logistic regression. Elastic weight consolidation trains it on the new
task alone, and holds each parameter where it was by its Fisher information
times a weight.
"""

from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import softplus

import bilevel as bl

zero = torch.zeros(65, dtype=torch.float64)
once = bl.HypergradientDescent(max_steps=1)  # solves the follower at the start
# The smallest case: the old task wants 1, the new one -1, and both count alike.
small = bl.SmoothProblem(
    F=lambda x, w: (w - 1).square() + (w + 1).square(),
    f=lambda x, w: (w + 1).square() + x.exp() * (w - 1).square(),
)
found = bl.solve(small, start=(zero[0] + 1, zero[0]))
print(
    f"the smallest case: weight {found.x.exp():.6f}, answer {found.y.abs():.6f}"
)
assert max(abs(found.x), abs(found.y)) < 1e-6
X, digits = load_digits(return_X_y=True)
X, sign = (
    torch.tensor(np.column_stack([X / 16, np.ones(len(X))])),
    torch.tensor(digits % 2 * 2 - 1),
)
rng = np.random.default_rng(0)
tasks = [
    rng.permutation(np.flatnonzero(digits // 2 == pair)) for pair in range(5)
]
train, valid, test = zip(
    *(np.split(rows, [200, 240]) for rows in tasks), strict=True
)


def loss(w, rows):
    return softplus(-sign[rows] * (X[rows] @ w)).mean()


def problem(rows, held, anchor, seen=5):
    """Return the problem whose follower trains on the rows, held at the
    anchor.
    """

    def weigh(x, w):
        return x.exp() * held * (w - anchor).square() / 2 + 1e-3 * w.square()

    def judge(x, w):
        return sum(loss(w, rows) for rows in valid[:seen]) / seen

    return bl.SmoothProblem(
        judge, lambda x, w: loss(w, rows) + weigh(x, w).sum()
    )


def sequence(choose):
    """Return the last of five solutions; ``choose`` solves each task's
    problem.
    """
    w = information = zero
    for task, rows in enumerate(train):
        solution = choose(problem(rows, information, w, task + 1), w)
        w = solution.y
        wrong = torch.sigmoid(-sign[rows] * (X[rows] @ w))
        information = information + (wrong[:, None] * X[rows]).square().mean(0)
    return solution


def searched(problem, w):
    grid = np.log(10) * np.arange(-2, 4.5, 0.5)
    tried = (
        bl.solve(problem, once, start=(zero + weight, w)) for weight in grid
    )
    return min(tried, key=lambda one: one.leader_value)


def learned(problem, w):
    adam = bl.HypergradientDescent(
        partial(torch.optim.Adam, lr=0.3), max_steps=30
    )
    return bl.solve(problem, adam, start=(searched(problem, w).x, w))


found = {
    "no penalty": sequence(
        lambda problem, w: bl.solve(problem, once, start=(zero - 40, w))
    ),
    "Fisher information": sequence(
        lambda problem, w: bl.solve(problem, once, start=(zero, w))
    ),
    "one weight": sequence(searched),
    "a weight each": sequence(learned),
}
for name, parts in (
    ("held-out samples alone", valid),
    ("all tasks at once", train),
):
    found[name] = bl.solve(
        problem(np.concatenate(parts), 0, zero), once, start=(zero, zero)
    )
right = {}
for name, one in found.items():
    right[name] = [
        ((sign[r] * (X[r] @ one.y)) > 0).double().mean().item() for r in test
    ]
    print(
        f"{name:22} held-out loss {one.leader_value:.3f}, "
        f"accuracy {np.mean(right[name]):.3f}"
    )
assert np.mean(right["one weight"]) > np.mean(right["no penalty"]) + 0.1
assert found["a weight each"].leader_value < found["one weight"].leader_value
