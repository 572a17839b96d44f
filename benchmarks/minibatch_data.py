"""Data hyper-cleaning on handwritten digits, and runs on it that are watched."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import bilevel as bl
from bilevel.solvers.smooth import Newton, Task
from bilevel.solvers.smooth.oracle_calls import Tally

#: Steps of the default descent, whose loss is what the others must reach.
REFERENCE_STEPS = {"small": 4, "full": 100}
_SAMPLES = {"small": (100, 50), "full": (1000, 400)}
_WRONG = 0.4

Optimizer = Callable[[list[torch.Tensor]], torch.optim.Optimizer]
#: Solves within a time limit: ``(problem, start, watched, limit)``; ``watched`` wraps the optimizer
#: of ``x``, so that its decisions are seen. Returns a status.
Run = Callable[[bl.SmoothProblem, Any, Callable[[Optimizer], Optimizer], float], str]


@dataclass(frozen=True, eq=False)
class Digits:
    """One draw of samples: a weight for each of those whose label may be wrong."""

    size: str
    seed: int
    problem: bl.SmoothProblem = field(repr=False)
    start: tuple[torch.Tensor, torch.Tensor] = field(repr=False)

    @classmethod
    @cache
    def draw(cls, size: str, seed: int) -> Digits:
        """Return training and validation samples, the same for a seed."""
        from sklearn.datasets import load_digits

        rng, (n, m) = np.random.default_rng(seed), _SAMPLES[size]
        pixels, digits = load_digits(return_X_y=True)
        A = torch.tensor(np.column_stack([pixels / 16, np.ones(len(digits))]))
        b, order = torch.tensor(digits), rng.permutation(len(digits))
        train, valid = order[:n], order[n : n + m]
        labels = b[train].clone()
        wrong = rng.random(n) < _WRONG
        labels[wrong] = (labels[wrong] + torch.tensor(rng.integers(1, 10, wrong.sum()))) % 10
        F = bl.SampleMean(_validation, (A[valid], b[valid]))
        f = bl.SampleMean(_weighted, (torch.arange(n), A[train], labels))
        start = torch.zeros(n).double(), torch.zeros(65, 10).double()
        return cls(size, seed, bl.SmoothProblem(F, f), start)

    @property
    def samples(self) -> tuple[int, int]:
        """How many samples leader and follower have."""
        n, m = _SAMPLES[self.size]
        return m, n

    @property
    def reference(self) -> Curve:
        """The default descent; its last loss is what the others must reach."""
        return _reference(self)


@dataclass(frozen=True)
class Curve:
    """What a run has reached after how much work.

    ``values`` are ``F(x, y(x))`` with ``y(x)`` computed afresh, which costs the run nothing.
    """

    gradients: Sequence[float]
    products: Sequence[float]
    seconds: Sequence[float]
    values: Sequence[float]
    status: str = ""

    @property
    def passes(self) -> list[float]:
        """Gradients and products together."""
        return [g + p for g, p in zip(self.gradients, self.products, strict=True)]

    def first(self, value: float) -> int | None:
        """Return where a value is first reached."""
        return next((k for k, found in enumerate(self.values) if found <= value), None)


def watch(digits: Digits, run: Run, limit: float) -> Curve:
    """Run a method and say what ``x`` had reached when, at one pass or more from each other."""
    tally, kept, moments = Tally(), [], []
    paused, began = 0.0, time.perf_counter()

    def see(*_: Any) -> None:
        nonlocal paused
        if moments and tally.gradients - moments[-1][0] < 1.0:
            return
        now = time.perf_counter()
        x = kept[0].detach().clone()
        moments.append((tally.gradients, tally.products, now - began - paused, x))
        paused += time.perf_counter() - now

    def watched(optimizer: Optimizer) -> Optimizer:
        def make(leaves: list[torch.Tensor]) -> torch.optim.Optimizer:
            kept.extend(leaves)
            see()
            made = optimizer(leaves)
            made.register_step_post_hook(see)
            return made

        return make

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bl.BilevelWarning)  # loosened on purpose
        status = run(tally.watch(digits.problem), digits.start, watched, limit)
    gradients, products, seconds, decisions = zip(*moments, strict=True)
    return Curve(gradients, products, seconds, _values(digits, decisions), status)


def _values(digits: Digits, decisions: Sequence[torch.Tensor]) -> list[float]:
    y, found = digits.start[1], []
    for x in decisions:
        task = Task(digits.problem, (x, y))
        w = Newton(atol=1e-8)(task.stationarity(), *task.flat_start()).w
        y = w[0].reshape(y.shape)
        found.append(float(digits.problem.F(x, y)))
    return found


@cache
def _reference(digits: Digits) -> Curve:
    from benchmarks.minibatch_methods import descent

    steps = REFERENCE_STEPS[digits.size]
    return watch(digits, descent(bl.HypergradientDescent(max_steps=steps)), 600.0)


def _validation(x: Any, W: torch.Tensor, A: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return cross_entropy(A @ W, b)


def _weighted(x: Any, W: torch.Tensor, i: Any, A: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    losses = cross_entropy(A @ W, b, reduction="none")
    return (x[i].sigmoid() * losses).mean() + 1e-3 * W.square().sum()
