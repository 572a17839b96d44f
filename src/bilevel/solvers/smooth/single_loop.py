"""The loop of SOBA: follower, co-state and leader move at once."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bilevel.adjoints.smooth.implicit import Implicit
from bilevel.adjoints.smooth.stationarity import Stationarity
from bilevel.errors import ProblemError
from bilevel.problem.precision import attainable
from bilevel.problem.trees import detached, flatten, mapped, unflatten
from bilevel.program import Progress
from bilevel.smooth_solution import SmoothSolution
from bilevel.solvers.smooth.hypergradient import answer, hypergradient, leaf, project
from bilevel.solvers.smooth.newton import is_minimum
from bilevel.solvers.smooth.oracle_calls import Tally
from bilevel.solvers.smooth.soba_sampling import (
    Iterate,
    Memory,
    Sampler,
    curvature,
    directions,
    follower_part,
    leader_part,
)
from bilevel.solvers.smooth.solver import ANSWERED, Task

if TYPE_CHECKING:
    from bilevel.solvers.smooth.soba import SOBA

#: Products for the first estimate of the follower's curvature.
_PRODUCTS = 16
#: SAGA's steps are at most a third of what gradient descent takes.
_REDUCED = 1 / 3


class Walk:
    """One descent: where it is, and the pass with the best mean so far.

    Parameters
    ----------
    solver, task
        What it is to do.

    Attributes
    ----------
    note
        Why it ended.
    """

    def __init__(self, solver: SOBA, task: Task) -> None:
        self._solver = solver
        self._task = task
        self._began = time.perf_counter()
        x, y = (mapped(leaf, part) for part in task.start)
        self._leaves, self._spec = flatten(x)
        self._y = task.trees[1].flat(detached(y)).clone()
        self._v = torch.zeros_like(self._y)
        self._optimizer = solver.optimizer(self._leaves)
        if isinstance(self._optimizer, torch.optim.LBFGS):
            raise ProblemError("LBFGS needs the same function twice; give SOBA SGD or Adam.")
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._size = solver.step_size or 0.0
        draws = torch.Generator().manual_seed(solver.seed)
        leader, follower = solver.sizes
        fixed = solver.variance_reduction
        self._samplers = (
            Sampler(task.problem.F, leader, draws, fixed),
            Sampler(task.problem.f, follower, draws, fixed),
        )
        self._memories = tuple(Memory(one.steps_a_pass) for one in self._samplers)
        self._tally = Tally()
        self._count = 0
        self.note = ""
        self._is_stopped = False
        self._seen: list[float] = []
        self._trace: list[tuple[float, float | None, float | None]] = []
        self._passed = self._kept()  # where the pass began
        self._best = (math.inf, self._passed)

    def _kept(self) -> tuple[list[Tensor], Tensor]:
        return [part.detach().clone() for part in self._leaves], self._y

    def _x(self) -> Any:
        return unflatten(self._spec, self._leaves)

    def _here(self) -> Iterate:
        trees = self._task.trees
        return Iterate(trees[0].flat(detached(self._x())), self._y, self._v, trees, self._task.z)

    def prepare(self) -> None:
        """Check that the objectives are means, and choose the follower's step."""
        for name, sampler in zip("Ff", self._samplers, strict=True):
            sampler.check(name, *self._task.start, self._task.z)
        if self._solver.step_size is None:
            largest, seen = curvature(self._samplers[1], self._here(), _PRODUCTS)
            self._size = 1 / largest if 0 < largest < math.inf else 1.0
            self._size *= _REDUCED if self._solver.variance_reduction else 1.0
            self._tally.gradients += seen
            self._tally.products += seen

    def goes_on(self) -> bool:
        """Return whether another step is due."""
        limit = self._task.time_limit
        if self._is_stopped:
            return False
        if self._count >= self._solver.steps:
            self.note = f"{self._count} steps on batches of samples."
        elif limit is not None and time.perf_counter() - self._began >= limit:
            self.note = "The time limit was met."
        else:
            return True
        return False

    def step(self) -> None:
        """Move all three at once."""
        at = self._here()
        batches = leader, follower = tuple(sampler.draw() for sampler in self._samplers)
        value, of_leader = leader_part(leader, at)
        parts = of_leader, follower_part(follower, at)
        self._tally.gradients += leader.share + follower.share
        self._tally.products += follower.share
        if self._solver.variance_reduction:
            whole = zip(self._memories, batches, parts, strict=True)
            parts = tuple(memory.reduced(batch, part) for memory, batch, part in whole)
        d_y, d_v, d_x = directions(parts[1], parts[0], at)
        if not (math.isfinite(value) and all(bool(d.isfinite().all()) for d in (d_y, d_v, d_x))):
            self._give_up()
            return
        factor = (1 + self._count / self._solver.decay) ** -0.5
        self._y, self._v = (u - factor * self._size * d for u, d in ((at.y, d_y), (at.v, d_v)))
        for part, grad in zip(self._leaves, _leaves(at, d_x), strict=True):
            part.grad = grad
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = factor * rate
        self._optimizer.step()
        project(self._solver.project, self._x())
        self._count += 1
        self._seen.append(value)
        if len(self._seen) == max(sampler.steps_a_pass for sampler in self._samplers):
            self._tell()

    def _give_up(self) -> None:
        mean, (kept, self._y) = self._best
        with torch.no_grad():
            for part, old in zip(self._leaves, kept, strict=True):
                part.copy_(old)
        where = "the start" if mean == math.inf else "where its best pass began"
        self.note = (
            f"A value or derivative was not finite after {self._count} steps: this is {where}. "
            f"Try a smaller step_size, or a smaller lr of the optimizer."
        )
        self._is_stopped = True

    def _tell(self) -> None:
        """Say what the last pass has shown, and keep it if it is the best one."""
        mean = sum(self._seen) / len(self._seen)
        self._seen = []
        if mean < self._best[0]:
            self._best = (mean, self._passed)
        self._passed = self._kept()
        seconds = time.perf_counter() - self._began
        self._trace.append((seconds, mean, None))
        told = Progress(seconds, mean, None, self._count)
        if self._task.callback is not None and self._task.callback(told):
            self.note = "The callback stopped it."
            self._is_stopped = True

    def end(self) -> SmoothSolution:
        """Return the point where the search ended, judged on all data."""
        solver = self._solver
        shapes = self._task.trees
        task = replace(self._task, problem=self._tally.watch(self._task.problem))
        st = task.stationarity()
        x = detached(self._x())
        if solver.polish is not None:
            found = answer(solver.polish, task, st, x, shapes[1].tree(self._y))
            self._y = shapes[1].flat(found)
        tally = replace(self._tally)  # what judges the point is not counted
        flat_x = shapes[0].flat(x).unsqueeze(0)
        flat_y = self._y.unsqueeze(0)
        return task.judge(
            flat_x,
            flat_y,
            flat_y,
            st,
            norm=_norm(task, st, flat_x, flat_y),
            atol=solver.atol,
            method=repr(solver),
            is_answer=is_minimum(st, flat_x, flat_y),
            steps=self._count,
            seconds=time.perf_counter() - self._began,
            note=self.note,
            trace=self._trace,
            tally=tally,
        )


def _norm(task: Task, st: Stationarity, x: Tensor, y: Tensor) -> float:
    """Return the norm of the hypergradient; where the follower has not answered, there is none.

    What counts as an answer is what ``judge`` takes for one.
    """
    if not task.residual(st, x, y) <= attainable(ANSWERED, y):
        return math.nan
    tree = mapped(leaf, task.trees[0].tree(x[0]))
    return hypergradient(task.problem, Implicit(), tree, task.trees[1].tree(y[0]), task.z).norm


def _leaves(at: Iterate, vector: Tensor) -> list[Tensor]:
    return flatten(at.trees[0].tree(vector))[0]
