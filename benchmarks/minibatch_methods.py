"""Methods for the benchmark of minibatches: the library's, and stocBiO."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import bilevel as bl
from benchmarks.cases.minibatch import LOOSE, SABA, SOBA_ADAM, SOBA_SGD, STOCBIO
from benchmarks.minibatch_data import Digits, Optimizer, Run, watch
from bilevel import adjoints
from bilevel.solvers.smooth import Newton, Task
from bilevel.solvers.smooth.soba_sampling import (
    Iterate,
    Sampler,
    curvature,
    directions,
    follower_part,
    leader_part,
)

#: What each method's optimizer may take; ``tune`` finds the best on a draw that is not measured.
GRID = {
    LOOSE: (3e3, 1e4, 3e4),
    SOBA_SGD: (10.0, 30.0, 100.0),
    SOBA_ADAM: (0.1, 0.2, 0.4),
    SABA: (0.1, 0.2, 0.4),
    STOCBIO: (100.0, 300.0, 1000.0),
}
RATE = {LOOSE: 3e4, SOBA_SGD: 30.0, SOBA_ADAM: 0.2, SABA: 0.2, STOCBIO: 1000.0}
_TUNED_ON = 100
#: Samples in a batch are this share of either level's.
_SHARE = 50
#: Passes over the data that a stochastic method may take, and steps of the loose descent.
_PASSES, _LOOSE_STEPS = {"small": 3, "full": 40}, {"small": 2, "full": 30}


def method(name: str, digits: Digits, rate: float | None = None) -> Run:
    """Return a method's run with its best rate."""
    rate = RATE[name] if rate is None else rate
    sgd, adam = partial(torch.optim.SGD, lr=rate), partial(torch.optim.Adam, lr=rate)
    leader, follower = (max(1, n // _SHARE) for n in digits.samples)
    passes = _PASSES[digits.size]
    steps = passes * (digits.samples[1] // follower)
    soba = bl.SOBA(
        sgd, batch_size=(leader, follower), max_steps=steps, decay=steps, polish=_as_it_is
    )
    if name == LOOSE:
        follow, adjoint = Newton(atol=1e-3), adjoints.Implicit(rtol=1e-2)
        return descent(
            bl.HypergradientDescent(sgd, follow, adjoint, max_steps=_LOOSE_STEPS[digits.size])
        )
    if name == STOCBIO:
        return partial(stocbio, sgd, (leader, follower), passes)
    return descent(
        {
            SOBA_SGD: soba,
            SOBA_ADAM: replace(soba, optimizer=adam),
            SABA: replace(soba, optimizer=adam, variance_reduction=True, decay=float("inf")),
        }[name]
    )


def _as_it_is(x: Any, y: Any) -> Any:
    """Return the follower's decision: how well it answers is not the question here."""
    return y


def descent(solver: Any) -> Run:
    """Return the run of a solver of the library."""

    def run(problem: Any, start: Any, watched: Any, limit: float) -> str:
        mine = replace(solver, optimizer=watched(solver.optimizer))
        return bl.solve(problem, mine, start=start, time_limit=limit, throw=False).status.name

    return run


def stocbio(
    optimizer: Optimizer,
    sizes: tuple[int, int],
    passes: int,
    problem: bl.SmoothProblem,
    start: Any,
    watched: Callable[[Optimizer], Optimizer],
    limit: float,
    inner: int = 10,
) -> str:
    """Run stocBiO: steps on the follower, a Neumann series for its system, a step of the leader.

    Ten steps and ten terms, each on a batch of its own, as in the public benchmark's best settings.

    References
    ----------
    Ji, Yang and Liang, Bilevel optimization: convergence analysis and enhanced design, ICML 2021,
    algorithm 2.
    """
    began, draws, trees = (
        time.perf_counter(),
        torch.Generator().manual_seed(0),
        Task(problem, start).trees,
    )
    leader, follower = (
        Sampler(objective, size, draws, False)
        for objective, size in zip((problem.F, problem.f), sizes, strict=True)
    )
    x, y = start[0].clone().requires_grad_(), start[1].reshape(-1).clone()
    steps = watched(optimizer)([x])

    def at(v: torch.Tensor) -> Iterate:
        return Iterate(x.detach().reshape(-1), y, v, trees, ())

    nothing = torch.zeros_like(y)
    size = 1 / curvature(follower, at(nothing), 16)[0]
    for _ in range(passes * follower.steps_a_pass // inner):
        if time.perf_counter() - began > limit:
            return "TIME_LIMIT"
        for _ in range(inner):
            y = y - size * _slope(follower, at(nothing))
        _, of_leader = leader_part(leader.draw(), at(nothing))
        term = of_leader[: len(y)]
        v = size * term
        for _ in range(inner):
            term = term - size * follower_part(follower.draw(), at(term))[len(y) : 2 * len(y)]
            v = v + size * term
        x.grad = directions(follower_part(follower.draw(), at(v)), of_leader, at(v))[2].reshape(
            x.shape
        )
        steps.step()
    return "FEASIBLE"


def _slope(sampler: Sampler, at: Iterate) -> torch.Tensor:
    y = at.y.detach().requires_grad_()
    return torch.autograd.grad(at.evaluate(sampler.draw().objective, at.x, y), y)[0]


def tune(name: str) -> dict[float, tuple[float, float | None]]:
    """Return the best loss, and the passes to the one asked, for each rate on a draw of its own."""
    digits, found = Digits.draw("full", _TUNED_ON), {}
    for rate in GRID[name]:
        curve = watch(digits, method(name, digits, rate), 120.0)
        k = curve.first(digits.reference.values[-1])
        found[rate] = (min(curve.values), None if k is None else curve.passes[k])
    return found


if __name__ == "__main__":  # what RATE was taken from
    print("asked", Digits.draw("full", _TUNED_ON).reference.values[-1], flush=True)
    for each in sys.argv[1:] or GRID:
        print(each, tune(each), flush=True)
